//! Progress of loading, as clients are told of it.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// Progress of a model that is being loaded. Clones are of the same: one side reports, the other tells clients.
#[derive(Debug, Clone, Default)]
pub struct Loading(Arc<Mutex<Progress>>);

/// What is being done, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Work in a few words, as `loading`.
    pub doing: &'static str,
    /// Amount of it, where that is known.
    #[serde(flatten)]
    pub amount: Option<Amount>,
}

/// Amount of work that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Bytes that are done.
    pub done: u64,
    /// Bytes of all.
    pub total: u64,
    /// Part of the model that the last of them are of, as `layer 3`.
    pub unit: String,
    /// Parts that were begun, that one among them.
    pub n_units: usize,
    /// Parts of all.
    pub total_units: usize,
}

/// The beginning, in which files and devices are looked at.
impl Default for Progress {
    fn default() -> Self {
        Progress {
            doing: "preparing",
            amount: None,
        }
    }
}

impl Loading {
    /// Tells clients how far loading is.
    pub fn report(&self, progress: Progress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    pub(crate) fn progress(&self) -> Progress {
        let progress = self.0.lock();
        progress.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `the model is loading: 45 %, layer 12 (13 of 31 units)`.
    pub(crate) fn sentence(&self) -> String {
        let Some(amount) = self.progress().amount else {
            return "the model is loading".to_owned();
        };
        let Amount {
            done,
            total,
            unit,
            n_units,
            total_units,
        } = amount;
        let percent = u128::from(done) * 100 / u128::from(total.max(1));
        format!("the model is loading: {percent} %, {unit} ({n_units} of {total_units} units)")
    }
}
