//! Drafts of a run: tokens that are guessed, so that one pass over the weights chooses several.

use anyhow::Result;
use llm_arch::{ModelSpec, Side, Unit};
use llm_cpu::FEW_ROWS;
use llm_engine::{Completion, DraftLength, Drafts, Generation, Lookup, Settings};
use llm_plan::{Encodings, Home, Plan, RunOn};
use llm_quant::Scheme;
use llm_runtime::BoundModel;

use crate::failure::refuse;

/// Drafts as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speculate {
    /// None.
    Off,
    /// As many as pay, where a token reads all weights from elsewhere than where they compute.
    Auto,
    /// Up to so many in each pass.
    Most(usize),
}

impl Speculate {
    /// The most tokens that can be asked for: with the one before them they are as many rows as a CPU computes as it computes each
    /// alone.
    pub(crate) const MOST: usize = FEW_ROWS - 1;

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Speculate::Off),
            "auto" => Ok(Speculate::Auto),
            n => match n.parse() {
                Ok(n) if (1..=Self::MOST).contains(&n) => Ok(Speculate::Most(n)),
                Ok(_) | Err(_) => Err(format!(
                    "expected off, auto, or a number of tokens from 1 to {}",
                    Self::MOST
                )),
            },
        }
    }

    /// The same for a model and settings.
    ///
    /// # Errors
    /// When a number is asked for that they cannot have.
    pub(crate) fn of(self, spec: &ModelSpec, settings: &Settings) -> Result<Self> {
        let obstacle = if spec.decoder.is_recurrent() {
            let family = &spec.family;
            format!("layers of {family} models keep states, which no token can be taken out of")
        } else if settings.beams.is_some() {
            "beams are several continuations already, which share each pass".to_owned()
        } else {
            return Ok(self);
        };
        match self {
            Speculate::Off | Speculate::Auto => Ok(Speculate::Off),
            Speculate::Most(n) => refuse(format!("--speculate {n}: {obstacle}; leave it out")),
        }
    }
}

/// True where drafts are for nothing but time: a CPU computes all of it, each row of a few as if it were alone, and reads more than
/// it computes, since what each token takes rests on disk.
///
/// Experts are brought by the tokens that need them, and more tokens need more of them.
pub(crate) fn pays(plan: &Plan, model: &BoundModel, encodings: &Encodings<'_>) -> bool {
    let mut is_read = false;
    for (unit, place) in plan.map.iter() {
        match unit {
            Unit::Layer(Side::Decoder, _) | Unit::Head => is_read |= place.home == Home::Disk,
            Unit::Expert { .. } if place.home == Home::Disk => return false,
            Unit::Expert { .. }
            | Unit::Layer(Side::Encoder, _)
            | Unit::Embedding
            | Unit::PerLayerTable
            | Unit::FinalNorm(_) => {}
        }
    }
    is_read && otherwise(plan, model, encodings).is_none()
}

/// Reason why a pass of several tokens may give other logits than passes of one do, by roundings, if there is one.
pub(crate) fn otherwise(
    plan: &Plan,
    model: &BoundModel,
    encodings: &Encodings<'_>,
) -> Option<&'static str> {
    if plan.map.devices() != [RunOn::Cpu] {
        return Some("GPUs sum the products of several tokens in another order than those of one");
    }
    let is_int8 = |scheme| matches!(scheme, Scheme::Int8(_) | Scheme::Int8PerUse(..));
    let mut tensors = model.tensors();
    tensors
        .any(|bound| is_int8(encodings.scheme(bound.slot, bound.stored(), RunOn::Cpu)))
        .then_some("LLM.int8() keeps columns in floats that are large for any token of a pass")
}

/// The same answer with drafts, where there are to be some.
pub(crate) fn with_drafts(
    generation: Generation<'_>,
    length: Option<DraftLength>,
) -> Generation<'_> {
    match length {
        Some(length) => generation.with_drafts(Drafts::new(Box::new(Lookup), length)),
        None => generation,
    }
}

/// What became of drafts, in a few words.
pub(crate) fn told(completion: &Completion) -> Option<String> {
    let drafts = completion.drafts?;
    let plural = if drafts.n_passes == 1 { "" } else { "es" };
    Some(format!(
        "{} of {} drafted tokens were right, in {} pass{plural}",
        drafts.n_accepted, drafts.n_drafted, drafts.n_passes
    ))
}
