//! The index of a sharded checkpoint: `weight_map` says for each tensor which file holds it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::pairs::Pairs;
use crate::error::{CheckpointError, IndexFlaw};
use crate::metadata::Metadata;
use crate::source::SourceFile;
use crate::tensor::{Contents, TensorInfo};

/// Bytes that an index may have, as for the headers that it repeats.
const MAX_INDEX: u64 = 100_000_000;

/// Opens the shards that the index at `path` names, which lie beside it, in order of their names.
pub(crate) fn open_sharded(path: &Path) -> Result<(Vec<SourceFile>, Contents), CheckpointError> {
    let wrong = |flaw| CheckpointError::Index {
        path: path.to_owned(),
        flaw,
    };
    let weight_map = read_weight_map(path)?;
    let shards: Vec<&str> = check_names(&weight_map).map_err(wrong)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    check_presence(folder, &shards).map_err(wrong)?;

    let mut files = Vec::with_capacity(shards.len());
    let mut tensors = Vec::new();
    let mut metadata = Metadata::new();
    for (file_idx, shard) in shards.iter().enumerate() {
        let file = SourceFile::open(&folder.join(shard))?;
        let contents = super::read_header(&file, file_idx)?;
        files.push(file);
        tensors.extend(contents.tensors);
        for (key, value) in contents.metadata {
            metadata.entry(key).or_insert(value);
        }
    }
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    check_agreement(&weight_map, &shards, &tensors).map_err(wrong)?;
    Ok((files, Contents { tensors, metadata }))
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: Pairs,
}

/// Tensor to shard.
type WeightMap = BTreeMap<String, String>;

fn read_weight_map(path: &Path) -> Result<WeightMap, CheckpointError> {
    let wrong = |flaw| CheckpointError::Index {
        path: path.to_owned(),
        flaw,
    };
    let file = SourceFile::open(path)?;
    let len = file.len();
    if len > MAX_INDEX {
        return Err(wrong(IndexFlaw::TooLong {
            len,
            limit: MAX_INDEX,
        }));
    }
    let mut json = vec![0; len as usize];
    file.read_at(0, &mut json)?;
    let raw: RawIndex = serde_json::from_slice(&json).map_err(|error| {
        wrong(IndexFlaw::Json {
            reason: error.to_string(),
        })
    })?;
    let mut weight_map = WeightMap::new();
    for (tensor, shard) in raw.weight_map.0 {
        match weight_map.entry(tensor) {
            Entry::Vacant(entry) => _ = entry.insert(shard),
            Entry::Occupied(entry) => {
                return Err(wrong(IndexFlaw::DuplicateEntry {
                    tensor: entry.key().clone(),
                }));
            }
        }
    }
    Ok(weight_map)
}

/// The names of the shards, sorted, each once. None of them leads out of the folder.
fn check_names(weight_map: &WeightMap) -> Result<Vec<&str>, IndexFlaw> {
    let mut shards = BTreeSet::new();
    for (tensor, shard) in weight_map {
        if matches!(shard.as_str(), "" | "." | "..") || shard.contains(['/', '\\', '\0']) {
            return Err(IndexFlaw::ShardName {
                shard: shard.clone(),
                tensor: tensor.clone(),
            });
        }
        shards.insert(shard.as_str());
    }
    if shards.is_empty() {
        return Err(IndexFlaw::Empty);
    }
    Ok(shards.into_iter().collect())
}

fn check_presence(folder: &Path, shards: &[&str]) -> Result<(), IndexFlaw> {
    let is_missing = |shard: &&&str| !folder.join(shard).exists();
    match shards.iter().find(is_missing) {
        None => Ok(()),
        Some(first) => Err(IndexFlaw::MissingShard {
            shard: (*first).to_owned(),
            n_present: shards.len() - shards.iter().filter(is_missing).count(),
            n_shards: shards.len(),
        }),
    }
}

/// Every tensor lies in one shard, and in the one that the index names, if it names one. `tensors` is sorted by
/// name.
fn check_agreement(
    weight_map: &WeightMap,
    shards: &[&str],
    tensors: &[TensorInfo],
) -> Result<(), IndexFlaw> {
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(IndexFlaw::TwoShards {
            tensor: pair[0].name.clone(),
            first: shards[pair[0].file_idx].to_owned(),
            second: shards[pair[1].file_idx].to_owned(),
        });
    }
    for (tensor, shard) in weight_map {
        let is_there = tensors
            .binary_search_by(|t| t.name.cmp(tensor))
            .is_ok_and(|idx| shards[tensors[idx].file_idx] == shard);
        if !is_there {
            return Err(IndexFlaw::NotInShard {
                tensor: tensor.clone(),
                shard: shard.clone(),
            });
        }
    }
    Ok(())
}
