//! The gated delta rule: a state is read and written once, however many positions go through it.

use llm_backend::{
    Decays, DeltaGates, DeltaRule, GateFunction, HeadGates, HeadNorm, NormOp, NormOrder, Ops,
};
use llm_quant::Scheme;
use llm_tensor::{DType, Norm};

use crate::bench::{Bench, Needs, on_each_target};

pub(crate) const KERNELS: &[&str] = &["delta_rule_", "gate_heads"];

#[test]
fn states_are_read_and_written_once() {
    on_each_target(&["delta_rule_"], |bench| {
        for decays in [Decays::Head, Decays::Channel] {
            for key_dim in [64, 128, 256] {
                for n_tokens in [1, 8] {
                    states(bench, decays, (key_dim, n_tokens));
                }
            }
        }
    });
}

/// Checks two sequences of some positions each.
fn states(bench: &mut Bench, decays: Decays, (key_dim, n_tokens): (usize, usize)) {
    let (n_keys, n_values, value_dim) = (2, 4, 128);
    let n_decays = match decays {
        Decays::Head => n_values,
        Decays::Channel => n_values * key_dim,
    };
    let rate = bench.weight(Scheme::Dense(DType::F32), (1, n_values)).0;
    let offset = bench.weight(Scheme::Dense(DType::BF16), (1, n_decays)).0;
    let op = DeltaRule {
        n_key_heads: n_keys,
        n_together: n_values / n_keys,
        n_value_heads: n_values,
        key_dim,
        value_dim,
        norm_eps: 1e-6,
        scale: 0.1,
        rate: &rate,
        offset: &offset,
        decays,
        gates: DeltaGates {
            decay: 0,
            strength: n_decays,
            row_width: n_decays + n_values,
        },
    };
    let x = bench.buffer(2 * n_tokens * op.row_width());
    let gates = bench.buffer(2 * n_tokens * op.gates.row_width);
    let mut state = bench.buffer(3 * op.state_elements());
    let mut out = bench.buffer(2 * n_tokens * op.out_width());
    let sequences = bench.two_sequences(n_tokens);
    let batch = sequences.batch();
    let what = format!("{n_tokens} positions of keys of {key_dim}, decays by {decays:?}");
    // Keys and queries are read again by each block of a head, and so are what channels decay by and is added to it.
    let n_blocks = n_values * value_dim / if key_dim > 128 { 16 } else { 32 };
    let of_channels = match decays {
        Decays::Head => 0,
        Decays::Channel => 4 + 2,
    };
    let prepared = n_blocks * (2 * 4 + of_channels) * key_dim * n_tokens;
    let others = 4 * n_tokens * 2 * op.out_width();
    let n_bytes = 2 * (8 * op.state_elements() + prepared + others);
    let needs = Needs::bytes(&what, n_bytes);
    bench.check(&needs, |queue| {
        queue.delta_rule(&op, (&x, &gates), &batch, &mut state, &mut out)
    });
}

#[test]
fn heads_are_gated_in_place() {
    on_each_target(&["gate_heads"], |bench| {
        gated(bench, (8, 128));
        gated(bench, (2, 1024));
    });
}

/// Checks heads of some length, gated after they are normalised and before.
fn gated(bench: &mut Bench, (n_heads, head_dim): (usize, usize)) {
    let n = 8;
    let gain = bench.weight(Scheme::Dense(DType::F32), (1, head_dim)).0;
    let gates = bench.buffer(n * n_heads * head_dim);
    let mut x = bench.buffer(n * n_heads * head_dim);
    let orders = [NormOrder::BeforeGates, NormOrder::AfterGates].map(Some);
    for order in [None].into_iter().chain(orders) {
        for norm in [Norm::Rms, Norm::Layer] {
            let norm = NormOp {
                norm,
                eps: 1e-6,
                gain_offset: 0.0,
                gain: &gain,
                bias: None,
            };
            let op = HeadGates {
                norm: order.map(|order| HeadNorm { op: norm, order }),
                function: GateFunction::Silu,
                n_heads,
                head_dim,
                first: 0,
                row_width: n_heads * head_dim,
            };
            let what = format!("heads of {head_dim}, normalised {order:?}");
            let n_bytes = 12 * n * n_heads * head_dim + 4 * head_dim;
            bench.check(&Needs::bytes(&what, n_bytes), |queue| {
                queue.gate_heads(&op, &gates, &mut x, n)
            });
        }
    }
}
