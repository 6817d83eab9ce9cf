//! Sizes of real models, against what was counted and measured elsewhere.

use llm_arch::{MlpSpec, Unit};
use llm_quant::{Code, LoadIn, QuantConfig};

use super::*;

#[test]
fn parameters_are_those_that_were_counted() {
    let footprints = read(&fixtures().join("footprints.json"));
    assert_eq!(footprints.len(), 7);
    for (name, expected) in footprints {
        let skeleton = real(&name);
        assert_eq!(
            Value::from(skeleton.n_parameters()),
            expected["parameters"],
            "{name}"
        );
        let stored = all_as(&skeleton, DType::BF16);
        let estimate = fits(&request(&skeleton, &stored)).estimate;
        // What is expanded to a table is no weight any more: two of 32 buckets and 64 heads.
        let tables = if name == "google/flan-t5-xxl" {
            2 * 32 * 64
        } else {
            0
        };
        let n_parameters = skeleton.n_parameters() - tables;
        assert_eq!(
            estimate.total(Term::Weights).get(),
            2 * n_parameters,
            "{name}"
        );
    }
}

#[test]
fn gpt2_in_int8_is_what_the_reference_reports_without_its_masks() {
    let (skeleton, quant) = (real("gpt2"), QuantConfig::new(LoadIn::EightBit));
    let stored = all_as(&skeleton, DType::F32);
    let mut request = request(&skeleton, &stored);
    request.encodings.dtype = WeightDType::As(DType::F16);
    request.encodings.quant = Some(&quant);
    let estimate = fits(&request).estimate;
    let weights = estimate.total(Term::Weights).get();
    assert_eq!(weights, 163_944_960);
    // A scale for each output row of four matrices a layer.
    let rows = 12 * (3 * 768 + 768 + 4 * 768 + 768);
    assert_eq!(estimate.total(Term::QuantizationStatistics).get(), 4 * rows);
    // The reference leaves scales out, and counts for each layer a boolean causal mask and a constant that fills it.
    let buffers = 12 * (1024 * 1024 + 2);
    assert_eq!(weights + buffers, 176_527_896);
}

#[test]
fn phi_3_mini_takes_what_was_measured_on_a_gpu() {
    struct Case {
        dtype: DType,
        quant: Option<QuantConfig>,
        measured: u64,
    }
    let fp4 = QuantConfig {
        bnb_4bit_quant_type: Code::Fp4,
        ..QuantConfig::new(LoadIn::FourBit)
    };
    let cases = [
        Case {
            dtype: DType::F32,
            quant: None,
            measured: 14_890_594_304,
        },
        Case {
            dtype: DType::F16,
            quant: Some(QuantConfig::new(LoadIn::EightBit)),
            measured: 3_859_044_352,
        },
        Case {
            dtype: DType::F16,
            quant: Some(fp4),
            measured: 2_240_436_224,
        },
    ];
    let skeleton = real("microsoft/Phi-3-mini-4k-instruct");
    let stored = all_as(&skeleton, DType::BF16);
    for case in cases {
        let mut request = request(&skeleton, &stored);
        request.encodings.dtype = WeightDType::As(case.dtype);
        request.encodings.quant = case.quant.as_ref();
        request.budgets = budgets(&[80 * GB], 64 * GB, None);
        let plan = fits(&request);
        let without_head = plan
            .estimate
            .units()
            .iter()
            .filter(|u| u.unit != Unit::Head);
        let bytes: Bytes = without_head
            .map(|u| u.weights + u.quantization_statistics)
            .sum();
        let error = bytes.get() as f64 / case.measured as f64 - 1.0;
        assert!(error.abs() < 0.01, "{bytes}: {error}");
    }
}

#[test]
fn every_term_of_a_small_model_is_what_is_allocated() {
    let skeleton = llama(3, false);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.limits = Limits {
        n_sequences: 2,
        context: 50,
        n_tokens: 4,
        n_logits: 3,
    };
    let plan = fits(&request);
    let ram = *plan.estimate.memory(Home::Ram).unwrap();
    assert_eq!(plan.estimate.memories(), [ram]);
    // q 32, k and v 16 each, out 32, gate, up and down 96; two norms.
    let layer = (32 + 16 + 16 + 32 + 3 * 96) * 32 + 2 * 32;
    let weights = 2 * (200 * 32 + 3 * layer + 32 + 200 * 32);
    // Two kv heads of 8, keys and values, of 50 positions.
    let kv_cache = 3 * 2 * (2 * 2 * 8 * 50) * 2;
    // x, normed, delta; qkv, attended; gate and up, gated; angles.
    let row = 3 * 32 + 64 + 32 + 2 * 96 + 96 + 8;
    let head = 32 + 32 + 200;
    // Tokens and positions; each sequence's rows and its 4 blocks of 16 positions; rows of logits.
    let words = 2 * 4 + 2 * (4 + 4) + 3;
    // Logits once more as they are returned; positions, angles and frequencies.
    let host = 3 * 200 * 4 + 4 * (4 + 8 * 4) + 4 * 4;
    let expected = [
        (Term::Weights, weights),
        (Term::KvCache, kv_cache),
        (Term::Activations, 4 * (4 * row + 3 * head + words) + host),
        (Term::Workspace, 4 * 192 * 4),
    ];
    let found: Vec<_> = ram
        .terms
        .iter()
        .map(|(t, bytes)| (t, bytes.get()))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(ram.peak_at_load().get(), weights);
    assert_eq!(ram.needed(), ram.peak_in_generation());
    assert_eq!(
        plan.step.weights[0].1.get(),
        weights - 2 * 200 * 32,
        "no table"
    );
    assert_eq!(plan.kv_dtype, DType::BF16);
}

#[test]
fn windows_bound_caches_and_encoders_have_one_for_all_their_blocks() {
    let phi = real("microsoft/Phi-3-mini-4k-instruct");
    let stored = all_as(&phi, DType::BF16);
    let mut request_of_phi = request(&phi, &stored);
    request_of_phi.limits = Limits {
        context: 4096,
        n_tokens: 512,
        ..ONE_SEQUENCE
    };
    let plan = fits(&request_of_phi);
    let capacity = 2047 + 511;
    let kv = plan.estimate.total(Term::KvCache).get();
    assert_eq!(kv, 32 * 2 * 32 * 96 * capacity * 2);

    let model = t5(2);
    let stored = all_as(&model, DType::F32);
    let plan = fits(&request(&model, &stored));
    let cache = |positions: u64| 2 * 4 * 8 * positions * 4;
    // Each decoder layer's own and what it sees of the prompt; one more for the encoder.
    let kv = 2 * (cache(64) + cache(16)) + cache(16);
    assert_eq!(plan.estimate.total(Term::KvCache).get(), kv);
    assert_eq!(plan.estimate.encoder_kv_cache().get(), cache(16));
}

#[test]
fn a_load_holds_one_tensor_in_both_forms() {
    let skeleton = llama(2, false);
    let quant = QuantConfig::new(LoadIn::EightBit);
    struct Case {
        stored: DType,
        is_quantized: bool,
        on_gpu: bool,
        transient: u64,
    }
    let (table, matrix) = (200 * 32, 96 * 32);
    let cases = [
        // Used where it lies in the file.
        Case {
            stored: DType::BF16,
            is_quantized: false,
            on_gpu: false,
            transient: 0,
        },
        // Widened: the file's own pages.
        Case {
            stored: DType::F16,
            is_quantized: false,
            on_gpu: false,
            transient: 2 * table,
        },
        Case {
            stored: DType::BF16,
            is_quantized: true,
            on_gpu: false,
            transient: 2 * matrix,
        },
        Case {
            stored: DType::BF16,
            is_quantized: false,
            on_gpu: true,
            transient: 2 * table,
        },
        Case {
            stored: DType::F16,
            is_quantized: false,
            on_gpu: true,
            transient: 4 * table,
        },
    ];
    for case in cases {
        let stored = all_as(&skeleton, case.stored);
        let mut request = request(&skeleton, &stored);
        request.encodings.dtype = WeightDType::As(DType::BF16);
        request.encodings.quant = case.is_quantized.then_some(&quant);
        if case.on_gpu {
            request.budgets = budgets(&[GB], GB, None);
        }
        let plan = fits(&request);
        let found = plan.estimate.total(Term::LoadTransient).get();
        assert_eq!(found, case.transient, "{:?} {}", case.stored, case.on_gpu);
    }
}

/// As many slots as the largest mixtures of experts have.
fn largest() -> Skeleton {
    let mut config =
        read(&fixtures().join("configs/microsoft--Phi-3-mini-4k-instruct/config.json"));
    config.clear();
    config.extend(object(json!({
        "model_type": "qwen3_moe", "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 100,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 160000,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "num_experts": 384,
        "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "norm_topk_prob": true, "decoder_sparse_step": 1,
        "tie_word_embeddings": false
    })));
    from_config(&config).unwrap()
}

#[test]
fn a_hundred_layers_of_384_experts_are_planned() {
    let skeleton = largest();
    assert!(skeleton.slots.len() > 115_000);
    let stored = all_as(&skeleton, DType::BF16);
    let quant = QuantConfig::new(LoadIn::FourBit);
    let mut request = request(&skeleton, &stored);
    request.encodings.quant = Some(&quant);
    request.limits = Limits {
        context: 32768,
        n_tokens: 512,
        ..ONE_SEQUENCE
    };
    request.budgets = budgets(&[80 * GB], 500 * GB, Some(2000 * GB));
    let plan = fits(&request);
    assert_eq!(plan.map.tiers().to_string(), "GPU + RAM + disk");
    let is_expert = |unit| matches!(unit, Unit::Expert { .. });
    for (unit, place) in plan.map.iter() {
        assert!(is_expert(unit) || place.home == Home::Gpu(0), "{unit}");
    }
    let experts = skeleton
        .spec
        .decoder
        .layers
        .iter()
        .map(|layer| match layer.mlp {
            MlpSpec::Experts(experts) => experts.routing.n_experts,
            MlpSpec::Dense(_) | MlpSpec::Absent => 0,
        });
    assert_eq!(
        plan.map.iter().filter(|(unit, _)| is_expert(*unit)).count(),
        experts.sum::<usize>()
    );
}

/// Prints how long it takes: `cargo test --release -p llm-plan -- --ignored --nocapture`.
#[test]
#[ignore = "prints a time, which depends on the machine"]
fn time_of_the_largest() {
    let start = std::time::Instant::now();
    let skeleton = largest();
    println!("skeleton: {:?}", start.elapsed());
    let stored = all_as(&skeleton, DType::BF16);
    for (ram, disk) in [
        (1 << 50, None),
        (500 * GB, Some(4000 * GB)),
        (500 * GB, None),
    ] {
        let mut request = request(&skeleton, &stored);
        request.budgets = budgets(&[80 * GB], ram, disk);
        let start = std::time::Instant::now();
        let verdict = plan(&request).unwrap();
        println!("{verdict}\nplan: {:?}", start.elapsed());
        let start = std::time::Instant::now();
        let alternatives = alternatives(&request).unwrap();
        println!("{} alternatives: {:?}", alternatives.len(), start.elapsed());
        let start = std::time::Instant::now();
        let advice = advice(&request).unwrap();
        println!("{} changes: {:?}", advice.len(), start.elapsed());
        request.offload = fastest(speeds(1e12, 2e10, 1e11, 2e9));
        let start = std::time::Instant::now();
        plan(&request).unwrap();
        println!("fastest plan: {:?}", start.elapsed());
    }
}
