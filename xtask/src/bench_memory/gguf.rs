//! A GGUF to measure: a llama whose matrices are random blocks, of the types that a file in Q4_K_M has.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// Writes the file.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(path: &Path) -> Result<()> {
    let describe = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(describe)?;
    write_to(BufWriter::new(file)).with_context(describe)
}

fn write_to(mut file: impl Write) -> Result<()> {
    let (tensors, metadata) = (tensors(), metadata());
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    header.extend(metadata.concat());
    let mut offset = 0u64;
    for tensor in &tensors {
        header.extend(string(&tensor.name));
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        for extent in tensor.shape.iter().rev() {
            header.extend(extent.to_le_bytes());
        }
        header.extend(tensor.ty.code.to_le_bytes());
        header.extend(offset.to_le_bytes());
        offset += tensor.n_bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
    file.write_all(&header)?;
    let mut seed = 1;
    for tensor in &tensors {
        let n_bytes = tensor.n_bytes();
        for _ in 0..n_bytes / tensor.ty.block_bytes {
            file.write_all(&tensor.ty.block(&mut seed))?;
        }
        let padding = n_bytes.next_multiple_of(ALIGNMENT) - n_bytes;
        file.write_all(&vec![0; padding as usize])?;
    }
    file.flush()?;
    Ok(())
}

/// A tensor to write.
struct Tensor {
    name: String,
    /// Outermost first.
    shape: Vec<u64>,
    ty: Type,
}

impl Tensor {
    fn n_bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() / self.ty.block_len * self.ty.block_bytes
    }
}

/// A type of blocks.
#[derive(Clone, Copy)]
struct Type {
    /// Number in the file.
    code: u32,
    block_len: u64,
    block_bytes: u64,
    /// Offset of scales in f16 in a block.
    scales: &'static [usize],
}

const F32: Type = Type {
    code: 0,
    block_len: 1,
    block_bytes: 4,
    scales: &[],
};
const Q4_K: Type = Type {
    code: 12,
    block_len: 256,
    block_bytes: 144,
    scales: &[0, 2],
};
const Q6_K: Type = Type {
    code: 14,
    block_len: 256,
    block_bytes: 210,
    scales: &[208],
};

impl Type {
    /// A block of random codes under small scales.
    fn block(self, seed: &mut u64) -> Vec<u8> {
        if self.code == F32.code {
            return 1f32.to_le_bytes().to_vec();
        }
        let word = |_| {
            // Constants of Knuth's linear congruential generator.
            *seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            seed.to_le_bytes()
        };
        let words = self.block_bytes.div_ceil(8);
        let mut block: Vec<u8> = (0..words).flat_map(word).collect();
        block.truncate(self.block_bytes as usize);
        for &at in self.scales {
            block[at..at + 2].copy_from_slice(&SCALE.to_le_bytes());
        }
        block
    }
}

fn tensors() -> Vec<Tensor> {
    let tensor = |name: &str, shape: &[u64], ty| Tensor {
        name: format!("{name}.weight"),
        shape: shape.to_vec(),
        ty,
    };
    let mut tensors = vec![tensor("token_embd", &[VOCAB, HIDDEN], Q4_K)];
    for layer in 0..N_LAYERS {
        let kv = HIDDEN / N_HEADS * N_KV_HEADS;
        let of_layer = [
            ("attn_norm", &[HIDDEN][..], F32),
            ("attn_q", &[HIDDEN, HIDDEN], Q4_K),
            ("attn_k", &[kv, HIDDEN], Q4_K),
            ("attn_v", &[kv, HIDDEN], Q6_K),
            ("attn_output", &[HIDDEN, HIDDEN], Q4_K),
            ("ffn_norm", &[HIDDEN], F32),
            ("ffn_gate", &[WIDTH, HIDDEN], Q4_K),
            ("ffn_up", &[WIDTH, HIDDEN], Q4_K),
            ("ffn_down", &[HIDDEN, WIDTH], Q6_K),
        ];
        let named = of_layer
            .iter()
            .map(|(name, shape, ty)| tensor(&format!("blk.{layer}.{name}"), shape, *ty));
        tensors.extend(named);
    }
    tensors.push(tensor("output_norm", &[HIDDEN], F32));
    tensors.push(tensor("output", &[VOCAB, HIDDEN], Q6_K));
    tensors
}

fn metadata() -> Vec<Vec<u8>> {
    let text = |key: &str, value: &str| [string(key), 8u32.to_le_bytes().into(), string(value)];
    let int = |key: &str, value: u64| {
        let value = (value as u32).to_le_bytes();
        [string(key), 4u32.to_le_bytes().into(), value.into()]
    };
    let float = |key: &str, value: f32| {
        let value = value.to_le_bytes();
        [string(key), 6u32.to_le_bytes().into(), value.into()]
    };
    let entries = [
        text("general.architecture", "llama"),
        int("llama.context_length", 2048),
        int("llama.embedding_length", HIDDEN),
        int("llama.block_count", N_LAYERS),
        int("llama.feed_forward_length", WIDTH),
        int("llama.attention.head_count", N_HEADS),
        int("llama.attention.head_count_kv", N_KV_HEADS),
        float("llama.attention.layer_norm_rms_epsilon", 1e-5),
        int("llama.rope.dimension_count", HIDDEN / N_HEADS),
        float("llama.rope.freq_base", 10_000.0),
    ];
    entries.iter().map(|entry| entry.concat()).collect()
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// 2⁻¹³ in f16: elements are of the size that weights have.
const SCALE: u16 = 0x0800;
const ALIGNMENT: u64 = 32;
const HIDDEN: u64 = 1024;
const N_HEADS: u64 = 16;
const N_KV_HEADS: u64 = 4;
const N_LAYERS: u64 = 12;
const WIDTH: u64 = 2816;
const VOCAB: u64 = 32_000;

#[cfg(test)]
mod tests {
    use llm_checkpoint::Checkpoint;
    use llm_tensor::DType;

    use super::*;

    #[test]
    fn the_file_is_a_model_of_numbers_of_ordinary_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        write(&path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.tensors().count(), 3 + 9 * N_LAYERS as usize);
        for tensor in checkpoint.tensors() {
            let n = tensor.shape.n_elements().min(4096);
            let mut bytes = vec![0; n as usize * 4];
            checkpoint
                .read_tensor(tensor, 0..n, DType::F32, &mut bytes)
                .unwrap();
            let numbers = bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x));
            let largest = numbers.fold(0f32, |most, x| most.max(x.abs()));
            assert!(
                (0.01..=1.0).contains(&largest),
                "{}: {largest}",
                tensor.name
            );
        }
    }
}
