//! The index of a sharded checkpoint, of safetensors or PyTorch files: `weight_map` says for each tensor which file
//! holds it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::elsewhere::Origin;
use crate::error::{CheckpointError, IndexFlaw};
use crate::metadata::Metadata;
use crate::notice::Notice;
use crate::pairs::Pairs;
use crate::shard::UNFINISHED_SHARD;
use crate::source::SourceFile;
use crate::tensor::{Contents, TensorInfo};

/// Bytes that an index may have, as for the headers that it repeats.
const MAX_INDEX: u64 = 100_000_000;

/// Reads the header of a shard, which becomes this number of the checkpoint's files.
pub(crate) type ReadHeader = fn(&SourceFile, usize) -> Result<Contents, CheckpointError>;

/// Opens the shards that the index at `path` names, which lie beside it, in order of their names.
pub(crate) fn open_sharded(
    path: &Path,
    read_header: ReadHeader,
    origin: Origin<'_>,
) -> Result<Opened, CheckpointError> {
    let wrong = |flaw| CheckpointError::Index {
        path: path.to_owned(),
        flaw,
    };
    let weight_map = read_weight_map(path)?;
    let shards: Vec<&str> = check_names(&weight_map).map_err(wrong)?;
    if shards.contains(&UNFINISHED_SHARD) {
        return Err(CheckpointError::Unfinished {
            path: path.to_owned(),
        });
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    check_presence(folder, &weight_map, &shards).map_err(wrong)?;
    let paths: Vec<PathBuf> = shards.iter().map(|shard| folder.join(shard)).collect();
    let (files, contents) = open_shards(&paths, path, &read_header, origin)?;
    let notices = disagreement(path, &weight_map, &shards, &contents.tensors);
    Ok((files, contents, notices.into_iter().collect()))
}

/// Files, what they hold, and what is to be said of them.
pub(crate) type Opened = (Vec<SourceFile>, Contents, Vec<Notice>);

/// Opens these shards as one; `whole` is what messages call them together.
pub(crate) fn open_shards(
    paths: &[PathBuf],
    whole: &Path,
    read_header: &dyn Fn(&SourceFile, usize) -> Result<Contents, CheckpointError>,
    origin: Origin<'_>,
) -> Result<(Vec<SourceFile>, Contents), CheckpointError> {
    let mut files = Vec::with_capacity(paths.len());
    let mut tensors = Vec::new();
    let mut metadata = Metadata::new();
    for (file_idx, path) in paths.iter().enumerate() {
        let file = SourceFile::open(path, origin)?;
        let contents = read_header(&file, file_idx).map_err(|error| file.told(error))?;
        files.push(file);
        tensors.extend(contents.tensors);
        for (key, value) in contents.metadata {
            metadata.entry(key).or_insert(value);
        }
    }
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        let shard = |tensor: &TensorInfo| {
            let name = paths[tensor.file_idx].file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        return Err(CheckpointError::Index {
            path: whole.to_owned(),
            flaw: IndexFlaw::TwoShards {
                tensor: pair[0].name.clone(),
                first: shard(&pair[0]),
                second: shard(&pair[1]),
            },
        });
    }
    Ok((files, Contents { tensors, metadata }))
}

/// True if the index at `path` names no file but `single`. One that cannot be read names others.
///
/// # Errors
/// [`CheckpointError::Unfinished`].
pub(crate) fn names_only(path: &Path, single: &str) -> Result<bool, CheckpointError> {
    let Ok(weight_map) = read_weight_map(path) else {
        return Ok(false);
    };
    if weight_map.values().any(|shard| shard == UNFINISHED_SHARD) {
        return Err(CheckpointError::Unfinished {
            path: path.to_owned(),
        });
    }
    Ok(weight_map.values().all(|shard| shard == single))
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
    // An index is here, wherever its shards are.
    let file = SourceFile::open(path, None)?;
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
        file.told(wrong(IndexFlaw::Json {
            reason: error.to_string(),
        }))
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

fn check_presence(folder: &Path, weight_map: &WeightMap, shards: &[&str]) -> Result<(), IndexFlaw> {
    let is_missing = |shard: &&&str| !folder.join(shard).exists();
    let Some(first) = shards.iter().find(is_missing) else {
        return Ok(());
    };
    let tensor = weight_map.iter().find(|(_, shard)| shard == first);
    Err(IndexFlaw::MissingShard {
        shard: (*first).to_owned(),
        tensor: tensor.map_or_else(String::new, |(tensor, _)| tensor.clone()),
        n_present: shards.len() - shards.iter().filter(is_missing).count(),
        n_shards: shards.len(),
    })
}

/// In what the index at `path` is wrong about where tensors lie. `tensors` is sorted by name.
fn disagreement(
    path: &Path,
    weight_map: &WeightMap,
    shards: &[&str],
    tensors: &[TensorInfo],
) -> Option<Notice> {
    let (mut nowhere, mut elsewhere) = (Vec::new(), Vec::new());
    for (tensor, shard) in weight_map {
        match tensors.binary_search_by(|t| t.name.cmp(tensor)) {
            Err(_) => nowhere.push(tensor.clone()),
            Ok(idx) if shards[tensors[idx].file_idx] != shard => elsewhere.push(tensor.clone()),
            Ok(_) => {}
        }
    }
    let is_right = nowhere.is_empty() && elsewhere.is_empty();
    (!is_right).then(|| Notice::IndexDisagrees {
        path: path.to_owned(),
        nowhere,
        elsewhere,
    })
}
