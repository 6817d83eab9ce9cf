//! Models in the formats of published checkpoints against the numbers that their codes stand for.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use llm_arch::Role;
use llm_backend::Reference;
use llm_checkpoint::Checkpoint;
use llm_cpu::{Cpu, CpuOptions, Isa};
use llm_plan::{RunOn, WeightDType, gpus_compute_with};
use llm_quant::{LoadIn, QuantConfig, Scalar, Scheme};
use llm_runtime::{BoundModel, Device, Limits, LoadOptions, Session, load};
use llm_tensor::DType;
use llm_tests::{
    Variant, continue_by_ids, device, fixture, golden, published, relative_error, score, tensor,
};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, json};
use tempfile::TempDir;

/// The model with f32 for all that is not quantized, keys and values too.
fn in_f32(folder: &Path) -> BoundModel {
    let copy = tempfile::tempdir().unwrap();
    let config = fs::read(folder.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config["dtype"] = "float32".into();
    fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    let weights = copy.path().join("model.safetensors");
    fs::copy(folder.join("model.safetensors"), weights).unwrap();
    BoundModel::open(copy.path()).unwrap()
}

fn loaded(model: &BoundModel, device: &dyn Device, dtype: WeightDType) -> Session {
    let options = LoadOptions {
        dtype,
        quant: None,
        encoder: &Scalar,
        limits: Limits {
            n_sequences: 1,
            context: 64,
            n_tokens: 32,
            n_logits: 7,
        },
        offload: None,
    };
    load(model, device, &options, &mut |_| ()).unwrap()
}

fn run(session: &mut Session) -> (Vec<f32>, Vec<u32>) {
    let prompt: Vec<u32> = (0..40).map(|i| i * 7 % 64).collect();
    let logits = score(session, 0, &prompt);
    session.truncate(0, 0);
    (logits, continue_by_ids(session, &prompt, 12))
}

#[test]
fn codes_compute_as_the_numbers_that_they_stand_for() {
    let folders = published();
    assert!(folders.len() >= 18, "{folders:?}");
    for folder in &folders {
        let model = in_f32(folder);
        let reference = device(Reference::new());
        let as_f32 = WeightDType::As(DType::F32);
        let (expected, ids) = run(&mut loaded(&model, &*reference, as_f32));
        assert!(expected.iter().all(|logit| logit.is_finite()));
        let as_stored = |device: &dyn Device| run(&mut loaded(&model, device, WeightDType::Auto));
        assert!(as_stored(&*reference).0 == expected, "{folder:?}");
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for threads in [1, 3] {
                let options = CpuOptions {
                    threads: NonZeroUsize::new(threads),
                    isa: Some(isa),
                    ..CpuOptions::default()
                };
                let cpu = device(Cpu::new(options).unwrap());
                let (found, found_ids) = as_stored(&*cpu);
                let error = relative_error(&found, &expected);
                assert!(
                    error <= TOLERANCE,
                    "{folder:?} on {isa}: off by {error:.1e}"
                );
                assert_eq!(found_ids, ids, "{folder:?} on {isa}");
            }
        }
    }
}

/// Logits of the library's own numbers, by the library.
#[test]
fn logits_are_those_of_the_reference() {
    let mut n_checked = 0;
    for folder in published() {
        let Ok(expected) = Checkpoint::open(&folder.join("expected.safetensors")) else {
            continue;
        };
        if expected.get("logits").is_none() {
            continue;
        }
        n_checked += 1;
        let expected: Vec<f32> = tensor(&expected, "logits", DType::F32);
        let model = in_f32(&folder);
        let prompt: Vec<u32> = (0..12).map(|i| i * 7 % 64).collect();
        for backend in [
            device(Reference::new()),
            device(Cpu::new(CpuOptions::default()).unwrap()),
        ] {
            let mut session = loaded(&model, &*backend, WeightDType::Auto);
            let found = score(&mut session, 0, &prompt);
            let error = relative_error(&found, &expected);
            assert!(error <= TOLERANCE, "{folder:?}: off by {error:.1e}");
        }
    }
    assert_eq!(n_checked, 4);
}

/// Shape and values of a tensor's scales, made of its name and of those that it had.
type MakeScales = fn(&str, &[f32]) -> (Vec<u64>, Vec<f32>);

/// A model of stacked experts whose scales, and what the configuration says of them, are others.
struct OtherScales {
    /// What is made of the scales of each tensor, one an expert.
    scales: MakeScales,
    block_size: serde_json::Value,
}

impl OtherScales {
    fn write(&self, folder: &Path) {
        let model = fixture("packed/fp8-experts-whole");
        let config = fs::read(model.join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        config["dtype"] = "float32".into();
        config["quantization_config"]["weight_block_size"] = self.block_size.clone();
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let file = fs::read(model.join("model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&file).unwrap();
        let mut tensors = Vec::new();
        for (name, view) in file.tensors() {
            let mut shape = view.shape().to_vec();
            let mut bytes = view.data().to_vec();
            let weight = name.strip_suffix("_scale_inv");
            if let Some(weight) = weight.filter(|weight| weight.ends_with(".weight")) {
                // As many for a matrix as the configuration says.
                let side = |i: usize| self.block_size[i].as_u64().unwrap_or(64) as usize;
                let of = file.tensor(weight).unwrap().shape().to_vec();
                shape = vec![of[0].div_ceil(side(0)), of[1].div_ceil(side(1))];
                bytes = bytes.repeat(shape.iter().product());
            } else if name.ends_with("_scale_inv") {
                let found = bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned);
                let (dims, scales) = (self.scales)(&name, &found.collect::<Vec<f32>>());
                shape = dims.iter().map(|&extent| extent as usize).collect();
                bytes = scales.iter().flat_map(|x| x.to_le_bytes()).collect();
            }
            tensors.push((name, view.dtype(), shape, bytes));
        }
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
            (name, view)
        });
        let path = folder.join("model.safetensors");
        safetensors::serialize_to_file(views, None, &path).unwrap();
    }

    fn logits(&self) -> Result<Vec<f32>, String> {
        let folder = tempfile::tempdir().unwrap();
        self.write(folder.path());
        let model = BoundModel::open(folder.path()).map_err(|error| error.to_string())?;
        let reference = device(Reference::new());
        let mut session = loaded(&model, &*reference, WeightDType::Auto);
        Ok(run(&mut session).0)
    }
}

/// One scale for all, one an expert, one for gate and up of each: in every shape that they are written in.
#[test]
fn stacked_experts_have_scales_of_several_shapes() {
    let null = serde_json::Value::Null;
    let large = json!([128, 128]);
    let logits = |scales, block_size: &serde_json::Value| {
        let block_size = block_size.clone();
        OtherScales { scales, block_size }.logits().unwrap()
    };
    let expected = logits(|_, x| (vec![4, 1, 1], x.to_vec()), &null);
    let twice = |name: &str, x: &[f32]| match name.contains("gate_up") {
        true => (vec![4, 2, 1], x.iter().flat_map(|&x| [x, x]).collect()),
        false => (vec![4, 1, 1], x.to_vec()),
    };
    assert!(logits(|_, x| (vec![4], x.to_vec()), &null) == expected);
    assert!(logits(|_, x| (vec![4, 1], x.to_vec()), &null) == expected);
    assert!(logits(twice, &null) == expected);
    // Both halves are smaller than a block of this size.
    assert!(logits(twice, &large) == expected);
    assert!(logits(|_, x| (vec![4, 1, 1], x.to_vec()), &large) == expected);
    let of_all = logits(|_, x| (vec![4], vec![x[1]; 4]), &null);
    assert!(of_all != expected);
    assert!(logits(|_, x| (vec![], vec![x[1]]), &null) == of_all);
    assert!(logits(|_, x| (vec![1], vec![x[1]]), &null) == of_all);
    // Of gate and up each has its own.
    let other_up = |name: &str, x: &[f32]| match name.contains("gate_up") {
        true => (
            vec![4, 2, 1],
            x.iter().flat_map(|&x| [x, 2.0 * x]).collect(),
        ),
        false => (vec![4, 1, 1], x.iter().map(|x| x / 2.0).collect()),
    };
    let error = relative_error(&logits(other_up, &null), &expected);
    assert!(error <= TOLERANCE, "off by {error:.1e}");
}

/// A block of the stack that has rows of gate and of up is one matrix's for no reference.
#[test]
fn scales_that_fit_no_expert_are_named() {
    let cases: [(MakeScales, [u64; 2]); 4] = [
        (|_, x| (vec![3, 1, 1], x[..3].to_vec()), [128, 128]),
        (|_, _| (vec![4, 3, 1], vec![1.0; 12]), [24, 128]),
        (|_, _| (vec![4, 4, 1], vec![1.0; 16]), [20, 128]),
        (|_, _| (vec![4, 2, 5], vec![1.0; 40]), [128, 128]),
    ];
    for (scales, block_size) in cases {
        let block_size = json!(block_size);
        let other = OtherScales { scales, block_size };
        let error = other.logits().unwrap_err();
        let (tensor, found) = ("mlp.experts.gate_up_proj_scale_inv", "found [");
        assert!(error.contains(tensor) && error.contains(found), "{error}");
    }
}

/// Where GPUs have no kernels for them; and what is to be quantized otherwise is, of the decoded numbers.
#[test]
fn codes_are_decoded_where_no_kernel_takes_them_and_for_other_encodings() {
    let nf4 = QuantConfig::new(LoadIn::FourBit);
    for folder in published() {
        let model = BoundModel::open(&folder).unwrap();
        let encodings = model.encodings(WeightDType::Auto, None).unwrap();
        let quantized = model.encodings(WeightDType::Auto, Some(&nf4)).unwrap();
        let as_f16 = model.encodings(WeightDType::As(DType::F16), None).unwrap();
        let mut n_packed = 0;
        for bound in model.tensors() {
            let (slot, stored) = (bound.slot, bound.stored());
            let (Scheme::Fp8(_) | Scheme::Grouped(_)) = bound.scheme else {
                continue;
            };
            n_packed += 1;
            let dense = Scheme::Dense(model.spec().dtype.unwrap());
            assert_eq!(encodings.scheme(slot, stored, RunOn::Cpu), bound.scheme);
            let on_gpu = match gpus_compute_with(bound.scheme) {
                true => bound.scheme,
                false => dense,
            };
            assert_eq!(encodings.scheme(slot, stored, RunOn::Gpu(0)), on_gpu);
            assert_eq!(quantized.scheme(slot, stored, RunOn::Cpu), nf4.scheme());
            let asked = as_f16.scheme(slot, stored, RunOn::Cpu);
            assert_eq!(asked, Scheme::Dense(DType::F16));
        }
        assert!(n_packed >= 7, "{folder:?}: {n_packed}");
    }
}

/// A number in E4M3.
fn e4m3(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match exponent {
        0 => fraction / 8.0 * 2f32.powi(-6),
        _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
    };
    if code >> 7 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

/// As DeepSeek-V3 is published: all projections in fp8, and so the one that latents are multiplied with from both sides, which is
/// decoded.
#[test]
fn latents_are_attended_to_where_all_projections_are_in_fp8() {
    const SCALE: f32 = 0.0625;
    let mut dense = Variant::of(&golden("deepseek-v3").0);
    dense.set("dtype", "float32");
    let mut random = 1u32;
    let mut tensors = Vec::new();
    for (name, (shape, elements)) in &mut dense.tensors {
        let mut shape: Vec<_> = shape.iter().map(|&extent| extent as usize).collect();
        let is_projection = name.contains("_proj") && name.ends_with(".weight");
        if is_projection {
            let codes = elements.iter_mut().map(|element| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // From an eighth to nearly two.
                let code = (random >> 24) as u8 & 0x9f | 0x20;
                *element = e4m3(code) * SCALE;
                code
            });
            let codes = codes.collect();
            tensors.push((name.clone(), Dtype::F8_E4M3, shape.clone(), codes));
            shape
                .iter_mut()
                .for_each(|extent| *extent = extent.div_ceil(128));
            let scales = vec![SCALE; shape.iter().product()];
            let name = format!("{name}_scale_inv");
            tensors.push((name, Dtype::F32, shape, le_bytes(&scales)));
        } else {
            tensors.push((name.clone(), Dtype::F32, shape, le_bytes(elements)));
        }
    }
    let mut config = dense.config.clone();
    let quantized = json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"});
    config.insert("quantization_config".to_owned(), quantized);
    let folder = written(&config, &tensors);

    let model = BoundModel::open(folder.path()).unwrap();
    let encodings = model.encodings(WeightDType::Auto, None).unwrap();
    let mut n_fp8 = 0;
    for bound in model.tensors() {
        let is_stored_so = matches!(bound.scheme, Scheme::Fp8(_));
        let scheme = encodings.scheme(bound.slot, bound.stored(), RunOn::Cpu);
        let is_kept = bound.slot.role != Role::KvUp;
        assert_eq!(scheme == bound.scheme, is_kept, "{:?}", bound.slot);
        n_fp8 += usize::from(is_stored_so);
    }
    assert!(n_fp8 > 50, "{n_fp8}");
    let dense = dense.write();
    let dense = BoundModel::open(dense.path()).unwrap();
    let reference = device(Reference::new());
    let run = |model, device| run(&mut loaded(model, device, WeightDType::Auto));
    let (expected, ids) = run(&dense, &*reference);
    assert!(run(&model, &*reference).0 == expected);
    let cpu = device(Cpu::new(CpuOptions::default()).unwrap());
    let (found, found_ids) = run(&model, &*cpu);
    let error = relative_error(&found, &expected);
    assert!(error <= TOLERANCE, "off by {error:.1e}");
    assert_eq!(found_ids, ids);
}

/// As DeepSeek-V4 is published: projections in fp8 whose scales are powers of two, under a name of their own, and experts in MXFP4.
#[test]
fn experts_of_deepseek_v4_are_in_four_bits_beside_fp8() {
    // 2⁻⁴, as a power of two.
    const SCALE: (f32, u8) = (0.0625, 123);
    const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let mut dense = Variant::of(&golden("deepseek-v4").0);
    dense.set("dtype", "float32");
    let mut random = 1u32;
    let mut code = move || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 24) as u8
    };
    let mut tensors = Vec::new();
    for (name, (shape, elements)) in &mut dense.tensors {
        let shape: Vec<_> = shape.iter().map(|&extent| extent as usize).collect();
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let last = module.rsplit('.').next().unwrap();
        let scales = |shape: Vec<usize>| {
            let codes = vec![SCALE.1; shape.iter().product()];
            (format!("{module}.scale"), Dtype::F8_E8M0, shape, codes)
        };
        if module.contains(".ffn.experts.") {
            let row_bytes = shape[1].div_ceil(2);
            let mut codes = Vec::new();
            for row in elements.chunks_exact_mut(shape[1]) {
                let packed = row.chunks_mut(2).map(|pair| {
                    let byte = code();
                    for (element, code) in pair.iter_mut().zip([byte & 15, byte >> 4]) {
                        let sign = if code > 7 { -1.0 } else { 1.0 };
                        *element = sign * E2M1[usize::from(code & 7)] * SCALE.0;
                    }
                    byte
                });
                codes.extend(packed.collect::<Vec<u8>>());
            }
            tensors.push((name.clone(), Dtype::I8, vec![shape[0], row_bytes], codes));
            tensors.push(scales(vec![shape[0], shape[1].div_ceil(32)]));
        } else if ["wq_a", "wq_b", "wkv", "wo_a", "wo_b", "w1", "w2", "w3"].contains(&last)
            && !module.contains("compressor")
        {
            let codes = elements.iter_mut().map(|element| {
                // From an eighth to nearly two.
                let code = code() & 0x9f | 0x20;
                *element = e4m3(code) * SCALE.0;
                code
            });
            tensors.push((name.clone(), Dtype::F8_E4M3, shape.clone(), codes.collect()));
            tensors.push(scales(
                shape.iter().map(|extent| extent.div_ceil(128)).collect(),
            ));
        } else if name.ends_with("tid2eid") {
            let numbers = elements.iter().flat_map(|&x| (x as i64).to_le_bytes());
            tensors.push((name.clone(), Dtype::I64, shape, numbers.collect()));
        } else {
            tensors.push((name.clone(), Dtype::F32, shape, le_bytes(elements)));
        }
    }
    let mut config = dense.config.clone();
    let quantized = json!({"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]});
    config.insert("quantization_config".to_owned(), quantized);
    config.insert("expert_dtype".to_owned(), "fp4".into());
    let folder = written(&config, &tensors);

    let model = BoundModel::open(folder.path()).unwrap();
    assert!(model.notices().is_empty(), "{:?}", model.notices());
    let encodings = model.encodings(WeightDType::Auto, None).unwrap();
    let (mut n_fp8, mut n_four) = (0, 0);
    for bound in model.tensors() {
        let scheme = encodings.scheme(bound.slot, bound.stored(), RunOn::Cpu);
        match bound.scheme {
            Scheme::Fp8(_) => n_fp8 += usize::from(scheme == bound.scheme),
            Scheme::Grouped(_) => n_four += usize::from(scheme == bound.scheme),
            _ => {}
        }
    }
    // Of four layers with six experts; the grouped projection is decoded.
    assert!(n_fp8 >= 4 * 7 && n_four == 4 * 6 * 3, "{n_fp8}, {n_four}");
    let dense = dense.write();
    let dense = BoundModel::open(dense.path()).unwrap();
    let reference = device(Reference::new());
    let run = |model, device| run(&mut loaded(model, device, WeightDType::Auto));
    let (expected, ids) = run(&dense, &*reference);
    assert!(run(&model, &*reference).0 == expected);
    let cpu = device(Cpu::new(CpuOptions::default()).unwrap());
    let (found, found_ids) = run(&model, &*cpu);
    let error = relative_error(&found, &expected);
    assert!(error <= TOLERANCE, "off by {error:.1e}");
    assert_eq!(found_ids, ids);
}

/// A folder with the model.
fn written(
    config: &Map<String, serde_json::Value>,
    tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)],
) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::to_vec(config).unwrap();
    fs::write(folder.path().join("config.json"), config).unwrap();
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name, view)
    });
    let path = folder.path().join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    folder
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The same file, its header or configuration changed: what does not fit is an error that names the tensor or key.
#[test]
fn what_does_not_fit_is_named() {
    let cases = [
        (
            "compressed-int4",
            r#""shape":[64,8]"#,
            r#""shape":[8,64]"#,
            "weight_packed",
        ),
        (
            "compressed-int4",
            r#""dtype":"BF16","shape":[64,2]"#,
            r#""dtype":"I16" ,"shape":[64,2]"#,
            "weight_scale",
        ),
        (
            "compressed-int4",
            "q_proj.weight_scale",
            "q_proj.weight_scal_",
            "q_proj.weight_scale",
        ),
        (
            "compressed-int4-zeros",
            r#""shape":[8,2]"#,
            r#""shape":[2,8]"#,
            "weight_zero_point",
        ),
        (
            "compressed-nvfp4",
            "q_proj.weight_global_scale",
            "q_proj.weight_global_scal_",
            "q_proj.weight_global_scale",
        ),
        ("gptq", "q_proj.qzeros", "q_proj.qzero_", "q_proj.qzeros"),
        (
            "gptq-order-v2",
            r#""dtype":"I32","shape":[96]"#,
            r#""dtype":"F32","shape":[96]"#,
            "g_idx",
        ),
        ("awq", r#""shape":[2,64]"#, r#""shape":[64,2]"#, "scales"),
        (
            "fp8-experts",
            "down_proj_scale_inv",
            "down_proj_scale_in_",
            "experts.down_proj_scale_inv` of a quantized matrix: expected a tensor of that name",
        ),
        (
            "fp8-experts",
            "q_proj.weight_scale_inv",
            "q_proj.weight_scale_in_",
            "q_proj.weight_scale_inv",
        ),
        (
            "mxfp4-experts",
            "gate_up_proj_scales",
            "gate_up_proj_scale_",
            "gate_up_proj_scales",
        ),
    ];
    for (name, from, to, named) in cases {
        let folder = tempfile::tempdir().unwrap();
        let model = fixture("packed").join(name);
        fs::copy(model.join("config.json"), folder.path().join("config.json")).unwrap();
        let mut bytes = fs::read(model.join("model.safetensors")).unwrap();
        let len = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let header = String::from_utf8(bytes[8..8 + len].to_vec()).unwrap();
        assert!(
            header.contains(from) && from.len() == to.len(),
            "{name}: {header}"
        );
        bytes[8..8 + len].copy_from_slice(header.replace(from, to).as_bytes());
        fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        let outcome = BoundModel::open(folder.path());
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(named), "{name}: {error}");
    }
}

/// A model under a configuration with another value of a key, loaded.
fn configured(name: &str, key: &str, value: serde_json::Value) -> Result<(), String> {
    let folder = fixture("packed").join(name);
    let config = fs::read(folder.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config["quantization_config"][key] = value;
    let file = folder.join("model.safetensors");
    let checkpoint = Checkpoint::open(&file).unwrap();
    let model = BoundModel::with_config(checkpoint, config.to_string().as_bytes(), &file);
    let model = model.map_err(|error| error.to_string())?;
    let options = LoadOptions {
        dtype: WeightDType::Auto,
        quant: None,
        encoder: &Scalar,
        limits: Limits {
            n_sequences: 1,
            context: 8,
            n_tokens: 8,
            n_logits: 1,
        },
        offload: None,
    };
    let loaded = load(&model, &*device(Reference::new()), &options, &mut |_| ());
    loaded.map(|_| ()).map_err(|error| error.to_string())
}

/// What the libraries take from the one or the other, or refuse, is not guessed.
#[test]
fn configurations_that_contradict_tensors_are_named() {
    let groups = "q_proj.scales`";
    let cases = [
        (
            "gptq",
            "group_size",
            json!(64),
            groups,
            "1 groups of scales: `group_size` in config.json has 64 of 64",
        ),
        ("gptq", "group_size", json!(-1), groups, "found 2"),
        (
            "gptq",
            "group_size",
            json!(16),
            groups,
            "4 groups of scales",
        ),
        ("awq", "group_size", json!(64), groups, "found 2"),
        (
            "gptq-order-v2",
            "desc_act",
            json!(false),
            "q_proj.g_idx`",
            "`desc_act`: true, found group",
        ),
        (
            "gptq-order-v2",
            "desc_act",
            json!(null),
            "q_proj.g_idx`",
            "column",
        ),
    ];
    for (name, key, value, tensor, words) in cases {
        let what = format!("{name} {key} {value}");
        let error = configured(name, key, value).unwrap_err();
        let path = "model.safetensors: tensor `model.layers.0.self_attn.";
        assert!(
            [path, tensor, words]
                .iter()
                .all(|part| error.contains(part)),
            "{what}: {error}"
        );
    }
    // Groups that are in order are so whatever the configuration says, and rules may be for some modules.
    for (name, key, value) in [
        ("gptq", "desc_act", json!(true)),
        ("gptq", "group_size", json!(null)),
        ("gptq", "dynamic", json!({"+:.*q_proj": {"group_size": 64}})),
        ("awq", "group_size", json!(null)),
    ] {
        configured(name, key, value).unwrap();
    }
}

/// Scales of keys and values are for caches that are quantized.
#[test]
fn scales_of_keys_and_values_are_told_and_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("packed/modelopt-nvfp4");
    fs::copy(model.join("config.json"), folder.path().join("config.json")).unwrap();
    let mut bytes = fs::read(model.join("model.safetensors")).unwrap();
    let len = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + len].to_vec()).unwrap();
    let header = header.replace("k_proj.input_scale\"", "k_proj.k_scale\"") + "    ";
    assert_eq!(header.len(), len);
    bytes[8..8 + len].copy_from_slice(header.as_bytes());
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let model = BoundModel::open(folder.path()).unwrap();
    let told: Vec<_> = model.notices().iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("k_proj.k_scale` is not applied"),
        "{told:?}"
    );
}

/// Error of logits by f32 sums over a layer.
const TOLERANCE: f64 = 2e-4;
