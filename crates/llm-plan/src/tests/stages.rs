//! Stages of any placement: every unit once, in order, on its device.

use llm_arch::{Side, Unit};
use proptest::prelude::{ProptestConfig, any, prop};
use proptest::{prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::units::Units;

fn models() -> [Skeleton; 5] {
    [
        llama(6, false),
        llama(5, true),
        mixtral(3, 4),
        t5(3),
        opt(2),
    ]
}

const DEVICES: [RunOn; 3] = [RunOn::Gpu(0), RunOn::Gpu(1), RunOn::Cpu];
const HOMES: [Home; 4] = [Home::Gpu(0), Home::Gpu(1), Home::Ram, Home::Disk];

/// A map in which units compute on the devices that `choices` name, a tied head with its table.
fn map(skeleton: &Skeleton, choices: &[(usize, usize)]) -> DeviceMap {
    let units = Units::of(&skeleton.spec);
    let is_tied = skeleton.spec.head.matrix == llm_arch::HeadMatrix::Tied;
    let mut placements: Vec<Placement> = (0..units.list().len())
        .map(|idx| {
            let (device, home) = choices[idx % choices.len()];
            Placement {
                home: HOMES[home],
                run_on: DEVICES[device],
            }
        })
        .collect();
    if is_tied {
        placements[units.idx(Unit::Head)] = placements[units.idx(Unit::Embedding)];
    }
    DeviceMap::new(&units, is_tied, &placements)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_unit_is_in_one_stage_in_order_and_on_its_device(
        model in 0..5usize,
        choices in prop::collection::vec((0..3usize, 0..4usize), 1..40),
        alike in any::<bool>(),
    ) {
        let skeleton = &models()[model];
        // Long runs on one device are as likely as none.
        let choices: Vec<_> = match alike {
            true => choices.iter().flat_map(|&choice| [choice; 3]).collect(),
            false => choices,
        };
        let map = map(skeleton, &choices);
        let stages = map.stages().unwrap();

        let (mut in_stages, mut remote) = (Vec::new(), Vec::new());
        for stage in &stages {
            prop_assert!(!stage.units.is_empty());
            for &(unit, home) in &stage.units {
                in_stages.push(unit);
                prop_assert_eq!(map.get(unit), Some(Placement { home, run_on: stage.run_on }));
                // An expert computes in its layer's stage.
                if let Unit::Expert { layer, .. } = unit {
                    prop_assert!(stage.has(Unit::Layer(Side::Decoder, layer)));
                }
            }
            for &(unit, placement) in &stage.remote {
                remote.push(unit);
                prop_assert_eq!(map.get(unit), Some(placement));
                prop_assert!(placement.run_on != stage.run_on);
                let Unit::Expert { layer, .. } = unit else {
                    panic!("{unit} is no expert");
                };
                prop_assert!(stage.has(Unit::Layer(Side::Decoder, layer)));
            }
        }
        for pair in stages.windows(2) {
            prop_assert!(pair[0].run_on != pair[1].run_on);
        }
        let mut order = map.iter().map(|(unit, _)| unit);
        let is_remote = |unit: &Unit| remote.contains(unit);
        let expected: Vec<_> = order.by_ref().filter(|unit| !is_remote(unit)).collect();
        prop_assert_eq!(&in_stages, &expected);
        prop_assert_eq!(in_stages.len() + remote.len(), map.iter().count());
    }
}

/// Units of each stage, as text.
fn printed(map: &DeviceMap) -> Vec<String> {
    let names = |units: &mut dyn Iterator<Item = Unit>| {
        let names: Vec<_> = units.map(|unit| unit.to_string()).collect();
        names.join(", ")
    };
    let stages = map.stages().unwrap();
    let stages = stages.iter().map(|stage| {
        let own = names(&mut stage.units.iter().map(|&(unit, _)| unit));
        let remote = names(&mut stage.remote.iter().map(|&(unit, _)| unit));
        let beside = match remote.is_empty() {
            true => String::new(),
            false => format!(" beside {remote}"),
        };
        format!("{}: {own}{beside}", stage.run_on)
    });
    stages.collect()
}

fn of_map(skeleton: &Skeleton, json: Value) -> Vec<String> {
    let stored = all_as(skeleton, DType::BF16);
    let mut request = request(skeleton, &stored);
    request.budgets = budgets(&[GB, GB], GB, Some(GB));
    request.strategy = json.to_string().parse().unwrap();
    request.offload = Offload::Compute;
    printed(&fits(&request).map)
}

#[test]
fn a_tied_head_after_layers_on_another_device_is_a_stage_of_its_own() {
    let stages = of_map(
        &llama(3, true),
        json!({"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "model.layers.2": 1, "model.norm": 1}),
    );
    let expected = [
        "GPU 0: embedding, layer 0",
        "GPU 1: layer 1, layer 2, final norm",
        "GPU 0: head",
    ];
    assert_eq!(stages, expected);
}

#[test]
fn experts_on_the_cpu_are_beside_the_stage_of_their_layer() {
    let experts = "model.layers.1.block_sparse_moe.experts";
    let stages = of_map(
        &mixtral(2, 3),
        json!({
            "model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1.input_layernorm": 0,
            "model.layers.1.self_attn": 0, "model.layers.1.post_attention_layernorm": 0,
            "model.layers.1.block_sparse_moe.gate": 0, format!("{experts}.0"): "cpu", format!("{experts}.1"): 0,
            format!("{experts}.2"): "disk", "model.norm": "cpu", "lm_head": "cpu"
        }),
    );
    let expected = [
        "GPU 0: embedding, layer 0, expert 0 of layer 0, expert 1 of layer 0, expert 2 of layer 0, layer 1, \
         expert 1 of layer 1 beside expert 0 of layer 1, expert 2 of layer 1",
        "CPU: final norm, head",
    ];
    assert_eq!(stages, expected);
}

#[test]
fn an_encoder_is_cut_as_layers_are() {
    let stages = of_map(
        &t5(2),
        json!({"shared": 0, "encoder.block.0": 0, "encoder.block.1": 1, "encoder.final_layer_norm": 1, "decoder": "cpu"}),
    );
    let expected = [
        "GPU 0: embedding, encoder layer 0",
        "GPU 1: encoder layer 1, encoder's final norm",
        "CPU: layer 0, layer 1, final norm",
        "GPU 0: head",
    ];
    assert_eq!(stages, expected);
}

#[test]
fn a_tied_head_away_from_its_table_is_refused() {
    let skeleton = llama(1, true);
    let units = Units::of(&skeleton.spec);
    let on = |run_on: RunOn| Placement {
        home: run_on.memory(),
        run_on,
    };
    let mut placements = vec![on(RunOn::Cpu); units.list().len()];
    placements[units.idx(Unit::Head)] = on(RunOn::Gpu(0));
    let refused = DeviceMap::new(&units, true, &placements).stages();
    let refused = refused.unwrap_err().to_string();
    assert_eq!(
        refused,
        "the device map parts `head` from `embedding`, whose table it uses; put both on one device"
    );
    // A head of its own may be anywhere.
    assert_eq!(
        printed(&DeviceMap::new(&units, false, &placements)).len(),
        2
    );
}

#[test]
fn what_is_on_one_device_is_one_stage() {
    for skeleton in models() {
        let map = DeviceMap::on_one(&skeleton.spec, RunOn::Gpu(3));
        let stages = map.stages().unwrap();
        assert_eq!(stages.len(), 1);
        assert_eq!(stages[0].units.len(), map.iter().count());
        assert!(
            stages[0]
                .units
                .iter()
                .all(|&(_, home)| home == Home::Gpu(3))
        );
    }
}
