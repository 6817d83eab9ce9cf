//! Selection of the positions that a query attends to.

use crate::Backend;

/// Selection of the positions that score highest by heads of their own (DeepSeek Sparse Attention, DeepSeek-AI 2025).
///
/// Position `p` scores `Σ weight_scale · weight · max(0, scale · query · key of p)`, the sum over heads, which share keys. A product
/// that is no number counts as zero, and a score that is none is below all others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selection {
    /// Heads.
    pub n_heads: usize,
    /// Elements of a head's query, and of a key.
    pub head_dim: usize,
    /// Multiplies products.
    pub scale: f32,
    /// Multiplies weights of heads.
    pub weight_scale: f32,
    /// Positions that a key stands for: a row at position `p` chooses among the first `(p + 1) / rate` keys. One, where each
    /// position has a key.
    pub rate: usize,
    /// Positions that are selected, where there are more.
    pub n_selected: usize,
    /// Words of a row's bits: position `p` is bit `p % 32` of word `p / 32`.
    pub row_words: usize,
}

impl Selection {
    /// Words of a row's bits, in contexts of so many positions.
    pub fn words(context: usize) -> usize {
        context.div_ceil(u32::BITS as usize)
    }

    /// Keys that a row at a position chooses among.
    pub fn n_keys(&self, position: usize) -> usize {
        (position + 1) / self.rate
    }

    /// Bit of a position, and its word among a row's.
    pub fn bit(position: usize) -> (usize, u32) {
        let bits = u32::BITS as usize;
        (position / bits, 1 << (position % bits))
    }

    /// Features of all heads' queries.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }
}

/// Whole numbers in the order of scores: larger ones are selected first. Both zeros are one number.
pub fn score_order(score: f32) -> u32 {
    const SIGN: u32 = 1 << 31;
    let bits = (score + 0.0).to_bits();
    match (score.is_nan(), bits & SIGN) {
        (true, _) => 0,
        (false, 0) => bits | SIGN,
        (false, _) => !bits,
    }
}

/// Bits of the positions that each row attends to, as [`Ops::select`](crate::Ops::select) sets them.
pub struct Selected<'a, B: Backend> {
    /// `[_, row_words]`; words are the bits of numbers, so that they cross between devices as activations do.
    pub bits: &'a B::Buffer,
    /// Words of a row.
    pub row_words: usize,
}

impl<B: Backend> Clone for Selected<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Selected<'_, B> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_in_order() {
        let scores = [
            f32::NAN,
            f32::NEG_INFINITY,
            f32::MIN,
            -1.0,
            -f32::MIN_POSITIVE,
            0.0,
            f32::MIN_POSITIVE,
            2.5,
            f32::INFINITY,
        ];
        for pair in scores.windows(2) {
            assert!(score_order(pair[0]) < score_order(pair[1]), "{pair:?}");
        }
        assert_eq!(score_order(-0.0), score_order(0.0));
        assert_eq!(score_order(-f32::NAN), 0);
    }

    #[test]
    fn positions_have_bits() {
        assert_eq!(Selection::words(33), 2);
        assert_eq!(Selection::bit(31), (0, 1 << 31));
        assert_eq!(Selection::bit(32), (1, 1));
    }
}
