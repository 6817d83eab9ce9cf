//! Bounds of numbers, the same for flags and for keys of a file.

/// A value's bounds: those of the flag of that name.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) holds: fn(f32) -> bool,
    pub(crate) expected: &'static str,
}

pub(crate) const ANY: Bounds = Bounds {
    holds: f32::is_finite,
    expected: "a number",
};
pub(crate) const AT_LEAST_ZERO: Bounds = Bounds {
    holds: |x| x.is_finite() && x >= 0.0,
    expected: "a number of at least 0",
};
pub(crate) const POSITIVE: Bounds = Bounds {
    holds: |x| x.is_finite() && x > 0.0,
    expected: "a number above 0",
};
pub(crate) const SHARE: Bounds = Bounds {
    holds: |x| x > 0.0 && x <= 1.0,
    expected: "a number above 0, up to 1",
};
pub(crate) const SHARE_OR_ZERO: Bounds = Bounds {
    holds: |x| (0.0..=1.0).contains(&x),
    expected: "a number from 0 to 1",
};

/// Beams that a search keeps at most: each has a KV cache, and a file may say anything.
pub(crate) const MOST_BEAMS: usize = 256;
