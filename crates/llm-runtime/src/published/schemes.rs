//! Schemes as configurations describe them.

use std::num::NonZeroU64;

use llm_quant::{Fp8, GlobalScale, GroupCode, Grouped, Scheme};
use llm_tensor::DType;
use serde_json::Value;

use super::keys::Keys;

/// The scheme of a group of compressed-tensors.
pub(super) fn of_weights(weights: Keys<'_>) -> Option<Scheme> {
    let bits = weights.get("num_bits")?.as_u64()?;
    let is_float = weights.get("type").is_some_and(|kind| kind == "float");
    let group = weights.get("group_size").and_then(Value::as_u64);
    let group = group.and_then(NonZeroU64::new);
    let sides = weights.get("block_structure").and_then(Value::as_array);
    let side = |i: usize| sides?.get(i)?.as_u64().filter(|side| *side > 0);
    let is_symmetric = weights.get("symmetric") != Some(&Value::Bool(false));
    Some(match (is_float, bits) {
        (true, 8) => Scheme::Fp8(Fp8 {
            block: side(0).zip(side(1)).map_or(FP8.block, <[u64; 2]>::from),
            ..FP8
        }),
        (true, _) if group == Grouped::MXFP4.group => Scheme::Grouped(Grouped::MXFP4),
        (true, _) => Scheme::Grouped(Grouped {
            global: Some(GlobalScale::Divisor),
            ..Grouped::NVFP4
        }),
        (false, bits) => Scheme::Grouped(Grouped {
            code: GroupCode::of_bits(bits),
            group,
            zeros: !is_symmetric,
            ..INT4
        }),
    })
}

/// With scales of 16 bits, as most have them.
pub(super) const INT4: Grouped = Grouped {
    code: GroupCode::Int4,
    scale: DType::F16,
    group: None,
    zeros: false,
    global: None,
    order: false,
};

/// With a scale a row.
pub(super) const FP8: Fp8 = Fp8 {
    dtype: DType::F8E4M3,
    scale: DType::F32,
    block: [1, u64::MAX],
};
