//! Models to measure: the bundled one, a fetched one, and random ones with the shapes of real ones.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use llm_tensor::Bytes;
use tempfile::TempDir;

use super::gguf;
use crate::make_model;

/// A model to measure.
pub(super) struct Model {
    pub(super) name: String,
    source: Source,
    /// Precisions to measure it in; all where none is named.
    precisions: &'static [&'static str],
    /// Positions: all of them are used.
    context: usize,
}

enum Source {
    /// In the program itself.
    Bundled,
    /// A folder with weights in blocks and a tokenizer, by its path from the workspace's root.
    At(&'static str),
    /// A folder with packed weights and no tokenizer, likewise.
    Packed(&'static str),
    /// A GGUF of random blocks.
    Gguf,
    /// Made of a configuration, with as many layers as take at most so many bytes.
    Made(Bytes),
}

impl Model {
    /// True if it has a tokenizer: the program frees memory when it has read it, and uses it again for weights.
    pub(super) fn has_tokenizer(&self) -> bool {
        matches!(self.source, Source::At(_))
    }

    /// True if its weights are in a format other than elements one after the other.
    fn is_packed(&self) -> bool {
        match self.source {
            Source::At(_) | Source::Packed(_) | Source::Gguf => true,
            Source::Bundled | Source::Made(_) => false,
        }
    }

    pub(super) fn is_measured_in(&self, precision: &str) -> bool {
        match self.precisions {
            [] => precision != AS_STORED || self.is_packed(),
            named => named.contains(&precision),
        }
    }
}

/// The bundled model, which is the smallest.
pub(super) fn demo(precisions: &'static [&'static str]) -> Model {
    Model {
        name: "demo".to_owned(),
        source: Source::Bundled,
        precisions,
        context: 128,
    }
}

/// The models asked for. Names in `others` are those of models that are measured otherwise.
///
/// # Errors
/// When there is none of a name.
pub(super) fn chosen<'a>(
    root: &Path,
    names: &[String],
    others: impl Iterator<Item = &'a str>,
    is_quick: bool,
) -> Result<Vec<Model>> {
    let mut models = vec![demo(if is_quick { &["f32", "nf4"] } else { &[] })];
    if root.join(SMOLLM2).is_dir() {
        models.push(Model {
            name: "smollm2".to_owned(),
            source: Source::At(SMOLLM2),
            precisions: if is_quick {
                &["f32", "int8", AS_STORED]
            } else {
                &[]
            },
            context: CONTEXT,
        });
    }
    models.push(Model {
        name: "gguf".to_owned(),
        source: Source::Gguf,
        precisions: &[AS_STORED],
        context: GGUF_CONTEXT,
    });
    for path in PACKED {
        models.push(Model {
            name: path.rsplit('/').next().unwrap_or(path).to_owned(),
            source: Source::Packed(path),
            precisions: &[AS_STORED],
            context: PACKED_CONTEXT,
        });
    }
    let room = if is_quick { QUICK_ROOM } else { room(root)? };
    for name in configured(root)? {
        let precisions: &[&str] = match name.as_str() {
            "gpt2" if is_quick => &["f32", "bf16", "int8", "nf4 double"],
            "microsoft--Phi-3-mini-4k-instruct" if is_quick => &["bf16", "int8", "nf4", "fp4"],
            // The encoder of an encoder-decoder model takes the whole prompt, its decoder only what follows.
            "google--flan-t5-xxl" => continue,
            _ if is_quick => continue,
            _ => &[],
        };
        models.push(Model {
            name,
            source: Source::Made(room),
            precisions,
            context: CONTEXT,
        });
    }
    let mut known: Vec<&str> = others.collect();
    known.extend(models.iter().map(|model| model.name.as_str()));
    known.sort_unstable();
    // Some are measured both ways.
    known.dedup();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!(
            "there is no model {unknown}; known are {}",
            known.join(", ")
        );
    }
    models.retain(|model| names.is_empty() || names.contains(&model.name));
    Ok(models)
}

/// The folders of configurations, by name; beside them lie files about them.
fn configured(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join(CONFIGS))? {
        let entry = entry?;
        if entry.path().join("config.json").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A model where the program finds it.
pub(super) struct Folder {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) context: usize,
    /// Its files'.
    pub(super) stored: Bytes,
    /// True if it is a GGUF, beside which a run as it is stored takes little.
    pub(super) is_gguf: bool,
    /// Folder made for the measurement, removed with it.
    _scratch: Option<TempDir>,
}

impl Folder {
    /// Makes the model where it is to be made, in a folder in `target`.
    pub(super) fn of(model: &Model, root: &Path, target: &Path) -> Result<Self> {
        let (path, name, scratch) = match model.source {
            Source::Bundled => (PathBuf::from("demo"), model.name.clone(), None),
            Source::At(path) | Source::Packed(path) => (root.join(path), model.name.clone(), None),
            Source::Gguf => {
                let scratch = tempfile::tempdir_in(target)?;
                let path = scratch.path().join("model.gguf");
                gguf::write(&path)?;
                (path, model.name.clone(), Some(scratch))
            }
            Source::Made(room) => {
                let config = root.join(CONFIGS).join(&model.name).join("config.json");
                let (n_layers, all) = layers(&config, room)?;
                let scratch = tempfile::tempdir_in(target)?;
                let options = make_model::Options::cut(&config, scratch.path(), n_layers);
                make_model::run(&options)?;
                let name = format!("{} ({n_layers} of {all} layers)", model.name);
                (scratch.path().to_owned(), name, Some(scratch))
            }
        };
        let folder = Self::made(name, path, model.context)?;
        Ok(Folder {
            is_gguf: matches!(model.source, Source::At(_) | Source::Gguf),
            _scratch: scratch,
            ..folder
        })
    }

    /// A model that is there.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(super) fn made(name: String, path: PathBuf, context: usize) -> Result<Self> {
        Ok(Folder {
            name,
            stored: if path.is_dir() {
                size(&path)?
            } else {
                // What is in the program itself is no file.
                path.metadata()
                    .map_or(Bytes::ZERO, |file| Bytes::new(file.len()))
            },
            path,
            context,
            is_gguf: false,
            _scratch: None,
        })
    }
}

/// As many layers as take at most `room` as bf16, but one at least, and how many the configuration has.
fn layers(config: &Path, room: Bytes) -> Result<(u64, u64)> {
    let (_, whole) = make_model::skeleton(config, None)?;
    let all = whole.spec.decoder.n_layers() as u64;
    for n_layers in (2..=all).rev() {
        let (_, cut) = make_model::skeleton(config, Some(n_layers))?;
        if Bytes::new(2 * cut.n_parameters()) <= room {
            return Ok((n_layers, all));
        }
    }
    Ok((1, all))
}

/// A quarter of the lesser of what RAM and disk have free: in f32 a model takes half of it.
fn room(root: &Path) -> Result<Bytes> {
    let free = available_ram()?.min(free_disk(root)?);
    Ok(Bytes::new(free.get() / 4))
}

/// RAM left on the machine without swapping.
///
/// # Errors
/// When the kernel does not tell.
pub(super) fn available_ram() -> Result<Bytes> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let available = meminfo.lines().find_map(|line| {
        let kib = line.strip_prefix("MemAvailable:")?.trim();
        kib.strip_suffix(" kB")?.parse::<u64>().ok()
    });
    let kib = available.context("MemAvailable in /proc/meminfo")?;
    Ok(Bytes::new(kib << 10))
}

/// Space left on the disk of a folder.
///
/// # Errors
/// When there is no such folder.
pub(super) fn free_disk(folder: &Path) -> Result<Bytes> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(Bytes::new(disk.f_bavail * disk.f_frsize))
}

fn size(folder: &Path) -> Result<Bytes> {
    let mut total = Bytes::ZERO;
    for entry in fs::read_dir(folder)? {
        total += Bytes::new(entry?.metadata()?.len());
    }
    Ok(total)
}

const SMOLLM2: &str = "models/smollm2";
const CONFIGS: &str = "tests/fixtures/configs";
/// Formats of safetensors: one that is unpacked into RAM, and two that are used where they lie.
const PACKED: [&str; 3] = [
    "tests/fixtures/packed/gptq",
    "tests/fixtures/packed/mxfp4-experts",
    "tests/fixtures/packed/compressed-mxfp4",
];
/// Positions of a GGUF, which is small beside the buffers of longer prompts.
const GGUF_CONTEXT: usize = 128;
/// Positions of the packed ones; they have 64.
const PACKED_CONTEXT: usize = 48;
/// Name of the precision in which weights stay as their file has them.
pub(super) const AS_STORED: &str = "as stored";
/// More than the rows of a pass, and whole panels of keys, so that every buffer is used to its end.
pub(super) const CONTEXT: usize = 576;
/// Limit of a model's bytes where time is short.
const QUICK_ROOM: Bytes = Bytes::mib(900);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_that_is_made_has_a_configuration() {
        let root = crate::root();
        let models = chosen(&root, &[], [].into_iter(), false).unwrap();
        let made: Vec<&Model> = models
            .iter()
            .filter(|model| matches!(model.source, Source::Made(_)))
            .collect();
        assert!(made.len() >= 5, "{}", made.len());
        for model in made {
            let config = root.join(CONFIGS).join(&model.name).join("config.json");
            let (_, all) = layers(&config, Bytes::ZERO).unwrap();
            assert!(all > 1, "{}", model.name);
        }
    }
}
