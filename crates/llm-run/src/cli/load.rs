//! Flags of loading.

use std::num::NonZeroUsize;

use anyhow::Result;
use clap::Args;
use llm_arch::{ModelSpec, UnknownKeys};
use llm_cpu::{Cpu, CpuOptions, Isa};
use llm_plan::WeightDType;
use llm_quant::Activations;

use super::place::PlaceArgs;
use super::quant::QuantArgs;
use super::values::{ComputeDType, above_zero, activations, compute_dtype, weight_dtype};
use crate::failure::refuse;

/// Loading of a model.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Element type of KV cache, and of weights that are not quantized: auto (the configuration's, else the tensors'), f32, f16 or bf16.
    /// With auto the CPU computes with GGUF's blocks as they are stored; any other decodes them
    #[arg(long, value_name = "DTYPE", default_value = "auto", value_parser = weight_dtype)]
    pub(crate) dtype: WeightDType,
    /// The type that activations are multiplied in where weights are in f16, bf16 or 4 bits: f32, or 16 bits by f16 or bf16, which is
    /// faster and, on GPUs, a thousandth off. auto is f32. With bf16 a CPU that multiplies it faster rounds prompts of any weights
    /// but LLM.int8()'s to 8 bits, half a hundredth off; all else it multiplies in f32
    #[arg(long, value_name = "DTYPE", default_value = "auto", value_parser = compute_dtype)]
    pub(crate) compute_dtype: ComputeDType,
    /// The type that the CPU multiplies activations in with weights in GGUF's blocks: f32, exact, or q8, which rounds them to 8 bits in
    /// blocks of 32, as llama.cpp does, up to half a hundredth off, for products in whole numbers. It is for Q4_0 to Q8_0, Q2_K to
    /// Q6_K, IQ4_NL, IQ4_XS and MXFP4; products with all other weights stay exact
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = activations)]
    pub(crate) activations: Activations,
    /// Threads that compute [default: one for each processor that may be used]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = above_zero)]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Positions to keep, prompt and answer together [default: what the model and the request need; for a plan, 4096]
    #[arg(short, long, value_name = "TOKENS", allow_negative_numbers = true, value_parser = above_zero)]
    pub(crate) context: Option<NonZeroUsize>,
    /// Check the checkpoint's bytes before it is loaded, as `llm-run verify` does, which reads all of them
    #[arg(long)]
    pub(crate) verify: bool,
    /// The instruction set to compute with [default: the best that the machine has]
    #[arg(long, value_name = "ISA", hide = true)]
    pub(crate) isa: Option<Isa>,
    #[command(flatten)]
    pub(crate) quant: QuantArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

impl LoadArgs {
    /// Threads and instruction set to compute with, started.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        Ok(Cpu::new(CpuOptions {
            threads: self.threads,
            isa: self.isa,
            compute: self.compute_dtype.on_cpu(),
            activations: self.activations,
        })?)
    }

    /// Positions of the KV cache: as many as are needed, but no more than the model or the user allows.
    pub(crate) fn context(&self, spec: &ModelSpec, needed: usize) -> Result<usize> {
        match self.context {
            Some(asked) if asked.get() > spec.context => refuse(format!(
                "--context {asked} is more than the {} positions that the model has",
                spec.context
            )),
            Some(asked) => Ok(asked.get()),
            None => Ok(needed.min(spec.context)),
        }
    }
}

/// Reading of a model's configuration.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct KeyArgs {
    /// Pass over keys of config.json that nothing is known of, and list them; the model may then compute otherwise
    /// than it was meant to
    #[arg(long)]
    pub(crate) allow_unknown_config: bool,
}

impl KeyArgs {
    pub(crate) fn unknown_keys(self) -> UnknownKeys {
        match self.allow_unknown_config {
            true => UnknownKeys::PassOver,
            false => UnknownKeys::Refuse,
        }
    }
}
