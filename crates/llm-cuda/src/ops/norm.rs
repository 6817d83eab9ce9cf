//! Normalisations, and heads brought into order: `kernels/norm.cu`.

use llm_backend::{Groups, Heads, NormOp, Result};
use llm_quant::Part;
use llm_tensor::{DType, Norm};

use super::general::element;
use crate::launch::Launch;
use crate::memory::Span;
use crate::module::{Kernel, kernel};
use crate::{Buffer, Cuda, CudaQueue, CudaWeight};

/// Rows of `x` `[n_tokens, width]` into `out`.
pub(super) fn norm(
    queue: &CudaQueue,
    op: &NormOp<'_, Cuda>,
    x: &Buffer,
    out: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    let (width, vectors) = (op.gain.cols(), Vectors::of(op));
    let launch = queue.launch(vectors.kernel(op.norm, Shared::Block));
    let launch = launch
        .pointer(x.first(n_tokens * width))
        .int(width)
        .float(op.eps);
    let launch = vectors.tell(launch.float(op.gain_offset));
    let launch = launch.pointer(out.first(n_tokens * width));
    launch.grid([n_tokens, 1, 1]).threads(threads(width)).run()
}

/// Some heads of rows of `x`, in place.
pub(super) fn norm_heads(
    queue: &CudaQueue,
    op: &NormOp<'_, Cuda>,
    heads: &Heads,
    x: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    assert_eq!(
        op.gain.cols(),
        heads.head_dim,
        "a gain for every element of {heads:?}"
    );
    let vectors = Vectors::of(op);
    let launch = queue.launch(vectors.kernel(op.norm, Shared::Warp));
    let launch = over(launch, heads, x, n_tokens).float(op.eps);
    vectors.tell(launch.float(op.gain_offset)).run()
}

/// Some heads of rows of `x` divided by the roots of their mean squares, in place.
pub(super) fn unit_heads(
    queue: &CudaQueue,
    eps: f32,
    heads: &Heads,
    x: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    let launch = queue.launch(kernel!("unit_heads"));
    over(launch, heads, x, n_tokens).float(eps).run()
}

/// Tells a launch of some heads of rows of `x`, a warp each.
fn over<'q>(launch: Launch<'q>, heads: &Heads, x: &mut Buffer, n_tokens: usize) -> Launch<'q> {
    heads.check();
    let Heads {
        first,
        n_heads,
        head_dim,
        row_width,
    } = *heads;
    let launch = launch.grid([n_tokens, n_heads.div_ceil(8), 1]).threads(256);
    let launch = launch.pointer(x.first(n_tokens * row_width)).int(row_width);
    launch.int(first).int(n_heads).int(head_dim)
}

/// Parts of groups in rows of `grouped` side by side.
pub(super) fn ungroup(
    queue: &CudaQueue,
    groups: &Groups,
    grouped: &Buffer,
    out: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    groups.check();
    let width = groups.width();
    let mut parts = [0u32; 2 * Groups::MAX_PARTS];
    for (i, part) in groups.parts.iter().enumerate() {
        (parts[i], parts[Groups::MAX_PARTS + i]) = (part.width as u32, part.to as u32);
    }
    let launch = queue
        .launch(kernel!("ungroup"))
        .pointer(grouped.first(n_tokens * groups.row_width));
    let launch = launch.int(groups.row_width).int(groups.first);
    let launch = launch.int(groups.group_width()).int(width);
    let launch = launch.structure(&parts).int(groups.out_width);
    let launch = launch.pointer(out.first(n_tokens * groups.out_width));
    launch
        .grid([n_tokens, width.div_ceil(256), 1])
        .threads(256)
        .run()
}

/// Threads of a block: 8 elements each, of rows up to 8192.
fn threads(width: usize) -> usize {
    width.div_ceil(8).next_multiple_of(32).clamp(32, 1024)
}

/// Threads that share a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shared {
    Block,
    Warp,
}

/// Gain and bias.
#[derive(Debug, Clone, Copy)]
struct Vectors<'a> {
    gain: (DType, Span<'a>),
    bias: Option<(DType, Span<'a>)>,
    /// The type of both, where both are aligned to it.
    same: Option<DType>,
}

impl<'a> Vectors<'a> {
    fn of(op: &NormOp<'a, Cuda>) -> Self {
        let of = |vector: &'a CudaWeight| (vector.dense(), vector.part(Part::Weight));
        let (gain, bias) = (of(op.gain), op.bias.map(of));
        if let Some(bias) = op.bias {
            assert_eq!(bias.cols(), op.gain.cols(), "a bias for each gain");
        }
        let is_usual = |(dtype, span): (DType, Span<'_>)| {
            dtype == gain.0 && span.is_aligned(dtype.size() as u64)
        };
        let mut both = [Some(gain), bias].into_iter().flatten();
        let same = both.all(is_usual).then_some(gain.0);
        Vectors { gain, bias, same }
    }

    fn kernel(&self, norm: Norm, shared: Shared) -> Kernel {
        let kernels = match (norm, shared) {
            (Norm::Rms, Shared::Block) => kernel![
                "norm_rms_f32",
                "norm_rms_f16",
                "norm_rms_bf16",
                "norm_rms_any",
            ],
            (Norm::Layer, Shared::Block) => kernel![
                "norm_layer_f32",
                "norm_layer_f16",
                "norm_layer_bf16",
                "norm_layer_any",
            ],
            (Norm::Rms, Shared::Warp) => kernel![
                "norm_heads_rms_f32",
                "norm_heads_rms_f16",
                "norm_heads_rms_bf16",
                "norm_heads_rms_any",
            ],
            (Norm::Layer, Shared::Warp) => kernel![
                "norm_heads_layer_f32",
                "norm_heads_layer_f16",
                "norm_heads_layer_bf16",
                "norm_heads_layer_any",
            ],
        };
        kernels[self.same.map_or(3, |dtype| element(dtype) as usize)]
    }

    fn tell(self, launch: Launch<'_>) -> Launch<'_> {
        let launch = launch.pointer(self.gain.1);
        let launch = launch.pointer_or_null(self.bias.map(|(_, span)| span));
        if self.same.is_some() {
            return launch;
        }
        let launch = launch.bits(element(self.gain.0));
        launch.bits(self.bias.map_or(0, |(dtype, _)| element(dtype)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_eight_elements_of_rows_that_a_block_can_keep() {
        let cases = [
            (1, 32),
            (256, 32),
            (257, 64),
            (4096, 512),
            (8192, 1024),
            (16384, 1024),
        ];
        for (width, expected) in cases {
            assert_eq!(threads(width), expected, "{width}");
        }
    }
}
