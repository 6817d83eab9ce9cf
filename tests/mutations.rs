//! Damaged checkpoints of every format: whatever still opens must be readable, and nothing may panic.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::fs;
use std::path::{Path, PathBuf};

use llm_backend::Reference;
use llm_checkpoint::{Checkpoint, Encoding};
use llm_plan::WeightDType;
use llm_quant::Scalar;
use llm_runtime::{BoundModel, Limits, LoadOptions, load};
use llm_tensor::{DType, HostBytes};
use llm_tests::{device, fixture, published};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Opens a file and reads the first and the last elements of each tensor. The fuzz targets do the same.
fn exercise(bytes: Vec<u8>) {
    let Ok(checkpoint) = Checkpoint::from_bytes(Path::new("damaged"), HostBytes::new(bytes)) else {
        return;
    };
    for tensor in checkpoint.tensors() {
        let n_elements = tensor.shape.n_elements();
        let dtype = match tensor.encoding {
            Encoding::Plain(dtype) => dtype,
            Encoding::Block(_) => DType::F32,
            Encoding::Opaque(_) => {
                let n_bytes = tensor.contiguous_bytes();
                let n = n_bytes.min(1000);
                let mut out = vec![0; n as usize];
                checkpoint
                    .read_stored(&tensor.name, n_bytes - n..n_bytes, &mut out)
                    .expect("what opens is readable");
                continue;
            }
        };
        let n = n_elements.min(1000);
        let mut out = vec![0; n as usize * dtype.size()];
        for range in [0..n, n_elements - n..n_elements] {
            checkpoint
                .read_into(&tensor.name, range, dtype, &mut out)
                .expect("what opens is readable");
        }
        checkpoint.view(&tensor.name).expect("bytes in memory");
    }
}

fn seeds(folder: &str, suffix: &str) -> Vec<PathBuf> {
    let mut seeds: Vec<_> = fs::read_dir(fixture(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{folder} has files {suffix}");
    seeds
}

/// Changes a few bytes, cuts something out or off, or copies one part over another.
fn damage(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    for _ in 0..1 + rng.next_u32() % 4 {
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        // What describes tensors lies at either end: half of the damage is done there.
        let place = |rng: &mut ChaCha8Rng| match rng.next_u32() % 4 {
            0 => rng.next_u32() as usize % len.min(512),
            1 => len - 1 - rng.next_u32() as usize % len.min(512),
            _ => rng.next_u32() as usize % len,
        };
        let (at, from) = (place(rng), place(rng));
        let n = (rng.next_u32() as usize % 16).min(len - at.max(from));
        match rng.next_u32() % 8 {
            0 => bytes[at] ^= 1 << (rng.next_u32() % 8),
            1 => bytes[at] = rng.next_u32() as u8,
            2 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFE, 0xFF][rng.next_u32() as usize % 6],
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..at + n)),
            5 => bytes.copy_within(from..from + n, at),
            6 => bytes[at..at + n].fill(0xFF),
            _ => {
                let part = bytes[from..from + n].to_vec();
                drop(bytes.splice(at..at, part));
            }
        }
    }
}

fn damage_all(seeds: &[PathBuf], n_cases: usize) {
    for path in seeds {
        let good = fs::read(path).unwrap();
        exercise(good.clone());
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for _ in 0..n_cases {
            let mut bytes = good.clone();
            damage(&mut bytes, &mut rng);
            exercise(bytes);
        }
    }
}

#[test]
fn damaged_safetensors_never_panic() {
    damage_all(&[fixture("pickle/expected.safetensors")], 4000);
}

#[test]
fn damaged_gguf_never_panics() {
    damage_all(&seeds("gguf", ".gguf"), 2000);
}

#[test]
fn damaged_pytorch_files_never_panic() {
    damage_all(&seeds("pickle", ".bin"), 2000);
}

/// What still binds can be loaded, or is refused by name; half of the damage is done to the header.
#[test]
fn damaged_quantized_models_never_panic() {
    let reference = device(Reference::new());
    let limits = Limits {
        n_sequences: 1,
        context: 4,
        n_tokens: 2,
        n_logits: 1,
    };
    let mut n_loaded = 0;
    for folder in published() {
        let config = fs::read(folder.join("config.json")).unwrap();
        let good = fs::read(folder.join("model.safetensors")).unwrap();
        let header_len = 8 + u64::from_le_bytes(*good.first_chunk().unwrap()) as usize;
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        for case in 0..200 {
            let mut bytes = good.clone();
            if case % 2 == 0 {
                let mut header = bytes[8..header_len].to_vec();
                damage(&mut header, &mut rng);
                let len = (header.len() as u64).to_le_bytes();
                bytes = [&len[..], &header, &good[header_len..]].concat();
            } else {
                damage(&mut bytes, &mut rng);
            }
            let origin = Path::new("damaged");
            let Ok(checkpoint) = Checkpoint::from_bytes(origin, HostBytes::new(bytes)) else {
                continue;
            };
            let Ok(model) = BoundModel::with_config(checkpoint, &config, origin) else {
                continue;
            };
            for dtype in [WeightDType::Auto, WeightDType::As(DType::F32)] {
                let options = LoadOptions {
                    dtype,
                    quant: None,
                    encoder: &Scalar,
                    limits,
                    offload: None,
                };
                n_loaded += usize::from(load(&model, &*reference, &options, &mut |_| ()).is_ok());
            }
        }
    }
    assert!(n_loaded > 100, "{n_loaded} were loaded");
}
