//! Integers of 4 or 8 bits in words of 32 bits.

use std::ops::Range;

use llm_checkpoint::{Checkpoint, TensorInfo};
use llm_tensor::DType;

use crate::Result;

/// Integers of a matrix `[rows, cols]`, packed in little-endian words along one of its axes, the lowest bits first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PackedInts {
    /// The words.
    pub(super) tensor: TensorInfo,
    pub(super) rows: u64,
    pub(super) cols: u64,
    /// 4 or 8.
    pub(super) bits: u32,
    /// The axis along which a word has neighbours.
    pub(super) along: Axis,
    /// The axis along which the tensor's lines follow each other.
    pub(super) outer: Axis,
    /// Order of the neighbours in a word.
    pub(super) lanes: Lanes,
    /// Number that is added to each word, whatever it carries from one integer to the next.
    pub(super) plus: u32,
}

/// An axis of a matrix `[rows, cols]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    /// Output features.
    Rows,
    /// Input features.
    Cols,
}

/// Order of neighbours in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lanes {
    /// Their own.
    InOrder,
    /// The even ones, then the odd ones: AWQ's.
    EvenFirst,
}

impl PackedInts {
    /// Integers of a word.
    fn per_word(&self) -> u64 {
        u64::from(32 / self.bits)
    }

    /// Extents of the words along rows and columns.
    fn words(&self) -> [u64; 2] {
        match self.along {
            Axis::Rows => [self.rows.div_ceil(self.per_word()), self.cols],
            Axis::Cols => [self.rows, self.cols.div_ceil(self.per_word())],
        }
    }

    /// The shape of the tensor.
    pub(super) fn shape(&self) -> [u64; 2] {
        let [of_rows, of_cols] = self.words();
        match self.outer {
            Axis::Rows => [of_rows, of_cols],
            Axis::Cols => [of_cols, of_rows],
        }
    }

    /// Integers of `rows`, row by row, a byte each.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn read(
        &self,
        checkpoint: &Checkpoint,
        rows: Range<u64>,
        out: &mut [u8],
    ) -> Result<()> {
        let per_word = self.per_word();
        let [of_rows, of_cols] = self.words();
        let word_rows = match self.along {
            Axis::Rows => rows.start / per_word..rows.end.div_ceil(per_word),
            Axis::Cols => rows.clone(),
        };
        let n = word_rows.end - word_rows.start;
        let read = |start: u64, n_words: u64, words: &mut [u8]| {
            checkpoint.read_tensor(&self.tensor, start..start + n_words, DType::I32, words)
        };
        match self.outer {
            Axis::Rows => {
                let mut line = vec![0; 4 * of_cols as usize];
                for word_row in word_rows {
                    read(word_row * of_cols, of_cols, &mut line)?;
                    for (word_col, word) in words_of(&line).enumerate() {
                        self.put(word, [word_row, word_col as u64], &rows, out);
                    }
                }
            }
            Axis::Cols => {
                let mut line = vec![0; 4 * n as usize];
                for word_col in 0..of_cols {
                    read(word_col * of_rows + word_rows.start, n, &mut line)?;
                    for (i, word) in words_of(&line).enumerate() {
                        self.put(word, [word_rows.start + i as u64, word_col], &rows, out);
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the integers of a word to their places, those of `rows`.
    fn put(&self, word: u32, [word_row, word_col]: [u64; 2], rows: &Range<u64>, out: &mut [u8]) {
        let word = word.wrapping_add(self.plus);
        let per_word = self.per_word();
        let mask = (1u32 << self.bits) - 1;
        for i in 0..per_word {
            let (row, col) = match self.along {
                Axis::Rows => (word_row * per_word + i, word_col),
                Axis::Cols => (word_row, word_col * per_word + i),
            };
            // The last word of an axis may be padded.
            if !rows.contains(&row) || col >= self.cols {
                continue;
            }
            let lane = match self.lanes {
                Lanes::InOrder => i,
                Lanes::EvenFirst => i / 2 + i % 2 * (per_word / 2),
            };
            let value = word >> (lane * u64::from(self.bits)) & mask;
            let at = (row - rows.start) * self.cols + col;
            out[at as usize] = value as u8;
        }
    }
}

fn words_of(bytes: &[u8]) -> impl Iterator<Item = u32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| u32::from_le_bytes(*word))
}
