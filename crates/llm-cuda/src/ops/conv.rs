//! Convolutions of channels over the positions of sequences, and states in slots: `kernels/conv.cu`.

use llm_backend::{ConvRows, Result, Rows, ShortConv, StateBatch};
use llm_tensor::{Activation, MAX_TAPS};

use super::elementwise;
use super::general::vector;
use crate::launch::Launch;
use crate::memory::Span;
use crate::module::{Kernel, kernel};
use crate::{Buffer, Cuda, CudaQueue};

/// Rows of `x` of all sequences into `out` `[_, n_channels]`, and their last inputs into `states`.
pub(super) fn short_conv(
    queue: &CudaQueue,
    op: &ShortConv<'_, Cuda>,
    x: &Buffer,
    batch: &StateBatch<'_, Cuda>,
    (states, out): (&mut Buffer, &mut Buffer),
) -> Result<()> {
    let (n, kernel, row_width) = (op.n_channels, op.kernel, op.row_width());
    assert!((1..=MAX_TAPS).contains(&kernel), "{kernel} taps");
    let taps = (op.taps.rows(), op.taps.cols());
    assert_eq!(taps, (n, kernel), "taps of each channel");
    let (kernels, column, activation) = match op.rows {
        ConvRows::Columns {
            first,
            row_width,
            activation,
        } => {
            assert!(first + n <= row_width, "{:?} of {n} channels", op.rows);
            match activation {
                Some(Activation::Silu) => (SILU, first, None),
                other => (COLUMNS, first, other),
            }
        }
        ConvRows::Gated => (GATED, 0, None),
    };
    let n_sequences = batch.rows.len();
    let ends = batch.rows.iter().map(|rows| rows.first + rows.n_tokens);
    let n_rows = ends.max().unwrap_or(0);
    let sequences = Sequences {
        x: x.first(n_rows * row_width),
        row_width,
        column,
        rows_index: batch.rows_index.first(n_sequences * Rows::N_WORDS),
        slots: batch.slots.first(n_sequences),
        states: states.first(states.n()),
    };
    let (blocks, parts) = (n.div_ceil(CHANNELS), parts(batch.rows));
    let launch = queue.launch(kernels.convolve[usize::from(kernel > 4)]);
    if let Some(bias) = op.bias {
        assert_eq!(bias.cols(), n, "a bias for every channel");
    }
    let launch = vector(vector(launch, Some(op.taps)), op.bias);
    let launch = sequences
        .tell(launch.int(kernel))
        .pointer(out.first(n_rows * n));
    let launch = launch.int(n).grid([blocks, parts, n_sequences]);
    launch.threads(CHANNELS).run()?;
    if parts > 1 && kernel > 1 {
        let launch = sequences.tell(queue.launch(kernels.keep).int(kernel));
        let launch = launch.int(n).grid([blocks, n_sequences, 1]);
        launch.threads(CHANNELS).run()?;
    }
    match activation {
        Some(activation) => elementwise::activate(queue, activation, out, n_rows * n),
        None => Ok(()),
    }
}

/// Copies slot `from` to slot `to`.
pub(super) fn copy_slot(
    queue: &CudaQueue,
    states: &mut Buffer,
    n_elements: usize,
    (from, to): (usize, usize),
) -> Result<()> {
    if n_elements == 0 || from == to {
        return Ok(());
    }
    let states = states.first((from.max(to) + 1) * n_elements);
    let launch = queue.launch(kernel!("slot_copy")).pointer(states);
    let launch = launch.int(n_elements).int(from).int(to);
    let grid = [n_elements.div_ceil(4 * 256), 1, 1];
    launch.grid(grid).threads(256).run()
}

/// Rows of sequences, and their states.
struct Sequences<'a> {
    x: Span<'a>,
    row_width: usize,
    column: usize,
    rows_index: Span<'a>,
    slots: Span<'a>,
    states: Span<'a>,
}

impl Sequences<'_> {
    fn tell<'q>(&self, launch: Launch<'q>) -> Launch<'q> {
        let launch = launch.pointer(self.x).int(self.row_width).int(self.column);
        let launch = launch.pointer(self.rows_index).pointer(self.slots);
        launch.pointer(self.states)
    }
}

/// Blocks that share the rows of the sequence that has most.
fn parts(rows: &[Rows]) -> usize {
    let most = rows.iter().map(|rows| rows.n_tokens).max();
    most.unwrap_or(0).div_ceil(ROWS).max(1)
}

/// Kernels for one kind of rows.
struct Kernels {
    /// Of up to 4 taps, and of up to 8.
    convolve: [Kernel; 2],
    keep: Kernel,
}

const COLUMNS: Kernels = Kernels {
    convolve: kernel!["conv_columns_4", "conv_columns_8"],
    keep: kernel!("conv_keep_columns"),
};
const SILU: Kernels = Kernels {
    convolve: kernel!["conv_silu_4", "conv_silu_8"],
    keep: kernel!("conv_keep_columns"),
};
const GATED: Kernels = Kernels {
    convolve: kernel!["conv_gated_4", "conv_gated_8"],
    keep: kernel!("conv_keep_gated"),
};

/// Channels of a block,
const CHANNELS: usize = 128;
/// and its rows.
const ROWS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_share_the_rows_of_a_long_prompt() {
        let cases: [(&[usize], usize); 6] = [
            (&[], 1),
            (&[1], 1),
            (&[16, 3], 1),
            (&[3, 17], 2),
            (&[1, 1, 1], 1),
            (&[512], 32),
        ];
        for (n_tokens, expected) in cases {
            let rows = |&n_tokens: &usize| Rows {
                first: 0,
                n_tokens,
                start: 0,
                n_positions: n_tokens,
            };
            let rows: Vec<_> = n_tokens.iter().map(rows).collect();
            assert_eq!(parts(&rows), expected, "{n_tokens:?}");
        }
    }
}
