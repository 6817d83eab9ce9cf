//! Identity of a machine: measurements hold only where it is the same.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::thread;

use llm_cpu::Isa;
use serde::{Deserialize, Serialize};

/// The processors, as this process may use them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Name of the processors.
    pub(crate) processor: String,
    /// Processors that are online.
    pub(crate) n_online: usize,
    /// Processors that affinity and cgroup quota leave to this process.
    pub(crate) n_usable: usize,
    /// The instruction set that the kernels use.
    pub(crate) isa: String,
    /// A digest of what the system calls this machine, which tells it from others of its kind; empty where it has no
    /// name.
    #[serde(default)]
    pub(crate) identity: String,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let n_usable = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Machine {
            processor: model_name(&cpuinfo)
                .unwrap_or(std::env::consts::ARCH)
                .to_owned(),
            n_online: n_processors(&cpuinfo).max(n_usable),
            n_usable,
            isa: Isa::detect().name().to_owned(),
            identity: identity(["/etc/machine-id", "/proc/sys/kernel/hostname"]),
        }
    }
}

/// A digest of the first of some files that says something. The machine's own id is nobody else's to know.
fn identity(files: [&str; 2]) -> String {
    let read = |path: &str| fs::read_to_string(path).ok();
    let mut names = files.into_iter().filter_map(read);
    let name = names.find(|name| !name.trim().is_empty());
    name.map_or_else(String::new, |name| {
        let mut hasher = DefaultHasher::new();
        name.trim().hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    })
}

fn model_name(cpuinfo: &str) -> Option<&str> {
    values(cpuinfo, "model name").find(|name| !name.is_empty())
}

fn n_processors(cpuinfo: &str) -> usize {
    values(cpuinfo, "processor").count()
}

/// Values of the lines `key : value`.
fn values<'a>(cpuinfo: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    cpuinfo.lines().filter_map(move |line| {
        let (name, value) = line.split_once(':')?;
        (name.trim_end() == key).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let x86 = "processor\t: 0\nmodel\t\t: 143\nmodel name\t: Intel(R) Xeon(R) Processor\n\n\
                   processor\t: 1\nmodel\t\t: 143\nmodel name\t: Intel(R) Xeon(R) Processor\n";
        assert_eq!(model_name(x86), Some("Intel(R) Xeon(R) Processor"));
        assert_eq!(n_processors(x86), 2);
        let arm = "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n";
        assert_eq!(model_name(arm), None);
        assert_eq!(n_processors(arm), 1);
        assert_eq!(n_processors(""), 0);
    }

    #[test]
    fn a_machine_is_told_by_its_name_but_does_not_tell_it() {
        let folder = tempfile::tempdir().unwrap();
        let [id, host] = ["id", "host"].map(|name| folder.path().join(name));
        let found = || identity([id.to_str().unwrap(), host.to_str().unwrap()]);
        assert_eq!(found(), "");
        fs::write(&host, "a\n").unwrap();
        let by_host = found();
        fs::write(&id, "\n").unwrap();
        assert_eq!(found(), by_host);
        fs::write(&id, "b\n").unwrap();
        assert_ne!(found(), by_host);
        assert_eq!(found().len(), 16);
    }
}
