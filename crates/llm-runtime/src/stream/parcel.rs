//! Spans of files that are read at once, and the offsets of weights in a buffer and in a staging place.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use llm_arch::{Role, Unit};
use llm_checkpoint::DirectFile;
use llm_plan::PART_BORDER;
use llm_quant::StoredWeight;

/// A unit's weights, as they are read into a buffer, and as they are brought to a staging place.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(super) runs: Vec<Run>,
    /// In the buffer.
    weights: Vec<(Unit, Role, StoredWeight<Range<usize>>)>,
    /// Bytes behind the runs that no file has as such.
    pub(super) known: Vec<u8>,
    /// Length in a buffer.
    pub(super) len: usize,
    /// In a staging place.
    placed: Vec<(Unit, Role, StoredWeight<Range<usize>>)>,
    /// Bytes of the buffer, and where they come to in a place.
    pub(super) copies: Vec<(Range<usize>, usize)>,
    /// Length in a place.
    pub(super) placed_len: usize,
}

/// Pages of a file, one after the other.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) file: Arc<DirectFile>,
    /// Begin in the file,
    pub(super) start: u64,
    /// and in the buffer.
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

impl Source {
    /// Some bytes of it; what is known is needed whole.
    pub(super) fn cut(&self, window: Range<u64>) -> Self {
        match self {
            Source::File(Span { file, bytes }) => Source::File(Span {
                file: Arc::clone(file),
                bytes: bytes.start + window.start..bytes.start + window.end,
            }),
            &Source::Known(bytes) => Source::Known(bytes),
        }
    }
}

/// A weight that a parcel is to bring.
pub(super) struct Item {
    pub(super) unit: Unit,
    pub(super) role: Role,
    pub(super) weight: StoredWeight<Source>,
}

impl Parcel {
    /// Read in as few runs as may be, and placed with each part on a border of its own, as in an allocation of its own.
    ///
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
        let weights: Vec<_> = weights.collect();
        let known = known.concat();
        let (mut copies, mut placed_len) = (Vec::<(Range<usize>, usize)>::new(), 0);
        let placed = weights.iter().map(|(unit, role, weight)| {
            let placed = weight.clone().map(|_, from| {
                let to = placed_len..placed_len + from.len();
                placed_len = to.end.next_multiple_of(PART_BORDER as usize);
                match copies.last_mut() {
                    Some((last, at)) if last.end == from.start && *at + last.len() == to.start => {
                        last.end = from.end;
                    }
                    _ => copies.push((from, to.start)),
                }
                to
            });
            (*unit, *role, placed)
        });
        Parcel {
            placed: placed.collect(),
            copies,
            placed_len,
            weights,
            runs,
            len: len + known.len(),
            known,
        }
    }

    /// Offsets of a slot's weight in a buffer that was filled.
    ///
    /// # Panics
    /// When the parcel does not have it.
    pub(super) fn weight(&self, unit: Unit, role: Role) -> &StoredWeight<Range<usize>> {
        find(&self.weights, unit, role)
    }

    /// The same in a staging place.
    ///
    /// # Panics
    /// As [`Parcel::weight`].
    pub(super) fn placed(&self, unit: Unit, role: Role) -> &StoredWeight<Range<usize>> {
        find(&self.placed, unit, role)
    }
}

fn find<T>(weights: &[(Unit, Role, T)], unit: Unit, role: Role) -> &T {
    let found = weights
        .iter()
        .find(|(of, is, _)| (*of, *is) == (unit, role));
    let (_, _, weight) = found.unwrap_or_else(|| panic!("{unit} is brought without {role:?}"));
    weight
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
