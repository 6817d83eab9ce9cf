//! A model of another form as a checkpoint with a `config.json` has it, what that says, what the tensors are called there,
//! and how they become these: a GGUF's, and the text half of a larger model.

use std::collections::HashMap;
use std::f64::consts::TAU;

use llm_tensor::Pairing;
use serde_json::{Map, Value};

use crate::skeleton::{Role, Skeleton, Slot, Stored, Unit};
use crate::spec::{AttentionSpec, MixerSpec, ModelSpec, Positions, StackSpec};
use crate::{
    ArchError, RopeScaling, RotarySpec, UnknownKeys, family, from_config, from_config_with,
};

/// A model of another form, a GGUF's or the text half of a larger one, as a checkpoint of its own with a `config.json` has
/// it.
#[derive(Debug, Clone)]
pub struct HubForm {
    /// Configuration; a GGUF's model has it without special tokens and the element type.
    pub config: Map<String, Value>,
    /// The model of that configuration.
    pub skeleton: Skeleton,
    /// Its slots once more, in the same order, each stored as it is in the other form.
    pub as_found: Vec<Slot>,
}

impl HubForm {
    /// The form of a model that a GGUF's `metadata` describes ([`crate::from_gguf`]); `rope_factors` are what it has as
    /// `rope_freqs.weight`.
    ///
    /// # Errors
    /// [`ArchError::NoConfig`] when no configuration describes the model.
    pub fn new(
        gguf: &Skeleton,
        metadata: &Map<String, Value>,
        rope_factors: Option<&[f32]>,
    ) -> Result<Self, ArchError> {
        let mut spec = gguf.spec.clone();
        name_scaling(&mut spec, rope_factors)?;
        let config = family::config_of_gguf(&spec, metadata)?;
        let skeleton = from_config(&config)?;
        // What a configuration cannot say is nowhere else to be seen.
        let mut again = skeleton.spec.clone();
        again.dtype = spec.dtype;
        family::adjust_to_gguf(&mut again);
        if again != spec {
            let reason = "read back, it would describe another model";
            return Err(ArchError::NoConfig { reason });
        }
        // Either may have slots that the other lacks, as factors of wavelengths.
        let own = gguf.slots.iter();
        let own: HashMap<_, _> = own.map(|slot| ((slot.unit, slot.role), slot)).collect();
        let as_found = skeleton.slots.iter().map(|slot| {
            let own = own.get(&(slot.unit, slot.role)).copied();
            Slot {
                stored: stored((slot, own), &spec, &skeleton.spec),
                ..slot.clone()
            }
        });
        Ok(HubForm {
            as_found: as_found.collect(),
            config,
            skeleton,
        })
    }

    /// The form of the text half of a model whose configuration that is; `None` where it is no larger model's.
    ///
    /// # Errors
    /// As [`crate::from_config`].
    pub fn of_text_half(config: &Map<String, Value>) -> Result<Option<Self>, ArchError> {
        let Some(config) = family::text_half_alone(config)? else {
            return Ok(None);
        };
        // The same keys were looked at in the larger configuration.
        let skeleton = from_config_with(&config, UnknownKeys::PassOver)?;
        Ok(Some(HubForm {
            as_found: skeleton.slots.clone(),
            config,
            skeleton,
        }))
    }
}

/// GGUF storage of a `slot` of `hub`, the same model as a configuration describes it; `in_gguf` is the slot there, if it has one.
fn stored((slot, in_gguf): (&Slot, Option<&Slot>), gguf: &ModelSpec, hub: &ModelSpec) -> Stored {
    let (own, wanted) = (&gguf.decoder, &hub.decoder);
    let gain = |own: f32, wanted: f32| match own == wanted {
        true => Stored::AsIs,
        // The spec read back differs in nothing but what the family says of all its GGUFs.
        false => Stored::OneMore,
    };
    match slot.role {
        Role::Q | Role::QBias | Role::K | Role::KBias => {
            match (pairing(&own.positions), pairing(&wanted.positions)) {
                (Some(Pairing::Adjacent), Some(Pairing::Halves)) => Stored::Pairs {
                    head_dim: attention(wanted, slot.unit).head_dim,
                },
                _ => Stored::AsIs,
            }
        }
        Role::Qkv | Role::QkvBias => {
            let wanted = attention(wanted, slot.unit);
            match (attention(own, slot.unit).grouped(), wanted.grouped()) {
                (None, Some(n_queries)) => Stored::Stacked {
                    n_kv_heads: wanted.n_kv_heads,
                    n_queries,
                    head_dim: wanted.head_dim,
                },
                _ => Stored::AsIs,
            }
        }
        Role::AttnNorm
        | Role::PostAttnNorm
        | Role::MlpNorm
        | Role::PostMlpNorm
        | Role::FinalNorm => gain(own.norm.gain_offset, wanted.norm.gain_offset),
        Role::QNorm | Role::KNorm => {
            let offset = |stack| {
                attention(stack, slot.unit)
                    .qk_norm
                    .map(|qk| qk.norm.gain_offset)
            };
            let (own, wanted) = (offset(own), offset(wanted));
            gain(own.unwrap_or_default(), wanted.unwrap_or_default())
        }
        Role::SpaceRate | Role::SpaceSkip | Role::SpaceNorm => {
            in_gguf.map_or(Stored::AsIs, |slot| slot.stored)
        }
        Role::TokenTable
        | Role::PositionTable
        | Role::PerLayerTable
        | Role::PerLayerModel
        | Role::PerLayerNorm
        | Role::PerLayerGate
        | Role::PerLayerOut
        | Role::PostPerLayerNorm
        | Role::StreamIn1
        | Role::StreamIn2
        | Role::StreamIn3
        | Role::StreamOut1
        | Role::StreamOut2
        | Role::StreamOut3
        | Role::StreamNorm
        | Role::StreamRouter
        | Role::StreamPredict
        | Role::StreamCorrect
        | Role::StreamScale
        | Role::LaurelDown
        | Role::LaurelUp
        | Role::LaurelNorm
        | Role::EmbedNorm
        | Role::EmbedNormBias
        | Role::ProjectIn
        | Role::ProjectOut
        | Role::RopeFactors
        | Role::RelativeBias
        | Role::XieluAlphaP
        | Role::XieluAlphaN
        | Role::XieluBeta
        | Role::XieluEps
        | Role::AttnNormBias
        | Role::QNormBias
        | Role::KNormBias
        | Role::V
        | Role::VBias
        | Role::Out
        | Role::OutBias
        | Role::QDown
        | Role::QDownBias
        | Role::QLatentNorm
        | Role::QUp
        | Role::KvDown
        | Role::KvDownBias
        | Role::KvLatentNorm
        | Role::KvUp
        | Role::KeysUp
        | Role::ValuesUp
        | Role::IndexQ
        | Role::IndexK
        | Role::IndexKNorm
        | Role::IndexKNormBias
        | Role::IndexWeights
        | Role::EntryFeatures
        | Role::EntryGates
        | Role::EntryPlaces
        | Role::EntryNorm
        | Role::IndexFeatures
        | Role::IndexGates
        | Role::IndexPlaces
        | Role::IndexNorm
        | Role::OutGroups
        | Role::MixerStreams
        | Role::MixerStreamsBase
        | Role::MixerStreamsScale
        | Role::MlpStreams
        | Role::MlpStreamsBase
        | Role::MlpStreamsScale
        | Role::EndStreams
        | Role::EndStreamsBase
        | Role::EndStreamsScale
        | Role::RouterTokens
        | Role::Sinks
        | Role::ConvIn
        | Role::ConvInBias
        | Role::ConvTaps
        | Role::ConvTapsBias
        | Role::ConvOut
        | Role::ConvOutBias
        | Role::DeltaQkv
        | Role::DeltaGate
        | Role::DeltaStrength
        | Role::DeltaDecay
        | Role::DeltaQkvGate
        | Role::DeltaStrengthDecay
        | Role::DeltaRate
        | Role::DeltaOffset
        | Role::DeltaNorm
        | Role::DeltaOut
        | Role::SpaceIn
        | Role::SpaceInBias
        | Role::SpaceOffset
        | Role::SpaceOut
        | Role::SpaceOutBias
        | Role::CrossNorm
        | Role::CrossQ
        | Role::CrossK
        | Role::CrossV
        | Role::CrossOut
        | Role::MlpNormBias
        | Role::Router
        | Role::RouterBias
        | Role::RouterCorrection
        | Role::ExpertsIn
        | Role::DeltaGateDown
        | Role::DeltaGateUp
        | Role::DeltaDecayDown
        | Role::DeltaDecayUp
        | Role::QTaps
        | Role::KTaps
        | Role::VTaps
        | Role::ExpertsOut
        | Role::SharedScore
        | Role::SharedGate
        | Role::SharedUp
        | Role::SharedGateUp
        | Role::SharedDown
        | Role::Gate
        | Role::GateBias
        | Role::Up
        | Role::UpBias
        | Role::GateUp
        | Role::GateUpBias
        | Role::Down
        | Role::DownBias
        | Role::LayerScale
        | Role::RouterNorm
        | Role::RouterScales
        | Role::ExpertsNorm
        | Role::PostExpertsNorm
        | Role::PostSharedNorm
        | Role::FinalNormBias
        | Role::Head
        | Role::HeadBias => Stored::AsIs,
    }
}

/// Attention of the layer that a tensor of it belongs to.
fn attention(stack: &StackSpec, unit: Unit) -> &AttentionSpec {
    let Unit::Layer(_, layer) = unit else {
        unreachable!("attention is a layer's, not the {unit}'s")
    };
    match &stack.layers[layer].mixer {
        MixerSpec::Attention(attention) => attention,
        MixerSpec::Hybrid(hybrid) => &hybrid.attention,
        MixerSpec::Latent(_)
        | MixerSpec::SharedKey(_)
        | MixerSpec::Conv(_)
        | MixerSpec::Delta(_)
        | MixerSpec::StateSpace(_)
        | MixerSpec::Absent => {
            unreachable!("queries and keys are of layers that attend")
        }
    }
}

fn pairing(positions: &Positions) -> Option<Pairing> {
    positions.rotary().first().map(|rotary| rotary.pairing)
}

/// Gives stored factors the name of the scaling that they were counted from.
fn name_scaling(spec: &mut ModelSpec, factors: Option<&[f32]>) -> Result<(), ArchError> {
    for rotary in spec.decoder.positions.rotary_mut() {
        if rotary.scaling == RopeScaling::Stored {
            let found = factors.and_then(|factors| named(rotary, factors));
            rotary.scaling = found.ok_or(ArchError::NoConfig {
                reason: "the factors in `rope_freqs.weight` are neither Llama 3's nor Gemma 4's, and no others have a name",
            })?;
        }
    }
    Ok(())
}

/// The scaling that makes `factors` of a series of wavelengths: as Llama 3 has it, for the largest of them, or as Gemma 4, whose
/// last pairs GGUFs have as good as not turned.
fn named(rotary: &RotarySpec, factors: &[f32]) -> Option<RopeScaling> {
    if factors.iter().all(|&factor| factor == 1.0) {
        return Some(RopeScaling::None);
    }
    let n_pairs = factors.iter().take_while(|&&factor| factor == 1.0).count();
    if factors[n_pairs..].iter().all(|&factor| factor >= UNTURNED) {
        let factor = 1.0;
        return Some(RopeScaling::Proportional { n_pairs, factor });
    }
    let factor = factors.iter().copied().fold(1.0, f32::max);
    let is_made_by = |original_context: f64, high: f64| {
        factors.iter().enumerate().all(|(i, &found)| {
            let frequency = rotary.base.powf(-2.0 * i as f64 / rotary.series as f64);
            let periods = original_context * frequency / TAU;
            let kept = ((periods - LOW) / (high - LOW)).clamp(0.0, 1.0);
            let expected = 1.0 / (kept + (1.0 - kept) / f64::from(factor));
            (f64::from(found) - expected).abs() <= 1e-4 * expected
        })
    };
    // Llama 3's own first. Several may do where no wavelength lies between them, and then make the same factors.
    let contexts = std::iter::once(8192.0).chain((5..=20).map(|bits| f64::from(1 << bits)));
    // Llama 4's stretches no wavelength in part.
    let mut makers = [HIGH, LOW]
        .into_iter()
        .flat_map(|high| contexts.clone().map(move |context| (context, high)));
    makers
        .find(|&(context, high)| is_made_by(context, high))
        .map(|(original_context, high)| RopeScaling::Llama3 {
            factor: f64::from(factor),
            low_freq_factor: LOW,
            high_freq_factor: high,
            original_context,
        })
}

/// A wavelength this much longer turns nothing by an angle that f32 tells from none.
const UNTURNED: f32 = 1e20;

/// Between how many and how few periods in the original context all of Llama 3's models stretch a wavelength in part.
const HIGH: f64 = 4.0;
const LOW: f64 = 1.0;

#[cfg(test)]
mod tests;
