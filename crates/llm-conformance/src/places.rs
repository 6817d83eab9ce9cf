//! Weights that are brought to places, and work of several queues.

use std::ops::Range;
use std::sync::Arc;
use std::thread;

use llm_backend::{Allocation, Backend, Event, HostPages, LinearPart, Ops, Output, Queue};
use llm_quant::{Scheme, StoredWeight};
use llm_tensor::{PageBuf, WorkspaceShape};

use crate::case::Case;
use crate::data::{Device, Random, SMALL, WORKS};
use crate::int8::product_bounds;
use crate::schemes::{schemes, weight_in};

/// Weights that take turns in a few places: one is computed with while the next is brought.
#[derive(Debug)]
pub(crate) struct StreamCase {
    schemes: Vec<Scheme>,
    rows: usize,
    cols: usize,
    n_tokens: usize,
    n_places: usize,
    /// The first byte that is used of the pages; bytes from the middle before it on come to this one of the place.
    first: usize,
}

pub(crate) fn streams() -> Vec<StreamCase> {
    let mut cases = Vec::new();
    let all = schemes();
    for (rows, cols) in [(9, 64), (33, 100), (40, 576)] {
        for n_places in [1, 2, 3] {
            let i = cases.len();
            let turns = all.iter().cycle().skip(i).take(12 + i);
            cases.push(StreamCase {
                schemes: turns.copied().collect(),
                rows,
                cols,
                n_tokens: [1, 3, 17][i % 3],
                n_places,
                first: [0, 1, 64][i / 3],
            });
        }
    }
    cases
}

/// Weights in the formats of published files.
pub(crate) fn packed_streams(schemes: &[Scheme]) -> Vec<StreamCase> {
    vec![StreamCase {
        schemes: schemes.to_vec(),
        rows: 9,
        cols: 512,
        n_tokens: 3,
        n_places: 2,
        first: 1,
    }]
}

impl StreamCase {
    /// `[n_tokens, cols]`, and the weights in turn.
    fn inputs(&self) -> (Vec<f32>, Vec<StoredWeight>) {
        let mut random = Random::new(23);
        let x = random.values(self.n_tokens * self.cols, 4.0);
        let weights = self.schemes.iter();
        let weights = weights.map(|&scheme| weight_in(&mut random, scheme, (self.rows, self.cols)));
        (x, weights.collect())
    }

    /// The first byte that is brought.
    fn begin(&self) -> usize {
        self.first / 2
    }

    /// Writes the weight's parts to pages, one after the other, and says where in the place they will be and where they end.
    fn fill<P: HostPages>(
        &self,
        pages: &mut P,
        weight: StoredWeight,
    ) -> (StoredWeight<Range<usize>>, usize) {
        let mut end = self.first;
        let n_bytes = pages.bytes().get() as usize;
        let placed = pages.fill(|pages| {
            assert_eq!(pages.len(), n_bytes, "all pages");
            assert!(
                n_bytes.is_multiple_of(PageBuf::PAGE)
                    && pages.as_ptr().addr().is_multiple_of(PageBuf::PAGE),
                "whole pages"
            );
            weight.map(|_, bytes| {
                let range = end..end + bytes.len();
                pages[range.clone()].copy_from_slice(&bytes);
                end = range.end;
                range.start - self.begin() + self.first..range.end - self.begin() + self.first
            })
        });
        (placed, end)
    }
}

/// Pages and a place, and the ends of its last bringing and its last use.
struct Staged<B: Backend> {
    pages: B::HostPages,
    place: B::Place,
    ends: Option<(B::Event, B::Event)>,
}

impl Case for StreamCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let (x, weights) = self.inputs();
        let shape = WorkspaceShape {
            n_tokens: self.n_tokens,
            cols: self.cols,
            rows: self.rows,
            ..SMALL
        };
        let mut device = Device::with_workspace(backend, &shape);
        let mut copies = backend.queue(None).expect(WORKS);
        let largest = weights.iter().map(|w| w.stored_bytes().total().get());
        let n_bytes = 2 * self.first + largest.max().expect("there is a weight") as usize;
        let staged = |_| Staged::<B> {
            pages: backend.host_pages(n_bytes).expect(WORKS),
            place: backend.place(n_bytes).expect(WORKS),
            ends: None,
        };
        let mut places: Vec<_> = (0..self.n_places).map(staged).collect();
        let x = device.buffer(&x);
        let n = self.n_tokens * self.rows;
        let mut outs = Vec::new();
        for (turn, weight) in weights.into_iter().enumerate() {
            let Staged { pages, place, ends } = &mut places[turn % self.n_places];
            if let Some((brought, used)) = ends {
                brought.finish().expect(WORKS);
                copies.wait(used).expect(WORKS);
            }
            let (placed, end) = self.fill(pages, weight);
            pages.read(|bytes| assert_eq!(bytes.len() as u64, pages.bytes().get()));
            copies
                .bring(pages, self.begin()..end, place, self.first)
                .expect(WORKS);
            let brought = copies.record().expect(WORKS);
            device.queue.wait(&brought).expect(WORKS);
            let weight = backend.placed(place, &placed).expect(WORKS);
            let part = LinearPart {
                weight: &weight,
                bias: None,
            };
            let mut out = device.zeros(n);
            let multiplied =
                device
                    .queue
                    .linear(&[part], &x, Output::Write, &mut out, self.n_tokens);
            multiplied.expect(WORKS);
            outs.push(out);
            *ends = Some((brought, device.queue.record().expect(WORKS)));
        }
        let results = outs.iter().map(|out| device.read(out, n));
        results.collect::<Vec<_>>().concat()
    }

    fn bounds(&self, _: &[f32]) -> Vec<f64> {
        let (x, weights) = self.inputs();
        let bounds = weights.iter().map(|weight| product_bounds(weight, &x));
        bounds.collect::<Vec<_>>().concat()
    }
}

/// A sum that goes back and forth between queues.
#[derive(Debug)]
pub(crate) struct QueuesCase {
    n_queues: usize,
    n_turns: usize,
}

pub(crate) fn queues() -> Vec<QueuesCase> {
    let case = |(n_queues, n_turns)| QueuesCase { n_queues, n_turns };
    [(1, 3), (2, 9), (3, 20)].map(case).into()
}

impl Case for QueuesCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        const N: usize = 40;
        let mut random = Random::new(24);
        let mut devices: Vec<_> = (0..self.n_queues).map(|_| Device::new(backend)).collect();
        let mut sum = devices[0].buffer(&random.values(N, 1.0));
        let mut last = devices[0].queue.record().expect(WORKS);
        for turn in 0..self.n_turns {
            let device = &mut devices[turn % self.n_queues];
            device.queue.wait(&last).expect(WORKS);
            let values = device.buffer(&random.values(N, 1.0));
            device.queue.add(&values, &mut sum, N, 1).expect(WORKS);
            last = device.queue.record().expect(WORKS);
        }
        // From any thread, and again.
        thread::scope(|scope| scope.spawn(|| last.finish()).join())
            .expect("waiting does not panic")
            .expect(WORKS);
        last.clone().finish().expect(WORKS);
        devices[0].queue.wait(&last).expect(WORKS);
        let results = devices[0].read(&sum, N);
        devices
            .iter_mut()
            .for_each(|device| device.queue.finish().expect(WORKS));
        results
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        // Each sum is rounded once anywhere.
        vec![0.0; expected.len()]
    }
}
