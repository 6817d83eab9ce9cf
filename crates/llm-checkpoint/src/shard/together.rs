//! Tensors that mean something only together: the codes of a quantized matrix and what they are decoded with. Converting
//! either would destroy the matrix.

use std::collections::HashSet;

use llm_tensor::DType;

use crate::tensor::{Encoding, TensorInfo};

/// The modules of a checkpoint whose weights are quantized, whatever made them: told by elements that are no numbers, or
/// that are scaled.
pub(super) struct Quantized<'c> {
    modules: HashSet<&'c str>,
}

impl<'c> Quantized<'c> {
    pub(super) fn of(tensors: impl Iterator<Item = &'c TensorInfo> + Clone) -> Self {
        let scaled = tensors.clone().filter(|tensor| is_scale(&tensor.name));
        let scaled: HashSet<&str> = scaled.map(|tensor| split(&tensor.name).0).collect();
        let holds_codes = |tensor: &TensorInfo| {
            let (module, part) = split(&tensor.name);
            match tensor.encoding {
                Encoding::Plain(dtype) => match dtype {
                    DType::I32 | DType::I16 | DType::I8 => true,
                    DType::U32 | DType::U16 | DType::U8 | DType::F8E8M0 => true,
                    DType::F8E4M3 | DType::F8E5M2 => scaled.contains(module),
                    DType::F8E4M3FNUZ | DType::F8E5M2FNUZ => scaled.contains(module),
                    // 4-bit codes may be declared as of any type.
                    DType::F64 | DType::F32 | DType::F16 | DType::BF16 => is_state(part),
                    // Positions, counters and masks.
                    DType::I64 | DType::U64 | DType::Bool | DType::C64 => false,
                },
                Encoding::Opaque(_) => true,
                Encoding::Block(_) => false,
            }
        };
        let modules = tensors.filter(|tensor| holds_codes(tensor));
        Quantized {
            modules: modules.map(|tensor| split(&tensor.name).0).collect(),
        }
    }

    /// True if `tensor` is a part of a quantized matrix. A bias beside one is not.
    pub(super) fn has(&self, tensor: &TensorInfo) -> bool {
        let (module, part) = split(&tensor.name);
        self.modules.contains(module) && !part.ends_with("bias")
    }
}

/// The module of a tensor, and what it is there. What belongs to a weight, `a.weight.absmax`, belongs to the module.
fn split(name: &str) -> (&str, &str) {
    if let Some((module, part)) = name.rsplit_once(".weight.")
        && (is_state(part) || part.starts_with('_'))
    {
        return (module, part);
    }
    match name.split_once(".weight.quant_state.") {
        Some((module, _)) => (module, "quant_state"),
        None => name.rsplit_once('.').unwrap_or((name, name)),
    }
}

/// True if a part is of those that bitsandbytes keeps beside 4-bit codes.
fn is_state(part: &str) -> bool {
    let begins = [
        "absmax",
        "quant_map",
        "nested_absmax",
        "nested_quant_map",
        "quant_state",
    ];
    begins.iter().any(|begin| part.starts_with(begin))
}

fn is_scale(name: &str) -> bool {
    split(name).1.contains("scale")
}

#[cfg(test)]
mod tests {
    use llm_tensor::Shape;

    use super::*;
    use crate::tensor::Layout;

    fn tensor(name: &str, dtype: DType) -> TensorInfo {
        TensorInfo {
            name: name.to_owned(),
            shape: Shape::new(&[1]).unwrap(),
            encoding: Encoding::Plain(dtype),
            layout: Layout::RowMajor,
            file_idx: 0,
            bytes: 0..dtype.size() as u64,
        }
    }

    #[test]
    fn parts_of_quantized_matrices_are_told_whoever_made_them() {
        use DType::{BF16, F8E4M3, F16, F32, I8, I32, I64, U8, U32};
        struct Case {
            what: &'static str,
            /// Those that stay as they are.
            parts: &'static [(&'static str, DType)],
            others: &'static [(&'static str, DType)],
        }
        let cases = [
            Case {
                what: "bitsandbytes, 4 bits",
                parts: &[
                    ("a.q.weight", U8),
                    ("a.q.weight.absmax", F32),
                    ("a.q.weight.quant_map", F32),
                    ("a.q.weight.quant_state.bitsandbytes__nf4", U8),
                ],
                others: &[("a.q.bias", F32), ("a.norm.weight", F32), ("a.weight", F32)],
            },
            Case {
                what: "bitsandbytes, 4 bits stored as floats",
                parts: &[("q.weight", BF16), ("q.weight.absmax", F32)],
                others: &[("norm.weight", BF16)],
            },
            Case {
                what: "LLM.int8()",
                parts: &[("q.weight", I8), ("q.SCB", F32), ("q.weight_format", U8)],
                others: &[("q.bias", F16)],
            },
            Case {
                what: "GPTQ and AWQ",
                parts: &[
                    ("q.qweight", I32),
                    ("q.qzeros", I32),
                    ("q.scales", F16),
                    ("q.g_idx", I32),
                ],
                others: &[("q.bias", F16), ("norm.weight", F16)],
            },
            Case {
                what: "float8 with scales",
                parts: &[("q.weight", F8E4M3), ("q.weight_scale_inv", F32)],
                others: &[("o.weight", F8E4M3), ("norm.weight", BF16)],
            },
            Case {
                what: "MLX",
                parts: &[("q.weight", U32), ("q.scales", F16)],
                others: &[("q.bias", F16)],
            },
            Case {
                what: "fused experts in MXFP4",
                parts: &[("e.up_blocks", U8), ("e.up_scales", U8)],
                others: &[("e.up_bias", BF16), ("router.weight", BF16)],
            },
            Case {
                what: "quanto",
                parts: &[("q.weight._data", I8), ("q.weight._scale", BF16)],
                others: &[("q.bias", BF16)],
            },
            Case {
                what: "nothing",
                parts: &[],
                others: &[
                    ("embeddings.position_ids", I64),
                    ("embeddings.weight", F32),
                    ("n.num_batches_tracked", I64),
                    ("n.running_mean", F32),
                    ("p.parametrizations.weight.original0", F32),
                ],
            },
        ];
        for Case {
            what,
            parts,
            others,
        } in cases
        {
            let tensors = |list: &[(&str, DType)]| -> Vec<TensorInfo> {
                list.iter()
                    .map(|(name, dtype)| tensor(name, *dtype))
                    .collect()
            };
            let (parts, others) = (tensors(parts), tensors(others));
            let quantized = Quantized::of(parts.iter().chain(&others));
            for tensor in &parts {
                assert!(quantized.has(tensor), "{what}: {}", tensor.name);
            }
            for tensor in &others {
                assert!(!quantized.has(tensor), "{what}: {}", tensor.name);
            }
        }
    }
}
