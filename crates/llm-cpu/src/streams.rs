//! Rows of a weight that a product with few rows of x takes together.
//!
//! A processor's prefetchers follow several streams at once, each of them more slowly than the memory could deliver. So
//! the rows that are taken together lie as far from each other as a thread's rows can, and each goes on where the last
//! one of its stream ended.

use std::ops::Range;

/// Rows that are taken together, as a rule one of each stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Together {
    first: usize,
    /// Rows from one to the next.
    stride: usize,
}

impl Together {
    /// Rows that follow each other, which is one stream, from `first` on.
    pub(crate) fn beside(first: usize) -> Self {
        Together { first, stride: 1 }
    }

    /// Row `i` of them.
    #[inline(always)]
    pub(crate) fn row(self, i: usize) -> usize {
        self.first + i * self.stride
    }
}

/// `rows` as `n_streams` streams, and the rows that are left.
#[inline(always)]
pub(crate) fn streams(
    rows: Range<usize>,
    n_streams: usize,
) -> (impl Iterator<Item = Together>, Range<usize>) {
    let stride = rows.len() / n_streams;
    let together = move |first| Together { first, stride };
    let rest = rows.start + n_streams * stride..rows.end;
    ((rows.start..rows.start + stride).map(together), rest)
}

/// Streams that products read a weight in.
pub(crate) const STREAMS: usize = 4;
/// Distance ahead of the loads at which each stream is prefetched: no further than it takes to bring what the processor's
/// prefetchers have fetched into the first-level cache.
pub(crate) const STREAM_PREFETCH_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_taken_once_and_streams_go_on_where_they_are() {
        for (start, n_rows) in [(0, 0), (3, 3), (5, 4), (1, 12), (7, 31)] {
            let mut n_taken = vec![0; start + n_rows];
            let mut next: Option<Vec<usize>> = None;
            let (groups, rest) = streams(start..start + n_rows, STREAMS);
            for together in groups {
                let rows: Vec<usize> = (0..STREAMS).map(|i| together.row(i)).collect();
                rows.iter().for_each(|&row| n_taken[row] += 1);
                assert!(next.is_none_or(|next| next == rows), "{rows:?}");
                next = Some(rows.iter().map(|row| row + 1).collect());
            }
            assert!(rest.len() < STREAMS);
            rest.for_each(|row| n_taken[Together::beside(row).row(0)] += 1);
            assert!(n_taken[..start].iter().all(|&n| n == 0));
            assert!(n_taken[start..].iter().all(|&n| n == 1), "{n_taken:?}");
        }
    }
}
