//! Ranges of units that rest and compute in the same places.

use std::ops::RangeInclusive;

use llm_arch::{MlpSpec, ModelSpec, Side, Unit};
use llm_plan::{Placement, UnitUse};
use llm_tensor::Bytes;

/// Units of a kind that follow each other, and what they take together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnitRange {
    /// `layers 0 to 26`.
    pub(super) name: String,
    pub(super) placement: Placement,
    pub(super) weights: Bytes,
    pub(super) statistics: Bytes,
    /// Where they compute, which need not be where they rest.
    pub(super) kv_cache: Bytes,
}

/// The ranges of a model, in the order of [`Unit`].
pub(super) fn ranges(spec: &ModelSpec, units: &[UnitUse]) -> Vec<UnitRange> {
    let is_same =
        |a: &UnitUse, b: &UnitUse| kind(a.unit) == kind(b.unit) && a.placement == b.placement;
    units
        .chunk_by(is_same)
        .map(|units| UnitRange {
            name: name(spec, units),
            placement: units[0].placement,
            weights: units.iter().map(|unit| unit.weights).sum(),
            statistics: units.iter().map(|unit| unit.quantization_statistics).sum(),
            kv_cache: units.iter().map(|unit| unit.kv_cache).sum(),
        })
        .collect()
}

/// What is said in one breath.
#[derive(PartialEq, Eq)]
enum Kind {
    Embedding,
    Layers(Side),
    Experts,
    /// All that follows the last layers.
    Last,
}

fn kind(unit: Unit) -> Kind {
    match unit {
        Unit::Embedding => Kind::Embedding,
        Unit::Layer(side, _) => Kind::Layers(side),
        Unit::Expert { .. } => Kind::Experts,
        Unit::FinalNorm(_) | Unit::Head => Kind::Last,
    }
}

/// `units` are of one kind, and there is one.
fn name(spec: &ModelSpec, units: &[UnitUse]) -> String {
    match (units[0].unit, units[units.len() - 1].unit) {
        (first @ Unit::Layer(..), last) if first == last => first.to_string(),
        (Unit::Layer(side, first), Unit::Layer(_, last)) => match side {
            Side::Encoder => format!("encoder layers {first} to {last}"),
            Side::Decoder => format!("layers {first} to {last}"),
        },
        (
            Unit::Expert { layer, expert },
            Unit::Expert {
                layer: last_layer,
                expert: last,
            },
        ) => experts_name(spec, layer..=last_layer, expert..=last),
        _ => {
            let names: Vec<_> = units.iter().map(|unit| unit.unit.to_string()).collect();
            names.join(", ")
        }
    }
}

/// From the first expert of the first layer to the last one of the last.
fn experts_name(
    spec: &ModelSpec,
    layers: RangeInclusive<usize>,
    experts: RangeInclusive<usize>,
) -> String {
    let (first_layer, last_layer) = layers.into_inner();
    let (first, last) = experts.into_inner();
    let n_experts = match spec.decoder.layers[last_layer].mlp {
        MlpSpec::Experts(experts) => experts.n_experts,
        MlpSpec::Dense(_) => 0,
    };
    let is_whole = first == 0 && last + 1 == n_experts;
    match (is_whole, first_layer == last_layer) {
        (true, true) => format!("experts of layer {first_layer}"),
        (true, false) => format!("experts of layers {first_layer} to {last_layer}"),
        (false, true) if first == last => format!("expert {first} of layer {first_layer}"),
        (false, true) => format!("experts {first} to {last} of layer {first_layer}"),
        (false, false) => {
            format!("experts from {first} of layer {first_layer} to {last} of layer {last_layer}")
        }
    }
}

#[cfg(test)]
mod tests {
    use llm_plan::{Home, RunOn};
    use serde_json::json;

    use super::*;

    fn unit(unit: Unit, home: Home) -> UnitUse {
        UnitUse {
            unit,
            placement: Placement {
                home,
                run_on: RunOn::Cpu,
            },
            weights: Bytes::new(10),
            quantization_statistics: Bytes::new(1),
            kv_cache: Bytes::new(2),
            per_pass: Bytes::ZERO,
            in_place: Bytes::ZERO,
        }
    }

    #[test]
    fn neighbours_in_one_place_are_one_range() {
        let config = json!({
            "model_type": "mixtral", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "vocab_size": 100, "num_local_experts": 4, "num_experts_per_tok": 2
        });
        let skeleton = llm_arch::from_config(config.as_object().unwrap()).unwrap();
        let expert = |layer, expert| Unit::Expert { layer, expert };
        let layer = |i| Unit::Layer(Side::Decoder, i);
        let mut units = vec![unit(Unit::Embedding, Home::Ram)];
        units.extend((0..3).map(|i| unit(layer(i), Home::Ram)));
        for i in 0..12 {
            // The last of layer 1 and all of layer 2 are on disk.
            let home = if i < 7 { Home::Ram } else { Home::Disk };
            units.push(unit(expert(i / 4, i % 4), home));
        }
        units.push(unit(Unit::FinalNorm(Side::Decoder), Home::Ram));
        units.push(unit(Unit::Head, Home::Ram));
        let found = ranges(&skeleton.spec, &units);
        let names: Vec<_> = found.iter().map(|range| range.name.as_str()).collect();
        let expected = [
            "embedding",
            "layers 0 to 2",
            "experts from 0 of layer 0 to 2 of layer 1",
            "experts from 3 of layer 1 to 3 of layer 2",
            "final norm, head",
        ];
        assert_eq!(names, expected);
        assert_eq!(found[1].weights, Bytes::new(30));
        assert_eq!(found[1].statistics, Bytes::new(3));
        assert_eq!(found[1].kv_cache, Bytes::new(6));
        assert_eq!(found[3].placement.home, Home::Disk);
        let name = |from, to| experts_name(&skeleton.spec, from, to);
        assert_eq!(name(0..=1, 0..=3), "experts of layers 0 to 1");
        assert_eq!(name(2..=2, 0..=3), "experts of layer 2");
        assert_eq!(name(2..=2, 1..=1), "expert 1 of layer 2");
        assert_eq!(name(2..=2, 1..=3), "experts 1 to 3 of layer 2");
    }
}
