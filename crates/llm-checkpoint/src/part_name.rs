//! The names of files that hold a checkpoint together: `model-00001-of-00003.safetensors`.

/// Such a name, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartName<'n> {
    /// Name that all parts of one checkpoint share.
    pub(crate) set: SetName<'n>,
    /// Counted from 1.
    pub(crate) number: u64,
}

/// The names of all parts but for their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetName<'n> {
    /// Text before the number, with the `-` or, in BLOOM's checkpoints, `_`.
    stem: &'n str,
    /// Number of parts, as written.
    count: &'n str,
    suffix: &'n str,
}

impl<'n> PartName<'n> {
    /// Takes `name` apart, if it ends as the names of parts do and then in `suffix`.
    pub(crate) fn parse(name: &'n str, suffix: &'n str) -> Option<Self> {
        let (front, count) = name.strip_suffix(suffix)?.rsplit_once("-of-")?;
        let (stem, number) = front.split_at(front.rfind(['-', '_'])? + 1);
        let is_number = |text: &str| {
            (MIN_DIGITS..=MAX_DIGITS).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_digit())
        };
        if !is_number(count) || number.len() != count.len() || !is_number(number) {
            return None;
        }
        let set = SetName {
            stem,
            count,
            suffix,
        };
        let number = number.parse().ok()?;
        (1..=set.n_parts())
            .contains(&number)
            .then_some(PartName { set, number })
    }
}

impl SetName<'_> {
    /// True if the parts are called `stem` and their numbers.
    pub(crate) fn is_of(self, stem: &str) -> bool {
        self.stem.strip_suffix('-') == Some(stem)
    }

    /// Number of parts.
    pub(crate) fn n_parts(self) -> u64 {
        self.count.parse().expect("MAX_DIGITS digits fit 64 bits")
    }

    /// The name of a part; `number` counts from 1.
    pub(crate) fn part(self, number: u64) -> String {
        let SetName {
            stem,
            count,
            suffix,
        } = self;
        let width = count.len();
        format!("{stem}{number:0width$}-of-{count}{suffix}")
    }
}

/// Digits that a number has at least: fewer are somebody's own names.
const MIN_DIGITS: usize = 5;
/// Digits that a number has at most.
const MAX_DIGITS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_told_and_made() {
        for (name, suffix, number, n_parts) in [
            ("model-00001-of-00003.safetensors", ".safetensors", 1, 3),
            ("pytorch_model-00002-of-00002.bin", ".bin", 2, 2),
            ("pytorch_model_00072-of-00072.bin", ".bin", 72, 72),
            ("Qwen2-7B-Q4_0-00001-of-00002.gguf", ".gguf", 1, 2),
            ("a-of-b-00007-of-00010.gguf", ".gguf", 7, 10),
            ("-000001-of-100000.gguf", ".gguf", 1, 100_000),
        ] {
            let part = PartName::parse(name, suffix).unwrap();
            assert_eq!(
                (part.number, part.set.n_parts()),
                (number, n_parts),
                "{name}"
            );
            assert_eq!(part.set.part(number), name);
        }
        for name in [
            "model.gguf",
            "model-1-of-2.gguf",
            "model-00003-of-00002.gguf",
            "model-00000-of-00002.gguf",
            "model-000001-of-00002.gguf",
            "00001-of-00002.gguf",
            "model-0000a-of-00002.gguf",
            "model-+0001-of-00002.gguf",
            "model-0000000000001-of-9999999999999.gguf",
            "model-00001-of-00002.safetensors",
        ] {
            assert_eq!(PartName::parse(name, ".gguf"), None, "{name}");
        }
    }
}
