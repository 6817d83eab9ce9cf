//! Instruction sets, the best that this machine has, and the way into the kernels written for it.

use std::fmt;

#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Kernel, Portable, Simd};

/// An instruction set that the kernels are compiled for, the plainest first.
///
/// Exhaustive on purpose: adding one leads the compiler to every place that has to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Instructions of every processor of the compiled target.
    Portable,
    /// x86-64 with AVX2, FMA and F16C (Haswell, Zen, and later).
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL (Skylake-SP, Zen 4, and later).
    Avx512,
    /// AArch64 with NEON, as all have it.
    Neon,
}

impl Isa {
    /// Every instruction set, the plainest first.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon];

    /// The name that we print and that flags take.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }

    /// The best one that this machine has.
    pub fn detect() -> Isa {
        Self::ALL
            .into_iter()
            .rfind(|isa| isa.is_available())
            .unwrap_or(Isa::Portable)
    }

    /// True if this machine has it.
    pub fn is_available(self) -> bool {
        Level::new(self).is_some()
    }

    pub(crate) fn names() -> String {
        Self::ALL.map(Isa::name).join(", ")
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An [`Isa`] with the proof that this machine has it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Level {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

impl Level {
    /// `None` where the machine lacks it.
    pub(crate) fn new(isa: Isa) -> Option<Level> {
        match isa {
            Isa::Portable => Some(Level::Portable(Portable)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::new().map(Level::Avx2),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::new().map(Level::Avx512),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => None,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Neon::new().map(Level::Neon),
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Neon => None,
        }
    }

    /// Runs a kernel compiled for this instruction set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        match self {
            Level::Portable(simd) => simd.enter(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(simd) => simd.enter(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(simd) => simd.enter(kernel),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(simd) => simd.enter(kernel),
        }
    }

    /// The sizes that memory layouts depend on.
    pub(crate) fn geometry(self) -> Geometry {
        match self {
            Level::Portable(_) => Geometry::of::<Portable>(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => Geometry::of::<Avx2>(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => Geometry::of::<Avx512>(),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(_) => Geometry::of::<Neon>(),
        }
    }
}

/// Sizes of an instruction set's registers and tiles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    /// f32 in a register.
    pub(crate) lanes: usize,
    /// Columns of a register tile, hence of a packed panel.
    pub(crate) panel: usize,
}

impl Geometry {
    pub(crate) const fn of<S: Simd>() -> Self {
        Geometry {
            lanes: S::LANES,
            panel: S::LANES * S::TILE_VECTORS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_strangers_are_named() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse::<Isa>().unwrap(), isa);
        }
        let error = "sse9".parse::<Isa>().unwrap_err().to_string();
        assert!(
            error.contains("`sse9`") && error.contains("avx512"),
            "{error}"
        );
    }

    #[test]
    fn the_best_is_available_and_nothing_better_is() {
        let best = Isa::detect();
        assert!(best.is_available());
        assert!(Isa::ALL.iter().all(|&i| i <= best || !i.is_available()));
    }
}
