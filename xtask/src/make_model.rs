//! Random checkpoints with the shapes of real models: for measuring, where only the sizes matter.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use llm_arch::{Skeleton, Slot};
use llm_checkpoint::{NewTensor, SafetensorsWriter};
use llm_tensor::{Bytes, DType, Shape};
use llm_torch_file::{TorchFile, TorchLayout};
use serde_json::{Map, Value, json};

use self::values::Values;

mod values;

/// Model to write, and its folder.
#[derive(Args)]
pub(crate) struct Options {
    /// The model's config.json
    config: PathBuf,
    /// The folder to write; it must not hold anything
    out: PathBuf,
    /// As many layers, instead of the configuration's
    #[arg(long, value_name = "N")]
    layers: Option<u64>,
    /// The format of the checkpoint
    #[arg(long, value_enum, default_value_t = Format::Safetensors)]
    format: Format,
    /// Limit of a file's tensors together; a single tensor may take more
    #[arg(long, value_name = "SIZE", default_value = "4GB")]
    max_shard_size: Bytes,
    /// f32, f16 or bf16 [default: the configuration's, else bf16]
    #[arg(long, value_parser = weight_dtype)]
    dtype: Option<DType>,
    /// Another seed gives other values
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write into a folder that holds files, and delete an earlier model there
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Safetensors,
    /// PyTorch's zip archives
    Bin,
    /// PyTorch's files before version 1.6
    LegacyBin,
}

impl Options {
    /// A model of some layers, as bf16 in safetensors, in a folder that holds nothing.
    pub(crate) fn cut(config: &Path, out: &Path, n_layers: u64) -> Self {
        Options {
            layers: Some(n_layers),
            ..Self::whole(config, out)
        }
    }

    /// A model of all layers, as bf16 in safetensors, in a folder that holds nothing.
    fn whole(config: &Path, out: &Path) -> Self {
        Options {
            config: config.to_owned(),
            out: out.to_owned(),
            layers: None,
            format: Format::Safetensors,
            max_shard_size: Bytes::new(4_000_000_000),
            dtype: Some(DType::BF16),
            seed: 0,
            force: false,
        }
    }

    /// The same in a single zip archive of PyTorch's, whatever its size.
    pub(crate) fn single_bin(config: &Path, out: &Path) -> Self {
        Options {
            format: Format::Bin,
            max_shard_size: Bytes::new(u64::MAX),
            ..Self::whole(config, out)
        }
    }
}

impl Format {
    /// Prefix and suffix of files' names.
    fn affixes(self) -> (&'static str, &'static str) {
        match self {
            Format::Safetensors => ("model", ".safetensors"),
            Format::Bin | Format::LegacyBin => ("pytorch_model", ".bin"),
        }
    }

    /// The only file of a checkpoint that is not cut.
    fn single(self) -> String {
        let (stem, suffix) = self.affixes();
        format!("{stem}{suffix}")
    }

    /// One of `n` files.
    fn shard(self, idx: usize, n: usize) -> String {
        let (stem, suffix) = self.affixes();
        format!("{stem}-{:05}-of-{n:05}{suffix}", idx + 1)
    }

    /// Name of the index of shards.
    fn index(self) -> String {
        format!("{}.index.json", self.single())
    }

    /// True if a checkpoint of this format has a file of that name.
    fn owns(self, name: &str) -> bool {
        let (stem, suffix) = self.affixes();
        let is_shard = name.starts_with(&format!("{stem}-")) && name.ends_with(suffix);
        is_shard || name == self.single() || name == self.index()
    }
}

/// Writes `config.json` and a checkpoint that fits it.
///
/// # Errors
/// When the configuration is not understood, or the folder holds files or cannot be written.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (mut config, skeleton) = skeleton(&options.config, options.layers)?;
    let dtype = (options.dtype.or(skeleton.spec.dtype)).unwrap_or(DType::BF16);
    // The former spelling, which may say something else by now.
    config.shift_remove("torch_dtype");
    config.insert("dtype".to_owned(), json!(dtype.torch_name()));

    prepare_folder(&options.out, options.force)?;
    let n_bytes = write_checkpoint(options, &skeleton, dtype)?;
    write_json(&options.out.join("config.json"), &Value::Object(config))?;
    println!(
        "{}: {} parameters as {dtype}, {n_bytes}",
        options.out.display(),
        skeleton.n_parameters()
    );
    Ok(())
}

/// A configuration and the model that it describes, with other than its number of layers if one is given.
///
/// # Errors
/// When it cannot be read or is not understood.
pub(crate) fn skeleton(
    path: &Path,
    n_layers: Option<u64>,
) -> Result<(Map<String, Value>, Skeleton)> {
    let mut config = read_config(path)?;
    if let Some(n_layers) = n_layers {
        set_layers(&mut config, n_layers)?;
    }
    let skeleton =
        llm_arch::from_config(&config).with_context(|| format!("cannot use {}", path.display()))?;
    Ok((config, skeleton))
}

fn weight_dtype(name: &str) -> Result<DType> {
    let dtype: DType = name.parse()?;
    ensure!(dtype.is_weight(), "weights are f32, f16 or bf16");
    Ok(dtype)
}

fn read_config(path: &Path) -> Result<Map<String, Value>> {
    let read = || anyhow::Ok(serde_json::from_slice(&fs::read(path)?)?);
    read().with_context(|| format!("cannot read {}", path.display()))
}

/// Families spell the number of layers in several ways, and some say something of each layer.
fn set_layers(config: &mut Map<String, Value>, n_layers: u64) -> Result<()> {
    let mut is_set = false;
    for key in [
        "num_hidden_layers",
        "n_layer",
        "num_layers",
        "num_decoder_layers",
    ] {
        if let Some(value) = config.get_mut(key) {
            *value = json!(n_layers);
            is_set = true;
        }
    }
    if let Some(types) = config.get_mut("layer_types").and_then(Value::as_array_mut) {
        types.truncate(n_layers as usize);
    }
    if is_set {
        return Ok(());
    }
    bail!("the configuration has none of `num_hidden_layers`, `n_layer` and `num_layers`")
}

/// Creates the folder, or with `force` deletes the checkpoint in it: what is left of an old one could be taken for
/// a part of the new one.
fn prepare_folder(folder: &Path, force: bool) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        ensure!(
            force,
            "{} holds files; choose another folder or add --force",
            folder.display()
        );
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if Format::value_variants().iter().any(|f| f.owns(&name)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Writes the tensors in the order in which they compute; returns the bytes of all.
fn write_checkpoint(options: &Options, skeleton: &Skeleton, dtype: DType) -> Result<Bytes> {
    let size = |slot: &Slot| Bytes::new(slot.n_elements() * slot.stored_dtype(dtype).size() as u64);
    let shards = shards(&skeleton.slots, options.max_shard_size, size);
    let values = Values::new(options.seed, &skeleton.spec.decoder);
    let mut weight_map = Map::new();
    for (idx, slots) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => options.format.single(),
            n => options.format.shard(idx, n),
        };
        let path = options.out.join(&name);
        let tensors = new_tensors(slots, dtype)?;
        let write = |sink: &mut dyn FnMut(&[u8]) -> Result<()>| {
            (slots.iter()).try_for_each(|slot| values.write(slot, dtype, &mut *sink))
        };
        match options.format {
            Format::Safetensors => write_safetensors(&path, &tensors, write)?,
            Format::Bin => write_torch(&path, TorchLayout::Zip, &tensors, write)?,
            Format::LegacyBin => write_torch(&path, TorchLayout::Legacy, &tensors, write)?,
        }
        for slot in *slots {
            weight_map.insert(slot.name.clone(), json!(name));
        }
    }
    let total: Bytes = skeleton.slots.iter().map(size).sum();
    if shards.len() > 1 {
        let index = json!({"metadata": {"total_size": total.get()}, "weight_map": weight_map});
        write_json(&options.out.join(options.format.index()), &index)?;
    }
    Ok(total)
}

/// Cuts the slots into runs that each take at most `max`, where their sizes allow it.
fn shards(slots: &[Slot], max: Bytes, size: impl Fn(&Slot) -> Bytes) -> Vec<&[Slot]> {
    let mut shards = Vec::new();
    let mut rest = slots;
    while !rest.is_empty() {
        let mut total = size(&rest[0]);
        let more = rest[1..].iter().take_while(|slot| {
            total += size(slot);
            total <= max
        });
        let n_slots = 1 + more.count();
        let (shard, after) = rest.split_at(n_slots);
        shards.push(shard);
        rest = after;
    }
    shards
}

fn new_tensors(slots: &[Slot], dtype: DType) -> Result<Vec<NewTensor>> {
    let new_tensor = |slot: &Slot| {
        let dims: Vec<u64> = slot.stored_shape().iter().map(|&d| d as u64).collect();
        Ok(NewTensor {
            name: slot.name.clone(),
            dtype: slot.stored_dtype(dtype),
            shape: Shape::new(&dims)?,
        })
    };
    slots.iter().map(new_tensor).collect()
}

/// Writes one file; `write` hands the elements of all its tensors to a sink, piece by piece.
fn write_safetensors(
    path: &Path,
    tensors: &[NewTensor],
    write: impl Fn(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    // The Python libraries look at this to know that the tensors are PyTorch's.
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = SafetensorsWriter::create(path, tensors, &metadata)?;
    write(&mut |bytes| Ok(writer.write(bytes)?))?;
    Ok(writer.finish()?)
}

/// The same, as PyTorch's own file.
fn write_torch(
    path: &Path,
    layout: TorchLayout,
    tensors: &[NewTensor],
    write: impl Fn(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let mut writer = TorchFile::create(path, layout, tensors)?;
    write(&mut |bytes| Ok(writer.write(bytes)?))?;
    Ok(writer.finish()?)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests;
