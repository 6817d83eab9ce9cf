//! Weights in a GPU's memory, in RAM and on disk: what it computes is the same.

use llm_quant::Code;

use super::*;

/// Homes of units that a device computes with: in memory of its own, in RAM and on disk, in a mixture by number, an expert's
/// beside its layer's; the embedding and the head in any.
fn mixed(chain: &[Unit], unit: Unit, mixture: usize) -> Value {
    let homes = [json!(0), json!("cpu"), json!("disk")];
    let at = at(chain, unit);
    let expert = match unit {
        Unit::Expert { expert, .. } => 1 + expert,
        Unit::Embedding
        | Unit::PerLayerTable
        | Unit::Layer(..)
        | Unit::FinalNorm(_)
        | Unit::Head => 0,
    };
    let home = match mixture {
        0..3 => mixture,
        3 => (at + expert) % 3,
        4 => (2 * at + expert + 1) % 3,
        // Nothing on disk, nothing in RAM.
        5 => (at + expert) % 2,
        _ => (at + expert) % 2 * 2,
    };
    homes[home].clone()
}

/// What is computed with is the same, wherever it rests: in a GPU's memory, in RAM or on disk.
fn check_mixtures(case: &Case<'_>, gpu: Kind, mixtures: std::ops::Range<usize>, whole: &Whole) {
    let chain = chain(case.model);
    for mixture in mixtures {
        // Something is on the GPU, or no device would be one.
        let home = |unit| match at(&chain, unit) {
            at if at + 2 == chain.len() && mixture > 0 => json!(0),
            _ => mixed(&chain, unit, mixture),
        };
        case.check(&format!("mixture {mixture}"), &home, [gpu, R, C], whole);
    }
}

/// The device that brings what it computes with.
fn streamed<'a>(case: &Case<'a>) -> Case<'a> {
    Case {
        offload: Offload::Stream,
        ..*case
    }
}

#[test]
fn every_model_computes_the_same_on_a_gpu_wherever_its_weights_rest() {
    for name in all_models() {
        with_model(&name, None, |case, whole| {
            check_mixtures(&streamed(case), R, 0..7, whole);
            check_mixtures(&streamed(case), C, 3..4, whole);
        });
    }
}

#[test]
fn quantized_weights_compute_the_same_on_a_gpu_wherever_they_rest() {
    let four_bit = QuantConfig::new(LoadIn::FourBit);
    let quants = [
        QuantConfig::new(LoadIn::EightBit),
        QuantConfig {
            llm_int8_skip_modules: Some(Vec::new()),
            ..QuantConfig::new(LoadIn::EightBit)
        },
        QuantConfig {
            bnb_4bit_use_double_quant: true,
            bnb_4bit_quant_type: Code::Nf4,
            ..four_bit.clone()
        },
        four_bit,
    ];
    for name in FAMILIES {
        for quant in &quants {
            with_model(name, Some(quant), |case, whole| {
                check_mixtures(&streamed(case), R, 1..7, whole);
            });
        }
    }
}

#[test]
fn a_gpu_that_puts_work_off_waits_for_what_is_brought() {
    for name in [
        "gpt2",
        "llama",
        "llama3-rope-tied",
        "opt-350m-style",
        "qwen3-moe-mixed",
        "t5-flan-style",
    ] {
        with_model(name, None, |case, whole| {
            for seed in 0..20 {
                check_mixtures(&streamed(case), D(seed), 1..7, whole);
            }
        });
    }
}

#[test]
fn a_forgotten_wait_for_streamed_weights_shows() {
    with_model("llama", None, |case, whole| {
        let (case, chain) = (streamed(case), chain(case.model));
        let shows = |seed, fault, home: &dyn Fn(usize) -> Value| {
            // More units than staging places, and one that makes the device a GPU.
            let home = |unit| match at(&chain, unit) {
                0 => json!(0),
                at => home(at),
            };
            let kinds = kinds([Kind::Faulty(seed, fault), R, R]);
            let plan = case.plan(&home, &kinds);
            let mut session = case.load(&plan.map, &kinds).unwrap();
            // Garbage may be no numbers at all.
            let found = session.prefill(0, &whole.prompt).map(<[f32]>::to_vec);
            let n_vocab = case.model.spec().vocab;
            found.map_or(true, |logits| logits != whole.logits[0][..n_vocab])
        };
        let homes: [(&str, &dyn Fn(usize) -> Value); 3] = [
            ("disk", &|_| json!("disk")),
            ("RAM", &|_| json!("cpu")),
            ("both", &|at| [json!("disk"), json!("cpu")][at % 2].clone()),
        ];
        for fault in Fault::ALL {
            for (rest, home) in homes {
                // A buffer gets another unit only where more of them are on disk than there are buffers.
                if fault == Fault::FillBeforeBring && rest != "disk" {
                    continue;
                }
                let n_shown = (0..20).filter(|&seed| shows(seed, fault, home)).count();
                assert!(
                    n_shown > 0,
                    "{fault:?} from {rest} shows with none of 20 seeds"
                );
            }
        }
    });
}
