//! Encodings of experts that one launch multiplies.

use llm_quant::{Part, Scheme};
use llm_tensor::DType;

use crate::CudaWeight;
use crate::formats::{self, PackedKernels};
use crate::module::{Kernel, kernel};
use crate::ops::packed;

/// An encoding that the kernels read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
    /// LLM.int8(), with the bits of its threshold.
    Int8 {
        threshold: u32,
    },
    FourBit {
        block_log2: usize,
    },
    FourBitDouble {
        block_log2: usize,
    },
    /// A format of published files.
    Packed(Scheme),
}

impl Kind {
    /// Nothing for what lies or ends where a kernel cannot read.
    pub(super) fn of(weight: &CudaWeight) -> Option<Self> {
        let at = |part, border| weight.part(part).is_aligned(border);
        let (kind, len) = match weight.scheme() {
            Scheme::Dense(DType::F32) => (Kind::F32, 4),
            Scheme::Dense(DType::F16) => (Kind::F16, 8),
            Scheme::Dense(DType::BF16) => (Kind::Bf16, 8),
            Scheme::FourBit(format) => {
                let block_log2 = format.block_size.get().ilog2() as usize;
                let kind = match format.double_quant {
                    false => Kind::FourBit { block_log2 },
                    true => Kind::FourBitDouble { block_log2 },
                };
                (kind, 8)
            }
            Scheme::Int8(format) => {
                let threshold = format.threshold.to_bits();
                (Kind::Int8 { threshold }, 16)
            }
            scheme @ (Scheme::Ggml(_) | Scheme::Fp8(_) | Scheme::Grouped(_)) => {
                let is_taken = packed::takes(packed::kernels(weight)?, weight);
                return is_taken.then_some(Kind::Packed(scheme));
            }
            Scheme::Dense(_) | Scheme::Int8PerUse(..) => return None,
        };
        let is_aligned = match kind {
            Kind::F32 | Kind::F16 | Kind::Bf16 | Kind::Packed(_) => at(Part::Weight, 16),
            Kind::Int8 { .. } => at(Part::Weight, 16) && at(Part::Scb, 4),
            Kind::FourBit { .. } => kind.parts().iter().all(|&part| at(part, 4)),
            Kind::FourBitDouble { .. } => {
                let parts = kind.parts().iter();
                parts
                    .filter(|part| **part != Part::Absmax)
                    .all(|&part| at(part, 4))
            }
        };
        (is_aligned && weight.cols().is_multiple_of(len)).then_some(kind)
    }

    /// What a kernel is told of, in its order.
    fn parts(self) -> &'static [Part] {
        let all: &[Part] = &[
            Part::Weight,
            Part::Absmax,
            Part::QuantMap,
            Part::NestedAbsmax,
            Part::NestedQuantMap,
            Part::NestedOffset,
        ];
        match self {
            Kind::F32 | Kind::F16 | Kind::Bf16 | Kind::Packed(_) => &all[..1],
            Kind::Int8 { .. } => &[Part::Weight, Part::Scb],
            Kind::FourBit { .. } => &all[..3],
            Kind::FourBitDouble { .. } => all,
        }
    }

    pub(super) fn n_words(self) -> usize {
        match self {
            Kind::Packed(scheme) => packed::n_words(scheme),
            Kind::F32
            | Kind::F16
            | Kind::Bf16
            | Kind::Int8 { .. }
            | Kind::FourBit { .. }
            | Kind::FourBitDouble { .. } => self.parts().len(),
        }
    }

    /// The kernels for a format of published files.
    pub(super) fn packed(self) -> Option<PackedKernels> {
        match self {
            Kind::Packed(scheme) => formats::kernels(scheme),
            Kind::F32
            | Kind::F16
            | Kind::Bf16
            | Kind::Int8 { .. }
            | Kind::FourBit { .. }
            | Kind::FourBitDouble { .. } => None,
        }
    }

    /// Addresses of the parts, and their number.
    pub(super) fn words(self, weight: &CudaWeight) -> ([u64; 6], usize) {
        let mut words = [0; 6];
        if let Kind::Packed(_) = self {
            return (packed::words(weight), self.n_words());
        }
        for (word, &part) in words.iter_mut().zip(self.parts()) {
            *word = weight.part(part).address();
        }
        (words, self.n_words())
    }

    pub(super) fn block_log2(self) -> usize {
        match self {
            Kind::F32 | Kind::F16 | Kind::Bf16 | Kind::Int8 { .. } | Kind::Packed(_) => 0,
            Kind::FourBit { block_log2 } | Kind::FourBitDouble { block_log2 } => block_log2,
        }
    }

    /// Magnitude from which activations are outliers, of weights that are multiplied with codes of them.
    pub(super) fn threshold(self) -> Option<f32> {
        match self {
            Kind::Int8 { threshold } => Some(f32::from_bits(threshold)),
            Kind::F32
            | Kind::F16
            | Kind::Bf16
            | Kind::FourBit { .. }
            | Kind::FourBitDouble { .. }
            | Kind::Packed(_) => None,
        }
    }

    /// The kernels for gate and up, and for down.
    pub(super) fn kernels(self) -> [Kernel; 2] {
        match self {
            Kind::F32 => kernel!["experts_up_f32", "experts_down_f32"],
            Kind::F16 => kernel!["experts_up_f16", "experts_down_f16"],
            Kind::Bf16 => kernel!["experts_up_bf16", "experts_down_bf16"],
            Kind::Int8 { .. } => kernel!["experts_up_int8", "experts_down_int8"],
            Kind::FourBit { .. } => kernel!["experts_up_four_bit", "experts_down_four_bit"],
            Kind::FourBitDouble { .. } => {
                kernel!["experts_up_four_bit_double", "experts_down_four_bit_double"]
            }
            Kind::Packed(scheme) => {
                let kernels = formats::kernels(scheme).expect("a format that has kernels");
                [kernels.experts; 2]
            }
        }
    }
}
