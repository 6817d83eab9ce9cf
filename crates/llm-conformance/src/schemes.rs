use llm_quant::{BlockSize, Code, FourBit, GgmlType, Int8, Scheme, StoredWeight};

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
    GgmlType::ALL.map(Scheme::Ggml).into()
}

/// Elements that rows of a weight are multiples of.
pub(crate) fn block_len(scheme: Scheme) -> usize {
    match scheme {
        Scheme::Ggml(ty) => ty.block_len(),
        Scheme::Dense(_)
        | Scheme::Int8(_)
        | Scheme::Int8PerUse(..)
        | Scheme::FourBit(_)
        | Scheme::Fp8(_)
        | Scheme::Grouped(_) => 1,
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
        Scheme::Fp8(_) | Scheme::Grouped(_) => panic!("no case has a weight in {scheme}"),
    }
}
