//! Description of an entry of an offload folder: the bytes that its files were made of, and the encodings.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use llm_checkpoint::{Checkpoint, CheckpointError, FileState, Manifest};
use llm_plan::{Encodings, RunOn, WeightDType};
use llm_quant::Scheme;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;

use super::names::KEY_DIGITS;
use crate::{BoundModel, Result};

/// Description of an entry, for people and for listings; nothing is computed with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffloadAbout {
    /// The version of the format of files and keys.
    pub format: u32,
    /// The model's checkpoint, as it was opened.
    #[serde(serialize_with = "readable")]
    pub model: PathBuf,
    /// Encodings of the weights in the files: `bf16, nf4 double`.
    pub weights: String,
    /// Time at which the first of the files was written, in seconds since 1970.
    pub created: u64,
    /// The files that they were made of.
    pub sources: Vec<OffloadSource>,
}

/// A file of a checkpoint, as it was when its weights were written anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffloadSource {
    /// Without links.
    #[serde(serialize_with = "readable")]
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Time of the last change of its contents, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of the last change of anything of it: another file of the same length can have the same `mtime_ns`.
    pub ctime_ns: i64,
}

impl OffloadAbout {
    /// `weights` says how they are kept.
    ///
    /// # Errors
    /// When a file of the checkpoint is not there any more.
    pub(super) fn new(model: &BoundModel, weights: String) -> Result<OffloadAbout> {
        let checkpoint = model.checkpoint();
        let files = checkpoint.files().zip(checkpoint.file_states());
        // Bytes in memory have no file, whatever is at the path that stands for them.
        let files = files.filter_map(|(path, state)| Some(OffloadSource::new(path, state?)));
        let path = checkpoint.path();
        Ok(OffloadAbout {
            format: FORMAT,
            model: path.canonicalize().unwrap_or_else(|_| path.to_owned()),
            weights,
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            sources: files.collect::<Result<_>>()?,
        })
    }

    /// The name of the entry: the same for the same files and encodings, and for no others.
    ///
    /// # Errors
    /// When a checkpoint in memory, which is told by its bytes, cannot be read.
    pub(super) fn key(
        &self,
        model: &BoundModel,
        encodings: &Encodings<'_>,
        run_on: RunOn,
    ) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        // With its length before it, no text can pass for another and what follows it.
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(&FORMAT.to_le_bytes());
        for source in &self.sources {
            add(source.path.as_os_str().as_bytes());
            add(&source.bytes.to_le_bytes());
            add(&source.mtime_ns.to_le_bytes());
            add(&source.ctime_ns.to_le_bytes());
        }
        if let Some(contents) = contents_in_memory(model.checkpoint())? {
            add(&contents);
        }
        let dtype = match encodings.dtype {
            WeightDType::Auto => encodings.config_dtype,
            WeightDType::As(dtype) => Some(dtype),
        };
        // All devices compute with the same, unless one is to keep it otherwise, or cannot compute with it as it is.
        let stored: Vec<_> = model.tensors().map(|bound| bound.stored()).collect();
        let is_by_device = encodings.differ_by_device(&stored);
        let encodings = json!({
            "dtype": dtype.map(|dtype| dtype.name()),
            "quantization": encodings.quant.map(|quant| quant.to_json()),
            "run_on": match (run_on, is_by_device) {
                (RunOn::Gpu(_), true) => "gpu",
                (RunOn::Gpu(_), false) | (RunOn::Cpu, _) => "cpu",
            },
        });
        add(encodings.to_string().as_bytes());
        // What the configuration makes of the checkpoint's tensors.
        for bound in model.tensors() {
            let slot = bound.slot;
            let read_as = format!("{} {:?} {:?}", slot.name, slot.shape, slot.stored);
            add(read_as.as_bytes());
            add(bound.tensor.name.as_bytes());
            // What else than the names decides.
            if let Scheme::Grouped(format) = bound.scheme {
                add(format!("{format:?}").as_bytes());
            }
        }
        let hex = hasher.finalize().to_hex();
        Ok(hex[..KEY_DIGITS].to_owned())
    }

    /// Description in the file at `path`; `None` where it is none of ours or cannot be read.
    pub(super) fn read(path: &Path) -> Option<OffloadAbout> {
        // A pipe would make us wait for somebody who writes to it.
        if !fs::symlink_metadata(path).ok()?.is_file() {
            return None;
        }
        let mut text = Vec::new();
        let file = File::open(path).ok()?;
        file.take(MAX_ABOUT).read_to_end(&mut text).ok()?;
        let about: OffloadAbout = serde_json::from_slice(&text).ok()?;
        (about.format == FORMAT).then_some(about)
    }

    /// True if a file that the weights come from has been changed, moved or removed: nothing will use the entry then.
    pub fn is_stale(&self) -> bool {
        !self.sources.iter().all(OffloadSource::is_as_it_was)
    }
}

impl OffloadSource {
    fn new(path: &Path, state: FileState) -> Result<Self> {
        let path = path.canonicalize().map_err(|source| CheckpointError::Io {
            path: path.to_owned(),
            source,
        })?;
        let FileState {
            bytes,
            mtime_ns,
            ctime_ns,
        } = state;
        Ok(OffloadSource {
            path,
            bytes,
            mtime_ns,
            ctime_ns,
        })
    }

    fn is_as_it_was(&self) -> bool {
        let then = FileState {
            bytes: self.bytes,
            mtime_ns: self.mtime_ns,
            ctime_ns: self.ctime_ns,
        };
        fs::metadata(&self.path).is_ok_and(|now| FileState::of(&now) == then)
    }
}

/// Checksums of the tensors of a checkpoint that is in memory.
fn contents_in_memory(checkpoint: &Checkpoint) -> Result<Option<Vec<u8>>> {
    if checkpoint.file_states().all(|state| state.is_some()) {
        return Ok(None);
    }
    let manifest = Manifest::of(checkpoint, |_| Ok::<_, CheckpointError>(()))?;
    let json = serde_json::to_vec(&manifest).expect("names and sums have a JSON");
    Ok(Some(json))
}

/// A path that is no text is written as people can read it; it is then no file, and its entry stale.
fn readable<S: Serializer>(path: &Path, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// The version of the format of files and keys. Another one is never found by this program.
pub(super) const FORMAT: u32 = 1;

/// A checkpoint of a thousand shards is described in less.
const MAX_ABOUT: u64 = 1 << 20;
