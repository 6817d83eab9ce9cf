//! Routers and experts.

use llm_backend::{Backend, Expert, ExpertBuffers, LinearPart, Ops, RouterVectors, Routing};
use llm_quant::{BlockSize, Code, FourBit, Int8, Scheme};
use llm_tensor::{Activation, ClampedGate, DType, Gate, GateOrder, Weighting};

use crate::bench::{Needs, on_each_target};

pub(crate) const KERNELS: &[&str] = &[
    "experts_up",
    "experts_down",
    "experts_gate",
    "experts_bias",
    "experts_outliers",
    "packed_experts",
    "routing_",
];

const HIDDEN: usize = 256;
const WIDTH: usize = 512;

#[test]
fn only_chosen_experts_are_read() {
    let four_bit = |double_quant| {
        Scheme::FourBit(FourBit {
            code: Code::Nf4,
            block_size: BlockSize::DEFAULT,
            double_quant,
        })
    };
    let routing = Routing {
        weighting: Weighting::Normalised,
        ..Routing::softmax(8, 2)
    };
    let schemes = [
        Scheme::Dense(DType::F32),
        Scheme::Dense(DType::F16),
        Scheme::Dense(DType::BF16),
        Scheme::Int8(Int8 { threshold: 6.0 }),
        four_bit(false),
        four_bit(true),
    ];
    let schemes: Vec<_> = schemes
        .into_iter()
        .chain(crate::packed::schemes())
        .collect();
    on_each_target(
        &[
            "experts_up",
            "experts_down",
            "experts_gate",
            "experts_bias",
            "experts_outliers",
            "packed_experts",
            "gather_rows",
            "routing_few",
            "routing_combine",
        ],
        |bench| {
            // Clamped gates of pairs, with biases; of a few schemes such gates of two matrices without.
            let ways = schemes.iter().flat_map(|scheme| {
                let is_chosen = [schemes[2], schemes[schemes.len() - 1]].contains(scheme);
                let orders = [None, Some(GateOrder::Pairs), Some(GateOrder::Halves)];
                orders[..if is_chosen { 3 } else { 2 }]
                    .iter()
                    .map(|order| (*scheme, *order))
                    .collect::<Vec<_>>()
            });
            // Those in LLM.int8() with clamped gates go one after the other.
            let is_together =
                |(scheme, order): &(Scheme, Option<_>)| order.is_none() || !is_int8(scheme);
            for (scheme, order) in ways.filter(is_together) {
                let has_biases = order == Some(GateOrder::Pairs);
                let [n_parts, rows] = match has_biases {
                    true => [1, 2 * WIDTH],
                    false => [2, WIDTH],
                };
                let weights =
                    |n, shape| -> Vec<_> { (0..n).map(|_| bench.weight(scheme, shape)).collect() };
                let up = weights(8 * n_parts, (rows, HIDDEN));
                let down = weights(8, (HIDDEN, WIDTH));
                let of_expert = n_parts * up[0].1 + down[0].1;
                let bias = |width| bench.weight(Scheme::Dense(DType::F32), (1, width)).0;
                let [of_up, of_down] = [2 * WIDTH, HIDDEN].map(bias);
                let part = |weight, bias| LinearPart {
                    weight,
                    bias: has_biases.then_some(bias),
                };
                let parts: Vec<_> = up.iter().map(|(weight, _)| part(weight, &of_up)).collect();
                let gate = match order {
                    None => Gate::Of(Activation::Silu),
                    Some(order) => Gate::Clamped(ClampedGate {
                        alpha: 1.702,
                        limit: 7.0,
                        added: 1.0,
                        order,
                    }),
                };
                let experts: Vec<_> = (0..8)
                    .map(|expert| Expert {
                        expert,
                        gate_up: &parts[n_parts * expert..n_parts * (expert + 1)],
                        down: part(&down[expert].0, &of_down),
                        gate,
                        width: WIDTH,
                        hidden: HIDDEN,
                    })
                    .collect();
                for n in [1, 2] {
                    let mut routes = bench.cuda.routes(&routing, n).expect("routes");
                    // Each row to the same two.
                    let row = [0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0];
                    let mut scores = bench.cuda.alloc(8 * n).expect("scores");
                    llm_backend::Queue::upload(&mut bench.queue, &row.repeat(n), &mut scores)
                        .expect("scores");
                    bench
                        .queue
                        .route(&routing, RouterVectors::NONE, &scores, &mut routes, n)
                        .expect("a choice");
                    let x = bench.buffer(n * HIDDEN);
                    let mut out = bench.buffer(n * HIDDEN);
                    let [mut gathered, mut up, mut gated, mut delta] =
                        [HIDDEN, 2 * WIDTH, WIDTH, HIDDEN].map(|width| bench.buffer(2 * n * width));
                    let of_gate = order.map(|order| format!(", clamped {order:?}"));
                    let of_gate = of_gate.unwrap_or_default();
                    let what = format!("{n} rows to experts in {scheme}{of_gate}");
                    // Weights, x, what is between the projections of two experts, and the sums.
                    let mut n_bytes =
                        2 * of_expert + 4 * n * (HIDDEN + 2 * 2 * (WIDTH + HIDDEN) + 2 * HIDDEN);
                    if is_int8(&scheme) {
                        n_bytes += codes(n, HIDDEN) + codes(2 * n, WIDTH);
                    }
                    let is_packed = matches!(
                        scheme,
                        Scheme::Ggml(_) | Scheme::Fp8(_) | Scheme::Grouped(_)
                    );
                    if is_packed {
                        n_bytes += halves(n, HIDDEN) + halves(2 * n, WIDTH);
                    }
                    if order.is_some() {
                        // Sums of gate and up; rows by assignment, or as halves, once more for a second matrix.
                        n_bytes += 2 * 2 * 4 * n * 2 * WIDTH;
                        n_bytes += match (is_packed, n_parts) {
                            (true, 1) => 0,
                            (true, _) => halves(n, HIDDEN),
                            (false, n_parts) => (1 + n_parts) * 2 * 4 * n * HIDDEN,
                        };
                    }
                    if has_biases {
                        // Of two experts; sums before and after theirs.
                        n_bytes += 2 * 4 * (2 * WIDTH + HIDDEN);
                        n_bytes += 2 * 2 * 4 * n * HIDDEN;
                    }
                    bench.check(&Needs::bytes(&what, n_bytes), |queue| {
                        let scratch = ExpertBuffers {
                            gathered: &mut gathered,
                            up: &mut up,
                            gated: &mut gated,
                            delta: &mut delta,
                        };
                        queue.experts(&experts, &x, &routes, scratch, &mut out)
                    });
                }
            }
        },
    );
}

fn is_int8(scheme: &Scheme) -> bool {
    matches!(scheme, Scheme::Int8(_))
}

/// Bytes of rows as halves for tensor cores, with sums of 16 or 32 columns, written and read.
fn halves(n: usize, cols: usize) -> usize {
    2 * (4 * n * cols + 4 * n.next_multiple_of(8) * cols / 16)
}

/// Bytes of codes of rows and of bits of their outlier columns, written and read.
fn codes(n: usize, cols: usize) -> usize {
    2 * n * (cols + cols / 8)
}

#[test]
fn rows_go_to_experts_and_back_once() {
    let patterns = [
        "routing_few",
        "routing_choose",
        "routing_lists",
        "routing_gather",
        "routing_scatter",
        "routing_scale",
    ];
    on_each_target(&patterns, |bench| {
        for (n_experts, n) in [(64, 8), (128, 64)] {
            let routing = Routing {
                weighting: Weighting::Probability,
                ..Routing::softmax(n_experts, 4)
            };
            let mut routes = bench.cuda.routes(&routing, n).expect("routes");
            let scores = bench.buffer(n * n_experts);
            let what = format!("{n} rows of {n_experts} scores");
            // Scores, and lists: chosen experts and weights, rows, weights, slots and tiles.
            let n_bytes = 4 * n * n_experts + 4 * n * 4 * 8;
            bench.check(&Needs::bytes(&what, n_bytes), |queue| {
                queue.route(&routing, RouterVectors::NONE, &scores, &mut routes, n)
            });
            let mut n_rows = vec![0; n_experts];
            bench.queue.chosen(&routes, &mut n_rows).expect("a choice");
            let expert = (0..n_experts).max_by_key(|&i| n_rows[i]).unwrap_or(0);
            let x = bench.buffer(n * HIDDEN);
            let mut gathered = bench.buffer(n * HIDDEN);
            let rows = 4 * n_rows[expert] * HIDDEN;
            bench.check(&Needs::bytes("an expert's rows", 2 * rows), |queue| {
                queue.gather_routed(&routes, expert, &x, HIDDEN, &mut gathered)
            });
            let mut out = bench.buffer(n * HIDDEN);
            bench.check(&Needs::bytes("an expert's results", 3 * rows), |queue| {
                queue.scatter_routed(&routes, expert, &gathered, HIDDEN, &mut out)
            });
            let n_bytes = 8 * n * HIDDEN + 4 * n * n_experts;
            bench.check(&Needs::bytes("rows that are weighed", n_bytes), |queue| {
                queue.scale_by_largest((&scores, n_experts), &mut out, HIDDEN, n)
            });
        }
    });
}
