//! Choice of the files of a repository that a model is made of.

use std::path::{Path, PathBuf};

use crate::error::ChoiceFlaw;
use crate::name::FileName;

/// Files of a model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// All that are needed, configurations first.
    pub(crate) files: Vec<FileName>,
    /// The file to open; the folder, if there is none.
    pub(crate) opened: Option<FileName>,
}

impl Chosen {
    /// The file to open, or the folder of all, in `snapshot`.
    pub(crate) fn path(&self, snapshot: &Path) -> PathBuf {
        match &self.opened {
            Some(file) => file.in_folder(snapshot),
            None => snapshot.to_owned(),
        }
    }
}

/// Chooses among the files of a repository. `asked` is a file, or what is in the name of one, such as a quantization.
pub(crate) fn choose(names: &[FileName], asked: Option<&str>) -> Result<Chosen, ChoiceFlaw> {
    let sets = Set::all(names);
    let there = |sets: &[&Set]| -> Vec<String> { sets.iter().map(|set| set.label()).collect() };
    let all: Vec<&Set> = sets.iter().collect();
    if let Some(asked) = asked {
        let is_named = |set: &&&Set| set.files.iter().any(|file| file.as_str() == asked);
        let by_name: Vec<&Set> = all.iter().filter(is_named).copied().collect();
        let by_word = || {
            all.iter()
                .filter(|set| set.has_word(asked))
                .copied()
                .collect()
        };
        let found: Vec<&Set> = if by_name.is_empty() {
            by_word()
        } else {
            by_name
        };
        return match found.as_slice() {
            [] => Err(ChoiceFlaw::NoFile {
                asked: asked.to_owned(),
                there: there(&all),
            }),
            [set] => Ok(set.with_configuration(names)),
            [_, ..] => Err(ChoiceFlaw::Several {
                there: there(&found),
            }),
        };
    }
    for kind in [Kind::Safetensors, Kind::Torch] {
        let of_kind: Vec<&Set> = all.iter().filter(|set| set.kind == kind).copied().collect();
        let in_root = |set: &&&Set| set.files[0].depth() == 0;
        // What transformers looks for goes before all else.
        let usual = |set: &&Set| set.stem == kind.usual_stem();
        let in_root: Vec<&Set> = of_kind.iter().filter(in_root).copied().collect();
        if let Some(set) = in_root.iter().find(|set| usual(set)) {
            return Ok(Chosen {
                opened: None,
                ..set.with_configuration(names)
            });
        }
        match in_root.as_slice() {
            [] => {}
            [set] => return Ok(set.with_configuration(names)),
            [_, ..] => {
                return Err(ChoiceFlaw::Several {
                    there: there(&in_root),
                });
            }
        }
    }
    let ggufs: Vec<&Set> = all
        .iter()
        .filter(|set| set.kind == Kind::Gguf)
        .copied()
        .collect();
    match ggufs.as_slice() {
        [] => Err(ChoiceFlaw::NoWeights),
        [set] => Ok(set.with_configuration(names)),
        [_, ..] => Err(ChoiceFlaw::Several {
            there: there(&ggufs),
        }),
    }
}

/// Format of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Safetensors,
    Torch,
    Gguf,
}

impl Kind {
    fn of(name: &str) -> Option<(Self, &str)> {
        let (stem, suffix) = name.rsplit_once('.')?;
        let kind = match suffix {
            "safetensors" => Kind::Safetensors,
            "bin" if stem.contains("pytorch_model") => Kind::Torch,
            "gguf" => Kind::Gguf,
            _ => return None,
        };
        Some((kind, stem))
    }

    /// The kind of a file of weights.
    pub(crate) fn of_file(file: &FileName) -> Option<Self> {
        Some(Self::of(file.as_str())?.0)
    }

    fn usual_stem(self) -> &'static str {
        match self {
            Kind::Safetensors => "model",
            Kind::Torch => "pytorch_model",
            // No name is usual.
            Kind::Gguf => "",
        }
    }
}

/// Files that hold one model together.
#[derive(Debug)]
struct Set {
    kind: Kind,
    /// Path without number and suffix.
    stem: String,
    n_parts: Option<u32>,
    /// In order of their names.
    files: Vec<FileName>,
}

impl Set {
    fn all(names: &[FileName]) -> Vec<Set> {
        let mut sets: Vec<Set> = Vec::new();
        let mut names: Vec<&FileName> = names.iter().collect();
        names.sort();
        for name in names {
            let file = name.as_str().rsplit('/').next().unwrap_or_default();
            let is_other = ["mmproj", "adapter_model", "training_args", "imatrix"]
                .iter()
                .any(|other| file.to_ascii_lowercase().starts_with(other));
            let Some((kind, stem)) = Kind::of(name.as_str()).filter(|_| !is_other) else {
                continue;
            };
            let (stem, n_parts) = match part(stem) {
                Some((stem, n_parts)) => (stem, Some(n_parts)),
                None => (stem, None),
            };
            let is_same = |set: &&mut Set| {
                (set.kind, set.stem.as_str(), set.n_parts) == (kind, stem, n_parts)
                    && n_parts.is_some()
            };
            match sets.iter_mut().find(is_same) {
                Some(set) => set.files.push(name.clone()),
                None => sets.push(Set {
                    kind,
                    stem: stem.to_owned(),
                    n_parts,
                    files: vec![name.clone()],
                }),
            }
        }
        sets
    }

    /// What it is asked for by: a GGUF's quantization, where its name has one, or the first file.
    fn label(&self) -> String {
        let words = || self.stem.split(['-', '.', '/']);
        let is_quantization = |word: &&str| {
            let word = word.to_ascii_uppercase();
            let begins = ["Q", "IQ", "TQ"].iter().any(|front| {
                let rest = word.strip_prefix(front);
                rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            });
            begins || ["F16", "BF16", "F32", "MXFP4"].contains(&word.as_str())
        };
        let found = words()
            .rfind(is_quantization)
            .filter(|_| self.kind == Kind::Gguf);
        found.map_or_else(|| self.files[0].to_string(), str::to_owned)
    }

    /// True where a word of the name is this one, whatever its case. Words of quantizations have `_` in them.
    fn has_word(&self, asked: &str) -> bool {
        let words = self.stem.split(['-', '.', '/']);
        self.kind == Kind::Gguf
            && words
                .into_iter()
                .any(|word| word.eq_ignore_ascii_case(asked))
    }

    fn with_configuration(&self, names: &[FileName]) -> Chosen {
        let index = match self.kind {
            Kind::Safetensors => Some(format!("{}.safetensors.index.json", self.stem)),
            Kind::Torch => Some(format!("{}.bin.index.json", self.stem)),
            Kind::Gguf => None,
        };
        let is_wanted = |name: &&FileName| {
            let name = name.as_str();
            let is_index = name.ends_with(".index.json");
            let is_text = CONFIGURATION.contains(&name)
                || (name.ends_with(".json") && !name.contains('/') && !is_index)
                || (name.starts_with("additional_chat_templates/") && name.ends_with(".jinja"));
            match self.kind {
                Kind::Safetensors | Kind::Torch => {
                    is_text || (index.as_deref() == Some(name) && self.n_parts.is_some())
                }
                // It has all in itself.
                Kind::Gguf => false,
            }
        };
        let mut files: Vec<FileName> = names.iter().filter(is_wanted).cloned().collect();
        files.sort();
        files.extend(self.files.iter().cloned());
        let is_alone = self.kind == Kind::Gguf || self.n_parts.is_none();
        Chosen {
            files,
            opened: is_alone.then(|| self.files[0].clone()),
        }
    }
}

/// Stem and number of parts of `stem-00001-of-00003`.
fn part(stem: &str) -> Option<(&str, u32)> {
    let (front, n_parts) = stem.rsplit_once("-of-")?;
    let (front, number) = front.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let n_parts = n_parts
        .parse()
        .ok()
        .filter(|_| is_number(number) && is_number(n_parts));
    Some((front, n_parts?))
}

/// Files beside the weights that are read, and are no JSON.
const CONFIGURATION: [&str; 6] = [
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<FileName> {
        names
            .iter()
            .map(|name| FileName::parse(name).unwrap())
            .collect()
    }

    fn chosen(
        there: &[&str],
        asked: Option<&str>,
    ) -> Result<(Vec<String>, Option<String>), String> {
        let chosen = choose(&names(there), asked).map_err(|error| error.to_string())?;
        let files = chosen.files.iter().map(ToString::to_string).collect();
        Ok((files, chosen.opened.map(|file| file.to_string())))
    }

    #[test]
    fn only_what_a_model_needs_is_chosen() {
        struct Case {
            there: &'static [&'static str],
            asked: Option<&'static str>,
            files: &'static [&'static str],
            opened: Option<&'static str>,
        }
        for case in [
            Case {
                there: &[
                    ".gitattributes",
                    "README.md",
                    "config.json",
                    "model.safetensors",
                    "model.fp16.safetensors",
                    "onnx/model.onnx",
                    "onnx/config.json",
                    "pytorch_model.bin",
                    "tf_model.h5",
                    "tokenizer.json",
                    "training_args.bin",
                    "x.gguf",
                    "merges.txt",
                ],
                asked: None,
                files: &[
                    "config.json",
                    "merges.txt",
                    "tokenizer.json",
                    "model.safetensors",
                ],
                opened: None,
            },
            Case {
                there: &[
                    "config.json",
                    "consolidated.safetensors",
                    "model-00002-of-00002.safetensors",
                    "model-00001-of-00002.safetensors",
                    "model.safetensors.index.json",
                    "pytorch_model.bin.index.json",
                    "pytorch_model-00001-of-00001.bin",
                ],
                asked: None,
                files: &[
                    "config.json",
                    "model.safetensors.index.json",
                    "model-00001-of-00002.safetensors",
                    "model-00002-of-00002.safetensors",
                ],
                opened: None,
            },
            Case {
                there: &[
                    "config.json",
                    "pytorch_model.bin",
                    "adapter_model.safetensors",
                    "optimizer.bin",
                ],
                asked: None,
                files: &["config.json", "pytorch_model.bin"],
                opened: None,
            },
            Case {
                there: &[
                    "a-Q8_0.gguf",
                    "a-Q4_K_M.gguf",
                    "a-Q4_K.gguf",
                    "mmproj-Q4_K_M.gguf",
                    "config.json",
                ],
                asked: Some("q4_k_m"),
                files: &["a-Q4_K_M.gguf"],
                opened: Some("a-Q4_K_M.gguf"),
            },
            Case {
                there: &[
                    "Q4_0/a-Q4_0-00002-of-00002.gguf",
                    "Q4_0/a-Q4_0-00001-of-00002.gguf",
                    "a-Q8_0.gguf",
                ],
                asked: Some("Q4_0"),
                files: &[
                    "Q4_0/a-Q4_0-00001-of-00002.gguf",
                    "Q4_0/a-Q4_0-00002-of-00002.gguf",
                ],
                opened: Some("Q4_0/a-Q4_0-00001-of-00002.gguf"),
            },
            Case {
                there: &["config.json", "model.safetensors", "a-Q8_0.gguf"],
                asked: Some("a-Q8_0.gguf"),
                files: &["a-Q8_0.gguf"],
                opened: Some("a-Q8_0.gguf"),
            },
        ] {
            let (files, opened) = chosen(case.there, case.asked).unwrap();
            assert_eq!(files, case.files);
            assert_eq!(opened.as_deref(), case.opened);
        }
    }

    #[test]
    fn a_choice_that_is_the_users_is_put_to_them() {
        for (there, asked, words) in [
            (&["README.md"][..], None, "no weights"),
            (
                &["a-Q8_0.gguf", "a.Q4_K_M.gguf"],
                None,
                "`:Q8_0`: Q8_0, Q4_K_M",
            ),
            (
                &["a-Q8_0.gguf", "a-Q4_0.gguf"],
                Some("Q4"),
                "no file is or has `Q4`; there are Q4_0, Q8_0",
            ),
            (&["a-Q8_0.gguf", "b-Q8_0.gguf"], Some("Q8_0"), "several"),
            (
                &["x.safetensors", "y.safetensors"],
                None,
                "x.safetensors, y.safetensors",
            ),
        ] {
            let error = chosen(there, asked).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
