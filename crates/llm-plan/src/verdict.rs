//! Verdicts on requests, in data and in words.

use std::fmt;

use llm_tensor::{Bytes, DType};

use crate::{Budgets, DeviceMap, Home, MemoryEstimate, MemoryUse, StepCost, Term};

/// A model placed within its budgets.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Home and device of each unit.
    pub map: DeviceMap,
    /// Memory of it.
    pub estimate: MemoryEstimate,
    /// Cost of a step.
    pub step: StepCost,
    /// The element type of keys and values.
    pub kv_dtype: DType,
}

/// Outcome of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It does, and how.
    Fits(Box<Plan>),
    /// It does not, and why.
    DoesNotFit(Refusal),
}

/// Shortfalls of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Of the way that lacks least; with a map of the user's, of that.
    pub shortfalls: Vec<Shortfall>,
    /// Of the CPU alone, where no GPU is large enough even to be streamed to.
    pub on_cpu: Vec<Shortfall>,
}

impl Verdict {
    /// The plan, if it fits.
    pub fn plan(&self) -> Option<&Plan> {
        match self {
            Verdict::Fits(plan) => Some(plan),
            Verdict::DoesNotFit(_) => None,
        }
    }
}

/// The verdict in one sentence.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { shortfalls, on_cpu } = match self {
            Verdict::Fits(plan) => return plan.fmt(f),
            Verdict::DoesNotFit(refusal) => refusal,
        };
        let joined = |shortfalls: &[Shortfall]| {
            let all: Vec<_> = shortfalls.iter().map(Shortfall::to_string).collect();
            all.join(" and ")
        };
        write!(f, "does not fit: {}", joined(shortfalls))?;
        if on_cpu.is_empty() {
            return Ok(());
        }
        write!(f, "; and without it, {}", joined(on_cpu))
    }
}

/// `fits, with weights on GPU + RAM: 14.1 GB (13.2 GiB) on GPU 0, …`.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memories = self.estimate.memories().iter();
        let used = memories.map(|memory| {
            let (home, needed) = (memory.home, memory.needed());
            match home {
                Home::Gpu(_) => format!("{needed} on {home}"),
                Home::Ram => format!("{needed} in {home}"),
                Home::Disk if needed == Bytes::ZERO => {
                    format!("{} read from the checkpoint on disk", memory.in_place)
                }
                Home::Disk if memory.in_place == Bytes::ZERO => format!("{needed} on {home}"),
                Home::Disk => format!(
                    "{needed} on {home} beside {} read from the checkpoint there",
                    memory.in_place
                ),
            }
        });
        let used: Vec<_> = used.collect();
        write!(
            f,
            "fits, with weights on {}: {}",
            self.map.tiers(),
            used.join(", ")
        )
    }
}

/// A memory that would have to hold more than its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortfall {
    /// Its use by the model.
    pub memory: MemoryUse,
    /// Its limit.
    pub budget: Bytes,
}

impl Shortfall {
    /// Every memory that holds more than its budget.
    pub(crate) fn all(memories: &[MemoryUse], budgets: &Budgets) -> Vec<Self> {
        let shortfall = memories.iter().map(|&memory| Shortfall {
            memory,
            budget: budgets.of(memory.home),
        });
        shortfall.filter(|s| s.memory.needed() > s.budget).collect()
    }

    /// Bytes that it lacks.
    pub fn missing(&self) -> Bytes {
        self.memory.needed().saturating_sub(self.budget)
    }

    /// Largest part of it.
    pub fn largest_term(&self) -> (Term, Bytes) {
        let terms = self.memory.terms.iter();
        let largest = terms.max_by_key(|&(_, bytes)| bytes);
        largest.unwrap_or((Term::Weights, Bytes::ZERO))
    }
}

/// `RAM would have to hold 28.3 GB (26.3 GiB), which is …`.
impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (term, bytes) = self.largest_term();
        write!(
            f,
            "{} would have to hold {}, which is {} more than its budget of {} (its largest part: {bytes} of {term})",
            self.memory.home,
            self.memory.needed(),
            self.missing(),
            self.budget,
        )
    }
}
