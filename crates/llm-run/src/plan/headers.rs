//! A plan of a checkpoint that this version cannot run: where its tensors would go, by their names and sizes alone.

use std::collections::BTreeMap;

use anyhow::{Error, Result};
use llm_checkpoint::Checkpoint;
use llm_plan::{Part, PartsCosts, PartsPlan, PartsVerdict, Strategy, WeightDType, place_parts};
use llm_tensor::Bytes;

use super::kv_bound::KvBound;
use super::model;
use crate::cli::PlanArgs;
use crate::failure::{self, refuse};
use crate::hub_model::{HubModel, ToDownload};
use crate::output::words::{dtype_name, printable};
use crate::placement::budgets::MemoryBudgets;
use crate::placement::costs::GPU_CONTEXT;
use crate::placement::program;
use crate::system::Gpu;

/// Positions that are planned for unless told, or as many as the model has.
pub(super) const USUAL_CONTEXT: usize = 4096;

/// Results of planning by headers: all that is printed.
pub(super) struct HeaderReport {
    pub(super) name: String,
    /// What it takes to have it here.
    pub(super) to_download: Option<ToDownload>,
    /// Reason why the model cannot be run.
    pub(super) reason: String,
    pub(super) format: String,
    pub(super) n_tensors: usize,
    pub(super) by_dtype: BTreeMap<String, Bytes>,
    pub(super) n_sequences: usize,
    pub(super) context: usize,
    pub(super) kv_cache: Result<KvBound, String>,
    pub(super) memories: MemoryBudgets,
    pub(super) parts: Vec<Part>,
    pub(super) verdict: PartsVerdict,
    pub(super) program: Bytes,
    /// Bytes that a process takes of a GPU for itself; of several the most.
    pub(super) gpu_context: Bytes,
    /// Flags that were given and do not apply.
    pub(super) unused: Vec<&'static str>,
}

impl HeaderReport {
    pub(super) fn new(
        args: &PlanArgs,
        checkpoint: &Checkpoint,
        memories: MemoryBudgets,
        reason: &Error,
    ) -> Result<Self> {
        let (n_sequences, load) = (args.batch.get(), &args.load);
        let kv_cache = KvBound::of(checkpoint);
        let most = kv_cache.as_ref().ok().and_then(|shape| shape.context);
        let context = match (load.context, most) {
            (Some(asked), Some(most)) if asked.get() > most => {
                return refuse(format!(
                    "--context {asked} is more than the {most} positions that the model has"
                ));
            }
            (Some(asked), _) => asked.get(),
            (None, most) => USUAL_CONTEXT.min(most.unwrap_or(USUAL_CONTEXT)),
        };
        // Names that share their bytes count once.
        let mut places = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            let empty = tensor.bytes.is_empty().then_some(&tensor.name);
            let place = (tensor.file_idx, tensor.bytes.start, tensor.bytes.end, empty);
            places.entry(place).or_insert(tensor);
        }
        let mut by_dtype = BTreeMap::<_, Bytes>::new();
        for tensor in places.values() {
            *by_dtype.entry(dtype_name(tensor.encoding)).or_default() += tensor.stored_bytes();
        }
        let tensors = places.values().map(|t| (t.name.as_str(), t.stored_bytes()));
        let mut parts = Part::of_tensors(tensors);
        if let Ok(shape) = &kv_cache {
            add_kv_cache(&mut parts, shape, shape.of_layer(context, n_sequences));
        }
        let program = program::of_headers(checkpoint.tensors().len());
        let gpu_context = gpu_context(&memories);
        let costs = PartsCosts {
            gpu: gpu_context,
            ram: program,
        };
        Ok(HeaderReport {
            name: match &args.hub {
                Some(hub) => printable(&hub.name),
                None => model::name(&args.model),
            },
            to_download: args.hub.as_ref().and_then(HubModel::to_download),
            reason: failure::message(reason).unwrap_or_default(),
            format: format!("{:?}", checkpoint.format()).to_lowercase(),
            n_tensors: checkpoint.tensors().len(),
            by_dtype,
            n_sequences,
            context,
            kv_cache,
            verdict: place_parts(&parts, &memories.budgets, costs),
            memories,
            parts,
            program,
            gpu_context,
            unused: unused(args)?,
        })
    }

    pub(super) fn plan(&self) -> &PartsPlan {
        match &self.verdict {
            PartsVerdict::Fit(plan) | PartsVerdict::Lack(plan, _) => plan,
        }
    }

    pub(super) fn weights(&self) -> Bytes {
        self.parts.iter().map(|part| part.weights).sum()
    }

    pub(super) fn kv_bytes(&self) -> Bytes {
        self.parts.iter().map(|part| part.kv_cache).sum()
    }
}

/// Gives each layer its keys and values: those of the module that is the largest, if it has as many layers as it should;
/// else all of them to a part of their own.
fn add_kv_cache(parts: &mut Vec<Part>, shape: &KvBound, of_layer: Bytes) {
    // A sum over all of them is a number still, whatever a configuration says.
    let most = MOST / shape.n_layers.max(1) as u64;
    let of_layer = Bytes::new(of_layer.get().min(most));
    let mut modules = BTreeMap::<&str, Bytes>::new();
    for part in parts.iter().filter(|part| part.number.is_some()) {
        *modules.entry(&part.module).or_default() += part.weights;
    }
    let largest = modules.into_iter().max_by_key(|&(_, bytes)| bytes);
    let largest = largest.map(|(module, _)| module.to_owned());
    let is_layer = |part: &Part| {
        let is_its = largest.as_ref() == Some(&part.module);
        is_its && part.number.is_some_and(|number| number < shape.n_layers)
    };
    if parts.iter().filter(|part| is_layer(part)).count() == shape.n_layers {
        let layers = parts.iter_mut().filter(|part| is_layer(part));
        layers.for_each(|part| part.kv_cache = of_layer);
        return;
    }
    let all = of_layer.get() * shape.n_layers as u64;
    parts.push(Part {
        module: "keys and values".to_owned(),
        number: None,
        weights: Bytes::ZERO,
        kv_cache: Bytes::new(all),
    });
}

/// Bytes of a GPU that the driver and the kernels take: as `llm-run doctor` has measured it of those that this machine has.
fn gpu_context(memories: &MemoryBudgets) -> Bytes {
    let numbers = memories.budgets.gpus.keys();
    let context = |&number: &u32| memories.gpus.numbered(number).map(Gpu::context);
    let contexts = numbers.map(|number| context(number).unwrap_or(GPU_CONTEXT));
    contexts.max().unwrap_or(GPU_CONTEXT)
}

/// Flags that were given and cannot be counted with.
fn unused(args: &PlanArgs) -> Result<Vec<&'static str>> {
    let load = &args.load;
    let mut unused = Vec::new();
    if load.quant.config()?.is_some() {
        unused.push("quantization");
    }
    if load.dtype != WeightDType::Auto {
        unused.push("--dtype");
    }
    match load.place.device_map {
        Strategy::Auto | Strategy::Sequential | Strategy::Cpu => {}
        Strategy::Balanced | Strategy::BalancedLow0 | Strategy::Map(_) => {
            unused.push("--device-map");
        }
    }
    Ok(unused)
}

/// An exabyte.
const MOST: u64 = 1_000_000_000_000_000_000;
