//! What is read of files at a time, and where in a staging place each weight then lies.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use llm_arch::{Role, Unit};
use llm_backend::{DenseWeight, HostWeight};
use llm_checkpoint::DirectFile;
use llm_quant::layout::{Part, QuantState};
use llm_quant::{Int8, Int8Weight};
use llm_tensor::{DType, HostBytes, PageBuf};

use crate::quantized;

/// A unit's weights, as they are brought to a staging place.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(super) runs: Vec<Run>,
    weights: Vec<(Unit, Role, Recipe)>,
    /// What it takes in a staging place.
    pub(super) len: usize,
}

/// Pages of a file, one after the other.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) file: Arc<DirectFile>,
    /// Where they begin in the file,
    pub(super) start: u64,
    /// and in the staging place.
    at: usize,
    pub(super) len: usize,
    /// Of a file that was written with one; then it is read whole.
    pub(super) sum: Option<Sum>,
}

/// What all of a file comes to, and whether that has been seen.
#[derive(Debug)]
pub(super) struct Sum {
    pub(super) expected: u64,
    pub(super) was_seen: AtomicBool,
}

/// Where a weight lies in a file.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) file: Arc<DirectFile>,
    pub(super) bytes: Range<u64>,
}

/// How a weight is made of its parts.
#[derive(Debug, Clone)]
pub(super) enum Form {
    Dense(DType, (usize, usize)),
    Int8PerUse(DType, (usize, usize), Int8),
    Int8((usize, usize), Int8),
    FourBit(QuantState),
}

#[derive(Debug)]
struct Recipe {
    form: Form,
    /// In the staging place; a dense weight is its only part.
    parts: Vec<(Part, Range<usize>)>,
}

/// A weight that a parcel is to bring.
pub(super) struct Item {
    pub(super) unit: Unit,
    pub(super) role: Role,
    pub(super) form: Form,
    pub(super) parts: Vec<(Part, Span)>,
}

impl Form {
    /// The parts of which it is made.
    pub(super) fn parts(&self) -> &'static [Part] {
        match self {
            Form::Dense(..) | Form::Int8PerUse(..) => &[Part::Weight],
            Form::Int8(..) => &[Part::Weight, Part::Scb],
            Form::FourBit(state) if state.nested_offset.is_none() => {
                &[Part::Weight, Part::Absmax, Part::QuantMap]
            }
            Form::FourBit(_) => &[
                Part::Weight,
                Part::Absmax,
                Part::QuantMap,
                Part::NestedAbsmax,
                Part::NestedQuantMap,
            ],
        }
    }
}

impl Parcel {
    /// `offloaded` is the file that was written for the unit, with its sum, unless that has been seen: it is read whole.
    pub(super) fn new(items: Vec<Item>, offloaded: Option<(Arc<DirectFile>, u64)>) -> Self {
        let spans = items.iter().flat_map(|item| &item.parts);
        let mut spans: Vec<_> = spans.map(|(_, span)| span.clone()).collect();
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
        let weights = items.iter().map(|item| {
            let parts = item.parts.iter();
            let recipe = Recipe {
                form: item.form.clone(),
                parts: parts.map(|(part, span)| (*part, place(span))).collect(),
            };
            (item.unit, item.role, recipe)
        });
        Parcel {
            weights: weights.collect(),
            runs,
            len,
        }
    }

    /// The weight of a slot, out of a staging place that was filled.
    ///
    /// # Panics
    /// When the parcel does not bring it.
    pub(super) fn weight(&self, unit: Unit, role: Role, staged: &Arc<PageBuf>) -> HostWeight {
        let mut weights = self.weights.iter();
        let found = weights.find(|(of, is, _)| (*of, *is) == (unit, role));
        let (_, _, recipe) = found.unwrap_or_else(|| panic!("{unit} is brought without {role:?}"));
        recipe.weight(staged)
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

impl Recipe {
    fn weight(&self, staged: &Arc<PageBuf>) -> HostWeight {
        let part = |wanted: Part| {
            let (_, range) = self
                .parts
                .iter()
                .find(|(part, _)| *part == wanted)
                .expect("a weight is brought with all of its parts");
            let owner: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::<PageBuf>::clone(staged);
            HostBytes::of_shared(owner, range.clone())
        };
        let dense = |dtype, (rows, cols)| DenseWeight {
            dtype,
            rows,
            cols,
            bytes: part(Part::Weight),
        };
        match &self.form {
            &Form::Dense(dtype, shape) => HostWeight::Dense(dense(dtype, shape)),
            &Form::Int8PerUse(dtype, shape, format) => {
                HostWeight::Int8PerUse(dense(dtype, shape), format)
            }
            &Form::Int8(shape, format) => {
                let weight = Int8Weight::new(shape, format, part(Part::Weight), part(Part::Scb));
                HostWeight::Int8(weight.expect(LENGTHS))
            }
            Form::FourBit(state) => {
                let part = |wanted| Ok::<_, Infallible>(part(wanted));
                let Ok(weight) = quantized::four_bit_of(state, part);
                HostWeight::FourBit(weight.expect(LENGTHS))
            }
        }
    }
}

const LENGTHS: &str = "a bound tensor's parts have the lengths that its shape has";
const PAGE: u64 = DirectFile::PAGE as u64;
