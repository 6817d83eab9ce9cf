//! Resident set of the process, as the kernel counts it.

use std::collections::BTreeMap;

use llm_runtime::Session;
use llm_tensor::Bytes;
use serde::Serialize;

use crate::system::figure;

/// Resident set in bytes; all zero where `/proc` does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ResidentSet {
    /// The most that was resident at any time: anonymous and mapped files together.
    pub(crate) peak_resident_bytes: u64,
    /// Anonymous memory now: what the program allocated and touched.
    pub(crate) anonymous_bytes: u64,
    /// Pages of mapped files now: the kernel may take them back.
    pub(crate) file_bytes: u64,
}

impl ResidentSet {
    /// Anonymous memory: what the program allocated and touched.
    pub(crate) fn anonymous(self) -> Bytes {
        Bytes::new(self.anonymous_bytes)
    }

    /// Bytes that are resident now.
    pub(crate) fn resident(self) -> Bytes {
        Bytes::new(self.anonymous_bytes + self.file_bytes)
    }

    /// Current figures.
    pub(crate) fn now() -> Self {
        std::fs::read_to_string("/proc/self/status")
            .map_or_else(|_| Self::default(), |status| parse(&status))
    }
}

/// Resident set over a run, beside what the session has allocated.
#[derive(Debug, Serialize)]
pub(crate) struct ResidentReport {
    #[serde(flatten)]
    now: ResidentSet,
    /// Before weights were loaded: the program, the model's headers, its tokenizer.
    before_load: ResidentSet,
    after_load: ResidentSet,
    /// Allocations of the session, in bytes by term.
    allocated: BTreeMap<&'static str, u64>,
}

impl ResidentReport {
    pub(crate) fn up_to_now(
        before_load: ResidentSet,
        after_load: ResidentSet,
        session: &Session,
    ) -> Self {
        let terms = session.memory().terms;
        ResidentReport {
            now: ResidentSet::now(),
            before_load,
            after_load,
            allocated: terms
                .iter()
                .map(|(term, bytes)| (term.name(), bytes.get()))
                .collect(),
        }
    }
}

fn parse(status: &str) -> ResidentSet {
    let of = |key| figure(status, key).map_or(0, Bytes::get);
    ResidentSet {
        peak_resident_bytes: of("VmHWM"),
        anonymous_bytes: of("RssAnon"),
        file_bytes: of("RssFile"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let status =
            "Name:\tllm-run\nVmHWM:\t  123456 kB\nRssAnon:\t     100 kB\nRssFile:\t       2 kB\n";
        let expected = ResidentSet {
            peak_resident_bytes: 123_456 << 10,
            anonymous_bytes: 100 << 10,
            file_bytes: 2 << 10,
        };
        assert_eq!(parse(status), expected);
        assert_eq!(parse("Name:\tx"), ResidentSet::default());
    }
}
