//! Tables on disk of which a pass looks up a few rows.

use std::sync::Arc;

use llm_backend::{DenseWeight, HostWeight};
use llm_checkpoint::DirectFile;
use llm_tensor::{AlignedBuf, Bytes, DType, HostBytes};

use crate::{Result, RuntimeError};

/// A table `[rows, cols]` in a file, and room for the rows that a pass looks up.
#[derive(Debug)]
pub(crate) struct RowReader {
    file: Arc<DirectFile>,
    /// Where it begins in the file.
    start: u64,
    dtype: DType,
    rows: usize,
    cols: usize,
    /// `[n_tokens, cols]`.
    found: Arc<AlignedBuf>,
    /// 0, 1, 2, …: where what was asked for lies there.
    order: Vec<u32>,
}

impl RowReader {
    pub(super) fn new(
        (file, start): (Arc<DirectFile>, u64),
        dtype: DType,
        (rows, cols): (usize, usize),
        n_tokens: usize,
    ) -> Self {
        let found = AlignedBuf::zeroed(n_tokens * cols * dtype.size());
        RowReader {
            file,
            start,
            dtype,
            rows,
            cols,
            found: Arc::new(found),
            order: (0..n_tokens as u32).collect(),
        }
    }

    /// What the room takes.
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes::new(self.found.len() as u64)
    }

    /// Reads some rows: a table of them alone, and the numbers under which they are in it.
    ///
    /// The table is to be dropped before the next are read.
    ///
    /// # Errors
    /// When they cannot be read, and [`RuntimeError::SourceChanged`].
    ///
    /// # Panics
    /// When there are more than a pass may have, one is beyond the table's end, or the last table is still there.
    pub(crate) fn read(&mut self, rows: &[u32]) -> Result<(HostWeight, &[u32])> {
        let row_bytes = self.cols * self.dtype.size();
        let found = Arc::get_mut(&mut self.found).expect("rows that were read before are dropped");
        for (&row, out) in rows.iter().zip(found.chunks_exact_mut(row_bytes)) {
            assert!((row as usize) < self.rows, "row {row} of {}", self.rows);
            let start = self.start + u64::from(row) * row_bytes as u64;
            self.file.read_at(start, out)?;
        }
        // Nobody sums up single rows. Asked after they were read: what is written meanwhile must not be computed with.
        if !self.file.is_as_opened()? {
            let path = self.file.path().to_owned();
            return Err(RuntimeError::SourceChanged { path });
        }
        let owner: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::<AlignedBuf>::clone(&self.found);
        let weight = DenseWeight {
            dtype: self.dtype,
            rows: rows.len(),
            cols: self.cols,
            bytes: HostBytes::of_shared(owner, 0..rows.len() * row_bytes),
        };
        Ok((HostWeight::Dense(weight), &self.order[..rows.len()]))
    }
}
