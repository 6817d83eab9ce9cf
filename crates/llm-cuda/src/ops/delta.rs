//! The gated delta rule, and gates on heads: `kernels/delta.cu`.

use llm_backend::{
    Decays, DeltaRule, GateFunction, HeadGates, HeadNorm, NormOrder, Result, Rows, StateBatch,
};
use llm_tensor::Norm;

use super::general::vector;
use crate::module::kernel;
use crate::{Buffer, Cuda, CudaQueue, CudaWeight};

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
        op.rate.cols() == op.n_value_heads && op.offset.cols() == op.n_decays(),
        "a decay for each head"
    );
    let n = batch.rows.len();
    let n_slots = state.n() / op.state_elements().max(1);
    let ends = batch.rows.iter().map(|rows| rows.first + rows.n_tokens);
    let n_rows = ends.max().unwrap_or(0);
    let (of_length, columns) = match op.key_dim {
        0..=64 => (0, 32),
        65..=128 => (1, 32),
        129..=MAX_KEY_DIM => (2, 16),
        n => panic!("keys of {n} elements, of {MAX_KEY_DIM} that there are kernels for"),
    };
    let kernels = match op.decays {
        Decays::Head => kernel!["delta_rule_64", "delta_rule_128", "delta_rule_256"],
        Decays::Channel => kernel![
            "delta_rule_channels_64",
            "delta_rule_channels_128",
            "delta_rule_channels_256"
        ],
    };
    let launch = queue
        .launch(kernels[of_length])
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
        op.n_together,
    ];
    let mut words = [0u32; 11];
    for (word, size) in words.iter_mut().zip(sizes) {
        *word = size as u32;
    }
    (words[9], words[10]) = (op.norm_eps.to_bits(), op.scale.to_bits());
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
    let is_wide = op.head_dim > WIDE;
    let launch = queue.launch(match is_wide {
        true => kernel!("gate_heads_wide"),
        false => kernel!("gate_heads"),
    });
    let launch = launch.pointer(gates.first(n_tokens * op.row_width));
    let (gain, bias) = match &op.norm {
        None => (None, None),
        Some(norm) => (Some(norm.op.gain), norm.op.bias),
    };
    let n_gains = gain.map(CudaWeight::cols);
    assert!(
        n_gains.is_none_or(|n| [op.head_dim, op.width()].contains(&n)),
        "a gain for every element"
    );
    let launch = vector(vector(launch, gain), bias);
    let launch = launch.pointer(x.first(n_tokens * op.width()));
    let function = match op.function {
        GateFunction::Sigmoid => 0,
        GateFunction::Silu => 1,
        GateFunction::Identity => 2,
    };
    let (norm, after, eps, gain_offset) = match &op.norm {
        None => (0, 0, 0.0, 0.0),
        Some(HeadNorm { op, order }) => {
            let norm = match op.norm {
                Norm::Rms => 1,
                Norm::Layer => 2,
            };
            let after = match order {
                NormOrder::BeforeGates => 0,
                NormOrder::AfterGates => 1,
            };
            (norm, after, op.eps, op.gain_offset)
        }
    };
    let of_all = u32::from(n_gains == Some(op.width()));
    let words: [u32; 10] = [
        op.row_width as u32,
        op.first as u32,
        function,
        norm,
        after,
        of_all,
        f32::to_bits(eps),
        f32::to_bits(gain_offset),
        op.n_heads as u32,
        op.head_dim as u32,
    ];
    let launch = launch.structure(&words);
    if is_wide {
        // Eight elements a thread.
        let threads = op.head_dim.div_ceil(8).next_multiple_of(32).min(1024);
        return launch
            .grid([n_tokens, op.n_heads, 1])
            .threads(threads)
            .run();
    }
    let grid = [n_tokens, op.n_heads.div_ceil(8), 1];
    launch.grid(grid).threads(256).run()
}

/// Elements of the longest head that a warp gates.
const WIDE: usize = 256;
