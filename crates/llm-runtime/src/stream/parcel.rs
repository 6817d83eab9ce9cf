//! Spans of files that are read at once, and the offsets of weights in a staging place.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use llm_arch::{Role, Unit};
use llm_checkpoint::DirectFile;
use llm_quant::StoredWeight;

/// A unit's weights, as they are brought to a staging place.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(super) runs: Vec<Run>,
    /// In the staging place.
    weights: Vec<(Unit, Role, StoredWeight<Range<usize>>)>,
    /// Bytes behind the runs that no file has as such.
    pub(super) known: Vec<u8>,
    /// Length in a staging place.
    pub(super) len: usize,
}

/// Pages of a file, one after the other.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) file: Arc<DirectFile>,
    /// Begin in the file,
    pub(super) start: u64,
    /// and in the staging place.
    at: usize,
    pub(super) len: usize,
    /// Of a file that was written with one; then it is read whole.
    pub(super) sum: Option<Sum>,
}

/// Checksum of a file, and whether its bytes were held to it.
#[derive(Debug)]
pub(super) struct Sum {
    pub(super) expected: u64,
    pub(super) was_seen: AtomicBool,
}

/// Location of a weight in a file.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) file: Arc<DirectFile>,
    pub(super) bytes: Range<u64>,
}

/// Source of a part of a weight.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A file.
    File(Span),
    /// It is known already.
    Known([u8; 4]),
}

/// A weight that a parcel is to bring.
pub(super) struct Item {
    pub(super) unit: Unit,
    pub(super) role: Role,
    pub(super) weight: StoredWeight<Source>,
}

impl Parcel {
    /// `offloaded` is the file that was written for the unit, with its checksum unless that has been seen: it is read
    /// whole.
    pub(super) fn new(items: Vec<Item>, offloaded: Option<(Arc<DirectFile>, u64)>) -> Self {
        let parts = items.iter().flat_map(|item| item.weight.parts.iter());
        let mut spans: Vec<Span> = parts
            .filter_map(|(_, source)| match source {
                Source::File(span) => Some(span.clone()),
                Source::Known(_) => None,
            })
            .collect();
        spans.sort_by_key(|span| (Arc::as_ptr(&span.file) as usize, span.bytes.start));
        let mut runs: Vec<Run> = Vec::new();
        for Span { file, bytes } in spans {
            let is_offloaded = offloaded
                .as_ref()
                .filter(|(whole, _)| Arc::ptr_eq(whole, &file));
            let (bytes, sum) = match is_offloaded {
                Some(&(_, expected)) => {
                    let was_seen = AtomicBool::new(false);
                    (0..file.len(), Some(Sum { expected, was_seen }))
                }
                None => (bytes, None),
            };
            let start = bytes.start / PAGE * PAGE;
            let end = bytes.end.next_multiple_of(PAGE);
            match runs.last_mut() {
                // What shares a page with the last, or follows it, is read with it.
                Some(last)
                    if Arc::ptr_eq(&last.file, &file) && start <= last.start + last.len as u64 =>
                {
                    last.len = last.len.max((end - last.start) as usize);
                }
                _ => runs.push(Run {
                    file,
                    start,
                    at: 0,
                    len: (end - start) as usize,
                    sum,
                }),
            }
        }
        let mut len = 0;
        for run in &mut runs {
            run.at = len;
            len += run.len;
        }
        let place = |span: &Span| {
            let run = runs.iter().find(|run| run.holds(span));
            let run = run.expect("every span lies in a run");
            let start = run.at + (span.bytes.start - run.start) as usize;
            start..start + (span.bytes.end - span.bytes.start) as usize
        };
        let mut known = Vec::new();
        let weights = items.into_iter().map(|item| {
            let weight = item.weight.map(|_, source| match source {
                Source::File(span) => place(&span),
                Source::Known(bytes) => {
                    let start = len + known.len() * bytes.len();
                    known.push(bytes);
                    start..start + bytes.len()
                }
            });
            (item.unit, item.role, weight)
        });
        let weights = weights.collect();
        let known = known.concat();
        Parcel {
            weights,
            runs,
            len: len + known.len(),
            known,
        }
    }

    /// Offsets of a slot's weight in a staging place that was filled.
    ///
    /// # Panics
    /// When the parcel does not bring it.
    pub(super) fn weight(&self, unit: Unit, role: Role) -> &StoredWeight<Range<usize>> {
        let mut weights = self.weights.iter();
        let found = weights.find(|(of, is, _)| (*of, *is) == (unit, role));
        let (_, _, weight) = found.unwrap_or_else(|| panic!("{unit} is brought without {role:?}"));
        weight
    }
}

impl Run {
    fn holds(&self, span: &Span) -> bool {
        let bytes = self.start..self.start + self.len as u64;
        Arc::ptr_eq(&self.file, &span.file)
            && bytes.start <= span.bytes.start
            && span.bytes.end <= bytes.end
    }
}

const PAGE: u64 = DirectFile::PAGE as u64;
