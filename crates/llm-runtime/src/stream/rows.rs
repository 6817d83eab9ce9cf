//! Tables of which a pass looks up a few rows: gathered on the host from where they rest, and brought to the device.

use std::ops::Range;
use std::sync::Arc;

use llm_arch::Role;
use llm_backend::{Allocation, Backend, Event, HostPages, Queue};
use llm_checkpoint::DirectFile;
use llm_plan::{Home, Term};
use llm_quant::{Parts, Scheme, StoredWeight};
use llm_tensor::{DType, HostBytes};

use super::parcel::Source;
use super::resting::Resting;
use crate::allocated::Allocated;
use crate::source::WeightSource;
use crate::{Result, RuntimeError};

/// Source of a table that is not loaded yet.
#[derive(Debug)]
pub(super) enum TableSource {
    /// Files.
    OnDisk(Box<StoredWeight<Source>>),
    /// RAM, where it is the head's matrix too if the model has one table for both.
    InRam,
}

impl TableSource {
    /// The table; `tied` is the one that rests in RAM for the head.
    ///
    /// # Errors
    /// When what is needed for every row cannot be read.
    pub(super) fn open<B: Backend>(
        self,
        role: Role,
        tied: Option<&Resting<B>>,
        source: &mut dyn WeightSource,
    ) -> Result<StoredWeight<Part<B>>> {
        match (self, tied) {
            (TableSource::OnDisk(table), _) => table.try_map(|_, source| Part::open(source)),
            (TableSource::InRam, Some(tied)) if role == Role::TokenTable => {
                let table = tied.weight(role).clone();
                Ok(table.map(|_, range| Part::InPages {
                    pages: Arc::clone(&tied.pages),
                    start: tied.start + range.start,
                }))
            }
            (TableSource::InRam, _) => {
                let unit = role.table_of().expect("a table's role");
                let table = source.weight(unit, role)?;
                Ok(table.map(|_, bytes| Part::Here(bytes)))
            }
        }
    }
}

/// A table `[rows, cols]`, and room for the rows that a pass looks up: as they are stored where elements mean themselves,
/// decoded where they are codes.
pub(crate) struct RowReader<B: Backend> {
    table: StoredWeight<Part<B>>,
    /// The element type of rows that were found.
    dtype: DType,
    /// `[n_tokens, cols]`.
    pages: B::HostPages,
    /// The same on a device that does not compute in host memory.
    place: Option<B::Place>,
    /// End of the last that reads the pages.
    used: Option<B::Event>,
    /// 0, 1, 2, …: where what was asked for lies there.
    order: Vec<u32>,
}

/// A part of a table.
pub(super) enum Part<B: Backend> {
    /// Bytes in RAM.
    Here(HostBytes),
    /// Host pages, and the begin of the part in them.
    InPages {
        pages: Arc<B::HostPages>,
        start: usize,
    },
    /// File, and the begin of the part in it.
    OnDisk(Arc<DirectFile>, u64),
}

impl<B: Backend> Part<B> {
    /// Reads what is so small that it is kept.
    fn open(source: Source) -> Result<Self> {
        let span = match source {
            Source::Known(bytes) => return Ok(Part::Here(HostBytes::new(bytes))),
            Source::File(span) => span,
        };
        let len = span.bytes.end - span.bytes.start;
        if len > VALUES_OF_CODES {
            return Ok(Part::OnDisk(span.file, span.bytes.start));
        }
        let mut bytes = vec![0; len as usize];
        span.file.read_at(span.bytes.start, &mut bytes)?;
        Ok(Part::Here(HostBytes::new(bytes)))
    }

    fn read(&self, window: Range<u64>, out: &mut [u8]) -> Result<()> {
        let range = window.start as usize..window.end as usize;
        match self {
            Part::Here(bytes) => out.copy_from_slice(&bytes[range]),
            Part::InPages { pages, start } => pages.read(|bytes| {
                out.copy_from_slice(&bytes[*start..][range]);
            }),
            Part::OnDisk(file, start) => file.read_at(start + window.start, out)?,
        }
        Ok(())
    }
}

impl<B: Backend> RowReader<B> {
    /// # Errors
    /// When there is no room.
    pub(super) fn new(
        backend: &B,
        table: StoredWeight<Part<B>>,
        (n_tokens, in_host_memory): (usize, bool),
    ) -> Result<Self> {
        let dtype = table.scheme.elements().unwrap_or(DType::F32);
        let n_bytes = n_tokens * table.cols * dtype.size();
        Ok(RowReader {
            table,
            dtype,
            pages: backend.host_pages(n_bytes)?,
            place: match in_host_memory {
                true => None,
                false => Some(backend.place(n_bytes)?),
            },
            used: None,
            order: (0..n_tokens as u32).collect(),
        })
    }

    /// Counts the room, `memory` being the device's.
    pub(crate) fn count(&self, memory: Home, allocated: &mut Allocated) {
        allocated.add(Home::Ram, Term::Staging, self.pages.bytes());
        if let Some(place) = &self.place {
            allocated.add(memory, Term::Staging, place.bytes());
        }
    }

    /// Looks up some rows, and has `compute` put into the queue what is done with a table of them alone; it is told the numbers
    /// under which they are in it.
    ///
    /// # Errors
    /// When they cannot be read, [`RuntimeError::SourceChanged`], and those of `compute`.
    ///
    /// # Panics
    /// When there are more than a pass may have, or one is beyond the table's end.
    pub(crate) fn look_up(
        &mut self,
        (backend, queue): (&B, &mut B::Queue),
        rows: &[u32],
        compute: impl FnOnce(&mut B::Queue, &B::Weight, &[u32]) -> Result<()>,
    ) -> Result<()> {
        if let Some(used) = self.used.take() {
            used.finish()?;
        }
        let row_bytes = self.table.cols * self.dtype.size();
        let table = &self.table;
        self.pages.fill(|found| -> Result<()> {
            for (&row, out) in rows.iter().zip(found.chunks_exact_mut(row_bytes)) {
                let n_rows = table.rows;
                assert!((row as usize) < n_rows, "row {row} of {n_rows}");
                read_row(table, row.into(), out)?;
            }
            Ok(())
        })?;
        self.check_files()?;
        let n_bytes = rows.len() * row_bytes;
        let found = StoredWeight {
            scheme: Scheme::Dense(self.dtype),
            rows: rows.len(),
            cols: self.table.cols,
            parts: Parts::weight(0..n_bytes),
        };
        let order = &self.order[..rows.len()];
        match &mut self.place {
            Some(place) => {
                queue.bring(&self.pages, 0..n_bytes, place, 0)?;
                self.used = Some(queue.record()?);
                compute(queue, &backend.placed(place, &found)?, order)
            }
            None => {
                let done = compute(queue, &backend.in_pages(&self.pages, &found)?, order);
                self.used = Some(queue.record()?);
                done
            }
        }
    }

    /// Nobody sums up single rows. Asked after they were read: what is written meanwhile must not be computed with.
    fn check_files(&self) -> Result<()> {
        for (_, part) in self.table.parts.iter() {
            if let Part::OnDisk(file, _) = part
                && !file.is_as_opened()?
            {
                let path = file.path().to_owned();
                return Err(RuntimeError::SourceChanged { path });
            }
        }
        Ok(())
    }
}

/// Reads what row `row` is made of, and nothing else of the table.
fn read_row<B: Backend>(table: &StoredWeight<Part<B>>, row: u64, out: &mut [u8]) -> Result<()> {
    let (rows, cols) = (table.rows as u64, table.cols as u64);
    let range = row * cols..(row + 1) * cols;
    let windows = table.scheme.window(rows, cols, &range);
    if table.scheme.elements().is_some() {
        let window = windows.get(llm_quant::Part::Weight);
        let window = window.expect("every matrix has elements").clone();
        return table.part(llm_quant::Part::Weight).read(window, out);
    }
    let parts = windows.try_map(|part, window| {
        let mut bytes = vec![0; (window.end - window.start) as usize];
        table.part(part).read(window, &mut bytes)?;
        Ok::<_, RuntimeError>(bytes)
    })?;
    let out = bytemuck::cast_slice_mut(out);
    let decoded = table.scheme.decode(cols, &range, &parts, out);
    decoded.expect("codes stand for numbers");
    Ok(())
}

/// Bytes that the values of all codes take at most.
const VALUES_OF_CODES: u64 = 1024;
