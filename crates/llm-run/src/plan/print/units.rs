//! Units of a kind that rest and compute in the same places.

use llm_arch::{MlpSpec, ModelSpec, Side, Unit};
use llm_plan::{Home, Placement, UnitUse};
use llm_tensor::Bytes;

use crate::plan::report::Detail;

/// Units of a kind that rest and compute in the same places, and what they take together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnitGroup {
    /// Name in a few words: `17 of layers 0 to 28`.
    pub(crate) name: String,
    /// Name of each: `layers 0 to 3, 5, 7`.
    pub(crate) full_name: String,
    pub(crate) placement: Placement,
    pub(crate) weights: Bytes,
    pub(crate) statistics: Bytes,
    /// On disk: what of both the checkpoint holds as it is computed with, so that nothing is written.
    pub(crate) in_place: Bytes,
    /// Bytes where they compute, which need not be where they rest.
    pub(crate) kv_cache: Bytes,
}

/// The groups of a model, in the order of each one's first [`Unit`].
pub(crate) fn groups(spec: &ModelSpec, units: &[UnitUse]) -> Vec<UnitGroup> {
    let mut groups: Vec<Vec<&UnitUse>> = Vec::new();
    for unit in units {
        let is_its = |group: &&mut Vec<&UnitUse>| {
            kind(group[0].unit) == kind(unit.unit) && group[0].placement == unit.placement
        };
        match groups.iter_mut().find(is_its) {
            Some(group) => group.push(unit),
            None => groups.push(vec![unit]),
        }
    }
    let in_place = |unit: &&UnitUse| match unit.placement.home {
        Home::Disk => unit.in_place,
        Home::Gpu(_) | Home::Ram => Bytes::ZERO,
    };
    let group = |units: &Vec<&UnitUse>| UnitGroup {
        name: name(spec, units, Detail::Short),
        full_name: name(spec, units, Detail::Full),
        placement: units[0].placement,
        in_place: units.iter().map(in_place).sum(),
        weights: units.iter().map(|unit| unit.weights).sum(),
        statistics: units.iter().map(|unit| unit.quantization_statistics).sum(),
        kv_cache: units.iter().map(|unit| unit.kv_cache).sum(),
    };
    groups.iter().map(group).collect()
}

/// Kind of unit: one row of the table.
#[derive(PartialEq, Eq)]
enum Kind {
    Embedding,
    PerLayerTable,
    Layers(Side),
    Experts,
    /// Final norms and head.
    Last,
}

fn kind(unit: Unit) -> Kind {
    match unit {
        Unit::Embedding => Kind::Embedding,
        Unit::PerLayerTable => Kind::PerLayerTable,
        Unit::Layer(side, _) => Kind::Layers(side),
        Unit::Expert { .. } => Kind::Experts,
        Unit::FinalNorm(_) | Unit::Head => Kind::Last,
    }
}

/// `units` are of one kind, and there is one.
fn name(spec: &ModelSpec, units: &[&UnitUse], detail: Detail) -> String {
    let layers = units.iter().filter_map(|unit| match unit.unit {
        Unit::Layer(_, i) => Some(i),
        Unit::Embedding
        | Unit::PerLayerTable
        | Unit::Expert { .. }
        | Unit::FinalNorm(_)
        | Unit::Head => None,
    });
    let layers: Vec<_> = layers.collect();
    match units[0].unit {
        Unit::Layer(side, _) => {
            let encoder = match side {
                Side::Encoder => "encoder ",
                Side::Decoder => "",
            };
            match detail {
                Detail::Short if n_runs(&layers) > FEW => {
                    let (first, last) = (layers[0], layers[layers.len() - 1]);
                    format!("{} of {encoder}layers {first} to {last}", layers.len())
                }
                Detail::Short | Detail::Full => format!("{encoder}{}", numbered("layer", &layers)),
            }
        }
        Unit::Expert { .. } => experts(spec, units, detail),
        Unit::Embedding | Unit::PerLayerTable | Unit::FinalNorm(_) | Unit::Head => {
            let names: Vec<_> = units.iter().map(|unit| unit.unit.to_string()).collect();
            names.join(", ")
        }
    }
}

/// `experts of layers 0 to 3, experts 0 to 2 of layer 4`; in short `35 experts of layers 0 to 7`.
fn experts(spec: &ModelSpec, units: &[&UnitUse], detail: Detail) -> String {
    let experts = units.iter().filter_map(|unit| match unit.unit {
        Unit::Expert { layer, expert } => Some((layer, expert)),
        Unit::Embedding
        | Unit::PerLayerTable
        | Unit::Layer(..)
        | Unit::FinalNorm(_)
        | Unit::Head => None,
    });
    let experts: Vec<_> = experts.collect();
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    for experts in experts.chunk_by(|a, b| a.0 == b.0) {
        let layer = experts[0].0;
        let n_experts = match spec.decoder.layers[layer].mlp {
            MlpSpec::Experts(experts) => experts.routing.n_experts,
            MlpSpec::Dense(_) | MlpSpec::Absent => 0,
        };
        if experts.len() == n_experts {
            whole.push(layer);
        } else {
            parts.push((layer, experts));
        }
    }
    if detail == Detail::Short && (n_runs(&whole) > FEW || parts.len() > 1) {
        let (first, last) = (experts[0].0, experts[experts.len() - 1].0);
        return format!("{} experts of layers {first} to {last}", experts.len());
    }
    let part = |&(layer, experts): &(usize, &[(usize, usize)])| {
        let numbers: Vec<_> = experts.iter().map(|&(_, expert)| expert).collect();
        match detail {
            Detail::Short if n_runs(&numbers) > FEW => {
                format!("{} experts of layer {layer}", numbers.len())
            }
            Detail::Short | Detail::Full => {
                format!("{} of layer {layer}", numbered("expert", &numbers))
            }
        }
    };
    let mut names: Vec<_> = parts.iter().map(part).collect();
    if !whole.is_empty() {
        names.insert(0, format!("experts of {}", numbered("layer", &whole)));
    }
    names.join(", ")
}

/// `layer 3`, or `layers 0 to 3, 5`: rising numbers of what `what` is one of.
fn numbered(what: &str, numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let runs = runs.map(|run| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first} to {last}"),
        [] => String::new(),
    });
    let runs: Vec<_> = runs.collect();
    let plural = if numbers.len() == 1 { "" } else { "s" };
    format!("{what}{plural} {}", runs.join(", "))
}

/// Runs of numbers that follow one another.
fn n_runs(numbers: &[usize]) -> usize {
    numbers.chunk_by(|a, b| a + 1 == *b).count()
}

/// Runs that are listed in short.
const FEW: usize = 2;

#[cfg(test)]
mod tests {
    use llm_plan::RunOn;
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
            of_encoded: Bytes::ZERO,
            in_place: Bytes::ZERO,
            products: 0,
        }
    }

    #[test]
    fn what_is_in_one_place_is_one_group() {
        let config = json!({
            "model_type": "mixtral", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6,
            "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 100, "num_local_experts": 4, "num_experts_per_tok": 2
        });
        let skeleton = llm_arch::from_config(config.as_object().unwrap()).unwrap();
        let expert = |layer, expert| Unit::Expert { layer, expert };
        let layer = |i| Unit::Layer(Side::Decoder, i);
        let mut units = vec![unit(Unit::Embedding, Home::Ram)];
        let in_ram = |is_there| if is_there { Home::Ram } else { Home::Disk };
        units.extend((0..6).map(|i| unit(layer(i), in_ram(![2, 4, 5].contains(&i)))));
        for i in 0..24 {
            // All of layers 1, 2 and 4, two of layer 3.
            let is_there = matches!(i / 4, 1 | 2 | 4) || matches!(i, 12 | 15);
            units.push(unit(expert(i / 4, i % 4), in_ram(is_there)));
        }
        units.push(unit(Unit::FinalNorm(Side::Decoder), Home::Ram));
        units.push(unit(Unit::Head, Home::Ram));
        let found = groups(&skeleton.spec, &units);
        let names: Vec<_> = found.iter().map(|group| group.full_name.as_str()).collect();
        let expected = [
            "embedding",
            "layers 0 to 1, 3",
            "layers 2, 4 to 5",
            "experts of layers 0, 5, experts 1 to 2 of layer 3",
            "experts of layers 1 to 2, 4, experts 0, 3 of layer 3",
            "final norm, head",
        ];
        assert_eq!(names, expected);
        let names: Vec<_> = found.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, expected, "these are short enough");
        assert_eq!(found[1].weights, Bytes::new(30));
        assert_eq!(found[1].statistics, Bytes::new(3));
        assert_eq!(found[1].kv_cache, Bytes::new(6));
        assert_eq!(found[3].placement.home, Home::Disk);
        let encoder = [unit(Unit::Layer(Side::Encoder, 7), Home::Ram)];
        let found = groups(&skeleton.spec, &encoder);
        assert_eq!(found[0].name, "encoder layer 7");
        let alternating: Vec<_> = (0..6).map(|i| unit(layer(i), in_ram(i % 2 == 0))).collect();
        let found = groups(&skeleton.spec, &alternating);
        assert_eq!(found[0].name, "3 of layers 0 to 4");
        assert_eq!(found[0].full_name, "layers 0, 2, 4");
        let scattered: Vec<_> = (0..24)
            .filter(|i| i % 3 == 0)
            .map(|i| unit(expert(i / 4, i % 4), Home::Disk))
            .collect();
        let found = groups(&skeleton.spec, &scattered);
        assert_eq!(found[0].name, "8 experts of layers 0 to 5");
        let one = [unit(expert(2, 1), Home::Ram)];
        assert_eq!(groups(&skeleton.spec, &one)[0].name, "expert 1 of layer 2");
    }
}
