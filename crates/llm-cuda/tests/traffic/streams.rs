//! Streams of a residual, and what belongs to models that have some.

use llm_backend::{Added, CutOff, Ops, StreamMix, StreamSum, StreamWeights, Streams};
use llm_quant::Scheme;
use llm_tensor::DType;

use crate::bench::{Needs, on_each_target};

pub(crate) const KERNELS: &[&str] = &[
    "mix_streams",
    "sum_streams",
    "match_streams",
    "cut_off",
    "tanh_of",
    "weigh_streams",
];

/// Elements of a stream, streams, and rows of a pass.
const WIDTH: usize = 512;
const STREAMS: usize = 4;
const N: usize = 8;

#[test]
fn streams_are_read_and_written_once() {
    on_each_target(KERNELS, |bench| {
        let streams = Streams {
            n: STREAMS,
            width: WIDTH,
        };
        let all = 4 * N * STREAMS * WIDTH;
        let one = 4 * N * WIDTH;
        let n_coefficients = STREAMS * STREAMS + STREAMS;
        let coefficients = bench.buffer(N * n_coefficients);
        let [mut s, mut x] = [N * STREAMS * WIDTH, N * WIDTH].map(|n| bench.buffer(n));
        let mix = StreamMix {
            streams,
            row_width: n_coefficients,
            own: 1.0,
            mixed: Some(0),
            added: Some(Added {
                first: 0,
                offset: 1.0,
                column: Some(STREAMS * STREAMS),
            }),
        };
        let n_bytes = 2 * all + one + 4 * N * n_coefficients;
        bench.check(&Needs::bytes("streams mixed", n_bytes), |queue| {
            queue.mix_streams(&mix, &coefficients, Some(&x), &mut s, N)
        });
        let sum = StreamSum {
            streams,
            row_width: STREAMS,
            column: Some(0),
            factor: 1.0,
        };
        let n_bytes = all + one + 4 * N * STREAMS;
        bench.check(&Needs::bytes("a sum of streams", n_bytes), |queue| {
            queue.sum_streams(&sum, &coefficients, &s, &mut x, N)
        });
        let n_bytes = all + 4 * N * (STREAMS - 1) * WIDTH;
        bench.check(&Needs::bytes("streams alike", n_bytes), |queue| {
            queue.match_streams(&streams, 1e-5, &mut s, N)
        });
        let cut = CutOff {
            width: WIDTH,
            row_width: 2 * WIDTH,
            deviations: 1.5,
        };
        bench.check(&Needs::bytes("a cut-off", 2 * one), |queue| {
            queue.cut_off(&cut, &mut s, N)
        });
        bench.check(&Needs::bytes("tangents", 2 * one), |queue| {
            queue.tanh(&mut x, WIDTH, N)
        });
        let n_weights = STREAMS * (2 + STREAMS);
        let [scale, base] =
            [3, n_weights].map(|n| bench.weight(Scheme::Dense(DType::F32), (1, n)).0);
        let mut weights = bench.buffer(N * n_weights);
        let weighing = StreamWeights {
            streams,
            norm_eps: 1e-6,
            scale: &scale,
            base: &base,
            eps: 1e-6,
            n_rounds: 3,
            only_read: false,
        };
        let n_bytes = all + 8 * N * n_weights + 4 * (3 + n_weights);
        bench.check(&Needs::bytes("weights of streams", n_bytes), |queue| {
            queue.weigh_streams(&weighing, &s, &mut weights, N)
        });
    });
}
