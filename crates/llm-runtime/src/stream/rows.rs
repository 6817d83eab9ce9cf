//! Tables on disk of which a pass looks up a few rows.

use std::ops::Range;
use std::sync::Arc;

use llm_checkpoint::DirectFile;
use llm_quant::StoredWeight;
use llm_tensor::{AlignedBuf, Bytes, DType, HostBytes};

use super::parcel::Source;
use crate::{Result, RuntimeError};

/// A table `[rows, cols]` in a file, and room for the rows that a pass looks up: as they are stored where elements mean
/// themselves, decoded where they are codes.
#[derive(Debug)]
pub(crate) struct RowReader {
    table: StoredWeight<Part>,
    /// The element type of rows that were found.
    dtype: DType,
    /// `[n_tokens, cols]`.
    found: Arc<AlignedBuf>,
    /// 0, 1, 2, …: where what was asked for lies there.
    order: Vec<u32>,
}

/// A part of a table.
#[derive(Debug)]
enum Part {
    /// So small that it is kept.
    Here(Vec<u8>),
    /// File, and the begin of the table in it.
    OnDisk(Arc<DirectFile>, u64),
}

impl RowReader {
    /// # Errors
    /// When what is needed for every row cannot be read.
    pub(super) fn new(table: StoredWeight<Source>, n_tokens: usize) -> Result<Self> {
        let dtype = table.scheme.elements().unwrap_or(DType::F32);
        let found = AlignedBuf::zeroed(n_tokens * table.cols * dtype.size());
        let table = table.try_map(|_, source| -> Result<_> {
            let span = match source {
                Source::Known(bytes) => return Ok(Part::Here(bytes.to_vec())),
                Source::File(span) => span,
            };
            let len = span.bytes.end - span.bytes.start;
            if len > VALUES_OF_CODES {
                return Ok(Part::OnDisk(span.file, span.bytes.start));
            }
            let mut bytes = vec![0; len as usize];
            span.file.read_at(span.bytes.start, &mut bytes)?;
            Ok(Part::Here(bytes))
        })?;
        Ok(RowReader {
            table,
            dtype,
            found: Arc::new(found),
            order: (0..n_tokens as u32).collect(),
        })
    }

    /// Size of the room.
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes::new(self.found.len() as u64)
    }

    /// Reads some rows: a table of them alone, and the numbers under which they are in it.
    ///
    /// The table is to be dropped before the next are read; a device that still computes with it keeps its room.
    ///
    /// # Errors
    /// When they cannot be read, and [`RuntimeError::SourceChanged`].
    ///
    /// # Panics
    /// When there are more than a pass may have, or one is beyond the table's end.
    pub(crate) fn read(&mut self, rows: &[u32]) -> Result<(StoredWeight, &[u32])> {
        let row_bytes = self.table.cols * self.dtype.size();
        if Arc::get_mut(&mut self.found).is_none() {
            self.found = Arc::new(AlignedBuf::zeroed(self.found.len()));
        }
        let found = Arc::get_mut(&mut self.found).expect("nobody else has it");
        for (&row, out) in rows.iter().zip(found.chunks_exact_mut(row_bytes)) {
            let n_rows = self.table.rows;
            assert!((row as usize) < n_rows, "row {row} of {n_rows}");
            read_row(&self.table, row.into(), out)?;
        }
        // Nobody sums up single rows. Asked after they were read: what is written meanwhile must not be computed with.
        for (_, part) in self.table.parts.iter() {
            if let Part::OnDisk(file, _) = part
                && !file.is_as_opened()?
            {
                let path = file.path().to_owned();
                return Err(RuntimeError::SourceChanged { path });
            }
        }
        let owner: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::<AlignedBuf>::clone(&self.found);
        let bytes = HostBytes::of_shared(owner, 0..rows.len() * row_bytes);
        let shape = (rows.len(), self.table.cols);
        let found = StoredWeight::dense(self.dtype, shape, bytes);
        Ok((found, &self.order[..rows.len()]))
    }
}

/// Reads what row `row` is made of, and nothing else of the table.
fn read_row(table: &StoredWeight<Part>, row: u64, out: &mut [u8]) -> Result<()> {
    let (rows, cols) = (table.rows as u64, table.cols as u64);
    let range = row * cols..(row + 1) * cols;
    let windows = table.scheme.window(rows, cols, &range);
    let read = |part, window: Range<u64>, out: &mut [u8]| -> Result<()> {
        match table.part(part) {
            Part::Here(bytes) => {
                out.copy_from_slice(&bytes[window.start as usize..window.end as usize]);
            }
            Part::OnDisk(file, start) => file.read_at(start + window.start, out)?,
        }
        Ok(())
    };
    if table.scheme.elements().is_some() {
        let window = windows.get(llm_quant::Part::Weight);
        let window = window.expect("every matrix has elements").clone();
        return read(llm_quant::Part::Weight, window, out);
    }
    let parts = windows.try_map(|part, window| {
        let mut bytes = vec![0; (window.end - window.start) as usize];
        read(part, window, &mut bytes)?;
        Ok::<_, RuntimeError>(bytes)
    })?;
    let out = bytemuck::cast_slice_mut(out);
    let decoded = table.scheme.decode(cols, &range, &parts, out);
    decoded.expect("codes stand for numbers");
    Ok(())
}

/// Bytes that the values of all codes take at most.
const VALUES_OF_CODES: u64 = 1024;
