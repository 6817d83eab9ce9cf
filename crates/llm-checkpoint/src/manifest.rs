//! Checksums of a checkpoint's tensors, whatever files they lie in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use blake3::{Hash, Hasher};
use llm_tensor::Bytes;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::error::CheckpointError;
use crate::tensor::TensorInfo;
use crate::write::{folder_of, write_error};

/// The name of a manifest, beside the weights.
pub const MANIFEST: &str = "llm-run.manifest.json";

/// Encoding, shape and BLAKE3 checksum of stored bytes for each tensor of a checkpoint.
///
/// The checksum is over the elements, or GGUF's blocks, as they are stored: row-major, little-endian, nothing before,
/// between or after. It knows nothing of files, so that a manifest stays valid when a checkpoint is cut into other
/// shards, or written to another format in the same encodings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// As it is printed: `bf16`, `Q4_K`.
    encoding: String,
    shape: Vec<u64>,
    blake3: Hex,
}

/// A checksum, written in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Hex(Hash);

/// One thing in which a checkpoint is not what a manifest says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Difference {
    /// A tensor of the manifest that the checkpoint lacks.
    #[error("tensor `{tensor}` is missing")]
    Missing {
        /// Its name.
        tensor: String,
    },
    /// A tensor that the manifest does not have.
    #[error("tensor `{tensor}` is not in the manifest")]
    Extra {
        /// Its name.
        tensor: String,
    },
    /// A tensor of another shape or encoding.
    #[error("tensor `{tensor}` is {found}, expected {expected}")]
    Kind {
        /// Its name.
        tensor: String,
        /// Encoding and shape in the manifest, as `bf16 [3, 5]`.
        expected: String,
        /// Encoding and shape in the checkpoint.
        found: String,
    },
    /// A tensor of other bytes.
    #[error("tensor `{tensor}` has other bytes")]
    Bytes {
        /// Its name.
        tensor: String,
    },
}

impl Manifest {
    /// Checksums every tensor of `checkpoint`: one tensor per thread of Rayon's, in pieces of 1 MiB.
    ///
    /// `progress` is told the length of each piece; its error ends the summing.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], and what `progress` answers.
    pub fn of<E: From<CheckpointError> + Send>(
        checkpoint: &Checkpoint,
        progress: impl Fn(Bytes) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let mut tensors: Vec<&TensorInfo> = checkpoint.tensors().collect();
        // The largest first: none is left to one thread alone in the end.
        tensors.sort_by_key(|t| std::cmp::Reverse(t.stored_bytes()));
        let entries = tensors
            .into_par_iter()
            .with_max_len(1)
            .map_init(Vec::new, |piece, tensor| {
                let entry = Entry {
                    encoding: tensor.encoding.to_string(),
                    shape: tensor.shape.to_vec(),
                    blake3: Hex(sum(checkpoint, tensor, piece, &progress)?),
                };
                Ok((tensor.name.clone(), entry))
            })
            .collect::<Result<_, E>>()?;
        Ok(Manifest { tensors: entries })
    }

    /// Reads the manifest at `path`; nothing when there is no such file.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], [`CheckpointError::Manifest`].
    pub fn read(path: &Path) -> Result<Option<Self>, CheckpointError> {
        let read = || -> io::Result<Vec<u8>> {
            let mut json = Vec::new();
            File::open(path)?
                .take(MAX_MANIFEST + 1)
                .read_to_end(&mut json)?;
            Ok(json)
        };
        let json = match read() {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(CheckpointError::Io {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let wrong = |reason| CheckpointError::Manifest {
            path: path.to_owned(),
            reason,
        };
        if json.len() as u64 > MAX_MANIFEST {
            return Err(wrong(format!("it is longer than {MAX_MANIFEST} bytes")));
        }
        serde_json::from_slice(&json)
            .map_err(|error| wrong(error.to_string()))
            .map(Some)
    }

    /// Writes the manifest to `path`, where there must be none yet. It is there when it is durable, or not at all.
    ///
    /// # Errors
    /// [`CheckpointError::Exists`], [`CheckpointError::Write`].
    pub fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        let write = || {
            let mut file = tempfile::Builder::new()
                .prefix(&format!(".{MANIFEST}."))
                // As for any new file: what the process's umask leaves of it.
                .permissions(Permissions::from_mode(0o666))
                .tempfile_in(folder_of(path))?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist_noclobber(path).map_err(|error| error.error)?;
            File::open(folder_of(path))?.sync_all()
        };
        write().map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => CheckpointError::Exists {
                path: path.to_owned(),
            },
            _ => write_error(path, source),
        })
    }

    /// In what `found` differs from this manifest, sorted by tensor.
    pub fn differences(&self, found: &Manifest) -> Vec<Difference> {
        let all = self.tensors.keys().chain(found.tensors.keys());
        let names: BTreeSet<&String> = all.collect();
        names
            .into_iter()
            .filter_map(|name| {
                let tensor = name.clone();
                match (self.tensors.get(name), found.tensors.get(name)) {
                    (None, _) => Some(Difference::Extra { tensor }),
                    (_, None) => Some(Difference::Missing { tensor }),
                    (Some(expected), Some(found)) => expected.difference(tensor, found),
                }
            })
            .collect()
    }
}

impl Entry {
    fn difference(&self, tensor: String, found: &Entry) -> Option<Difference> {
        if (&self.encoding, &self.shape) != (&found.encoding, &found.shape) {
            return Some(Difference::Kind {
                tensor,
                expected: format!("{} {:?}", self.encoding, self.shape),
                found: format!("{} {:?}", found.encoding, found.shape),
            });
        }
        (self.blake3 != found.blake3).then_some(Difference::Bytes { tensor })
    }
}

impl TryFrom<String> for Hex {
    type Error = blake3::HexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Hash::from_hex(text).map(Hex)
    }
}

impl From<Hex> for String {
    fn from(Hex(hash): Hex) -> String {
        hash.to_hex().to_string()
    }
}

/// Bytes that a manifest may have, as for the headers whose tensors it lists.
const MAX_MANIFEST: u64 = 100_000_000;

/// Bytes that a thread checksums at a time: few enough that hashing finds them in the cache.
const PIECE: usize = 1 << 20;

/// Checksum of one tensor's bytes, which go through `piece`.
fn sum<E: From<CheckpointError>>(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    piece: &mut Vec<u8>,
    progress: impl Fn(Bytes) -> Result<(), E>,
) -> Result<Hash, E> {
    let len = tensor.contiguous_bytes();
    let mut hasher = Hasher::new();
    for start in (0..len).step_by(PIECE) {
        let n = len.min(start + PIECE as u64) - start;
        piece.resize(n as usize, 0);
        checkpoint.read_stored(&tensor.name, start..start + n, piece)?;
        hasher.update(piece);
        progress(Bytes::new(n))?;
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests;
