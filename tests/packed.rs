//! Models in GGUF's blocks against the numbers that the blocks stand for.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::collections::HashSet;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use cuda_emulator::harness::Machine;
use llm_backend::Reference;
use llm_cpu::{Cpu, CpuOptions, Isa};
use llm_cuda::Cuda;
use llm_plan::{DeviceMap, RunOn, Term, WeightDType, gpus_compute_with};
use llm_quant::{Fp8, GgmlType, GroupCode, Grouped, LoadIn, QuantConfig, Scalar, Scheme};
use llm_runtime::{
    BoundModel, BoundTensor, Device, Interrupt, Limits, LoadOptions, OffloadOptions, Session, load,
    load_on,
};
use llm_tensor::{Bytes, DType};
use llm_tests::{Packed, Written, device, fixture, in_q8_0, relative_error, score};

#[test]
fn every_type_is_in_one_of_the_models() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packed.gguf");
    let mut seen = HashSet::new();
    for packed in Packed::ALL {
        packed.write(&path, Written::Blocks);
        for bound in BoundModel::open(&path).unwrap().tensors() {
            if let Scheme::Ggml(ty) = bound.scheme {
                seen.insert(ty);
            }
        }
    }
    assert_eq!(seen.len(), GgmlType::ALL.len());
}

fn limits(model: &BoundModel) -> Limits {
    Limits {
        n_sequences: 1,
        context: model.spec().context,
        n_tokens: 32,
        n_logits: 7,
    }
}

fn loaded(path: &Path, device: &dyn Device, dtype: WeightDType) -> Session {
    let model = BoundModel::open(path).unwrap();
    let options = LoadOptions {
        dtype,
        quant: None,
        encoder: &Scalar,
        limits: limits(&model),
        offload: None,
    };
    load(&model, device, &options, &mut |_| ()).unwrap()
}

fn prompt() -> Vec<u32> {
    (0..40).map(|i| i * 7 % 300).collect()
}

fn continued(session: &mut Session) -> Vec<u32> {
    session.truncate(0, 0);
    llm_tests::continue_by_ids(session, &prompt(), 12)
}

#[test]
fn blocks_compute_as_the_numbers_that_they_stand_for() {
    let folder = tempfile::tempdir().unwrap();
    let [blocks, decoded] = ["blocks.gguf", "decoded.gguf"].map(|name| folder.path().join(name));
    for packed in Packed::ALL {
        packed.write(&blocks, Written::Blocks);
        packed.write(&decoded, Written::DecodedButTable);
        let run = |path: &Path, device: &dyn Device| {
            let mut session = loaded(path, device, WeightDType::Auto);
            let logits = score(&mut session, 0, &prompt());
            (logits, continued(&mut session))
        };
        let reference = device(Reference::new());
        let (expected, ids) = run(&decoded, &*reference);
        assert!(expected.iter().all(|logit| logit.is_finite()));
        assert!(run(&blocks, &*reference).0 == expected, "{packed:?}");
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for threads in [1, 3] {
                let options = CpuOptions {
                    threads: NonZeroUsize::new(threads),
                    isa: Some(isa),
                    ..CpuOptions::default()
                };
                let cpu = device(Cpu::new(options).unwrap());
                let (found, found_ids) = run(&blocks, &*cpu);
                let error = relative_error(&found, &expected);
                assert!(
                    error <= TOLERANCE,
                    "{packed:?} on {isa}: off by {error:.1e}"
                );
                assert_eq!(found_ids, ids, "{packed:?} on {isa}");
            }
        }
    }
}

/// Fused projections, tables of positions, tied heads and stacked experts among them.
#[test]
fn every_familys_gguf_computes_in_blocks_as_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let [blocks, decoded] = ["blocks.gguf", "decoded.gguf"].map(|name| folder.path().join(name));
    let files = fs::read_dir(fixture("gguf-models")).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let files: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "gguf"))
        .collect();
    assert_eq!(files.len(), 74);
    for file in files {
        let n_packed = in_q8_0(&file, &blocks, Written::Blocks);
        in_q8_0(&file, &decoded, Written::DecodedButTable);
        let model = BoundModel::open(&blocks).unwrap();
        let encodings = model.encodings(WeightDType::Auto, None).unwrap();
        let is_kept = |bound: &BoundTensor<'_>| {
            let kept = encodings.scheme(bound.slot, bound.stored(), RunOn::Cpu);
            matches!(kept, Scheme::Ggml(_))
        };
        let names: HashSet<_> = model
            .tensors()
            .filter(is_kept)
            .map(|bound| bound.tensor.name.clone())
            .collect();
        assert_eq!(names.len(), n_packed, "{}", file.display());
        let run = |path: &Path| {
            let reference = device(Reference::new());
            let mut session = loaded(path, &*reference, WeightDType::Auto);
            score(&mut session, 0, &[1, 5, 9, 20, 33, 2, 7])
        };
        let expected = run(&decoded);
        assert!(run(&blocks) == expected, "{}", file.display());
        let cpu = device(Cpu::new(CpuOptions::default()).unwrap());
        let mut session = loaded(&blocks, &*cpu, WeightDType::Auto);
        let found = score(&mut session, 0, &[1, 5, 9, 20, 33, 2, 7]);
        let error = relative_error(&found, &expected);
        assert!(error <= TOLERANCE, "{}: {error:.1e}", file.display());
    }
}

#[test]
fn a_split_file_computes_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.gguf");
    let split = tempfile::tempdir().unwrap();
    for packed in Packed::ALL {
        packed.write(&path, Written::Blocks);
        let first = packed.write_split(split.path());
        let run = |path: &Path| {
            let cpu = device(Cpu::new(CpuOptions::default()).unwrap());
            let mut session = loaded(path, &*cpu, WeightDType::Auto);
            score(&mut session, 0, &prompt())
        };
        assert!(run(&first) == run(&path), "{packed:?}");
        let model = BoundModel::open(&first).unwrap();
        assert_eq!(model.checkpoint().files().len(), 3);
    }
}

/// The table too, within what keys and values in bf16 lose.
#[test]
fn a_table_in_blocks_is_looked_up_as_its_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packed.gguf");
    for packed in Packed::ALL {
        packed.write(&path, Written::Blocks);
        let run = |dtype| {
            let cpu = device(Cpu::new(CpuOptions::default()).unwrap());
            let mut session = loaded(&path, &*cpu, dtype);
            score(&mut session, 0, &prompt())
        };
        let expected = run(WeightDType::As(DType::F32));
        let error = relative_error(&run(WeightDType::Auto), &expected);
        assert!(error <= BF16, "{packed:?}: off by {error:.1e}");
    }
}

#[test]
fn gpus_have_kernels_for_what_is_kept_as_it_is_there() {
    let mut schemes: Vec<_> = GgmlType::ALL.map(Scheme::Ggml).into();
    let types = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::U8,
        DType::F8E8M0,
        DType::F8E4M3,
    ];
    for scale in types.into_iter().chain([DType::F64, DType::F8E5M2]) {
        for dtype in [DType::F8E4M3, DType::F8E5M2, DType::F8E4M3FNUZ] {
            let block = [128, 128];
            schemes.push(Scheme::Fp8(Fp8 {
                dtype,
                scale,
                block,
            }));
        }
        for code in [GroupCode::Int4, GroupCode::E2M1, GroupCode::Int8] {
            for order in [false, true] {
                schemes.push(Scheme::Grouped(Grouped {
                    code,
                    scale,
                    group: None,
                    zeros: false,
                    global: None,
                    order,
                }));
            }
        }
    }
    for scheme in schemes {
        let has_kernels = llm_cuda::computes_with(scheme, 256);
        assert_eq!(
            gpus_compute_with(scheme),
            has_kernels,
            "{scheme}: {scheme:?}"
        );
    }
}

/// A model on a device that counts as a GPU.
fn on_gpu(model: &BoundModel, device: &dyn Device) -> Session {
    let options = LoadOptions {
        dtype: WeightDType::Auto,
        quant: None,
        encoder: &Scalar,
        limits: limits(model),
        offload: Some(OffloadOptions {
            map: &DeviceMap::on_one(model.spec(), RunOn::Gpu(0)),
            folder: Path::new(""),
        }),
    };
    let devices = [(RunOn::Gpu(0), device)];
    load_on(
        model,
        &devices,
        &options,
        &Interrupt::default(),
        &mut |_| (),
    )
    .unwrap()
}

/// Those without kernels are bf16 there.
#[test]
fn a_gpu_keeps_blocks_that_it_has_kernels_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packed.gguf");
    for packed in Packed::ALL {
        packed.write(&path, Written::Blocks);
        let model = BoundModel::open(&path).unwrap();
        let encodings = model.encodings(WeightDType::Auto, None).unwrap();
        let mut n_bytes = Bytes::ZERO;
        for bound in model.tensors() {
            let (slot, stored) = (bound.slot, bound.stored());
            let expected = match bound.scheme {
                scheme if !gpus_compute_with(scheme) => Scheme::Dense(DType::BF16),
                other => other,
            };
            assert_eq!(encodings.scheme(slot, stored, RunOn::Gpu(0)), expected);
            assert_eq!(encodings.scheme(slot, stored, RunOn::Cpu), bound.scheme);
            let (rows, cols) = slot.matrix();
            n_bytes += expected.stored_bytes(rows as u64, cols as u64).total();
        }
        let reference = device(Reference::new());
        let mut session = on_gpu(&model, &*reference);
        assert_eq!(session.memory().terms.get(Term::Weights), n_bytes);
        let found = score(&mut session, 0, &prompt());
        let mut on_cpu = loaded(&path, &*reference, WeightDType::Auto);
        let exact = score(&mut on_cpu, 0, &prompt());
        // Of each token by itself: where experts are nearly alike to a router, bf16 has it choose another one.
        let width = exact.len() / prompt().len();
        let tokens = found.chunks(width).zip(exact.chunks(width));
        let mut errors: Vec<f64> = tokens.map(|(f, e)| relative_error(f, e)).collect();
        errors.sort_by(f64::total_cmp);
        let (median, largest) = (errors[errors.len() / 2], errors[errors.len() - 1]);
        assert!(median <= BF16, "{packed:?}: off by {median:.1e}");
        if packed.n_experts.is_none() {
            assert!(largest <= 5.0 * BF16, "{packed:?}: off by {largest:.1e}");
        }
    }
}

/// The kernels' results, of prompts in tiles and of single tokens.
#[test]
fn an_emulated_gpu_computes_with_blocks() {
    Machine::new().counts(false).inside(|| {
        let cuda = device(Cuda::new(0).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("packed.gguf");
        for packed in Packed::ALL {
            packed.write(&path, Written::Blocks);
            let model = BoundModel::open(&path).unwrap();
            let run = |on: &dyn Device| {
                let mut session = on_gpu(&model, on);
                let logits = score(&mut session, 0, &prompt()[..20]);
                session.truncate(0, 0);
                (
                    logits,
                    llm_tests::continue_by_ids(&mut session, &prompt()[..3], 4),
                )
            };
            let reference = device(Reference::new());
            let (expected, ids) = run(&*reference);
            let (found, found_ids) = run(&*cuda);
            let error = relative_error(&found, &expected);
            assert!(error <= TOLERANCE, "{packed:?}: off by {error:.1e}");
            assert_eq!(found_ids, ids, "{packed:?}");
        }
    });
}

/// What is quantized is made of the decoded numbers; what is not is decoded, as it is in what `quantize` writes.
#[test]
fn a_quantization_takes_the_place_of_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packed.gguf");
    Packed::ALL[0].write(&path, Written::Blocks);
    let model = BoundModel::open(&path).unwrap();
    let nf4 = QuantConfig::new(LoadIn::FourBit);
    let encodings = model.encodings(WeightDType::Auto, Some(&nf4)).unwrap();
    for bound in model.tensors() {
        let scheme = encodings.scheme(bound.slot, bound.stored(), RunOn::Cpu);
        let expected = match bound.slot.name.as_str() {
            "token_embd.weight" | "output.weight" => Scheme::Dense(DType::BF16),
            name if name.contains("norm") => Scheme::Dense(DType::F32),
            _ => nf4.scheme(),
        };
        assert_eq!(scheme, expected, "{}", bound.slot.name);
    }
}

/// Error of logits by f32 sums over a few layers, and by the keys and values that these let round otherwise, to bf16.
const TOLERANCE: f64 = 3e-3;
/// The same by keys and values, or weights, of 8 bits of precision.
const BF16: f64 = 3e-2;
