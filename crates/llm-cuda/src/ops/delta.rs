//! The gated delta rule, and gates on heads: `kernels/delta.cu`.

use llm_backend::{DeltaRule, GateFunction, HeadGates, Result, Rows, StateBatch};
use llm_tensor::Norm;

use super::general::vector;
use crate::module::kernel;
use crate::{Buffer, Cuda, CudaQueue};

/// The delta rule over all sequences' rows.
///
/// # Panics
/// Of keys longer than [`MAX_KEY_DIM`].
pub(super) fn delta_rule(
    queue: &CudaQueue,
    op: &DeltaRule<'_, Cuda>,
    (x, gates): (&Buffer, &Buffer),
    batch: &StateBatch<'_, Cuda>,
    (state, out): (&mut Buffer, &mut Buffer),
) -> Result<()> {
    op.check();
    assert!(
        op.rate.cols() == op.n_value_heads && op.offset.cols() == op.n_value_heads,
        "a decay for each head"
    );
    let n = batch.rows.len();
    let n_slots = state.n() / op.state_elements().max(1);
    let ends = batch.rows.iter().map(|rows| rows.first + rows.n_tokens);
    let n_rows = ends.max().unwrap_or(0);
    let (kernel, columns) = match op.key_dim {
        0..=64 => (kernel!("delta_rule_64"), 32),
        65..=128 => (kernel!("delta_rule_128"), 32),
        129..=MAX_KEY_DIM => (kernel!("delta_rule_256"), 16),
        n => panic!("keys of {n} elements, of {MAX_KEY_DIM} that there are kernels for"),
    };
    let launch = queue
        .launch(kernel)
        .pointer(x.first(n_rows * op.row_width()));
    let launch = launch.pointer(gates.first(n_rows * op.gates.row_width));
    let launch = launch.pointer(batch.rows_index.first(n * Rows::N_WORDS));
    let launch = launch.pointer(batch.slots.first(n));
    let launch = vector(vector(launch, Some(op.rate)), Some(op.offset));
    let launch = launch.pointer(state.first(n_slots * op.state_elements()));
    let launch = launch.pointer(out.first(n_rows * op.out_width()));
    let sizes = [
        op.n_key_heads,
        op.n_value_heads,
        op.key_dim,
        op.value_dim,
        op.gates.decay,
        op.gates.strength,
        op.gates.row_width,
        n_slots,
    ];
    let mut words = [0u32; 10];
    for (word, size) in words.iter_mut().zip(sizes) {
        *word = size as u32;
    }
    (words[8], words[9]) = (op.norm_eps.to_bits(), op.scale.to_bits());
    let grid = [op.value_dim.div_ceil(columns), op.n_value_heads, n];
    launch.structure(&words).grid(grid).threads(128).run()
}

/// The longest keys that there is a kernel for.
pub(crate) const MAX_KEY_DIM: usize = 256;

/// Heads of rows of `x`, in place.
pub(super) fn gate_heads(
    queue: &CudaQueue,
    op: &HeadGates<'_, Cuda>,
    gates: &Buffer,
    x: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    op.check();
    let launch = queue.launch(kernel!("gate_heads"));
    let launch = launch.pointer(gates.first(n_tokens * op.row_width));
    let launch = launch.int(op.row_width).int(op.first);
    let launch = launch.bits(match op.function {
        GateFunction::Sigmoid => 0,
        GateFunction::Silu => 1,
    });
    let launch = match &op.norm {
        None => {
            let launch = launch.bits(0).float(0.0).float(0.0);
            vector(vector(launch, None), None)
        }
        Some(norm) => {
            assert_eq!(norm.gain.cols(), op.head_dim, "a gain for every element");
            let launch = launch.bits(match norm.norm {
                Norm::Rms => 1,
                Norm::Layer => 2,
            });
            let launch = launch.float(norm.eps).float(norm.gain_offset);
            vector(vector(launch, Some(norm.gain)), norm.bias)
        }
    };
    let launch = launch.int(op.n_heads).int(op.head_dim);
    let launch = launch.pointer(x.first(n_tokens * op.width()));
    let grid = [n_tokens, op.n_heads.div_ceil(8), 1];
    launch.grid(grid).threads(256).run()
}
