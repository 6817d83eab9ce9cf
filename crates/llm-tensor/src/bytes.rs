use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

use crate::TensorError;

/// A number of bytes. Sums are checked; it prints decimal and binary units side by side, as people use both.
///
/// ```
/// use llm_tensor::Bytes;
///
/// let budget: Bytes = "15GB".parse()?;
/// let needed = Bytes::new(14_000_000_000) + Bytes::mib(512);
/// assert_eq!(needed.to_string(), "14.5 GB (13.5 GiB)");
/// assert_eq!(budget.saturating_sub(needed), Bytes::new(463_129_088));
/// # Ok::<(), llm_tensor::TensorError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(u64);

impl Bytes {
    /// No bytes.
    pub const ZERO: Bytes = Bytes(0);

    /// `n` bytes.
    pub const fn new(n: u64) -> Self {
        Bytes(n)
    }

    /// `n` times 2²⁰ bytes.
    ///
    /// # Panics
    /// When that exceeds 64 bits.
    pub const fn mib(n: u64) -> Self {
        match n.checked_mul(1 << 20) {
            Some(bytes) => Bytes(bytes),
            None => panic!("a size in MiB that exceeds 64 bits"),
        }
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The difference, or zero where `other` is larger.
    pub const fn saturating_sub(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_sub(other.0))
    }
}

/// # Panics
/// When the sum exceeds 64 bits: sizes of real things cannot, so the caller has counted something twice.
impl Add for Bytes {
    type Output = Bytes;

    fn add(self, other: Bytes) -> Bytes {
        Bytes(
            self.0
                .checked_add(other.0)
                .expect("a sum of sizes exceeds 64 bits"),
        )
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Bytes) {
        *self = *self + other;
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(sizes: I) -> Bytes {
        sizes.fold(Bytes::ZERO, Add::add)
    }
}

/// `14.1 GB (13.2 GiB)`; plain bytes below 1000.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1000 {
            return f.pad(&format!("{} B", self.0));
        }
        let (decimal, binary) = (
            scaled(self.0, 1000.0, &DECIMAL),
            scaled(self.0, 1024.0, &BINARY),
        );
        f.pad(&format!("{decimal} ({binary})"))
    }
}

/// `4GB` is decimal, `4GiB` binary, and so is a bare `4G`, as Docker, systemd and `ollama` take it; fractions, blanks and
/// lower case are taken, a bare number is bytes.
impl FromStr for Bytes {
    type Err = TensorError;

    fn from_str(text: &str) -> Result<Self, TensorError> {
        let not_a_size = || TensorError::NotASize {
            text: text.to_owned(),
        };
        let trimmed = text.trim();
        let split = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = (&trimmed[..split], trimmed[split..].trim());
        let scale = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1u64,
            "kb" => 1000,
            "mb" => 1000u64.pow(2),
            "gb" => 1000u64.pow(3),
            "tb" => 1000u64.pow(4),
            "k" | "ki" | "kib" => 1 << 10,
            "m" | "mi" | "mib" => 1 << 20,
            "g" | "gi" | "gib" => 1 << 30,
            "t" | "ti" | "tib" => 1 << 40,
            _ => return Err(not_a_size()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(scale).map(Bytes).ok_or_else(not_a_size);
        }
        let value = number.parse::<f64>().map_err(|_| not_a_size())? * scale as f64;
        // 2^63 is far above any size and exactly representable, so the comparison is exact.
        if value.is_finite() && value < 9.223_372_036_854_776e18 {
            Ok(Bytes(value.round() as u64))
        } else {
            Err(not_a_size())
        }
    }
}

const DECIMAL: [&str; 5] = ["KB", "MB", "GB", "TB", "PB"];
const BINARY: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];

fn scaled(bytes: u64, base: f64, units: &[&str]) -> String {
    let mut value = bytes as f64 / base;
    let mut unit = 0;
    // 999.95 would round to a four-digit figure: carry on to the next unit.
    while value >= base - 0.05 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_both_kinds_of_units() {
        assert_eq!(Bytes::new(999).to_string(), "999 B");
        assert_eq!(Bytes::new(14_138_032_128).to_string(), "14.1 GB (13.2 GiB)");
        assert_eq!(Bytes::new(999_999).to_string(), "1.0 MB (976.6 KiB)");
        assert_eq!(Bytes::new(u64::MAX).to_string(), "18446.7 PB (16384.0 PiB)");
    }

    #[test]
    fn parses_what_people_write() {
        let cases = [
            ("4GB", 4_000_000_000),
            ("4GiB", 4 << 30),
            ("12.7 gb", 12_700_000_000),
            ("512", 512),
            (" 1.5 KiB ", 1536),
            ("4G", 4 << 30),
            ("4g", 4 << 30),
            ("4 GB", 4_000_000_000),
            ("4Gi", 4 << 30),
            ("4096M", 4 << 30),
            ("1.5t", 3 << 39),
            ("8k", 8192),
            ("17 B", 17),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(Bytes::new(bytes)), "{text}");
        }
        for text in [
            "",
            "GB",
            "4 gigs",
            "-1GB",
            "1e9",
            "99999999999 TB",
            "1.2.3MB",
            ".",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
