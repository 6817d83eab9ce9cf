//! Whole models on the first GPU, and on emulated ones that load each of the kernels' targets: the reference libraries'
//! logits and ids, and memory as it was planned.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails where it meets the unexpected, and says what it skips"
)]

#[path = "cuda/offload.rs"]
mod offload;

use std::collections::BTreeMap;
use std::env;
use std::sync::Arc;
use std::time::Instant;

use cuda_emulator::harness::{Machine, report};
use llm_cuda::{Compute, Cuda, probe};
use llm_plan::{
    Budgets, Costs, DEFAULT_SLICE, Home, Offload, Request, RunOn, StoredTensor, Strategy, Term,
    Verdict, WeightDType, plan,
};
use llm_quant::{Code, LoadIn, QuantConfig, Scalar};
use llm_runtime::{
    BoundModel, CostsOf, Device, Interrupt, Limits, LoadOptions, RuntimeError, Session, load_on,
};
use llm_tensor::{Bytes, DType};
use llm_tests::{
    GOLDENS, argmax, check_golden, continue_by_ids, fixture, golden, relative_error, tensor,
};

/// One of each kind of attention, norm, position, feed-forward and head, and what only one has.
const MODELS: [&str; 35] = [
    "bloom",
    "deepseek-v3",
    "deepseek-v32-sparse",
    "deepseek-v4",
    "falcon-40b-style",
    "falcon-7b-style",
    "falcon-h1",
    "gemma-biases",
    "gemma2",
    "gemma3",
    "gemma3n",
    "glm4-moe-groups",
    "gpt-neox",
    "gpt-oss",
    "gpt2",
    "gptj",
    "granite4",
    "kimi-linear",
    "lfm2",
    "llama",
    "llama-rope-dynamic",
    "llama3-rope-tied",
    "llama4",
    "mistral-sliding",
    "mixtral",
    "nemotron-h",
    "nemotron-h-moe-latent",
    "opt-350m-style",
    "phi3-longrope-short",
    "phimoe",
    "qwen2",
    "qwen3-5",
    "qwen3-biases",
    "qwen3-moe-mixed",
    "t5-buckets",
];

fn first() -> Arc<Cuda> {
    Arc::new(Cuda::new(0).unwrap())
}

fn on_the_card(check: fn(&Arc<Cuda>)) {
    match probe() {
        Ok(_) => check(&first()),
        Err(none) if env::var_os("LLM_RUN_REQUIRE_GPU").is_some() => panic!("{none}"),
        Err(none) => println!("skipped: {none}"),
    }
}

fn emulated(check: fn(&Arc<Cuda>)) {
    // Compute capabilities, times ten, whose PTX differs.
    for target in [75, 80] {
        Machine::new().compute(target).inside(|| check(&first()));
    }
}

macro_rules! on_gpus {
    ($($check:ident,)*) => {
        /// On hardware; skipped where there is none, unless `LLM_RUN_REQUIRE_GPU` is set.
        mod on_the_card {
            $(#[test] fn $check() { super::on_the_card(super::$check) })*
        }

        mod emulated {
            $(#[test] fn $check() { super::emulated(super::$check) })*
        }
    };
}

on_gpus! {
    goldens,
    pieces_and_sequences,
    quantized,
    memory,
}

/// A model on the GPU alone, for passes of up to `n_tokens` rows of two sequences.
fn on_gpu(
    cuda: &Arc<Cuda>,
    model: &BoundModel,
    (dtype, quant): (WeightDType, Option<&QuantConfig>),
    n_tokens: usize,
) -> Session {
    let options = LoadOptions {
        dtype,
        quant,
        encoder: &Scalar,
        limits: limits(model, n_tokens),
        offload: None,
    };
    let devices = [(RunOn::Gpu(0), cuda as _)];
    load_on(
        model,
        &devices,
        &options,
        &Interrupt::default(),
        &mut |_| (),
    )
    .unwrap()
}

fn limits(model: &BoundModel, n_tokens: usize) -> Limits {
    Limits {
        n_sequences: 2,
        context: model.spec().context,
        n_tokens,
        n_logits: 7,
    }
}

const F32: (WeightDType, Option<&QuantConfig>) = (WeightDType::As(DType::F32), None);

fn score(session: &mut Session, ids: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    let collect = |_, logits: &[f32]| -> Result<(), Box<RuntimeError>> {
        all.extend_from_slice(logits);
        Ok(())
    };
    session.score(0, ids, collect).unwrap();
    all
}

fn continue_greedily(session: &mut Session, ids: &[u32], n: usize) -> Vec<u32> {
    let mut next = argmax(session.prefill(0, ids).unwrap());
    let mut generated = vec![next];
    while generated.len() < n {
        next = argmax(session.step(&[(0, next)]).unwrap());
        generated.push(next);
    }
    generated
}

/// Logits of a prompt, and its greedy continuation.
fn goldens(cuda: &Arc<Cuda>) {
    for name in MODELS {
        let (folder, expected) = golden(name);
        let model = BoundModel::open(&folder).unwrap();
        let mut session = on_gpu(cuda, &model, F32, 64);
        let prompt = &expected.input_ids;
        let logits = match &expected.decoder_input_ids {
            None => score(&mut session, prompt),
            Some(ids) => {
                session.encode(0, prompt).unwrap();
                score(&mut session, ids)
            }
        };
        let error = relative_error(&logits, &expected.logits);
        println!("{name}: {error:.1e}");
        assert!(error <= 2e-4, "{name} is off by {error:.1e}");
        let n_new = expected.generated.len();
        for continued in [continue_greedily, continue_by_ids] {
            session.truncate(0, 0);
            let generated = continued(&mut session, prompt, n_new);
            assert_eq!(generated, expected.generated, "{name}");
        }
    }
}

/// What a layer's experts take to compute a token is no more kernels where there are more experts.
#[test]
fn experts_compute_together() {
    Machine::new().inside(|| {
        let cuda = first();
        let gated = [("experts_up_f32", 1), ("experts_down_f32", 1)];
        // Where gates are clamped gate and up are sums as down's are, of one matrix or two.
        let clamped = [
            ("gather_rows", 1),
            ("experts_down_f32", 2),
            ("experts_gate_biased", 1),
            ("experts_bias", 1),
        ];
        let of_two = [
            ("gather_rows", 1),
            ("experts_down_f32", 3),
            ("experts_gate", 1),
        ];
        for (name, kernels) in [
            ("mixtral", &gated[..]),
            ("qwen3-moe", &gated),
            ("gpt-oss", &clamped),
            ("deepseek-v4", &of_two),
        ] {
            let (folder, expected) = golden(name);
            let model = BoundModel::open(&folder).unwrap();
            let spec = model.spec();
            let layers = &spec.decoder.layers;
            let with_experts = layers.iter().filter(|layer| layer.mlp.experts().is_some());
            let n_layers = with_experts.count() as u64;
            let mut session = on_gpu(&cuda, &model, F32, 64);
            session.prefill(0, &expected.input_ids).unwrap();
            let launches = || {
                let kernels = report().unwrap().kernels.into_iter();
                kernels
                    .map(|(name, of)| (name, of.launches))
                    .collect::<BTreeMap<_, _>>()
            };
            let before = launches();
            session.step(&[(0, expected.generated[0])]).unwrap();
            let after = launches();
            let n = |kernel: &str| {
                let of = |launches: &BTreeMap<String, u64>| launches.get(kernel).copied();
                of(&after).unwrap_or(0) - of(&before).unwrap_or(0)
            };
            let around = [("routing_few", 1), ("routing_combine", 1)];
            for (kernel, n_of_layer) in kernels.iter().chain(&around) {
                // The head gathers rows, too.
                let beside = u64::from(*kernel == "gather_rows");
                assert_eq!(
                    n(kernel),
                    n_layers * n_of_layer + beside,
                    "{name}: {kernel}"
                );
            }
            assert_eq!(n("routing_gather") + n("routing_scatter"), 0, "{name}");
        }
    });
}

/// Seconds on a real GPU.
#[test]
#[ignore = "takes an emulated GPU long"]
fn every_golden_on_the_card() {
    on_the_card(every_golden);
}

/// All of them, in every way that other devices are held to. `LLM_RUN_GOLDENS` names some, separated by commas.
fn every_golden(cuda: &Arc<Cuda>) {
    let named = env::var("LLM_RUN_GOLDENS").ok();
    let is_named = |name: &&str| {
        let named = named.as_deref();
        named.is_none_or(|named| named.split(',').any(|of| of == *name))
    };
    for name in GOLDENS.iter().filter(|name| is_named(name)) {
        if !fixture("models").join(name).exists() {
            println!("{name}: left out of the bundle");
            continue;
        }
        let begin = Instant::now();
        check_golden(name, &|| Box::new(Arc::clone(cuda)) as Box<dyn Device>);
        println!("{name}: {:.1} s", begin.elapsed().as_secs_f64());
    }
    assert!(cuda.usage().values().all(|left| left.get() == 0));
}

/// Prompts in pieces, and two sequences in a pass.
fn pieces_and_sequences(cuda: &Arc<Cuda>) {
    for name in ["llama", "gemma2", "bloom"] {
        let (folder, expected) = golden(name);
        let model = BoundModel::open(&folder).unwrap();
        for n_tokens in [4, 1] {
            let mut session = on_gpu(cuda, &model, F32, n_tokens);
            let logits = score(&mut session, &expected.input_ids);
            let error = relative_error(&logits, &expected.logits);
            assert!(error <= 2e-4, "{name} by {n_tokens} is off by {error:.1e}");
        }
        let mut session = on_gpu(cuda, &model, F32, 64);
        let other: Vec<u32> = expected.input_ids.iter().rev().take(5).copied().collect();
        session.prefill(0, &expected.input_ids).unwrap();
        session.prefill(1, &other).unwrap();
        let lengths = [session.len(0), session.len(1)];
        let (a, b) = (expected.generated[0], other[0]);
        let together = session.step(&[(1, b), (0, a)]).unwrap().to_vec();
        for (sequence, len) in lengths.into_iter().enumerate() {
            assert_eq!(session.truncate(sequence, len), len);
        }
        let mut alone = session.step(&[(1, b)]).unwrap().to_vec();
        alone.extend_from_slice(session.step(&[(0, a)]).unwrap());
        let error = relative_error(&together, &alone);
        assert!(error <= 2e-4, "{name}: two together are off by {error:.1e}");
    }
}

/// As the libraries saved them, and quantized here from the same weights. 4-bit weights are exact, so that only sums differ;
/// with 8-bit weights a rounding in the activations may flip a code.
fn quantized(cuda: &Arc<Cuda>) {
    for (name, logits, tolerance) in [
        ("llama-nf4-double", "dequantized_logits", 1e-3),
        ("phi3-fp4", "dequantized_logits", 1e-3),
        ("t5-nf4", "dequantized_logits", 1e-3),
        ("llama-int8", "float32_logits", 1e-2),
        ("gpt2-int8", "float32_logits", 1e-2),
        ("bloom-int8-threshold-skip", "float32_logits", 1e-2),
    ] {
        let folder = fixture("quantized").join(name);
        let expected = folder.join("expected.safetensors");
        let expected = llm_checkpoint::Checkpoint::open(&expected).unwrap();
        let ids = |name: &str| -> Vec<u32> {
            let ids = tensor::<i64>(&expected, name, DType::I64);
            ids.into_iter().map(|id| id as u32).collect()
        };
        let saved = BoundModel::open(&folder).unwrap();
        let dense = BoundModel::open(&folder.join("dense")).unwrap();
        for (how, model, quant) in [
            ("as saved", &saved, None),
            (
                "quantized here",
                &dense,
                saved.quantization().unwrap().into(),
            ),
        ] {
            let as_f32 = (WeightDType::As(DType::F32), quant);
            let mut session = on_gpu(cuda, model, as_f32, 64);
            let mut input = ids("input_ids");
            if expected.get("decoder_input_ids").is_some() {
                session.encode(0, &input).unwrap();
                input = ids("decoder_input_ids");
            }
            let found = score(&mut session, &input);
            let error = relative_error(&found, &tensor(&expected, logits, DType::F32));
            println!("{name} {how}: {error:.1e}");
            assert!(error <= tolerance, "{name} {how} is off by {error:.1e}");
        }
    }
}

#[test]
fn half_on_the_card() {
    on_the_card(half);
}

#[test]
fn half_emulated() {
    Machine::new().inside(|| half(&first()));
}

/// In 16 bits, whatever the weights are in, against the same weights multiplied as f32 would; and 4-bit weights against what the
/// libraries saved. Not T5, whose scores have no scale: softmax makes much of every rounding of theirs.
fn half(cuda: &Arc<Cuda>) {
    let half = Arc::new(Cuda::computing_in(0, Compute::Half).unwrap());
    let nf4 = QuantConfig {
        bnb_4bit_quant_type: Code::Nf4,
        ..QuantConfig::new(LoadIn::FourBit)
    };
    for name in [
        "bloom",
        "falcon-7b-style",
        "gemma2",
        "gpt2",
        "llama",
        "opt-350m-style",
        "qwen3-moe-mixed",
    ] {
        let (folder, expected) = golden(name);
        let model = BoundModel::open(&folder).unwrap();
        for (dtype, quant) in [
            (DType::F16, None),
            (DType::BF16, None),
            (DType::F16, Some(&nf4)),
        ] {
            let how = (WeightDType::As(dtype), quant);
            let [exact, rounded] = [cuda, &half].map(|device| {
                let mut session = on_gpu(device, &model, how, 64);
                let mut logits = score(&mut session, &expected.input_ids);
                // Few rows go through other kernels.
                for &id in expected.generated.iter().take(2) {
                    logits.extend_from_slice(session.step(&[(0, id)]).unwrap());
                }
                logits
            });
            let error = relative_error(&rounded, &exact);
            let is_4bit = quant.is_some();
            println!("{name} in {dtype}, 4 bits {is_4bit}: {error:.1e}");
            assert!(
                error <= 2e-3,
                "{name} in {dtype}, 4 bits {is_4bit}, is off by {error:.1e}"
            );
            // Another result is by another kernel.
            assert_ne!(rounded, exact, "{name} in {dtype}");
        }
    }
}

/// What the plan promised is what the driver was asked for, purpose by purpose.
fn memory(cuda: &Arc<Cuda>) {
    let int8 = QuantConfig::new(LoadIn::EightBit);
    let double = QuantConfig {
        bnb_4bit_quant_type: Code::Nf4,
        bnb_4bit_use_double_quant: true,
        ..QuantConfig::new(LoadIn::FourBit)
    };
    let bf16 = WeightDType::As(DType::BF16);
    let names = [
        "llama",
        "qwen3-moe-mixed",
        "t5-flan-style",
        "bloom",
        "deepseek-v32-sparse",
        "deepseek-v4",
    ];
    for name in names {
        let model = BoundModel::open(&fixture("models").join(name)).unwrap();
        for (dtype, quant) in [
            (WeightDType::Auto, None),
            (bf16, Some(&int8)),
            (bf16, Some(&double)),
        ] {
            let planned = planned(&model, cuda, (dtype, quant));
            let session = on_gpu(cuda, &model, (dtype, quant), N_TOKENS);
            let usage = cuda.usage();
            let used = |purposes: &[&str]| -> Bytes {
                let bytes = purposes.iter().filter_map(|purpose| usage.get(purpose));
                bytes.copied().sum()
            };
            let found = [
                used(&["weights"]),
                used(&["keys and values"]),
                used(&["activations", "lists", "routes"]),
                used(&["scratch memory"]),
            ];
            assert_eq!(planned, found, "{name} {dtype:?} {quant:?}");
            if let Some(report) = report() {
                let all: Bytes = planned.into_iter().sum();
                assert_eq!(Bytes::new(report.devices[0].asked), all, "{name}");
            }
            drop(session);
            assert!(cuda.usage().values().all(|left| left.get() == 0));
        }
    }
}

/// Weights, keys and values, activations, and scratch memory.
fn planned(
    model: &BoundModel,
    cuda: &Cuda,
    (dtype, quant): (WeightDType, Option<&QuantConfig>),
) -> [Bytes; 4] {
    let stored: Vec<StoredTensor> = model.tensors().map(|bound| bound.stored()).collect();
    let costs = CostsOf(cuda);
    let plenty = Bytes::new(1 << 40);
    let request = Request {
        skeleton: model.skeleton(),
        stored: &stored,
        encodings: model.encodings(dtype, quant).unwrap(),
        kv_dtype: None,
        limits: limits(model, N_TOKENS),
        load_piece: Bytes::mib(1),
        slice: DEFAULT_SLICE,
        budgets: Budgets {
            ram: plenty,
            gpus: [(0, plenty)].into(),
            ..Budgets::default()
        },
        strategy: Strategy::Auto,
        offload: Offload::Stream,
        costs: Costs {
            cpu: &costs,
            gpu: &costs,
            program: Bytes::ZERO,
        },
    };
    let plan = match plan(&request).unwrap() {
        Verdict::Fits(plan) => plan,
        refused => panic!("{refused}"),
    };
    let on_gpu = plan.estimate.memory(Home::Gpu(0)).unwrap();
    let terms = |terms: &[Term]| terms.iter().map(|&term| on_gpu.terms.get(term)).sum();
    [
        terms(&[Term::Weights, Term::QuantizationStatistics]),
        terms(&[Term::KvCache]),
        terms(&[Term::Activations]),
        terms(&[Term::Workspace]),
    ]
}

const N_TOKENS: usize = 13;
