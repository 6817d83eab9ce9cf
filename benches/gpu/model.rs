//! A whole model of random weights on the GPU: its speed, and its memory beside the plan.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use llm_cpu::{Cpu, CpuOptions};
use llm_cuda::Cuda;
use llm_plan::{
    Budgets, Costs, Home, Limits, Offload, Plan, Request, RunOn, Strategy, Verdict, WeightDType,
    plan,
};
use llm_quant::{Code, LoadIn, QuantConfig};
use llm_runtime::{
    BoundModel, CostsOf, Device, Interrupt, LoadOptions, OffloadOptions, Session, load_on,
};
use llm_tensor::{Bytes, DType};
use serde_json::json;

use crate::{Encoding, Extent};

/// Prints a line of JSON about the model.
///
/// # Errors
/// When the GPU does not hold the model, or fails, or allocations are not as they were planned.
pub(crate) fn run(folder: &Path, encoding: Encoding, extent: Extent) -> Result<()> {
    let gpu = Arc::new(Cuda::new(0)?);
    let cpu = Arc::new(Cpu::new(CpuOptions::default())?);
    let model = BoundModel::open(folder)?;
    let (context, n_tokens, n_decoded) = match extent {
        Extent::Small => (32, 16, 4),
        Extent::Full => (1024, 512, 64),
    };
    let limits = Limits {
        n_sequences: 1,
        context,
        n_tokens,
        n_logits: 1,
    };
    let quant = quantization(encoding);
    let (free_before, total) = gpu.memory()?;
    let devices = Devices {
        gpu: &gpu,
        cpu: &cpu,
    };
    let budgets = Budgets {
        gpus: [(0, free_before)].into(),
        ram: Bytes::new(u64::MAX),
        disk: None,
    };
    let plan = planned(&model, devices, quant.as_ref(), limits, budgets)?;
    let tiers = plan.map.tiers();
    ensure!(
        !tiers.ram && !tiers.disk,
        "skipped: the GPU has {free_before} free, which do not hold all of it"
    );
    let planned = plan.estimate.memory(Home::Gpu(0));
    let planned = planned.context("the plan does not use the GPU")?.needed();

    let begin = Instant::now();
    let options = LoadOptions {
        dtype: DTYPE,
        quant: quant.as_ref(),
        encoder: &*cpu,
        limits,
        offload: Some(OffloadOptions {
            map: &plan.map,
            // Nothing rests on disk.
            folder: Path::new(""),
        }),
    };
    let devices: [(RunOn, &dyn Device); 2] = [(RunOn::Gpu(0), &gpu), (RunOn::Cpu, &cpu)];
    let interrupt = Interrupt::default();
    let mut session = load_on(&model, &devices, &options, &interrupt, &mut |_| ())?;
    let load_seconds = begin.elapsed().as_secs_f64();
    let (free_after, _) = gpu.memory()?;

    let prefill = prefill_rate(&mut session, n_tokens)?;
    let decode = decode_rate(&mut session, n_decoded)?;

    let counted = session.memory().memories.get(&Home::Gpu(0)).copied();
    let counted = counted.unwrap_or_default();
    let counted: Bytes = counted.iter().map(|(_, bytes)| bytes).sum();
    let allocated: Bytes = gpu.usage().into_values().sum();
    let n_weight_bytes: u64 = plan.step.weights.iter().map(|(_, n)| n.get()).sum();
    println!(
        "{}",
        json!({
            "what": "model",
            "name": folder.file_name().map(|name| name.to_string_lossy()),
            "encoding": encoding.name(),
            "n_parameters": model.skeleton().n_parameters(),
            "load_seconds": load_seconds,
            "decode_tokens_per_second": decode,
            "prefill_tokens_per_second": prefill,
            // What multiplied prompts.
            "products": gpu.products(),
            // Of weights alone.
            "decode_bytes_per_second": decode * n_weight_bytes as f64,
            "planned_bytes": planned.get(),
            "counted_bytes": counted.get(),
            "allocated_bytes": allocated.get(),
            "taken_of_free_bytes": free_before.saturating_sub(free_after).get(),
            "gpu_total_bytes": total.get(),
        })
    );
    ensure!(
        counted == planned,
        "planned {planned}, and the session counts {counted}"
    );
    Ok(())
}

pub(crate) fn quantization(encoding: Encoding) -> Option<QuantConfig> {
    let nf4 = |bnb_4bit_use_double_quant| QuantConfig {
        bnb_4bit_quant_type: Code::Nf4,
        bnb_4bit_use_double_quant,
        ..QuantConfig::new(LoadIn::FourBit)
    };
    match encoding {
        Encoding::Bf16 => None,
        Encoding::Int8 => Some(QuantConfig::new(LoadIn::EightBit)),
        Encoding::Nf4 => Some(nf4(false)),
        Encoding::Nf4Double => Some(nf4(true)),
    }
}

/// Devices of the machine.
#[derive(Clone, Copy)]
pub(crate) struct Devices<'a> {
    pub(crate) gpu: &'a Arc<Cuda>,
    pub(crate) cpu: &'a Arc<Cpu>,
}

/// A plan in which the GPU computes with all weights, wherever they rest. Its own context is there already.
pub(crate) fn planned(
    model: &BoundModel,
    devices: Devices<'_>,
    quant: Option<&QuantConfig>,
    limits: Limits,
    budgets: Budgets,
) -> Result<Plan> {
    let Devices { gpu, cpu } = devices;
    let stored: Vec<_> = model.tensors().map(|bound| bound.stored()).collect();
    let request = Request {
        skeleton: model.skeleton(),
        stored: &stored,
        encodings: model.encodings(DTYPE, quant)?,
        kv_dtype: None,
        limits,
        load_piece: Bytes::new(cpu.n_threads() as u64 * (1 << 20)),
        slice: llm_plan::DEFAULT_SLICE,
        budgets,
        strategy: Strategy::Auto,
        offload: Offload::Stream,
        costs: Costs {
            cpu: &CostsOf(&**cpu),
            gpu: &CostsOf(&**gpu),
            program: Bytes::ZERO,
        },
    };
    match plan(&request)? {
        Verdict::Fits(plan) => Ok(*plan),
        refused @ Verdict::DoesNotFit(_) => anyhow::bail!("skipped: the model {refused}"),
    }
}

/// Tokens a second of a prompt of `n_tokens`, read in one pass.
fn prefill_rate(session: &mut Session, n_tokens: usize) -> Result<f64> {
    let vocab = session.spec().vocab as u32;
    let ids: Vec<u32> = (0..n_tokens as u32).map(|i| (i * 37 + 5) % vocab).collect();
    let mut seconds = Vec::new();
    // The first allocates what the driver puts off.
    for _ in 0..4 {
        session.truncate(0, 0);
        let begin = Instant::now();
        session.prefill(0, &ids)?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    session.truncate(0, 0);
    let mut counted = seconds.split_off(1);
    counted.sort_by(f64::total_cmp);
    Ok(n_tokens as f64 / counted[counted.len() / 2])
}

/// Tokens a second after a prompt of 16, each the most probable.
fn decode_rate(session: &mut Session, n_tokens: usize) -> Result<f64> {
    let vocab = session.spec().vocab as u32;
    let ids: Vec<u32> = (5..13).map(|id| id % vocab).collect();
    let mut next = session.greedy(0, &ids)?;
    // Passes that come again are launched as graphs from the third on, or the fifth.
    for _ in 0..5 {
        next = session.greedy(0, &[next])?;
    }
    let begin = Instant::now();
    for _ in 0..n_tokens {
        next = session.greedy(0, &[next])?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    session.truncate(0, 0);
    Ok(n_tokens as f64 / seconds)
}

pub(crate) const DTYPE: WeightDType = WeightDType::As(DType::BF16);
