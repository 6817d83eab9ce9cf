//! Contents of written files: as they would be computed with.

use llm_plan::is_final;
use llm_quant::{Int8, StoredWeight};

use super::*;
use crate::quantized::{self, recognise};
use crate::{encode, sum};

/// All that a weight's values depend on.
fn contents(weight: &StoredWeight) -> Vec<Vec<u8>> {
    let parts = weight.parts.iter();
    parts.map(|(_, bytes)| bytes.to_vec()).collect()
}

/// The same of a unit's file.
fn contents_in(file: &Checkpoint, bound: &crate::BoundTensor<'_>, dtype: DType) -> Vec<Vec<u8>> {
    let (name, slot) = (&bound.slot.name, bound.slot);
    let tensor = file.get(name).unwrap();
    let int8 = Int8 { threshold: 6.0 };
    let scheme = recognise(file, tensor, slot, int8, None).unwrap().unwrap();
    if scheme.elements().is_none() {
        let written = crate::BoundTensor {
            slot,
            tensor,
            scheme,
            packing: None,
            scales: None,
        };
        return contents(&quantized::stored(file, &written).unwrap());
    }
    let dims: Vec<u64> = slot.shape.iter().map(|&d| d as u64).collect();
    assert_eq!(*tensor.shape, *dims, "{name}");
    let n_elements = tensor.shape.n_elements();
    let mut bytes = vec![0; n_elements as usize * dtype.size()];
    file.read_into(name, 0..n_elements, dtype, &mut bytes)
        .unwrap();
    vec![bytes]
}

fn check(kept: &Kept, what: &str) {
    let root = tempfile::tempdir().unwrap();
    let (prepared, written) = kept.prepared(root.path());
    let encodings = kept.encodings();
    let mut n_checked = 0;
    for bound in kept.model.tensors() {
        let (slot, stored) = (bound.slot, bound.stored());
        let scheme = encodings.scheme(slot, stored, kept.run_on);
        let file = prepared.files.get(&slot.unit).map(|file| &file.checkpoint);
        let found = file.filter(|file| file.get(&slot.name).is_some());
        let is_whole = bound.tensor.layout == llm_checkpoint::Layout::RowMajor;
        let is_kept = !llm_plan::becomes_table(slot.role);
        let is_expected = is_kept && !(is_final(slot, stored, scheme) && is_whole);
        assert_eq!(found.is_some(), is_expected, "{what}: {}", slot.name);
        if let Some(file) = found {
            let weight =
                encode::weight(&kept.model, &bound, &encodings, kept.run_on, &Scalar).unwrap();
            let dtype = weight.scheme.elements().unwrap_or(DType::U8);
            let (expected, found) = (contents(&weight), contents_in(file, &bound, dtype));
            assert!(found == expected, "{what}: {} has other bytes", slot.name);
            n_checked += 1;
        }
    }
    assert!(n_checked > 0, "{what}: nothing was written");

    let mut tensor_bytes = 0;
    for (unit, file) in &prepared.files {
        for tensor in file.checkpoint.tensors() {
            let llm_checkpoint::Encoding::Plain(dtype) = tensor.encoding else {
                panic!("offloaded elements are plain")
            };
            let size = dtype.size() as u64;
            let is_aligned = tensor.bytes.start.is_multiple_of(size);
            assert!(is_aligned, "{what}: {} of the {unit}", tensor.name);
            tensor_bytes += tensor.stored_bytes().get();
        }
        let bytes = fs::read(file.checkpoint.path()).unwrap();
        assert_eq!(sum::of(&bytes), file.sum, "{what}: {unit}");
        let name = file
            .checkpoint
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap();
        assert_eq!(names::parse_file_name(name), Some((*unit, file.sum)));
    }
    assert_eq!(written.get(), tensor_bytes, "{what}");

    let before = tree(root.path());
    let (again, written) = kept.prepared(root.path());
    assert_eq!(written, Bytes::ZERO, "{what}: found again");
    assert!(again.files.keys().eq(prepared.files.keys()));
    assert!(tree(root.path()) == before, "{what}: nothing has changed");
}

#[test]
fn every_kind_of_weight_is_written_as_loading_gives_it_and_found_again() {
    let int8 = || Some(QuantConfig::new(LoadIn::EightBit));
    let per_use = Some(QuantConfig {
        llm_int8_has_fp16_weight: true,
        ..QuantConfig::new(LoadIn::EightBit)
    });
    let blocks_of_128 = Some(QuantConfig {
        block_size: llm_quant::BlockSize::new(128).unwrap(),
        bnb_4bit_quant_storage: DType::BF16,
        ..QuantConfig::new(LoadIn::FourBit)
    });
    let with_head = Some(QuantConfig {
        llm_int8_skip_modules: Some(vec!["q_proj".to_owned()]),
        ..four_bit(Code::Nf4, true).unwrap()
    });
    for (model, dtype, quant) in [
        ("models/llama", DType::BF16, None),
        ("models/llama", DType::F16, four_bit(Code::Nf4, false)),
        ("models/llama", DType::F32, with_head),
        (
            "models/phi3-longrope-long",
            DType::BF16,
            four_bit(Code::Fp4, true),
        ),
        ("models/llama", DType::BF16, blocks_of_128),
        // Matrices that lie the other way round are all that is written.
        ("models/gpt2", DType::F32, None),
        ("models/gpt2", DType::BF16, four_bit(Code::Nf4, true)),
        ("models/gpt2", DType::F32, int8()),
        ("models/bloom", DType::F16, int8()),
        ("models/llama", DType::BF16, per_use),
        ("models/mixtral", DType::BF16, four_bit(Code::Nf4, true)),
        ("models/t5-v1-style", DType::F16, int8()),
        ("models/opt-350m-style", DType::F16, None),
        ("quantized/llama-nf4-double", DType::F16, None),
        // Codes that lie as they are computed with, of matrices that would not.
        ("quantized/gpt2-int8", DType::BF16, None),
        ("gguf-models/qwen2.gguf", DType::BF16, None),
        (
            "gguf-models/gpt2.gguf",
            DType::F32,
            four_bit(Code::Nf4, true),
        ),
        ("gguf-models/phi3.gguf", DType::F16, int8()),
    ] {
        let what = format!(
            "{model} as {dtype}, {:?}",
            quant.as_ref().map(|q| q.scheme())
        );
        check(&Kept::new(&fixture(model), dtype, quant), &what);
    }
}

/// Square matrices, of which the pickle says that they lie column by column.
#[test]
fn views_of_something_larger_are_written_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of("llama", folder.path());
    let source = model.join("model.safetensors");
    let checkpoint = Checkpoint::open(&source).unwrap();
    let tensors: Vec<NewTensor> = checkpoint
        .tensors()
        .map(|tensor| NewTensor {
            name: tensor.name.clone(),
            dtype: DType::F32,
            shape: tensor.shape.clone(),
        })
        .collect();
    let path = model.join("pytorch_model.bin");
    let mut file = TorchFile::create(&path, TorchLayout::Legacy, &tensors).unwrap();
    for tensor in &tensors {
        let n_elements = tensor.shape.n_elements();
        let mut bytes = vec![0; n_elements as usize * 4];
        checkpoint
            .read_into(&tensor.name, 0..n_elements, DType::F32, &mut bytes)
            .unwrap();
        file.write(&bytes).unwrap();
    }
    file.finish().unwrap();
    fs::remove_file(source).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let mut n_turned = 0;
    // Tuples of one-byte integers: the shape (48, 48), and then the strides (48, 1).
    let (in_order, turned) = (b"(K\x30K\x30t(K\x30K\x01t", b"(K\x30K\x30t(K\x01K\x30t");
    for at in 0..bytes.len() - in_order.len() {
        let found = &mut bytes[at..at + in_order.len()];
        if found == in_order {
            found.copy_from_slice(turned);
            n_turned += 1;
        }
    }
    assert!(n_turned > 0);
    fs::write(&path, bytes).unwrap();
    check(&Kept::new(&model, DType::F32, None), "strided");
    check(
        &Kept::new(&model, DType::BF16, four_bit(Code::Nf4, true)),
        "strided, nf4",
    );
}

#[test]
fn a_checkpoint_in_memory_is_told_by_its_bytes() {
    let source = fixture("models/llama");
    let config = fs::read(source.join("config.json")).unwrap();
    let root = tempfile::tempdir().unwrap();
    let prepared = |weights: Vec<u8>| {
        let origin = Path::new("no such file");
        let weights = llm_tensor::HostBytes::new(weights);
        let checkpoint = Checkpoint::from_bytes(origin, weights).unwrap();
        let model = BoundModel::with_config(checkpoint, &config, origin).unwrap();
        let kept = Kept {
            model,
            ..Kept::llama_bf16()
        };
        kept.prepared(root.path()).1
    };
    let mut weights = fs::read(source.join("model.safetensors")).unwrap();
    let first = prepared(weights.clone());
    assert!(first > Bytes::ZERO);
    assert_eq!(prepared(weights.clone()), Bytes::ZERO);
    *weights.last_mut().unwrap() ^= 1;
    assert_eq!(prepared(weights), first);
}

#[test]
fn what_the_checkpoint_holds_in_its_final_form_needs_no_file() {
    let root = tempfile::tempdir().unwrap();
    for (model, dtype) in [
        ("models/llama", DType::F32),
        // Its tables alone are turned into values, by whoever loads them.
        ("models/t5-v1-style", DType::F32),
    ] {
        let kept = Kept::new(&fixture(model), dtype, None);
        let (prepared, written) = kept.prepared(&root.path().join("offload"));
        assert!(prepared.files.is_empty(), "{model}");
        assert_eq!(written, Bytes::ZERO);
    }
    assert!(tree(root.path()).is_empty());
}

#[test]
fn units_that_are_not_asked_for_are_not_written() {
    let root = tempfile::tempdir().unwrap();
    let kept = Kept::llama_bf16();
    let ask = |units: &[Unit]| {
        let (model, encodings) = (&kept.model, kept.encodings());
        let mut ignore = |_| Ok(());
        let prepared = prepare(
            model,
            &encodings,
            &Scalar,
            kept.run_on,
            root.path(),
            units,
            &mut ignore,
        );
        prepared.unwrap().files.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(ask(&[Unit::Head]), [Unit::Head]);
    assert_eq!(weights(root.path()).len(), 1);
    assert_eq!(
        ask(&[Unit::Embedding, Unit::Head]),
        [Unit::Embedding, Unit::Head]
    );
    assert_eq!(weights(root.path()).len(), 2);
}

#[test]
fn another_source_encoding_or_device_is_another_entry() {
    let folder = tempfile::tempdir().unwrap();
    let (model, root) = (
        copy_of("llama", folder.path()),
        folder.path().join("offload"),
    );
    let key_of = |kept: &Kept| {
        let (prepared, written) = kept.prepared(&root);
        let path = prepared.files[&Unit::Embedding].checkpoint.path();
        let key = path.parent().unwrap().file_name().unwrap();
        (key.to_owned(), written)
    };
    let bf16 = || Kept::new(&model, DType::BF16, None);
    let (first, written) = key_of(&bf16());
    assert!(written > Bytes::ZERO);
    let offload_on_cpu = Some(QuantConfig {
        llm_int8_enable_fp32_cpu_offload: true,
        ..QuantConfig::new(LoadIn::EightBit)
    });
    let mut seen = vec![first.clone()];
    for (mut kept, is_by_device) in [
        (Kept::new(&model, DType::F16, None), false),
        (
            Kept::new(&model, DType::BF16, four_bit(Code::Nf4, false)),
            false,
        ),
        (
            Kept::new(&model, DType::BF16, four_bit(Code::Nf4, true)),
            false,
        ),
        (Kept::new(&model, DType::BF16, offload_on_cpu), true),
    ] {
        kept.run_on = RunOn::Cpu;
        let (of_cpu, written) = key_of(&kept);
        assert!(written > Bytes::ZERO && !seen.contains(&of_cpu));
        seen.push(of_cpu.clone());
        // Others compute with the same bytes.
        kept.run_on = RunOn::Gpu(0);
        let (of_gpu, written) = key_of(&kept);
        assert_eq!(
            (of_gpu != of_cpu, written > Bytes::ZERO),
            (is_by_device, is_by_device)
        );
        seen.push(of_gpu.clone());
        // Which GPU does not matter.
        kept.run_on = RunOn::Gpu(1);
        assert_eq!(key_of(&kept), (of_gpu, Bytes::ZERO));
    }

    assert_eq!(key_of(&bf16()), (first.clone(), Bytes::ZERO));
    let weights = model.join("model.safetensors");
    let file = fs::File::options().write(true).open(&weights).unwrap();
    let now = file.metadata().unwrap().modified().unwrap();
    file.set_modified(now + Duration::from_nanos(1)).unwrap();
    let (touched, written) = key_of(&bf16());
    assert!(written > Bytes::ZERO && touched != first);

    // Another file of the same length that says it is as old, as copying and unpacking leave it.
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    file.set_modified(now).unwrap();
    let (replaced, written) = key_of(&bf16());
    assert!(written > Bytes::ZERO && ![first, touched].contains(&replaced));
}
