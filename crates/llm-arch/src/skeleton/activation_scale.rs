//! Multipliers that a published model applies elsewhere than here.

use super::{Role, Unit};
use crate::spec::{LayerSpec, MixerSpec, MlpSpec, ModelSpec};

/// How many times as large the activations that a unit's matrix reads are as those of the published model, which multiplies
/// inputs before and results after a projection. What is computed is the same; what int8 takes for an outlier is not.
pub(super) fn activation_scale(spec: &ModelSpec, unit: Unit, role: Role) -> f32 {
    let Unit::Layer(side, layer) = unit else {
        return 1.0;
    };
    let layer = spec.stack(side).and_then(|stack| stack.layers.get(layer));
    let Some(LayerSpec { mixer, mlp }) = layer else {
        return 1.0;
    };
    let (attention, space) = match mixer {
        MixerSpec::Hybrid(hybrid) => (Some(&hybrid.attention), Some(&hybrid.space)),
        MixerSpec::Attention(attention) => (Some(attention), None),
        MixerSpec::StateSpace(space) => (None, Some(space)),
        MixerSpec::Latent(_) | MixerSpec::Conv(_) | MixerSpec::Delta(_) | MixerSpec::Absent => {
            (None, None)
        }
    };
    let scale = match role {
        Role::Q | Role::K | Role::V | Role::Qkv => attention.map(|own| 1.0 / own.input_scale),
        Role::Out => attention.map(|own| own.result_scale / own.input_scale),
        Role::SpaceIn => space.map(|own| 1.0 / own.input_scale),
        Role::SpaceOut => space.map(|own| own.result_scale),
        Role::Down => match mlp {
            MlpSpec::Dense(mlp) => mlp.scales.map(|[_, of_results]| of_results),
            MlpSpec::Experts(_) | MlpSpec::Absent => None,
        },
        _ => None,
    };
    scale.unwrap_or(1.0)
}
