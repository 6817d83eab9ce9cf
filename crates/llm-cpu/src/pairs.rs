//! Products of many tokens by pairs of bf16, where that is chosen and the processor has them.

#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::gemm::Gemm;
use crate::isa::Level;

/// The type that weights and activations are multiplied in where there are many tokens.
///
/// Exhaustive on purpose: it is chosen by users, who are told of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compute {
    /// f32: exact.
    #[default]
    F32,
    /// bf16 with sums in f32, where the processor multiplies them faster. Activations, and weights that are not in bf16, are
    /// rounded to eight bits: products err by up to 2⁻⁸ each.
    Bf16,
}

/// The instruction set that pairs are multiplied with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PairLevel {
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Pairs),
}

impl PairLevel {
    /// `None` where f32 is chosen, or where nothing better goes with `level`.
    pub(crate) fn of(level: Level, compute: Compute) -> Option<Self> {
        match (compute, level) {
            #[cfg(target_arch = "x86_64")]
            (Compute::Bf16, Level::Avx512(simd)) => avx512::Pairs::new(simd).map(PairLevel::Avx512),
            #[cfg(target_arch = "x86_64")]
            (Compute::Bf16, Level::Portable(_) | Level::Avx2(_)) => None,
            #[cfg(not(target_arch = "x86_64"))]
            (Compute::Bf16, _) => None,
            (Compute::F32, _) => None,
        }
    }

    /// Runs a product compiled for it.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(unused_variables, reason = "there is no such level")
    )]
    pub(crate) fn run(self, gemm: Gemm<'_>) {
        match self {
            #[cfg(target_arch = "x86_64")]
            PairLevel::Avx512(pairs) => pairs.enter(gemm),
        }
    }
}

#[cfg(test)]
mod tests;
