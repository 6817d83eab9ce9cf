//! Other precisions, and the smallest single changes that fit.

use std::fmt;

use llm_quant::{Code, LoadIn, QuantConfig};
use llm_tensor::{Bytes, DType};

use crate::error::rounded_up;
use crate::plan::{fits, plan_with};
use crate::weights::Weights;
use crate::{
    Budgets, Encodings, Home, Limits, Refusal, Request, Result, StepCost, StoredTensor, Tiers,
    Verdict, WeightDType,
};

/// Precision of weights, as people choose it, most exact first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the field's own")]
pub enum Precision {
    /// In the blocks of the file, where the CPU computes with them.
    AsStored,
    F32,
    Bf16,
    Int8,
    Nf4,
    Nf4Double,
    Fp4,
}

impl Precision {
    /// All of them.
    pub const ALL: [Precision; 7] = [
        Precision::AsStored,
        Precision::F32,
        Precision::Bf16,
        Precision::Int8,
        Precision::Nf4,
        Precision::Nf4Double,
        Precision::Fp4,
    ];

    /// The quantization; what else the user asked for of it stays.
    fn quant(self, asked: Option<&QuantConfig>) -> Option<QuantConfig> {
        let quant = |load_in, code, double| {
            let asked = asked.cloned();
            QuantConfig {
                load_in,
                llm_int8_has_fp16_weight: false,
                bnb_4bit_quant_type: code,
                bnb_4bit_use_double_quant: double,
                ..asked.unwrap_or_else(|| QuantConfig::new(load_in))
            }
        };
        match self {
            Precision::AsStored | Precision::F32 | Precision::Bf16 => None,
            Precision::Int8 => Some(quant(LoadIn::EightBit, Code::Fp4, false)),
            Precision::Nf4 => Some(quant(LoadIn::FourBit, Code::Nf4, false)),
            Precision::Nf4Double => Some(quant(LoadIn::FourBit, Code::Nf4, true)),
            Precision::Fp4 => Some(quant(LoadIn::FourBit, Code::Fp4, false)),
        }
    }

    /// The element type of what is not quantized.
    fn dtype(self, asked: WeightDType) -> WeightDType {
        match self {
            Precision::AsStored => WeightDType::Auto,
            Precision::F32 => WeightDType::As(DType::F32),
            Precision::Bf16 => WeightDType::As(DType::BF16),
            Precision::Int8 | Precision::Nf4 | Precision::Nf4Double | Precision::Fp4 => asked,
        }
    }

    /// True if matrices are quantized to be kept so.
    pub(crate) fn is_quantized(self) -> bool {
        match self {
            Precision::AsStored | Precision::F32 | Precision::Bf16 => false,
            Precision::Int8 | Precision::Nf4 | Precision::Nf4Double | Precision::Fp4 => true,
        }
    }

    /// Plans the request in this precision.
    pub(crate) fn plan(self, request: &Request<'_>) -> Result<(Bytes, Verdict)> {
        let quant = self.quant(request.encodings.quant);
        let request = Request {
            encodings: Encodings {
                dtype: self.dtype(request.encodings.dtype),
                quant: quant.as_ref(),
                ..request.encodings
            },
            ..request.clone()
        };
        let weights = request.weights();
        let total = weights.total(request.first_device());
        Ok((total, plan_with(&request, &weights)?))
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Precision::AsStored => "as stored",
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
            Precision::Nf4 => "nf4",
            Precision::Nf4Double => "nf4 double",
            Precision::Fp4 => "fp4",
        })
    }
}

/// Placement of a model in another precision, and its speed.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternative {
    /// The precision.
    pub precision: Precision,
    /// Bytes of its weights, statistics included.
    pub weights: Bytes,
    /// Their memories and the cost of a step; `None` where they do not fit.
    pub way: Option<Way>,
}

/// Memories that hold weights, and the cost of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Way {
    /// The memories that hold them.
    pub tiers: Tiers,
    /// Cost of a step.
    pub step: StepCost,
}

impl Way {
    pub(crate) fn of(verdict: &Verdict) -> Option<Self> {
        verdict.plan().map(|plan| Way {
            tiers: plan.map.tiers(),
            step: plan.step.clone(),
        })
    }
}

/// The request in every precision that can be asked for: what a checkpoint holds quantized stays as it is, and is not
/// quantized once more.
///
/// # Errors
/// As [`plan`](crate::plan()).
pub fn alternatives(request: &Request<'_>) -> Result<Vec<Alternative>> {
    let alternative = |precision: Precision| {
        let (weights, verdict) = precision.plan(request)?;
        Ok(Alternative {
            precision,
            weights,
            way: Way::of(&verdict),
        })
    };
    askable(request).map(alternative).collect()
}

/// The precisions that can be asked for.
fn askable(request: &Request<'_>) -> impl Iterator<Item = Precision> {
    let is_quantized = is_quantized(request.stored);
    let may_stay = request.may_stay_packed();
    Precision::ALL
        .into_iter()
        .filter(move |&precision| match precision == Precision::AsStored {
            true => may_stay,
            false => !(is_quantized && precision.is_quantized()),
        })
}

/// True if a checkpoint holds something quantized.
pub(crate) fn is_quantized(stored: &[StoredTensor]) -> bool {
    let mut stored = stored.iter();
    stored.any(|stored| stored.quantized().is_some())
}

/// One change of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Weights kept otherwise.
    Precision(Precision),
    /// A shorter context.
    Context {
        /// Positions that would fit.
        to: usize,
        /// Positions asked for.
        from: usize,
    },
    /// Fewer sequences at a time.
    Sequences {
        /// Sequences that would fit.
        to: usize,
        /// Sequences asked for.
        from: usize,
    },
    /// An offload folder, or more room in it.
    Disk(Bytes),
    /// Another budget.
    Budget {
        /// The memory.
        home: Home,
        /// Budget that suffices.
        to: Bytes,
        /// Present budget.
        from: Bytes,
    },
}

/// As an advice: `shorten the context to 1024 positions (from 4096)`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Precision(precision) => match precision {
                Precision::AsStored => f.write_str("keep weights as they are stored"),
                Precision::F32 | Precision::Bf16 => write!(f, "keep weights in {precision}"),
                Precision::Int8 | Precision::Nf4 | Precision::Nf4Double | Precision::Fp4 => {
                    write!(f, "quantize to {precision}")
                }
            },
            Change::Context { to, from } => {
                write!(f, "shorten the context to {to} positions (from {from})")
            }
            Change::Sequences { to: 1, from } => {
                write!(f, "work on one sequence at a time (instead of {from})")
            }
            Change::Sequences { to, from } => {
                write!(f, "work on {to} sequences at a time (instead of {from})")
            }
            Change::Disk(Bytes::ZERO) => {
                f.write_str("let weights be read from disk as they are needed")
            }
            Change::Disk(bytes) => write!(f, "give {bytes} on disk for weights to rest in"),
            Change::Budget { home, to, from } => {
                write!(f, "give {to} of {home} (instead of {from})")
            }
        }
    }
}

/// The smallest single changes that make a request fit, each found by planning it anew; none where it fits as it is.
///
/// # Errors
/// As [`plan`](crate::plan()).
pub fn advice(request: &Request<'_>) -> Result<Vec<Change>> {
    let weights = request.weights();
    let Verdict::DoesNotFit(refusal) = plan_with(request, &weights)? else {
        return Ok(Vec::new());
    };
    let search = Search {
        request,
        weights: &weights,
    };
    let mut changes = Vec::new();
    changes.extend(search.precision()?);
    changes.extend(search.context()?);
    changes.extend(search.sequences()?);
    changes.extend(search.disk()?);
    for home in gpus_to_enlarge(&refusal, &request.budgets) {
        changes.extend(search.budget(home)?);
    }
    changes.extend(search.budget(Home::Ram)?);
    Ok(changes)
}

/// The GPUs that lack memory; where what is left over by them lacks it elsewhere, the largest.
fn gpus_to_enlarge(refusal: &Refusal, budgets: &Budgets) -> Vec<Home> {
    let lacking = refusal.shortfalls.iter().map(|s| s.memory.home);
    let lacking: Vec<_> = lacking.filter(|h| matches!(h, Home::Gpu(_))).collect();
    if !lacking.is_empty() {
        return lacking;
    }
    let largest = budgets.gpus.iter().max_by_key(|(_, budget)| **budget);
    largest.map(|(&n, _)| Home::Gpu(n)).into_iter().collect()
}

/// A request that does not fit, and what its weights take.
struct Search<'a> {
    request: &'a Request<'a>,
    weights: &'a Weights,
}

impl Search<'_> {
    /// The most exact precision that takes less and fits.
    fn precision(&self) -> Result<Option<Change>> {
        let total = self.weights.total(self.request.first_device());
        for precision in askable(self.request) {
            let (weights, verdict) = precision.plan(self.request)?;
            if weights < total && verdict.plan().is_some() {
                return Ok(Some(Change::Precision(precision)));
            }
        }
        Ok(None)
    }

    /// The longest context that fits.
    fn context(&self) -> Result<Option<Change>> {
        let from = self.request.limits.context;
        let with = |context| Limits {
            context,
            ..self.request.limits
        };
        let Some(to) = self.most(from, with)? else {
            return Ok(None);
        };
        // A round number, as people choose one.
        let to = if to > ROUND { to / ROUND * ROUND } else { to };
        Ok(Some(Change::Context { to, from }))
    }

    /// The most sequences that fit.
    fn sequences(&self) -> Result<Option<Change>> {
        let from = self.request.limits.n_sequences;
        let with = |n_sequences| Limits {
            n_sequences,
            ..self.request.limits
        };
        let to = self.most(from, with)?;
        Ok(to.map(|to| Change::Sequences { to, from }))
    }

    /// The greatest number below `from` of what makes limits that fit.
    fn most(&self, from: usize, with: impl Fn(usize) -> Limits) -> Result<Option<usize>> {
        let fits = |n| {
            self.fits(&Request {
                limits: with(n),
                ..self.request.clone()
            })
        };
        if from <= 1 || !fits(1)? {
            return Ok(None);
        }
        let (mut low, mut high) = (1, from);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if fits(middle)? {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(Some(low))
    }

    /// Room that an offload folder would need.
    fn disk(&self) -> Result<Option<Change>> {
        let budgets = self.request.budgets.with(Home::Disk, Bytes::new(u64::MAX));
        let request = Request {
            budgets,
            ..self.request.clone()
        };
        let verdict = plan_with(&request, self.weights)?;
        let needed = verdict.plan().map(|plan| {
            let disk = plan.estimate.memory(Home::Disk);
            disk.map_or(Bytes::ZERO, |disk| rounded_up(disk.needed(), STEP))
        });
        Ok(needed.map(Change::Disk))
    }

    /// The smallest budget of one memory that would do, in whole steps.
    fn budget(&self, home: Home) -> Result<Option<Change>> {
        let from = self.request.budgets.of(home);
        let steps = |n: u64| Bytes::new(n.saturating_mul(STEP));
        let fits = |n| {
            self.fits(&Request {
                budgets: self.request.budgets.with(home, steps(n)),
                ..self.request.clone()
            })
        };
        let mut low = from.get() / STEP;
        let mut high = low + 1;
        while !fits(high)? {
            if steps(high) > Bytes::new(FAR) {
                return Ok(None);
            }
            (low, high) = (high, high * 2);
        }
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if fits(middle)? {
                high = middle;
            } else {
                low = middle;
            }
        }
        let to = steps(high);
        Ok(Some(Change::Budget { home, to, from }))
    }

    fn fits(&self, request: &Request<'_>) -> Result<bool> {
        fits(request, self.weights)
    }
}

/// Contexts are advised in multiples of this many positions.
const ROUND: usize = 64;
/// Budgets are advised in multiples of a tenth of a gigabyte.
const STEP: u64 = 100_000_000;
/// A budget beyond which no advice is given: a petabyte.
const FAR: u64 = 1_000_000_000_000_000;
