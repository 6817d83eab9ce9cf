//! Cost of a step and of a prompt: bytes that are moved, products that are computed, kernels that are started, and rows that
//! are handed over, over the speeds of a machine.

mod hand_over;
mod pass;

use llm_tensor::Bytes;

pub use self::hand_over::HandOver;
use self::pass::Pass;
use crate::estimate::MemoryEstimate;
use crate::needs::Needs;
use crate::weights::Weights;
use crate::{Limits, Placement, RunOn, Speeds};

/// Cost of one step: a token for each sequence. Beside it that of a prompt's passes.
#[derive(Debug, Clone, PartialEq)]
pub struct StepCost {
    /// Weights, from where to where. Of experts the share that is expected to be used.
    pub weights: Vec<(Placement, Bytes)>,
    /// Keys and values, once the context is full, by the device that reads them.
    pub kv_cache: Vec<(RunOn, Bytes)>,
    /// Rows that are handed over between devices, and results that the host waits for.
    pub hand_overs: Vec<HandOver>,
    /// Kernels that each GPU starts; of experts as many as are expected to be used.
    pub launches: Vec<(RunOn, f64)>,
    /// Tokens that a step makes.
    pub n_sequences: usize,
    prompt: Pass,
    /// Rows of the largest pass.
    n_rows: usize,
}

/// Tokens of each sequence that a plan is to be fast for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Tokens that are made.
    pub n_new: usize,
}

/// A page of text that is answered in a paragraph.
impl Default for Workload {
    fn default() -> Self {
        Workload {
            n_prompt: 512,
            n_new: 128,
        }
    }
}

impl StepCost {
    pub(crate) fn of(
        weights: &Weights,
        needs: &Needs,
        estimate: &MemoryEstimate,
        limits: &Limits,
    ) -> Self {
        let pass = |of: pass::Rows| Pass::of(weights, needs, estimate, of);
        let step = pass(pass::Rows::Step(limits.n_sequences));
        StepCost {
            weights: step.weights(),
            kv_cache: step.kv_cache.clone(),
            hand_overs: step.hand_overs,
            launches: step.launches,
            n_sequences: limits.n_sequences,
            prompt: pass(pass::Rows::Prompt),
            n_rows: limits.n_tokens,
        }
    }

    /// Seconds of a step at the beginning of a sequence, when weights are all that is read.
    ///
    /// Weights are brought to a device while it computes with others: it takes as long as what lasts longest. Devices wait
    /// for each other.
    pub fn seconds(&self, speeds: &Speeds) -> f64 {
        self.seconds_with(&[], speeds)
    }

    /// Seconds of a step when the context is full.
    pub fn seconds_at_full_context(&self, speeds: &Speeds) -> f64 {
        self.seconds_with(&self.kv_cache, speeds)
    }

    /// Seconds of prompts, one for each sequence, and of the steps after them in a full context.
    pub fn seconds_of(&self, workload: Workload, speeds: &Speeds) -> f64 {
        let rows = workload.n_prompt * self.n_sequences;
        let n_passes = rows.div_ceil(self.n_rows);
        let prompt = match n_passes {
            0 => 0.0,
            n => n as f64 * self.prompt.seconds(rows as f64 / n as f64, speeds),
        };
        prompt + workload.n_new as f64 * self.seconds_at_full_context(speeds)
    }

    /// Tokens a second, of all sequences together: when the context is full, and at the beginning.
    pub fn tokens_per_second(&self, speeds: &Speeds) -> [f64; 2] {
        let n = self.n_sequences as f64;
        [
            n / self.seconds_at_full_context(speeds),
            n / self.seconds(speeds),
        ]
    }

    /// Seconds of a step in which kernels are started and devices wait for each other, whatever they read.
    pub fn seconds_without_bytes(&self, speeds: &Speeds) -> f64 {
        let launches = pass::seconds(std::iter::empty(), &self.launches, &[], speeds);
        let n_rows = self.n_sequences as f64;
        let waits = self.hand_overs.iter().map(|of| of.seconds(n_rows, speeds));
        launches + waits.sum::<f64>()
    }

    fn seconds_with(&self, kv_cache: &[(RunOn, Bytes)], speeds: &Speeds) -> f64 {
        let kv_cache = kv_cache.iter().map(|&(run_on, bytes)| {
            let home = run_on.memory();
            (Placement { home, run_on }, bytes)
        });
        let moved = self.weights.iter().copied().chain(kv_cache);
        let moved = moved.map(|(path, bytes)| (path, bytes.get() as f64));
        let devices = pass::seconds(moved, &self.launches, &[], speeds);
        let n_rows = self.n_sequences as f64;
        let waits = self.hand_overs.iter().map(|of| of.seconds(n_rows, speeds));
        devices + waits.sum::<f64>()
    }
}
