use std::num::NonZeroU64;

use llm_quant::{
    BlockSize, Code, FourBit, Fp8, GgmlType, GlobalScale, GroupCode, Grouped, Int8, Scheme,
    StoredWeight,
};
use llm_tensor::DType;

use crate::data::{DTYPES, Random};
use crate::{four_bit, int8, packed};

/// Every kind of weight that each backend computes with.
pub(crate) fn schemes() -> Vec<Scheme> {
    let int8 = Int8 { threshold: 6.0 };
    let four_bit = |code, block_size, double_quant| {
        Scheme::FourBit(FourBit {
            code,
            block_size: BlockSize::new(block_size).expect("a power of two from 32 to 4096"),
            double_quant,
        })
    };
    let mut schemes = vec![
        Scheme::Int8(int8),
        four_bit(Code::Nf4, 64, false),
        four_bit(Code::Nf4, 64, true),
        four_bit(Code::Fp4, 32, false),
    ];
    schemes.extend(DTYPES.map(Scheme::Dense));
    schemes.extend(DTYPES.map(|dtype| Scheme::Int8PerUse(dtype, int8)));
    schemes
}

/// The formats of published files, which a backend may refuse.
pub(crate) fn packed() -> Vec<Scheme> {
    let mut schemes: Vec<_> = GgmlType::ALL.map(Scheme::Ggml).into();
    for (dtype, scale, block) in [
        (DType::F8E4M3, DType::F32, [128, 128]),
        (DType::F8E5M2, DType::BF16, [1, u64::MAX]),
        (DType::F8E4M3, DType::F8E8M0, [3, 20]),
    ] {
        schemes.push(Scheme::Fp8(Fp8 {
            dtype,
            scale,
            block,
        }));
    }
    for (code, scale, group, zeros, global, order) in [
        (GroupCode::Int4, DType::F16, 128, true, None, false),
        (GroupCode::Int4, DType::BF16, 20, false, None, true),
        (GroupCode::E2M1, DType::F8E8M0, 32, false, None, false),
        (
            GroupCode::E2M1,
            DType::F8E4M3,
            16,
            false,
            Some(GlobalScale::Divisor),
            false,
        ),
        (
            GroupCode::Int8,
            DType::F32,
            0,
            false,
            Some(GlobalScale::Factor),
            false,
        ),
        (GroupCode::Int8, DType::BF16, 32, true, None, false),
    ] {
        schemes.push(Scheme::Grouped(Grouped {
            code,
            scale,
            group: NonZeroU64::new(group),
            zeros,
            global,
            order,
        }));
    }
    schemes
}

/// Elements that rows of a weight are multiples of.
pub(crate) fn block_len(scheme: Scheme) -> usize {
    match scheme {
        Scheme::Ggml(ty) => ty.block_len(),
        Scheme::Dense(_) | Scheme::Int8(_) | Scheme::Int8PerUse(..) | Scheme::FourBit(_) => 1,
        // Short of a register, and of a block.
        Scheme::Fp8(_) | Scheme::Grouped(_) => 37,
    }
}

/// A weight `[rows, cols]`.
pub(crate) fn weight_in(
    random: &mut Random,
    scheme: Scheme,
    (rows, cols): (usize, usize),
) -> StoredWeight {
    match scheme {
        Scheme::Dense(dtype) => random.weight(dtype, rows, cols),
        Scheme::Int8PerUse(dtype, _) => StoredWeight {
            scheme,
            ..random.weight(dtype, rows, cols)
        },
        Scheme::Int8(format) => int8::weight(random, (rows, cols), format),
        Scheme::FourBit(format) => four_bit::encoded(random, (rows, cols), format),
        Scheme::Ggml(ty) => packed::ggml(random, (rows, cols), ty),
        Scheme::Fp8(format) => packed::fp8(random, (rows, cols), format),
        Scheme::Grouped(format) => packed::grouped(random, (rows, cols), format),
    }
}
