//! Short convolutions, and their states.

use llm_backend::{ConvRows, Ops, Rows, ShortConv, StateBatch};
use llm_quant::Scheme;
use llm_tensor::{Activation, DType};

use crate::bench::{Needs, on_each_target};

pub(crate) const KERNELS: &[&str] = &["conv_", "slot_copy"];

/// Channels.
const WIDTH: usize = 512;

#[test]
fn rows_are_convolved_as_they_are_read() {
    on_each_target(KERNELS, |bench| {
        let columns = |activation| ConvRows::Columns {
            first: 0,
            row_width: WIDTH,
            activation,
        };
        let slots = bench.index(&[1]);
        for kernel in [3, 8] {
            let (taps, n_taps) = bench.weight(Scheme::Dense(DType::F32), (WIDTH, kernel));
            let held = 4 * (kernel - 1) * WIDTH;
            for rows_of in [
                ConvRows::Gated,
                columns(None),
                columns(Some(Activation::Silu)),
            ] {
                let op = ShortConv {
                    taps: &taps,
                    bias: None,
                    n_channels: WIDTH,
                    kernel,
                    rows: rows_of,
                };
                let n_parts = op.row_width() / WIDTH;
                let mut state = bench.buffer(2 * (kernel - 1) * WIDTH);
                // In a block of rows each, and in several, after which the last inputs are read again.
                for n_tokens in [8, 64] {
                    let rows = [Rows {
                        first: 0,
                        n_tokens,
                        start: 5,
                        n_positions: 5 + n_tokens,
                    }];
                    let rows_index = bench.index(&rows[0].words());
                    let x = bench.buffer(n_tokens * op.row_width());
                    let mut out = bench.buffer(n_tokens * WIDTH);
                    let batch = StateBatch {
                        rows: &rows,
                        rows_index: &rows_index,
                        slots: &slots,
                    };
                    let inputs = match n_tokens > 16 {
                        true => held * n_parts.min(2),
                        false => 0,
                    };
                    let n_bytes = 4 * n_tokens * (n_parts + 1) * WIDTH + n_taps + 2 * held + inputs;
                    let what = format!("{rows_of:?} of {kernel} taps, {n_tokens} rows");
                    bench.check(&Needs::bytes(&what, n_bytes), |queue| {
                        queue.short_conv(&op, &x, &batch, &mut state, &mut out)
                    });
                }
            }
            let n_elements = (kernel - 1) * WIDTH;
            let mut state = bench.buffer(2 * n_elements);
            bench.check(&Needs::bytes("a state copied", 2 * held), |queue| {
                queue.copy_slot(&mut state, n_elements, (1, 0))
            });
        }
    });
}
