//! Use of memories, by purpose.

use std::fmt;

use llm_tensor::Bytes;

use crate::Home;

/// Purpose of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Term {
    /// The elements of weights.
    Weights,
    /// Scales and tables of quantized elements.
    QuantizationStatistics,
    /// Keys and values.
    KvCache,
    /// Activations and logits.
    Activations,
    /// Scratch memory of a device's operations.
    Workspace,
    /// Memory of weights that are not resident, while they are computed with and while the next ones come: two staging places of
    /// a GPU for the largest unit, two buffers in RAM for the largest that is on disk, or four for slices of it; and a pass's rows
    /// of tables that are looked up in.
    Staging,
    /// Memory of a tensor on its way, while the model is loaded.
    LoadTransient,
    /// A GPU's memory before anything is asked of it.
    GpuContext,
    /// The program itself: its code, the model's headers, its tokenizer.
    Program,
}

impl Term {
    /// All of them.
    pub const ALL: [Term; 9] = [
        Term::Weights,
        Term::QuantizationStatistics,
        Term::KvCache,
        Term::Activations,
        Term::Workspace,
        Term::Staging,
        Term::LoadTransient,
        Term::GpuContext,
        Term::Program,
    ];

    /// The name that programs read, as `kv_cache`.
    pub const fn name(self) -> &'static str {
        match self {
            Term::Weights => "weights",
            Term::QuantizationStatistics => "quantization_statistics",
            Term::KvCache => "kv_cache",
            Term::Activations => "activations",
            Term::Workspace => "workspace",
            Term::Staging => "staging",
            Term::LoadTransient => "load_transient",
            Term::GpuContext => "gpu_context",
            Term::Program => "program",
        }
    }
}

/// As in a sentence: `KV cache`.
impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Term::Weights => "weights",
            Term::QuantizationStatistics => "quantization statistics",
            Term::KvCache => "KV cache",
            Term::Activations => "activations and logits",
            Term::Workspace => "workspace",
            Term::Staging => "staging of offloaded weights",
            Term::LoadTransient => "tensors on their way at load",
            Term::GpuContext => "GPU context",
            Term::Program => "the program itself",
        })
    }
}

/// Bytes by term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TermBytes([Bytes; Term::ALL.len()]);

/// Adds.
impl Extend<(Term, Bytes)> for TermBytes {
    fn extend<I: IntoIterator<Item = (Term, Bytes)>>(&mut self, terms: I) {
        for (term, bytes) in terms {
            self.0[term as usize] += bytes;
        }
    }
}

impl TermBytes {
    /// Those of one term.
    pub fn get(&self, term: Term) -> Bytes {
        self.0[term as usize]
    }

    /// Terms that take something.
    pub fn iter(&self) -> impl Iterator<Item = (Term, Bytes)> {
        let terms = Term::ALL.into_iter().zip(self.0);
        terms.filter(|(_, bytes)| *bytes > Bytes::ZERO)
    }

    pub(crate) fn add(&mut self, term: Term, n_bytes: u64) {
        self.0[term as usize] += Bytes::new(n_bytes);
    }

    fn sum_without(&self, left_out: &[Term]) -> Bytes {
        let counted = |(term, _): &(Term, Bytes)| !left_out.contains(term);
        self.iter().filter(counted).map(|(_, bytes)| bytes).sum()
    }
}

/// Use of one memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// The memory.
    pub home: Home,
    /// By purpose.
    pub terms: TermBytes,
    /// On disk: the part of the weights that is read from the checkpoint itself and takes nothing beside it.
    pub in_place: Bytes,
}

impl MemoryUse {
    /// The most while the model is loaded.
    pub fn peak_at_load(&self) -> Bytes {
        let later = [
            Term::KvCache,
            Term::Activations,
            Term::Workspace,
            Term::Staging,
        ];
        self.terms.sum_without(&later)
    }

    /// Bytes allocated while it runs.
    pub fn peak_in_generation(&self) -> Bytes {
        self.terms.sum_without(&[Term::LoadTransient])
    }

    /// Bytes of budget: the greater of both; on disk what is written.
    pub fn needed(&self) -> Bytes {
        let peak = self.peak_at_load().max(self.peak_in_generation());
        peak.saturating_sub(self.in_place)
    }
}
