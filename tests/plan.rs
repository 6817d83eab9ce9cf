//! Allocations are as planned, to the byte: for every small model, in every encoding, on the CPU.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llm_cpu::{Cpu, CpuOptions};
use llm_plan::{
    Budgets, Costs, DEFAULT_SLICE, Home, MemoryEstimate, Offload, Request, StoredTensor, Strategy,
    Term, TermBytes, UnitUse, Verdict, WeightDType, plan,
};
use llm_quant::{Code, LoadIn, QuantConfig, Scalar};
use llm_runtime::{Allocated, BoundModel, CostsOf, Limits, LoadOptions, Session, load};
use llm_tensor::{Bytes, DType};
use llm_tests::{Packed, Written, fixture, published};

#[test]
fn golden_models_take_what_was_planned_in_every_encoding() {
    let models = entries("models", |path| path.join("config.json").is_file());
    assert!(models.len() >= 46, "{} models", models.len());
    for path in &models {
        for (name, dtype, quant) in encodings() {
            check(path, name, dtype, quant.as_ref());
        }
    }
}

#[test]
fn quantized_checkpoints_take_what_was_planned() {
    let models = entries("quantized", |path| path.join("config.json").is_file());
    assert_eq!(models.len(), 7);
    for path in &models {
        for dtype in [WeightDType::Auto, WeightDType::As(DType::F32)] {
            check(path, "as saved", dtype, None);
        }
    }
}

#[test]
fn gguf_models_take_what_was_planned() {
    let models = entries("gguf-models", |path| {
        path.extension().is_some_and(|e| e == "gguf")
    });
    assert!(models.len() >= 11, "{} models", models.len());
    let nf4 = QuantConfig::new(LoadIn::FourBit);
    for path in &models {
        check(path, "auto", WeightDType::Auto, None);
        check(path, "nf4", WeightDType::Auto, Some(&nf4));
    }
}

#[test]
fn models_in_blocks_take_what_their_files_do() {
    let nf4 = QuantConfig::new(LoadIn::FourBit);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packed.gguf");
    for packed in Packed::ALL {
        packed.write(&path, Written::Blocks);
        check(&path, "auto", WeightDType::Auto, None);
        check(&path, "f32", WeightDType::As(DType::F32), None);
        check(&path, "nf4", WeightDType::Auto, Some(&nf4));

        let model = BoundModel::open(&path).unwrap();
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        let limits = Limits {
            n_sequences: 1,
            context: 8,
            n_tokens: 4,
            n_logits: 1,
        };
        let planned = planned(&model, &cpu, (WeightDType::Auto, None), limits);
        let stored = model.tensors().map(|bound| bound.tensor.stored_bytes());
        let weights = planned.total(Term::Weights) + planned.total(Term::QuantizationStatistics);
        assert_eq!(weights, stored.sum(), "{packed:?}");
    }
}

#[test]
fn published_formats_take_what_was_planned() {
    let nf4 = QuantConfig::new(LoadIn::FourBit);
    for path in published() {
        check(&path, "auto", WeightDType::Auto, None);
        check(&path, "f32", WeightDType::As(DType::F32), None);
        check(&path, "nf4", WeightDType::Auto, Some(&nf4));
    }
}

/// Encodings of weights.
fn encodings() -> Vec<(&'static str, WeightDType, Option<QuantConfig>)> {
    let int8 = QuantConfig::new(LoadIn::EightBit);
    let four_bit = QuantConfig::new(LoadIn::FourBit);
    let dense = |dtype: DType| (dtype.name(), WeightDType::As(dtype), None);
    let quantized = |name, quant| (name, WeightDType::As(DType::BF16), Some(quant));
    vec![
        ("auto", WeightDType::Auto, None),
        dense(DType::F32),
        dense(DType::F16),
        dense(DType::BF16),
        quantized("int8", int8.clone()),
        quantized(
            "int8 per use",
            QuantConfig {
                llm_int8_has_fp16_weight: true,
                ..int8.clone()
            },
        ),
        quantized(
            "int8 for GPUs alone",
            QuantConfig {
                llm_int8_enable_fp32_cpu_offload: true,
                ..int8.clone()
            },
        ),
        quantized(
            "int8 with the head",
            QuantConfig {
                llm_int8_skip_modules: Some(Vec::new()),
                ..int8
            },
        ),
        quantized(
            "nf4",
            QuantConfig {
                bnb_4bit_quant_type: Code::Nf4,
                ..four_bit.clone()
            },
        ),
        quantized(
            "nf4 double",
            QuantConfig {
                bnb_4bit_quant_type: Code::Nf4,
                bnb_4bit_use_double_quant: true,
                ..four_bit.clone()
            },
        ),
        quantized(
            "fp4",
            QuantConfig {
                bnb_4bit_quant_type: Code::Fp4,
                ..four_bit
            },
        ),
    ]
}

fn check(path: &Path, name: &str, dtype: WeightDType, quant: Option<&QuantConfig>) {
    let model = BoundModel::open(path).unwrap();
    let cpu = Cpu::new(CpuOptions {
        threads: NonZeroUsize::new(2),
        isa: None,
        ..CpuOptions::default()
    })
    .unwrap();
    let limits = Limits {
        n_sequences: 2,
        context: model.spec().context.min(40),
        n_tokens: 13,
        n_logits: 3,
    };
    let planned = planned(&model, &cpu, (dtype, quant), limits);
    let allocated = loaded(&model, cpu, (dtype, quant), limits).memory();

    let path = path.display();
    let ram = planned.memory(Home::Ram).unwrap();
    assert_eq!(planned.memories(), [*ram], "{path} {name}");
    for term in TERMS {
        let (planned, found) = (ram.terms.get(term), allocated.terms.get(term));
        assert_eq!(planned, found, "{path} {name}: {term}");
    }
    let others = |(term, _): &(Term, Bytes)| !TERMS.contains(term);
    assert_eq!(allocated.terms.iter().find(others), None);
    // Units that have nothing of their own, as a head that is tied, are planned and not loaded.
    let planned: BTreeMap<_, _> = planned.units().iter().map(of_unit).collect();
    let allocated = by_term(&allocated);
    for (unit, planned) in &planned {
        let found = allocated.get(unit).copied().unwrap_or_default();
        assert_eq!(*planned, found, "{path} {name}: {unit}");
    }
    assert!(
        allocated.keys().all(|unit| planned.contains_key(unit)),
        "{path} {name}: units"
    );
}

/// Everything that is held from the load to the end.
const TERMS: [Term; 5] = [
    Term::Weights,
    Term::QuantizationStatistics,
    Term::KvCache,
    Term::Activations,
    Term::Workspace,
];

/// A unit's own: weights, statistics, keys and values.
type Own = [Bytes; 3];

fn of_unit(unit: &UnitUse) -> (String, Own) {
    let own = [unit.weights, unit.quantization_statistics, unit.kv_cache];
    (unit.unit.to_string(), own)
}

fn by_term(allocated: &Allocated) -> BTreeMap<String, Own> {
    let own = |terms: &TermBytes| [TERMS[0], TERMS[1], TERMS[2]].map(|term| terms.get(term));
    let units = allocated.units.iter();
    units
        .map(|(unit, terms)| (unit.to_string(), own(terms)))
        .collect()
}

fn planned(
    model: &BoundModel,
    cpu: &Cpu,
    (dtype, quant): (WeightDType, Option<&QuantConfig>),
    limits: Limits,
) -> MemoryEstimate {
    let stored: Vec<StoredTensor> = model.tensors().map(|bound| bound.stored()).collect();
    let costs = CostsOf(cpu);
    let request = Request {
        skeleton: model.skeleton(),
        stored: &stored,
        encodings: model.encodings(dtype, quant).unwrap(),
        kv_dtype: None,
        limits,
        load_piece: Bytes::mib(1),
        slice: DEFAULT_SLICE,
        budgets: Budgets {
            ram: Bytes::new(1 << 40),
            ..Budgets::default()
        },
        strategy: Strategy::Cpu,
        offload: Offload::Stream,
        costs: Costs {
            cpu: &costs,
            gpu: &costs,
            program: Bytes::ZERO,
        },
    };
    match plan(&request).unwrap() {
        Verdict::Fits(plan) => plan.estimate,
        refused => panic!("{refused}"),
    }
}

fn loaded(
    model: &BoundModel,
    cpu: Cpu,
    (dtype, quant): (WeightDType, Option<&QuantConfig>),
    limits: Limits,
) -> Session {
    let options = LoadOptions {
        dtype,
        quant,
        encoder: &Scalar,
        limits,
        offload: None,
    };
    load(model, &Arc::new(cpu), &options, &mut |_| ()).unwrap()
}

/// Models in a folder of fixtures, in order.
fn entries(folder: &str, is_model: impl Fn(&PathBuf) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixture(folder)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(is_model);
    paths.sort();
    paths
}
