//! Checkpoints in GGUF's blocks: kept where the CPU computes, decoded where something else does or is asked for.

use llm_arch::{Role, Skeleton, Slot, Stored, TensorKind, Unit};
use llm_quant::{GgmlType, LoadIn, QuantConfig, Scheme};
use llm_tensor::{Bytes, DType};

use super::{budgets, golden, llama_of, request, speeds, t5_of};
use crate::*;

const SPEEDS: Speeds = speeds(300e9, 12e9, 20e9, 1e9);

/// One that GPUs have no kernels for.
const GRID: Scheme = Scheme::Ggml(GgmlType::IQ2S);
/// One that they have some for.
const Q4: Scheme = Scheme::Ggml(GgmlType::Q4_0);

/// Every matrix in blocks, all else in f32.
fn in_blocks(skeleton: &Skeleton, blocks: Scheme) -> Vec<StoredTensor> {
    let stored = skeleton.slots.iter().map(|slot| {
        StoredTensor::in_order(match slot.shape.as_slice() {
            [_, _] => blocks,
            _ => Scheme::Dense(DType::F32),
        })
    });
    stored.collect()
}

fn encodings(dtype: WeightDType, quant: Option<&QuantConfig>) -> Encodings<'_> {
    Encodings {
        dtype,
        config_dtype: None,
        quant,
    }
}

#[test]
fn matrices_stay_in_blocks_where_nothing_else_is_asked_for() {
    let nf4 = QuantConfig::new(LoadIn::FourBit);
    let plain = encodings(WeightDType::Auto, None);
    let dense = Scheme::Dense(DType::BF16);
    let stored = StoredTensor::in_order(GRID);
    for skeleton in [
        llama_of(256, 2, false),
        llama_of(256, 2, true),
        t5_of(64, 2),
    ] {
        for slot in &skeleton.slots {
            let of = |encodings: Encodings<'_>, run_on| encodings.scheme(slot, stored, run_on);
            let is_kept = matches!(slot.shape.as_slice(), [_, _]) && !becomes_table(slot.role);
            let expected = if is_kept { GRID } else { dense };
            let name = &slot.name;
            assert_eq!(of(plain, RunOn::Cpu), expected, "{name}");
            assert_eq!(of(plain, RunOn::Gpu(0)), dense, "{name}");
            let on_gpu = plain.scheme(slot, StoredTensor::in_order(Q4), RunOn::Gpu(0));
            assert_eq!(on_gpu, if is_kept { Q4 } else { dense }, "{name}");
            let f16 = of(encodings(WeightDType::As(DType::F16), None), RunOn::Cpu);
            assert!(f16.elements().is_some(), "{name}: {f16}");
            let quantized = of(encodings(WeightDType::Auto, Some(&nf4)), RunOn::Cpu);
            assert!(quantized == dense || quantized == nf4.scheme(), "{name}");

            // Columns within a block cannot be moved, and strides are for elements.
            let mut other = slot.clone();
            other.stored = Stored::Transposed;
            assert_eq!(plain.scheme(&other, stored, RunOn::Cpu), dense, "{name}");
            let strided = StoredTensor {
                order: Order::Strided,
                ..stored
            };
            assert_eq!(plain.scheme(slot, strided, RunOn::Cpu), dense, "{name}");
        }
    }
}

/// The matrix that makes keys and values of latents is multiplied by rows and by columns.
#[test]
fn what_is_multiplied_from_both_sides_is_dense_whatever_is_stored_or_asked_for() {
    let skeleton = golden("deepseek-v3");
    let [nf4, int8] = [LoadIn::FourBit, LoadIn::EightBit].map(QuantConfig::new);
    let stored = [
        Scheme::Dense(DType::F32),
        GRID,
        Q4,
        nf4.scheme(),
        int8.scheme(),
    ];
    let both = |slot: &&Slot| slot.kind == TensorKind::Both;
    let slots: Vec<_> = skeleton.slots.iter().filter(both).collect();
    assert_eq!(slots.len(), skeleton.spec.decoder.n_layers());
    for slot in slots {
        assert_eq!(slot.role, Role::KvUp);
        for stored in stored.map(StoredTensor::in_order) {
            for quant in [None, Some(&nf4), Some(&int8)] {
                for run_on in [RunOn::Cpu, RunOn::Gpu(0)] {
                    let of = |dtype| encodings(dtype, quant).scheme(slot, stored, run_on);
                    let f16 = of(WeightDType::As(DType::F16));
                    assert_eq!(f16, Scheme::Dense(DType::F16), "{stored:?}");
                    let auto = of(WeightDType::Auto);
                    assert!(matches!(auto, Scheme::Dense(_)), "{stored:?}: {auto}");
                }
            }
        }
    }
}

#[test]
fn each_device_counts_what_it_computes_with() {
    let skeleton = llama_of(256, 4, false);
    let stored = in_blocks(&skeleton, GRID);
    let mut request = request(&skeleton, &stored);
    let bytes = |scheme: Scheme| -> u64 {
        let slots = skeleton.slots.iter().zip(&stored);
        let bytes = slots.map(|(slot, stored)| {
            let (rows, cols) = slot.matrix();
            let scheme = match stored.scheme {
                Scheme::Ggml(_) => scheme,
                other => other,
            };
            scheme.stored_bytes(rows as u64, cols as u64).total().get()
        });
        bytes.sum()
    };
    let weights = |request: &Request<'_>| {
        let verdict = plan(request).unwrap();
        let plan = verdict.plan().unwrap();
        let in_memory = |home| {
            let memory = plan.estimate.memory(home);
            memory.map_or(Bytes::ZERO, |memory| memory.terms.get(Term::Weights))
        };
        [Home::Gpu(0), Home::Ram].map(in_memory)
    };
    let ample = 1 << 40;
    request.budgets = budgets(&[ample], ample, None);
    let on_gpu = Bytes::new(bytes(Scheme::Dense(DType::BF16)));
    assert_eq!(weights(&request), [on_gpu, Bytes::ZERO]);
    request.budgets = budgets(&[], ample, None);
    assert_eq!(weights(&request), [Bytes::ZERO, Bytes::new(bytes(GRID))]);
    // What is streamed to a GPU rests as that computes with it; what the CPU computes with as it does.
    let map = r#"{"model.embed_tokens": "cpu", "model.layers": 0, "model.norm": 0, "lm_head": 0}"#;
    request.budgets = budgets(&[ample], ample, None);
    request.strategy = Strategy::Map(map.parse().unwrap());
    let table = skeleton.slots.iter().zip(&stored);
    let table = table.filter(|(slot, _)| slot.unit == Unit::Embedding);
    let table_in = |scheme: Scheme| -> u64 {
        let bytes = table.clone().map(|(slot, _)| {
            let (rows, cols) = slot.matrix();
            scheme.stored_bytes(rows as u64, cols as u64).total().get()
        });
        bytes.sum()
    };
    for (offload, scheme) in [
        (Offload::Compute, GRID),
        (Offload::Stream, Scheme::Dense(DType::BF16)),
    ] {
        request.offload = offload;
        let table_on_gpu = table_in(Scheme::Dense(DType::BF16));
        let expected = [
            Bytes::new(on_gpu.get() - table_on_gpu),
            Bytes::new(table_in(scheme)),
        ];
        assert_eq!(weights(&request), expected, "{scheme}");
    }
}

#[test]
fn blocks_are_what_is_advised_where_they_take_the_least() {
    let skeleton = llama_of(256, 4, false);
    let stored = in_blocks(&skeleton, GRID);
    let mut request = request(&skeleton, &stored);
    let all = alternatives(&request).unwrap();
    assert_eq!(all[0].precision, Precision::AsStored);
    let smallest = all.iter().map(|a| a.weights).min();
    assert_eq!(smallest, Some(all[0].weights));
    let found = recommend(&request, &SPEEDS).unwrap().unwrap();
    assert_eq!(found.choice, Choice::AsAsked);

    // Where more is asked for than there is room for, they are the most exact way that fits.
    request.encodings.dtype = WeightDType::As(DType::F32);
    let least = all[0].weights.get();
    request.budgets = budgets(&[], 2 * least, None);
    let changes = advice(&request).unwrap();
    assert_eq!(changes[0], Change::Precision(Precision::AsStored));
    assert_eq!(changes[0].to_string(), "keep weights as they are stored");

    // A GPU has no use for these, but for others.
    let others = in_blocks(&skeleton, Q4);
    for (stored, first) in [(&stored, Precision::F32), (&others, Precision::AsStored)] {
        request.stored = stored;
        request.budgets = budgets(&[1 << 40], 1 << 40, None);
        let all = alternatives(&request).unwrap();
        assert_eq!(all[0].precision, first);
    }
}
