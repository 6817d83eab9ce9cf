//! Streams of a residual, and features cut off by their own statistics.

use std::sync::Arc;

use llm_backend::{Added, Backend, CutOff, Ops, StreamMix, StreamSum, Streams};

use crate::case::{Case, EPS, sum_error};
use crate::data::{Device, Random, WORKS};

/// Streams of all streams, in place.
#[derive(Debug)]
pub(crate) struct MixCase {
    op: StreamMix,
    n_tokens: usize,
}

pub(crate) fn mixes() -> Vec<MixCase> {
    let mut cases = Vec::new();
    for (n, width) in [(1, 1), (2, 7), (4, 64), (4, 257), (3, 2048), (8, 33)] {
        let streams = Streams { n, width };
        let added = |first, offset, column| Added {
            first,
            offset,
            column,
        };
        // Coefficients in columns behind others, before others, and none.
        let ops = [
            (1.0, Some(0), None, n * n),
            (
                0.0,
                Some(2 * n),
                Some(added(0, 0.0, Some(n))),
                2 * n + n * n + 1,
            ),
            (1.0, None, Some(added(0, 1.0, Some(0))), n),
            (1.0, None, Some(added(1, 1.0, None)), 0),
            (0.5, Some(1), Some(added(n - 1, -0.25, Some(0))), n * n + 1),
        ];
        for (i, (own, mixed, added, row_width)) in ops.into_iter().enumerate() {
            cases.push(MixCase {
                op: StreamMix {
                    streams,
                    row_width,
                    own,
                    mixed,
                    added,
                },
                n_tokens: [1, 3, 20][(cases.len() + i) % 3],
            });
        }
    }
    cases
}

impl MixCase {
    /// Coefficients, what is added, and the streams.
    fn inputs(&self) -> [Vec<f32>; 3] {
        let mut random = Random::new(51);
        let widths = [
            self.op.row_width,
            self.op.streams.width,
            self.op.streams.row_width(),
        ];
        widths.map(|width| random.values(self.n_tokens * width, 2.0))
    }
}

impl Case for MixCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let [coefficients, y, mut s] = self.inputs();
        // The row behind those that are named stays.
        s.extend(vec![7.0; self.op.streams.row_width()]);
        let n = s.len();
        let (coefficients, y) = (device.buffer(&coefficients), device.buffer(&y));
        let mut s = device.buffer(&s);
        let y = self.op.added.map(|_| &y);
        let mixed = (device.queue).mix_streams(&self.op, &coefficients, y, &mut s, self.n_tokens);
        mixed.expect(WORKS);
        device.read(&s, n)
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let Streams { n, width } = self.op.streams;
        let [coefficients, y, s] = self.inputs();
        let mut bounds = vec![0.0; expected.len()];
        for token in 0..self.n_tokens {
            let row = &coefficients[token * self.op.row_width..][..self.op.row_width];
            let (c, d) = self.op.of_row(row);
            for (o, at) in (0..n).flat_map(|o| (0..width).map(move |at| (o, at))) {
                let of = |i: usize| s[(token * n + i) * width + at] * c[o][i];
                let terms = (0..n).map(|i| f64::from(of(i)).abs()).sum::<f64>();
                let added = f64::from(d[o] * y[token * width + at]).abs();
                bounds[(token * n + o) * width + at] = sum_error(n + 1) * (terms + added);
            }
        }
        bounds
    }
}

/// Sums of streams.
#[derive(Debug)]
pub(crate) struct SumCase {
    op: StreamSum,
    n_tokens: usize,
}

pub(crate) fn sums() -> Vec<SumCase> {
    let mut cases = Vec::new();
    for (n, width) in [(1, 1), (2, 7), (4, 64), (4, 257), (3, 2048), (8, 33)] {
        for (column, row_width, factor) in [
            (None, 0, 1.0 / n as f32),
            (Some(0), n, 1.0),
            (Some(n + 1), 2 * n + 2, 2.0),
        ] {
            cases.push(SumCase {
                op: StreamSum {
                    streams: Streams { n, width },
                    row_width,
                    column,
                    factor,
                },
                n_tokens: [1, 3, 20][cases.len() / 2 % 3],
            });
        }
    }
    cases
}

impl SumCase {
    /// Coefficients and streams.
    fn inputs(&self) -> [Vec<f32>; 2] {
        let mut random = Random::new(52);
        let widths = [self.op.row_width, self.op.streams.row_width()];
        widths.map(|width| random.values(self.n_tokens * width, 2.0))
    }
}

impl Case for SumCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let [coefficients, s] = self.inputs().map(|values| device.buffer(&values));
        let n = (self.n_tokens + 1) * self.op.streams.width;
        let mut out = device.buffer(&vec![7.0; n]);
        let summed =
            (device.queue).sum_streams(&self.op, &coefficients, &s, &mut out, self.n_tokens);
        summed.expect(WORKS);
        device.read(&out, n)
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let Streams { n, width } = self.op.streams;
        let [coefficients, s] = self.inputs();
        let mut bounds = vec![0.0; expected.len()];
        for (i, bound) in bounds.iter_mut().take(self.n_tokens * width).enumerate() {
            let (token, at) = (i / width, i % width);
            let row = &coefficients[token * self.op.row_width..][..self.op.row_width];
            let w = self.op.of_row(row);
            let of = |i: usize| f64::from(w[i] * s[(token * n + i) * width + at]).abs();
            *bound = sum_error(n) * (0..n).map(of).sum::<f64>();
        }
        bounds
    }
}

/// Streams with the root mean square of the first.
#[derive(Debug)]
pub(crate) struct MatchCase {
    streams: Streams,
    floor: f32,
    n_tokens: usize,
    magnitude: f32,
}

pub(crate) fn matches() -> Vec<MatchCase> {
    let mut cases = Vec::new();
    for (n, width) in [(1, 5), (2, 7), (4, 64), (4, 257), (3, 2048), (8, 33)] {
        // With mean squares above and below the floor.
        for magnitude in [1e-4, 2.0, 1e4] {
            cases.push(MatchCase {
                streams: Streams { n, width },
                floor: 1e-5,
                n_tokens: [1, 3, 20][cases.len() % 3],
                magnitude,
            });
        }
    }
    cases
}

impl Case for MatchCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let n = self.n_tokens * self.streams.row_width();
        let mut s = device.buffer(&Random::new(53).values(n, self.magnitude));
        let matched =
            (device.queue).match_streams(&self.streams, self.floor, &mut s, self.n_tokens);
        matched.expect(WORKS);
        device.read(&s, n)
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let Streams { n, width } = self.streams;
        let bound = |(i, &expected): (usize, &f32)| match i / width % n {
            0 => 0.0,
            // Two statistics.
            _ => 2.0 * sum_error(width) * f64::from(expected).abs(),
        };
        expected.iter().enumerate().map(bound).collect()
    }
}

/// Leading columns, cut off.
#[derive(Debug)]
pub(crate) struct CutCase {
    op: CutOff,
    n_tokens: usize,
    /// What all features lie around.
    mean: f32,
}

pub(crate) fn cut_offs() -> Vec<CutCase> {
    let mut cases = Vec::new();
    for (width, row_width) in [(1, 1), (7, 14), (64, 130), (257, 257), (4096, 8192)] {
        for (mean, deviations) in [(0.0, 1.644_853_6), (-3.0, 0.0), (100.0, -0.5)] {
            cases.push(CutCase {
                op: CutOff {
                    width,
                    row_width,
                    deviations,
                },
                n_tokens: [1, 3, 20][cases.len() % 3],
                mean,
            });
        }
    }
    cases
}

impl CutCase {
    fn input(&self) -> Vec<f32> {
        let mut x = Random::new(54).values(self.n_tokens * self.op.row_width, 2.0);
        x.iter_mut().for_each(|x| *x += self.mean);
        x
    }
}

impl Case for CutCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let x = self.input();
        let mut cut = device.buffer(&x);
        let done = device.queue.cut_off(&self.op, &mut cut, self.n_tokens);
        done.expect(WORKS);
        device.read(&cut, x.len())
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let CutOff {
            width, row_width, ..
        } = self.op;
        let largest = f64::from(self.mean.abs() + 2.0);
        let bound = |i: usize| match i % row_width < width {
            true => 2.0 * sum_error(width) * largest,
            // Others stay as they are.
            false => 0.0,
        };
        (0..expected.len()).map(bound).collect()
    }
}

/// Hyperbolic tangents of features.
#[derive(Debug)]
pub(crate) struct TanhCase {
    width: usize,
    n_tokens: usize,
    magnitude: f32,
}

pub(crate) fn tangents() -> Vec<TanhCase> {
    let mut cases = Vec::new();
    for (width, n_tokens) in [(1, 1), (4, 3), (7, 20), (2053, 3)] {
        for magnitude in [1e-4, 0.4, 3.0, 2e4] {
            cases.push(TanhCase {
                width,
                n_tokens,
                magnitude,
            });
        }
    }
    cases
}

impl Case for TanhCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let n = self.n_tokens * self.width;
        let mut x = device.buffer(&Random::new(55).values(n, self.magnitude));
        let done = (device.queue).tanh(&mut x, self.width, self.n_tokens);
        done.expect(WORKS);
        device.read(&x, n)
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let bound = |&y: &f32| 8.0 * EPS * f64::from(y).abs();
        expected.iter().map(bound).collect()
    }
}
