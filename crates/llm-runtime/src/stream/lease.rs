//! Use of what was brought.

use std::ops::Range;

use llm_arch::{Role, Unit};
use llm_backend::Backend;

use super::shared::{Hastened, Shared, State};
use super::{Cut, Key, Next};
use crate::Result;

/// A filled place or buffer, until [`Lease::end`]: then another parcel may take it.
pub(crate) struct Lease<'s, B: Backend> {
    shared: &'s Shared<B>,
    at: usize,
}

impl<B: Backend> Shared<B> {
    /// Waits until a parcel is read, and has `queue` wait until it is on the device.
    ///
    /// # Errors
    /// When it cannot be read, or is not what it was.
    pub(crate) fn bring(&self, queue: &mut B::Queue, key: Key) -> Result<Lease<'_, B>> {
        let mut state = self.state();
        state.settle(queue)?;
        if let Some(at) = state.expected.iter().position(|&n| n == Next::Key(key)) {
            state.expected.drain(..=at);
        }
        loop {
            let State {
                buffers, places, ..
            } = &mut *state;
            let leased = match places {
                None => buffers.lease(key, queue)?,
                Some(places) => places.lease(key, queue)?,
            };
            if let Some(at) = leased {
                self.fill(&mut state);
                return Ok(Lease { shared: self, at });
            }
            match self.hasten(&mut state, key)? {
                Hastened::Done => {}
                Hastened::IsRead => state = self.wait(state),
            }
        }
    }
}

impl<B: Backend> Lease<'_, B> {
    /// The weight of a slot, or the slice of it that was brought, and its rows.
    ///
    /// # Errors
    /// When the device does not compute with it.
    pub(crate) fn weight(&self, unit: Unit, role: Role) -> Result<(B::Weight, usize)> {
        let shared = self.shared;
        let state = shared.state();
        let parcel = |key| shared.parcels.get(&key).expect(KNOWN);
        let Some(places) = &state.places else {
            let (key, pages) = state.buffers.used(self.at);
            let weight = parcel(key).weight(unit, role);
            return Ok((shared.backend.in_pages(pages, weight)?, weight.rows));
        };
        let (key, place) = places.used(self.at);
        let weight = match shared.resting.get(&key) {
            Some(resting) => resting.weight(role),
            None => parcel(key).placed(unit, role),
        };
        Ok((shared.backend.placed(place, weight)?, weight.rows))
    }

    /// Gives the memory back: what was put into `queue` by now is its last use.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn end(self, queue: &mut B::Queue) -> Result<()> {
        let (shared, at) = (self.shared, self.at);
        std::mem::forget(self);
        let state = &mut *shared.state();
        state.abandon(at);
        state.settle(queue)?;
        shared.fill(state);
        Ok(())
    }
}

/// Whoever fails says no end.
impl<B: Backend> Drop for Lease<'_, B> {
    fn drop(&mut self) {
        self.shared.state().abandon(self.at);
    }
}

impl Cut {
    /// Rows of each slice.
    pub(super) fn slices(self) -> impl Iterator<Item = Range<usize>> {
        let starts = (0..self.n_rows).step_by(self.slice_rows);
        starts.map(move |start| start..(start + self.slice_rows).min(self.n_rows))
    }
}

const KNOWN: &str = "what is brought is known";
