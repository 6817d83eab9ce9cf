//! One pass through a model, and what stops it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use llm_backend::Rows;

use crate::probe::Probe;

/// One pass: rows of one or more sequences.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// The token of each row.
    pub ids: &'a [u32],
    /// Rows by sequence.
    pub sequences: &'a [(usize, Rows)],
    /// Positions that each of them will have been fed in all: how far apart positions are may depend on it.
    pub horizons: &'a [usize],
    /// True where logits of some of the rows are asked for next.
    pub logits: bool,
    /// Checked between blocks.
    pub interrupt: Interrupts<'a>,
    /// Probe of each unit's results.
    pub probe: Option<&'a Probe>,
}

/// Stops a running pass between two blocks; clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    raised: Arc<AtomicBool>,
}

impl Interrupt {
    /// Asks for a stop.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Relaxed);
    }

    /// Takes the request back.
    pub fn clear(&self) {
        self.raised.store(false, Ordering::Relaxed);
    }

    /// True once a stop is asked for.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }
}

/// The interrupts that stop a pass.
#[derive(Debug, Clone, Copy)]
pub struct Interrupts<'a> {
    /// The session's.
    pub session: &'a Interrupt,
    /// Interrupt of a sequence which has the pass to itself.
    pub sequence: Option<&'a Interrupt>,
}

impl Interrupts<'_> {
    /// True once a stop is asked for.
    pub fn is_raised(&self) -> bool {
        self.session.is_raised() || self.sequence.is_some_and(Interrupt::is_raised)
    }
}
