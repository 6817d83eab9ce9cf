//! Recommended precision, of those that fit.

use llm_quant::{Code, LoadIn, QuantConfig};

use crate::advice::{Way, is_quantized};
use crate::plan::plan_with;
use crate::{Encodings, Precision, Request, Result, Speeds, Strategy, Tiers};

/// A way to keep weights that is worth taking.
#[derive(Debug, Clone, PartialEq)]
pub struct Recommendation {
    /// The precision.
    pub choice: Choice,
    /// Their memories, and the cost of a step.
    pub way: Way,
    /// Reason to take no more exact or faster one.
    pub reason: Reason,
}

/// A precision, as seen from what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The one asked for.
    AsAsked,
    /// The one asked for, but not quantized.
    Unquantized,
    /// Another one.
    Precision(Precision),
}

/// Reason to recommend a precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No other fits, or none can be asked for.
    OnlyOne,
    /// It is the most exact one that is [`COMFORTABLE`] in the fastest memory.
    Comfortable,
    /// It is the most exact one that is at least half as fast as the fastest.
    HalfOfTheFastest,
}

/// Steps a second that are fast enough: about twice as fast as people read, at three quarters of a word a token.
pub const COMFORTABLE: f64 = 10.0;

/// The most exact precision with which each sequence gets [`COMFORTABLE`] tokens a second at the beginning of a context,
/// all weights in the fastest memory, or at least half of what it gets with the fastest precision. `None` where none
/// fits.
///
/// FP4 takes what NF4 takes and is less exact, and what is wider than asked for gains nothing: they are recommended to
/// nobody who does not ask for them.
///
/// # Errors
/// As [`plan`](crate::plan()).
pub fn recommend(request: &Request<'_>, speeds: &Speeds) -> Result<Option<Recommendation>> {
    let candidates = candidates(request)?;
    let rate = |way: &Way| 1.0 / way.step.seconds(speeds);
    let fastest = candidates.iter().map(|(_, way)| rate(way));
    let fastest = fastest.fold(0.0, f64::max);
    let is_comfortable = |way: &Way| is_whole(way.tiers, request) && rate(way) >= COMFORTABLE;
    let is_only = candidates.len() == 1;
    let is_good = |way: &Way| is_comfortable(way) || rate(way) >= fastest / 2.0;
    let best = candidates.into_iter().find(|(_, way)| is_good(way));
    Ok(best.map(|(choice, way)| Recommendation {
        choice,
        reason: match is_only {
            true => Reason::OnlyOne,
            false if is_comfortable(&way) => Reason::Comfortable,
            false => Reason::HalfOfTheFastest,
        },
        way,
    }))
}

/// True if all weights are resident in the fastest memory: prompts are read there as fast as can be, too.
fn is_whole(tiers: Tiers, request: &Request<'_>) -> bool {
    let has_gpu = !request.budgets.gpus.is_empty() && request.strategy != Strategy::Cpu;
    tiers
        == Tiers {
            gpu: has_gpu,
            ram: !has_gpu,
            disk: false,
        }
}

/// Choices that fit and may be recommended, most exact first.
fn candidates(request: &Request<'_>) -> Result<Vec<(Choice, Way)>> {
    let weights = request.weights();
    let as_asked = Way::of(&plan_with(request, &weights)?);
    let as_asked = as_asked.map(|way| (Choice::AsAsked, way));
    if is_quantized(request.stored) {
        return Ok(as_asked.into_iter().collect());
    }
    let asked = Asked::of(&request.encodings);
    let mut found = Vec::new();
    let mut least = weights.total(request.first_device());
    match asked {
        Asked::Dense => found.extend(as_asked.clone()),
        Asked::PerUse | Asked::Codes(_) => {
            let request = Request {
                encodings: Encodings {
                    quant: None,
                    ..request.encodings
                },
                ..request.clone()
            };
            let weights = request.weights();
            least = weights.total(request.first_device());
            let way = Way::of(&plan_with(&request, &weights)?);
            found.extend(way.map(|way| (Choice::Unquantized, way)));
        }
    }
    if asked == Asked::PerUse {
        found.extend(as_asked.clone());
    }
    for precision in Precision::ALL {
        if asked == Asked::Codes(precision) {
            found.extend(as_asked.clone());
            continue;
        }
        let is_worth_it = match precision {
            Precision::F32 | Precision::Fp4 => false,
            Precision::AsStored => request.may_stay_packed(),
            Precision::Bf16 | Precision::Int8 | Precision::Nf4 | Precision::Nf4Double => true,
        };
        if !is_worth_it {
            continue;
        }
        let (total, verdict) = precision.plan(request)?;
        if total < least {
            least = total;
            found.extend(Way::of(&verdict).map(|way| (Choice::Precision(precision), way)));
        }
    }
    Ok(found)
}

/// Exactness that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Floating point.
    Dense,
    /// Sixteen bits that are quantized anew for each use.
    PerUse,
    /// Codes.
    Codes(Precision),
}

impl Asked {
    fn of(encodings: &Encodings<'_>) -> Self {
        match encodings.quant {
            None => Asked::Dense,
            Some(quant) if quant.llm_int8_has_fp16_weight => Asked::PerUse,
            Some(quant) => Asked::Codes(codes(quant)),
        }
    }
}

fn codes(quant: &QuantConfig) -> Precision {
    match (quant.load_in, quant.bnb_4bit_quant_type) {
        (LoadIn::EightBit, _) => Precision::Int8,
        (LoadIn::FourBit, Code::Nf4) if quant.bnb_4bit_use_double_quant => Precision::Nf4Double,
        (LoadIn::FourBit, Code::Nf4) => Precision::Nf4,
        (LoadIn::FourBit, Code::Fp4) => Precision::Fp4,
    }
}
