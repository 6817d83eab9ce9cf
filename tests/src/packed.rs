//! Models in GGUF's blocks, of random bits that mean numbers of ordinary sizes.

use std::path::Path;

use llm_quant::GgmlType;

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

/// Form in which matrices are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Blocks.
    Blocks,
    /// The f32 that they stand for; the table of tokens in blocks.
    DecodedButTable,
}

/// A tensor on its way to a file.
struct Tensor {
    name: String,
    /// Outermost first.
    shape: Vec<usize>,
    type_code: u32,
    bytes: Vec<u8>,
}

const HIDDEN: usize = 256;
const N_HEADS: usize = 4;
const N_KV_HEADS: usize = 2;
const N_LAYERS: usize = 2;
const WIDTH: usize = 512;
const VOCAB: usize = 300;

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
        let tensors = self.tensors(written);
        std::fs::write(path, file(&self.metadata(), &tensors)).expect("a written file");
    }

    fn tensors(self, written: Written) -> Vec<Tensor> {
        let mut random = Random(self.first_type as u64);
        let mut types = (self.first_type..).map(|i| GgmlType::ALL[i % GgmlType::ALL.len()]);
        let mut tensors = Vec::new();
        let mut matrix = |name: String, shape: &[usize]| {
            let ty = types.next().expect("there is always a next");
            let n_elements: usize = shape.iter().product();
            let blocks = blocks(&mut random, ty, n_elements / ty.block_len());
            let is_kept = written == Written::Blocks || name == TABLE;
            let (type_code, bytes) = if is_kept {
                (code(ty), blocks)
            } else {
                let mut values = vec![0.0; n_elements];
                ty.decode(&blocks, &mut values);
                (F32, le_bytes(&values))
            };
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
        let entry = |(key, value): (&str, Vec<u8>)| [string(key), value].concat();
        entries.into_iter().map(entry).collect()
    }
}

/// A GGUF of version 3.
fn file(metadata: &[Vec<u8>], tensors: &[Tensor]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((metadata.len() as u64).to_le_bytes());
    file.extend(metadata.concat());
    let mut offset = 0;
    for tensor in tensors {
        file.extend(string(&tensor.name));
        file.extend((tensor.shape.len() as u32).to_le_bytes());
        for &extent in tensor.shape.iter().rev() {
            file.extend((extent as u64).to_le_bytes());
        }
        file.extend(tensor.type_code.to_le_bytes());
        file.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes.len().next_multiple_of(ALIGNMENT);
    }
    for tensor in tensors {
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.extend(&tensor.bytes);
    }
    file
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
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

/// Number of a type in GGUF.
fn code(ty: GgmlType) -> u32 {
    match ty {
        GgmlType::Q4_0 => 2,
        GgmlType::Q4_1 => 3,
        GgmlType::Q5_0 => 6,
        GgmlType::Q5_1 => 7,
        GgmlType::Q8_0 => 8,
        GgmlType::Q2K => 10,
        GgmlType::Q3K => 11,
        GgmlType::Q4K => 12,
        GgmlType::Q5K => 13,
        GgmlType::Q6K => 14,
        GgmlType::IQ2XXS => 16,
        GgmlType::IQ2XS => 17,
        GgmlType::IQ3XXS => 18,
        GgmlType::IQ1S => 19,
        GgmlType::IQ4NL => 20,
        GgmlType::IQ3S => 21,
        GgmlType::IQ2S => 22,
        GgmlType::IQ4XS => 23,
        GgmlType::IQ1M => 29,
        GgmlType::TQ1_0 => 34,
        GgmlType::TQ2_0 => 35,
        GgmlType::MXFP4 => 39,
        GgmlType::NVFP4 => 40,
    }
}

const TABLE: &str = "token_embd.weight";
const F32: u32 = 0;
const ALIGNMENT: usize = 32;
/// Different blocks of a matrix.
const N_KINDS: usize = 64;
