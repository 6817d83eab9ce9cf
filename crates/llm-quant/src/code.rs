use std::fmt;
use std::str::FromStr;

use crate::QuantError;

/// The values of the sixteen codes, by code.
pub type Table = [f32; 16];

/// Sixteen values that a 4-bit code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// Quantiles of the normal distribution, in order of value (Dettmers et al. 2023, appendix E).
    Nf4,
    /// A sign, two bits of exponent and one of mantissa, in order of bits.
    Fp4,
}

impl Code {
    /// Both.
    pub const ALL: [Code; 2] = [Code::Nf4, Code::Fp4];

    /// The name in configurations and in file layouts.
    pub const fn name(self) -> &'static str {
        match self {
            Code::Nf4 => "nf4",
            Code::Fp4 => "fp4",
        }
    }

    /// The value of each code.
    pub const fn table(self) -> &'static Table {
        match self {
            Code::Nf4 => &NF4,
            Code::Fp4 => &FP4,
        }
    }

    /// Thresholds between neighbouring values, and the code of each value, both in order of value. `x` has the code
    /// `codes[number of thresholds below x]`, so that a tie goes to the lower value. The value itself is `scaled`,
    /// an element times the reciprocal of its block's largest magnitude.
    pub const fn thresholds(self) -> ([f32; 15], [u8; 16]) {
        const NF4_THRESHOLDS: [f32; 15] = midpoints(&NF4, &IN_ORDER);
        const FP4_THRESHOLDS: [f32; 15] = midpoints(&FP4, &FP4_ORDER);
        match self {
            Code::Nf4 => (NF4_THRESHOLDS, IN_ORDER),
            Code::Fp4 => (FP4_THRESHOLDS, FP4_ORDER),
        }
    }

    /// The code of an element that is already divided by its block's largest magnitude.
    pub fn encode(self, scaled: f32) -> u8 {
        let (thresholds, codes) = self.thresholds();
        codes[thresholds.iter().filter(|&&t| scaled > t).count()]
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Code {
    type Err = QuantError;

    fn from_str(name: &str) -> Result<Self, QuantError> {
        Self::ALL
            .into_iter()
            .find(|code| code.name() == name)
            .ok_or_else(|| QuantError::UnknownCode {
                name: name.to_owned(),
            })
    }
}

/// The values of NF4.
const NF4: Table = [
    -1.0,
    -0.6961928,
    -0.52507305,
    -0.3949175,
    -0.28444138,
    -0.18477343,
    -0.091050036,
    0.0,
    0.0795803,
    0.1609302,
    0.2461123,
    0.33791524,
    0.44070983,
    0.562617,
    0.72295684,
    1.0,
];
/// The values of FP4: 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4, and the same below zero.
const FP4: Table = [
    0.0,
    0.0052083335,
    0.6666667,
    1.0,
    0.33333334,
    0.5,
    0.16666667,
    0.25,
    0.0,
    -0.0052083335,
    -0.6666667,
    -1.0,
    -0.33333334,
    -0.5,
    -0.16666667,
    -0.25,
];
/// The midpoints of neighbours, in f32.
const fn midpoints(table: &Table, codes: &[u8; 16]) -> [f32; 15] {
    let mut midpoints = [0.0; 15];
    let mut i = 0;
    while i < midpoints.len() {
        let (low, high) = (codes[i] as usize, codes[i + 1] as usize);
        midpoints[i] = (table[low] + table[high]) * 0.5;
        i += 1;
    }
    midpoints
}

const IN_ORDER: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// FP4's codes by value; zero has two, the one above zero taking what rounds to it from there.
const FP4_ORDER: [u8; 16] = [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3];
