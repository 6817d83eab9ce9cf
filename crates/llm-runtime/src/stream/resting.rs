//! Weights that rest in RAM and compute on a device with memory of its own: laid out once, copied from there at each use.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use llm_arch::{Role, Unit};
use llm_backend::{Allocation, Backend, HostPages};
use llm_plan::PART_BORDER;
use llm_quant::{Scheme, StoredWeight};
use llm_tensor::Bytes;

use super::{Cut, Key};
use crate::Result;
use crate::source::WeightSource;

/// Layout of a unit in RAM: each part of each weight on a border that suits any read of a device.
#[derive(Debug)]
pub(super) struct Layout {
    unit: Unit,
    len: usize,
    parcels: Vec<ParcelLayout>,
}

/// Weights that are brought together.
#[derive(Debug)]
struct ParcelLayout {
    key: Key,
    /// In the unit's pages.
    range: Range<usize>,
    /// In `range`.
    weights: Vec<(Role, StoredWeight<Range<usize>>)>,
    /// Of the one matrix, if it is brought so.
    cut: Option<Cut>,
}

/// A parcel in the pages of its unit.
pub(super) struct Resting<B: Backend> {
    pub(super) pages: Arc<B::HostPages>,
    /// Begin in them.
    pub(super) start: usize,
    /// Bytes of them, and where they come to in a place.
    pub(super) copies: Vec<(Range<usize>, usize)>,
    weights: Vec<(Role, StoredWeight<Range<usize>>)>,
}

/// Pages of a unit.
pub(super) struct RestingUnit {
    pub(super) unit: Unit,
    /// Bytes that are no weights.
    pub(super) padding: Bytes,
    /// All bytes, if the device does not copy them by itself.
    pub(super) pageable: Bytes,
}

impl Layout {
    pub(super) fn new(unit: Unit) -> Self {
        Layout {
            unit,
            len: 0,
            parcels: Vec::new(),
        }
    }

    /// Adds a weight; those of one parcel follow each other, and what is cut is one of its own.
    pub(super) fn add(
        &mut self,
        (key, role): (Key, Role),
        scheme: Scheme,
        shape: (usize, usize),
        cut: Option<Cut>,
    ) {
        let is_next = |last: &ParcelLayout| last.key == key && last.cut.is_none() && cut.is_none();
        if !self.parcels.last().is_some_and(is_next) {
            self.parcels.push(ParcelLayout {
                key,
                range: self.len..self.len,
                weights: Vec::new(),
                cut,
            });
        }
        let parcel = self.parcels.last_mut().expect("a parcel was just added");
        let (rows, cols) = shape;
        let parts = scheme.parts(rows as u64, cols as u64).map(|_, info| {
            let start = parcel.range.end - parcel.range.start;
            let end = start + info.bytes as usize;
            parcel.range.end = parcel.range.start + end.next_multiple_of(PART_BORDER as usize);
            start..end
        });
        self.len = parcel.range.end;
        let weight = StoredWeight {
            scheme,
            rows,
            cols,
            parts,
        };
        parcel.weights.push((role, weight));
    }

    /// Takes pages for the unit, has its weights written there, and adds its parcels to others.
    ///
    /// # Errors
    /// When there is no room, or a weight cannot be read.
    pub(super) fn load<B: Backend>(
        self,
        backend: &B,
        source: &mut dyn WeightSource,
        resting: &mut HashMap<Key, Resting<B>>,
    ) -> Result<RestingUnit> {
        let mut pages = backend.host_pages(self.len)?;
        let mut n_bytes = Bytes::ZERO;
        pages.fill(|bytes| -> Result<()> {
            for ParcelLayout { range, weights, .. } in &self.parcels {
                for (role, weight) in weights {
                    let bytes = &mut bytes[range.clone()];
                    source.weight_into(self.unit, *role, weight, bytes)?;
                    let StoredWeight { rows, cols, .. } = *weight;
                    n_bytes += weight.scheme.stored_bytes(rows as u64, cols as u64).total();
                }
            }
            Ok(())
        })?;
        let unit = RestingUnit {
            unit: self.unit,
            padding: pages.bytes().saturating_sub(n_bytes),
            pageable: match pages.is_pageable() {
                true => pages.bytes(),
                false => Bytes::ZERO,
            },
        };
        let pages = Arc::new(pages);
        for ParcelLayout {
            key,
            range,
            weights,
            cut,
        } in self.parcels
        {
            if let (Some(cut), [(role, matrix)]) = (cut, &*weights) {
                for (i, rows) in cut.slices().enumerate() {
                    let slice = Key::Slice(self.unit, *role, i as u32);
                    let of_slice = Resting::of_rows(&pages, range.start, (*role, matrix), rows);
                    resting.insert(slice, of_slice);
                }
                // Of the table, rows are looked up as well.
                if key != Key::TiedTable {
                    continue;
                }
            }
            let of_parcel = Resting {
                pages: Arc::clone(&pages),
                start: range.start,
                copies: vec![(range, 0)],
                weights,
            };
            resting.insert(key, of_parcel);
        }
        Ok(unit)
    }
}

impl<B: Backend> Resting<B> {
    /// Some rows of a matrix that lies in `pages` from `start` on.
    fn of_rows(
        pages: &Arc<B::HostPages>,
        start: usize,
        (role, matrix): (Role, &StoredWeight<Range<usize>>),
        rows: Range<usize>,
    ) -> Self {
        let (mut copies, mut len) = (Vec::new(), 0);
        let slice = matrix.slice(rows, |_, part, window| {
            let from = start + part.start + window.start as usize;
            let n_bytes = (window.end - window.start) as usize;
            let to = len..len + n_bytes;
            len = to.end.next_multiple_of(PART_BORDER as usize);
            copies.push((from..from + n_bytes, to.start));
            to
        });
        Resting {
            pages: Arc::clone(pages),
            start,
            copies,
            weights: vec![(role, slice)],
        }
    }

    /// Offsets of a slot's weight in a staging place.
    ///
    /// # Panics
    /// When it has none.
    pub(super) fn weight(&self, role: Role) -> &StoredWeight<Range<usize>> {
        let found = self.weights.iter().find(|(of, _)| *of == role);
        let (_, weight) = found.unwrap_or_else(|| panic!("a parcel without {role:?}"));
        weight
    }
}
