//! Experts in LLM.int8(), all of a layer in one call: each expert's rows are a pass with outlier columns of its own.

use std::sync::Arc;

use llm_backend::{Backend, LinearPart, Ops, Output, Reference, RouterVectors, Routing};
use llm_quant::{Activations8, Int8, Scheme};
use llm_tensor::{Activation, Weighting, WorkspaceShape};

use super::experts::{ExpertCase, ExpertInputs, Sent};
use super::weight_error;
use crate::case::EPS;
use crate::data::{Device, SMALL, WORKS, widened};
use crate::int8::product_bounds;

pub(crate) fn cases() -> Vec<ExpertCase> {
    let shapes = [
        (1, 4, 2, 64, 48),
        (3, 8, 2, 528, 32),
        (11, 8, 1, 128, 96),
        (40, 5, 5, 256, 80),
        // More experts than a launch may be told of.
        (6, 130, 8, 32, 16),
        // Rows that no border of 16 bytes divides.
        (2, 3, 2, 65, 33),
    ];
    let activations = [Activation::Relu, Activation::Silu, Activation::GeluTanh];
    let mut cases = Vec::new();
    for (i, (n_tokens, n_experts, n_active, hidden, width)) in shapes.into_iter().enumerate() {
        for (j, threshold) in [6.0, 0.0, 0.8].into_iter().enumerate() {
            cases.push(ExpertCase {
                routing: Routing {
                    weighting: [Weighting::Probability, Weighting::Normalised][(i + j) % 2],
                    ..Routing::softmax(n_experts, n_active)
                },
                n_tokens,
                hidden,
                width,
                activation: activations[(i + j) % 3],
                clamped: None,
                has_biases: false,
                is_ungated: false,
                scheme: Scheme::Int8(Int8 { threshold }),
                is_fused: false,
                nan_row: (i == 2).then_some(n_tokens / 2),
                outlier_every: [0, 37, 101][(i + j + 1) % 3],
                sent: Sent::Together(if (i, j) == (3, 1) { 1 } else { n_active }),
            });
        }
    }
    cases
}

impl ExpertCase {
    /// Distance that each result may have from the exact one. What goes into the last projection is rounded to codes: where
    /// an error before brings it over the border of a code, the codes differ, and else they may not.
    pub(super) fn int8_bounds(&self, threshold: f32) -> Vec<f64> {
        let ExpertInputs {
            scores,
            x,
            before,
            experts,
        } = self.inputs();
        let relative = weight_error(&self.routing, &scores);
        let (hidden, width) = (self.hidden, self.width);
        let shape = WorkspaceShape {
            n_tokens: self.n_tokens,
            cols: hidden.max(width),
            rows: hidden.max(2 * width),
            ..SMALL
        };
        let backend = Arc::new(Reference::new());
        let mut device = Device::with_workspace(&backend, &shape);
        let scores = device.buffer(&scores);
        let x = device.buffer(&x);
        let numbers: Vec<f32> = (0..self.n_tokens).map(|i| i as f32).collect();
        let numbers = device.buffer(&numbers);
        let routes = backend.routes(&self.routing, self.n_tokens);
        let mut routes = routes.expect(WORKS);
        let routed = device.queue.route(
            &self.routing,
            RouterVectors::NONE,
            &scores,
            &mut routes,
            self.n_tokens,
        );
        routed.expect(WORKS);
        let mut n_rows = vec![0; self.routing.n_experts];
        device.queue.chosen(&routes, &mut n_rows).expect(WORKS);
        // Error and magnitude of the sums of all experts' results.
        let mut sums = vec![(0.0, 0.0); before.len()];
        for (expert, (matrices, n)) in experts.into_iter().zip(n_rows).enumerate() {
            let mut gathered = |buffer, width: usize| {
                let mut rows = device.zeros(self.n_tokens * width);
                let gather = device
                    .queue
                    .gather_routed(&routes, expert, buffer, width, &mut rows);
                gather.expect(WORKS);
                let values = device.read(&rows, n * width);
                (rows, values)
            };
            let (rows, of_x) = gathered(&x, hidden);
            let (_, numbers) = gathered(&numbers, 1);
            let [gate, up] = &matrices.gate_up[..] else {
                unreachable!("gate and up of {self:?} are two matrices");
            };
            let errors = [gate, up].map(|weight| product_bounds(weight, &of_x));
            let loaded = [gate, up].map(|weight| device.load(weight.clone()));
            let parts = loaded
                .each_ref()
                .map(|weight| LinearPart { weight, bias: None });
            let mut gate_up = device.zeros(n * 2 * width);
            let mut gated = device.zeros(n * width);
            let queue = &mut device.queue;
            let multiplied = queue.linear(&parts, &rows, Output::Write, &mut gate_up, n);
            multiplied.expect(WORKS);
            let applied = queue.gate(self.activation, &gate_up, &mut gated, width, n);
            applied.expect(WORKS);
            let gate_up = device.read(&gate_up, n * 2 * width);
            let gated = device.read(&gated, n * width);
            // No activation is larger than its argument, or steeper than 1.13; it is rounded a few times itself.
            let before_codes: Vec<f64> = (0..n * width)
                .map(|i| {
                    let (row, col) = (i / width, i % width);
                    let of = |part| f64::from(gate_up[row * 2 * width + part * width + col]).abs();
                    let rounded = 64.0 * EPS * of(0) * of(1);
                    1.13 * errors[0][i] * of(1) + errors[1][i] * of(0) + rounded
                })
                .collect();
            let of_codes = code_errors(&gated, &before_codes, width, threshold);
            let products = product_bounds(&matrices.down, &gated);
            let down_values = widened(&matrices.down);
            for (i, product) in products.into_iter().enumerate() {
                let (row, col) = (i / hidden, i % hidden);
                let line = &down_values[col * width..][..width];
                let inner = line.iter().zip(&of_codes[row * width..][..width]);
                let inner: f64 = inner.map(|(w, error)| f64::from(*w).abs() * error).sum();
                let values = line.iter().zip(&gated[row * width..][..width]);
                let size: f64 = values.map(|(w, v)| f64::from(w * v).abs()).sum();
                let (error, all) = &mut sums[numbers[row] as usize * hidden + col];
                *error += product + inner;
                *all += size;
            }
        }
        let n_sums = self.routing.n_active as f64 + 2.0;
        let bound = |((error, size), before): ((f64, f64), f32)| {
            let sums = EPS * n_sums * (size + f64::from(before).abs());
            error * (1.0 + relative) + relative * size + sums
        };
        sums.into_iter().zip(before).map(bound).collect()
    }
}

/// Distance between what two codes mean that rows `[_, cols]`, which may err by so much themselves, may be given.
fn code_errors(rows: &[f32], errors: &[f64], cols: usize, threshold: f32) -> Vec<f64> {
    let moved = |direction: f64| -> Vec<f32> {
        let moved = rows.iter().zip(errors).map(|(value, error)| {
            let magnitude = f64::from(*value).abs() + direction * error;
            (magnitude.max(0.0) as f32).copysign(*value)
        });
        moved.collect()
    };
    let [less, more] = [moved(-1.0), moved(1.0)];
    let all = [&less[..], rows, &more].map(|rows| Activations8::quantize(rows, cols, threshold));
    let meaning = |i: usize| {
        let of_one = |(values, codes): (&[f32], &Activations8)| {
            let is_outlier = codes.outlier_cols.contains(&(i % cols));
            let absmax = codes.absmax[i / cols];
            let value = match is_outlier {
                true => f64::from(values[i]),
                false => f64::from(codes.codes[i]) * f64::from(absmax) / 127.0,
            };
            (is_outlier, codes.codes[i], absmax, value)
        };
        let [less, mid, more] =
            [(&less[..], &all[0]), (rows, &all[1]), (&more[..], &all[2])].map(of_one);
        let is_same =
            |other: (bool, i8, f32, f64)| (other.0, other.1, other.2) == (mid.0, mid.1, mid.2);
        let farther = (less.3 - mid.3).abs().max((more.3 - mid.3).abs());
        match is_same(less) && is_same(more) {
            true => farther,
            // Borders of codes lie a step apart.
            false => farther + f64::from(less.2.max(mid.2).max(more.2)) / 127.0,
        }
    };
    (0..rows.len()).map(meaning).collect()
}
