//! Rows that go from queue to queue, of one device or of two.

use std::sync::Arc;

use llm_backend::{Backend, Ops, Queue};

use crate::case::Case;
use crate::data::{Device, Random, WORKS};

/// Sums that are handed over and overwritten, again and again.
#[derive(Debug)]
pub(crate) struct CopiesCase {
    n_turns: usize,
    /// Elements of a buffer, and those of them that are copied.
    n: usize,
    n_copied: usize,
}

pub(crate) fn copies() -> Vec<CopiesCase> {
    let case = |(n_turns, n, n_copied)| CopiesCase {
        n_turns,
        n,
        n_copied,
    };
    [(1, 7, 7), (4, 100, 33), (9, 1030, 1029)].map(case).into()
}

impl CopiesCase {
    /// All that two devices have at the end.
    pub(crate) fn run_between<B: Backend>(&self, backends: [&Arc<B>; 2]) -> Vec<f32> {
        let mut random = Random::new(25);
        let n = self.n;
        let mut devices = backends.map(Device::new);
        let mut rows = devices
            .each_mut()
            .map(|of| of.buffer(&random.values(n, 1.0)));
        let mut sums = devices.each_mut().map(|of| of.zeros(n));
        for turn in 0..self.n_turns {
            let ([a, b], [x, y]) = (&mut devices, &mut rows);
            let sums = sums.each_mut();
            let ([from, to], [x, y], [own, others]) = match turn % 2 {
                0 => ([a, b], [x, y], sums),
                _ => ([b, a], [y, x], {
                    let [own, others] = sums;
                    [others, own]
                }),
            };
            // What the destination held is used before, what it is given after.
            to.queue.add(y, others, n, 1).expect(WORKS);
            from.queue.add(own, x, n, 1).expect(WORKS);
            let copied = to.queue.copy_from(&mut from.queue, x, y, self.n_copied);
            copied.expect(WORKS);
            to.queue.add(y, others, n, 1).expect(WORKS);
            // The source is overwritten behind the copy.
            let next = random.values(n, 1.0);
            from.queue.upload(&next, x).expect(WORKS);
        }
        let [a, b] = &mut devices;
        let ([x, y], [own, others]) = (&rows, &sums);
        [
            a.read(x, n),
            b.read(y, n),
            a.read(own, n),
            b.read(others, n),
        ]
        .concat()
    }
}

impl Case for CopiesCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        self.run_between([backend, backend])
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        // Each sum is rounded once anywhere.
        vec![0.0; expected.len()]
    }
}
