//! Nearest of the 256 values, without a search.

use super::map::DYNAMIC_MAP;

/// The code of the value nearest to `x`, the lower one in the middle; anything for NaN.
///
/// It is the number of midpoints below `x`: those below all that begin like `x`, of which the table knows, and at most
/// one more.
#[inline]
pub(super) fn code(x: f32) -> u8 {
    let below = BELOW[(x.to_bits() >> SHIFT) as usize];
    below + u8::from(x > MIDPOINTS[usize::from(below)])
}

/// Bits of an f32 that are left out of the table: the lower ones of the mantissa, all but 6. The values are nowhere
/// nearer to each other than 1/64 of a binade.
const SHIFT: u32 = 17;

/// Between each value and the next, in f32; nothing is above the last.
static MIDPOINTS: [f32; 256] = {
    let mut midpoints = [f32::INFINITY; 256];
    let mut i = 0;
    while i < 255 {
        midpoints[i] = (DYNAMIC_MAP[i] + DYNAMIC_MAP[i + 1]) * 0.5;
        i += 1;
    }
    midpoints
};

/// For each beginning of an f32 the midpoints below all that begin so.
static BELOW: [u8; 1 << (32 - SHIFT)] = {
    let mut below = [0; 1 << (32 - SHIFT)];
    let half = below.len() / 2;
    let mut n = 0;
    // By value: from the largest negative numbers over zero to the largest positive ones.
    let mut i = 0;
    while i < below.len() {
        let first = if i < half {
            below.len() - 1 - i
        } else {
            i - half
        };
        let start = (first as u32) << SHIFT;
        let end = start | ((1 << SHIFT) - 1);
        // Negative numbers grow the other way.
        let (lowest, highest) = if i < half { (end, start) } else { (start, end) };
        let (lowest, highest) = (f32::from_bits(lowest), f32::from_bits(highest));
        while n < 255 && MIDPOINTS[n] < lowest {
            n += 1;
        }
        below[first] = n as u8;
        let another = n < 255 && MIDPOINTS[n + 1] < highest;
        assert!(!another, "two midpoints begin alike");
        i += 1;
    }
    below
};
