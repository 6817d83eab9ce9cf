//! Models in GGUF's blocks, of random bits that mean numbers of ordinary sizes.

use std::path::{Path, PathBuf};

use llm_quant::GgmlType;

use crate::gguf::{F32, Gguf, TABLE, Tensor, Written, entry, le_bytes, string};

/// Shape of a model with the metadata and the names of a `llama`, in files as GGUF has them.
#[derive(Debug, Clone, Copy)]
pub struct Packed {
    /// Experts of each layer, two of which a token goes to; none where a layer has one feed-forward.
    pub n_experts: Option<usize>,
    /// True if the table of tokens makes the logits, too.
    pub is_tied: bool,
    /// Index in [`GgmlType::ALL`] of the first matrix's type; the others follow in turn.
    pub first_type: usize,
}

impl Packed {
    /// Models that have every type of block among them.
    pub const ALL: [Packed; 3] = [
        Packed {
            n_experts: None,
            is_tied: false,
            first_type: 0,
        },
        Packed {
            n_experts: None,
            is_tied: true,
            first_type: 8,
        },
        Packed {
            n_experts: Some(4),
            is_tied: false,
            first_type: 13,
        },
    ];

    /// Writes the model, the same on every call but for its form.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(self, path: &Path, written: Written) {
        self.gguf(written).write(path);
    }

    /// Writes the same into a folder, in blocks, as several files; the path of the first.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_split(self, folder: &Path) -> PathBuf {
        self.gguf(Written::Blocks).write_split(folder)
    }

    fn gguf(self, written: Written) -> Gguf {
        Gguf {
            metadata: self.metadata(),
            tensors: self.tensors(written),
        }
    }

    fn tensors(self, written: Written) -> Vec<Tensor> {
        let mut random = Random(self.first_type as u64);
        let mut types = (self.first_type..).map(|i| GgmlType::ALL[i % GgmlType::ALL.len()]);
        let mut tensors = Vec::new();
        let mut matrix = |name: String, shape: &[usize]| {
            let ty = types.next().expect("there is always a next");
            let n_elements: usize = shape.iter().product();
            let blocks = blocks(&mut random, ty, n_elements / ty.block_len());
            let (type_code, bytes) = written.tensor(&name, ty, blocks);
            tensors.push(Tensor {
                name,
                shape: shape.to_vec(),
                type_code,
                bytes,
            });
        };
        matrix(TABLE.to_owned(), &[VOCAB, HIDDEN]);
        for layer in 0..N_LAYERS {
            let mut of_layer =
                |name: &str, shape: &[usize]| matrix(format!("blk.{layer}.{name}.weight"), shape);
            let kv = HIDDEN / N_HEADS * N_KV_HEADS;
            of_layer("attn_q", &[HIDDEN, HIDDEN]);
            of_layer("attn_k", &[kv, HIDDEN]);
            of_layer("attn_v", &[kv, HIDDEN]);
            of_layer("attn_output", &[HIDDEN, HIDDEN]);
            match self.n_experts {
                None => {
                    of_layer("ffn_gate", &[WIDTH, HIDDEN]);
                    of_layer("ffn_up", &[WIDTH, HIDDEN]);
                    of_layer("ffn_down", &[HIDDEN, WIDTH]);
                }
                Some(n) => {
                    of_layer("ffn_gate_inp", &[n, HIDDEN]);
                    of_layer("ffn_gate_exps", &[n, WIDTH, HIDDEN]);
                    of_layer("ffn_up_exps", &[n, WIDTH, HIDDEN]);
                    of_layer("ffn_down_exps", &[n, HIDDEN, WIDTH]);
                }
            }
        }
        if !self.is_tied {
            matrix("output.weight".to_owned(), &[VOCAB, HIDDEN]);
        }
        let of_layer = |layer: usize| {
            ["attn_norm", "ffn_norm"].map(|name| format!("blk.{layer}.{name}.weight"))
        };
        let norms = (0..N_LAYERS).flat_map(of_layer);
        for name in norms.chain(["output_norm.weight".to_owned()]) {
            let gains: Vec<f32> = (0..HIDDEN).map(|i| 1.0 + i as f32 / 1024.0).collect();
            tensors.push(Tensor {
                name,
                shape: vec![HIDDEN],
                type_code: F32,
                bytes: le_bytes(&gains),
            });
        }
        tensors
    }

    fn metadata(self) -> Vec<Vec<u8>> {
        let text = |value: &str| [&8u32.to_le_bytes()[..], &string(value)].concat();
        let int = |value: usize| [4u32.to_le_bytes(), (value as u32).to_le_bytes()].concat();
        let float = |value: f32| [6u32.to_le_bytes(), value.to_le_bytes()].concat();
        let mut entries = vec![
            ("general.architecture", text("llama")),
            ("llama.context_length", int(128)),
            ("llama.embedding_length", int(HIDDEN)),
            ("llama.block_count", int(N_LAYERS)),
            ("llama.feed_forward_length", int(WIDTH)),
            ("llama.attention.head_count", int(N_HEADS)),
            ("llama.attention.head_count_kv", int(N_KV_HEADS)),
            ("llama.attention.layer_norm_rms_epsilon", float(1e-5)),
            ("llama.rope.dimension_count", int(HIDDEN / N_HEADS)),
            ("llama.rope.freq_base", float(10_000.0)),
        ];
        if let Some(n) = self.n_experts {
            entries.push(("llama.expert_count", int(n)));
            entries.push(("llama.expert_used_count", int(2)));
        }
        let entries = entries.into_iter();
        entries.map(|(key, value)| entry(key, &value)).collect()
    }
}

/// Blocks of any bits whose largest elements are of the size that weights of such a model have.
fn blocks(random: &mut Random, ty: GgmlType, n_blocks: usize) -> Vec<u8> {
    let kinds: Vec<Vec<u8>> = (0..N_KINDS).map(|_| block(random, ty)).collect();
    let kind = |_| &kinds[random.next() as usize % N_KINDS];
    (0..n_blocks).flat_map(kind).copied().collect()
}

fn block(random: &mut Random, ty: GgmlType) -> Vec<u8> {
    let mut values = vec![0.0; ty.block_len()];
    loop {
        let block: Vec<u8> = (0..ty.block_bytes())
            .map(|_| (random.next() >> 56) as u8)
            .collect();
        ty.decode(&block, &mut values);
        let largest = values.iter().fold(0f32, |max, x| max.max(x.abs()));
        if values.iter().all(|x| x.is_finite()) && (0.02..0.4).contains(&largest) {
            return block;
        }
    }
}

/// Deterministic numbers (SplitMix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

const HIDDEN: usize = 256;
const N_HEADS: usize = 4;
const N_KV_HEADS: usize = 2;
const N_LAYERS: usize = 2;
const WIDTH: usize = 512;
const VOCAB: usize = 300;
/// Different blocks of a matrix.
const N_KINDS: usize = 64;
