//! The experts of a layer at once: `kernels/experts.cu`, and `kernels/experts_int8.cu` for weights in LLM.int8().

mod kind;

use bytemuck::{Pod, Zeroable};
use llm_backend::{Expert, ExpertBuffers, Result};
use llm_tensor::{Activation, Gate};

use super::{gemm, packed, routing};
use crate::choose::{self, CardShape};
use crate::formats::PackedKernels;
use crate::launch::Launch;
use crate::memory::{Span, bytes_of};
use crate::module::{Kernel, kernel};
use crate::routes::{List, Routes};
use crate::{Buffer, Cuda, CudaQueue};

use kind::Kind;

/// Sends all experts their rows: together where one kernel can, else one after the other.
pub(super) fn experts(
    queue: &CudaQueue,
    experts: &[Expert<'_, Cuda>],
    x: &Buffer,
    routes: &Routes,
    (scratch, out): (ExpertBuffers<'_, Cuda>, &mut Buffer),
) -> Result<()> {
    let ExpertBuffers {
        gathered,
        up,
        gated,
        delta,
    } = scratch;
    if let Some(group) = Group::of(experts, routes)
        && group.fits([gathered, up, gated, delta])
    {
        let codes = [gathered, up].map(|buffer| buffer.first(buffer.n()));
        return group.send(queue, experts, (x, codes), routes, (gated, delta, out));
    }
    for expert in experts {
        let scratch = ExpertBuffers {
            gathered: &mut *gathered,
            up: &mut *up,
            gated: &mut *gated,
            delta: &mut *delta,
        };
        routing::expert(queue, expert, x, routes, (scratch, &mut *out))?;
    }
    Ok(())
}

/// Experts that are all alike.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Group {
    up: Kind,
    down: Kind,
    /// Matrices of gate and up.
    n_parts: usize,
    /// Number of the non-linearity.
    activation: usize,
    width: usize,
    hidden: usize,
    /// Rows that go to experts.
    n_assignments: usize,
    /// Rows before they go to any.
    n_tokens: usize,
    n_tiles: usize,
}

impl Group {
    /// Nothing where they differ, or are not all; and where rows are so many that a tile of eight is too low for them.
    fn of(experts: &[Expert<'_, Cuda>], routes: &Routes) -> Option<Self> {
        let layout = routes.layout();
        let n_assignments = routes.n_tokens * layout.n_active;
        let is_all = experts.len() == layout.n_experts;
        if !is_all || n_assignments == 0 || n_assignments > MOST * layout.n_experts {
            return None;
        }
        let of = |expert: &Expert<'_, Cuda>| {
            let (hidden, width) = (expert.hidden, expert.width);
            let Gate::Of(activation) = expert.gate else {
                return None;
            };
            let rows = match expert.gate_up.len() {
                1 => 2 * width,
                2 => width,
                _ => return None,
            };
            let is_plain = expert.gate_up.iter().all(|part| {
                part.bias.is_none() && (part.weight.rows(), part.weight.cols()) == (rows, hidden)
            });
            let down = expert.down;
            let is_plain = is_plain
                && down.bias.is_none()
                && (down.weight.rows(), down.weight.cols()) == (hidden, width);
            let up = Kind::of(expert.gate_up[0].weight)?;
            let is_same = expert
                .gate_up
                .iter()
                .all(|part| Kind::of(part.weight) == Some(up));
            (is_plain && is_same).then_some(Group {
                up,
                down: Kind::of(down.weight)?,
                n_parts: expert.gate_up.len(),
                activation: number(activation)?,
                width,
                hidden,
                n_assignments,
                n_tokens: routes.n_tokens,
                n_tiles: layout.tiles(routes.n_tokens),
            })
        };
        let first = of(experts.first()?)?;
        let mut numbered = experts.iter().enumerate();
        let are_alike = numbered.all(|(i, expert)| expert.expert == i && of(expert) == Some(first));
        are_alike.then_some(first)
    }

    /// Results of all assignments have room, and what goes in in the form that weights are multiplied with.
    fn fits(&self, [gathered, up, gated, delta]: [&Buffer; 4]) -> bool {
        let bytes = |kind: Kind, n, cols| match (kind.threshold(), kind.packed()) {
            (Some(_), _) => code_bytes(n, self.n_assignments, cols),
            (None, Some(format)) => {
                let areas = packed::split_areas(n, cols, format.run).into_iter();
                areas
                    .map(|n_bytes| n_bytes.next_multiple_of(CODE_BORDER))
                    .sum()
            }
            (None, None) => 0,
        };
        let of_x = bytes(self.up, self.n_tokens, self.hidden);
        let of_gated = bytes(self.down, self.n_assignments, self.width);
        bytes_of(gathered.n()) >= of_x
            && bytes_of(up.n()) >= of_gated
            && gated.n() >= self.n_assignments * self.width
            && delta.n() >= self.n_assignments * self.hidden
    }

    fn send<'a>(
        &self,
        queue: &'a CudaQueue,
        experts: &[Expert<'_, Cuda>],
        (x, codes): (&Buffer, [Span<'_>; 2]),
        routes: &Routes,
        (gated, delta, out): (&mut Buffer, &mut Buffer, &mut Buffer),
    ) -> Result<()> {
        let (width, hidden) = (self.width, self.hidden);
        let x = x.first(routes.n_tokens * hidden).aligned(16);
        let gated = gated.first(self.n_assignments * width).aligned(16);
        let delta = delta.first(self.n_assignments * hidden).aligned(16);
        let tiles = routes.span(List::Tiles).aligned(16);
        let n_tiles = routes.span(List::TileCount);
        let rows = routes.span(List::Rows);
        let [codes_of_x, codes_of_gated] = codes;

        let [up, down] = [self.up, self.down].map(Kind::kernels);
        let split = |kind: Kind, x, n, cols, room: Span<'_>| {
            let of = |format: PackedKernels| packed_split(queue, (x, n), (cols, format.run), room);
            kind.packed().map(of).transpose()
        };
        let up_row = if self.n_parts == 1 { width } else { 0 };
        let shape = [width, hidden, up_row, self.up.block_log2()];
        let weights = |expert: &Expert<'_, Cuda>| {
            let parts = expert.gate_up;
            [parts[0].weight, parts[parts.len() - 1].weight].map(|weight| self.up.words(weight))
        };
        let quantized = self.up.threshold().map(|threshold| {
            let rows = (x, self.n_tokens, hidden, Some(rows));
            self.quantize(queue, rows, threshold, routes, codes_of_x)
        });
        let quantized = quantized.transpose()?;
        let of_x = split(self.up, x, self.n_tokens, hidden, codes_of_x)?;
        for (words, told) in told(experts, 2 * self.up.n_words(), weights) {
            let launch = queue.launch(up[0]).structure(&words);
            let launch = launch.structure(&shape_of(told, shape));
            let lists = |launch: Launch<'a>| launch.pointer(tiles).pointer(n_tiles).pointer(rows);
            if let Some(of_x) = &of_x {
                let launch = lists(launch).structure(of_x).int(self.activation);
                self.packed(queue, launch, (up[0], width, hidden), gated)?;
                continue;
            }
            let launch = match &quantized {
                Some(quantized) => lists(launch.structure(quantized)),
                None => lists(launch).pointer(x),
            };
            let launch = launch.int(self.activation).pointer(gated);
            let grid = [width.div_ceil(16), self.n_tiles, 1];
            launch.grid(grid).threads(256).run()?;
        }
        let shape = [hidden, width, 0, self.down.block_log2()];
        let weights = |expert: &Expert<'_, Cuda>| [self.down.words(expert.down.weight)];
        let quantized = self.down.threshold().map(|threshold| {
            let rows = (gated, self.n_assignments, width, None);
            self.quantize(queue, rows, threshold, routes, codes_of_gated)
        });
        let quantized = quantized.transpose()?;
        let of_gated = split(self.down, gated, self.n_assignments, width, codes_of_gated)?;
        for (words, told) in told(experts, self.down.n_words(), weights) {
            let launch = queue.launch(down[1]).structure(&words);
            let launch = launch.structure(&shape_of(told, shape));
            if let Some(of_gated) = &of_gated {
                let launch = launch.pointer(tiles).pointer(n_tiles).pointer_or_null(None);
                let launch = launch.structure(of_gated).bits(NO_ACTIVATION);
                self.packed(queue, launch, (down[1], hidden, width), delta)?;
                continue;
            }
            let launch = match &quantized {
                Some(quantized) => launch.structure(quantized).pointer(tiles).pointer(n_tiles),
                None => launch.pointer(tiles).pointer(n_tiles).pointer(gated),
            };
            let launch = launch.pointer(delta);
            let grid = [hidden.div_ceil(32), self.n_tiles, 1];
            launch.grid(grid).threads(256).run()?;
        }
        let launch = queue
            .launch(kernel!("routing_combine"))
            .pointer(routes.span(List::Slots));
        let launch = launch.pointer(routes.span(List::RowWeights));
        let launch = launch
            .int(routes.layout().n_active)
            .pointer(delta)
            .int(hidden);
        let launch = launch.pointer(out.first(routes.n_tokens * hidden));
        let grid = [routes.n_tokens, hidden.div_ceil(256), 1];
        launch.grid(grid).threads(256).run()
    }
}

/// Rows of activations as kernels for formats of published files take them, in `room`.
fn packed_split(
    queue: &CudaQueue,
    (x, n): (Span<'_>, usize),
    (cols, run): (usize, usize),
    room: Span<'_>,
) -> Result<[u64; 5]> {
    let mut end = 0;
    let areas = packed::split_areas(n, cols, run).map(|n_bytes| {
        let start = end;
        end += n_bytes.next_multiple_of(CODE_BORDER);
        room.part(start..start + n_bytes).aligned(16)
    });
    packed::split(queue, x, (n, None), 0, (cols, run), areas)
}

impl Group {
    /// The end of a launch of a kernel for weights `[rows, cols]` in a format of published files.
    fn packed(
        &self,
        queue: &CudaQueue,
        launch: Launch<'_>,
        (kernel, rows, cols): (Kernel, usize, usize),
        out: Span<'_>,
    ) -> Result<()> {
        let card = CardShape::of(&queue.card.facts);
        let n_warps = kernel.n_warps();
        let split = choose::packed_experts(card, (rows, cols), self.n_tiles, n_warps);
        let grid = [rows.div_ceil(16 * n_warps / split), self.n_tiles, 1];
        let launch = launch.int(split).pointer(out).grid(grid);
        launch.threads(32 * n_warps).run()
    }

    /// Codes of rows, and outlier columns of each expert's: `Quantized` of `experts_int8.cu`. Rows that are assigned by a list
    /// may go to several experts.
    fn quantize(
        &self,
        queue: &CudaQueue,
        (x, n, cols, assigned): (Span<'_>, usize, usize, Option<Span<'_>>),
        threshold: f32,
        routes: &Routes,
        room: Span<'_>,
    ) -> Result<Quantized> {
        let mut end = 0;
        let [codes, absmax, outliers, of_experts] =
            code_areas(n, self.n_assignments, cols).map(|n_bytes| {
                let start = end;
                end += n_bytes.next_multiple_of(CODE_BORDER);
                room.part(start..start + n_bytes)
            });
        let launch = queue.launch(kernel!("int8_quantize")).pointer(x);
        let launch = launch
            .pointer_or_null(None)
            .int(n)
            .int(cols)
            .float(threshold);
        let launch = launch.pointer(codes.aligned(16)).pointer(absmax);
        let launch = launch.pointer(outliers).grid([cols.div_ceil(4096), n, 1]);
        launch.threads(1024).run()?;
        let starts = routes.span(List::Starts);
        let n_words = cols.div_ceil(32);
        // One row alone has the outlier columns of every expert that it goes to.
        let (outliers, stride) = match (self.n_tokens, assigned) {
            (1, Some(_)) => (outliers, 0),
            (1, None) => (outliers, n_words),
            (_, assigned) => {
                let launch = queue.launch(kernel!("experts_outliers")).pointer(starts);
                let launch = launch.pointer_or_null(assigned).pointer(outliers);
                let launch = launch.int(n_words).pointer(of_experts);
                let grid = [routes.layout().n_experts, n_words.div_ceil(256), 1];
                launch.grid(grid).threads(256).run()?;
                (of_experts, n_words)
            }
        };
        Ok(Quantized {
            x: x.address(),
            codes: codes.address(),
            absmax: absmax.address(),
            outliers: outliers.address(),
            starts: starts.address(),
            stride: u32::try_from(stride).expect("columns of a weight fit 31 bits"),
            reserved: 0,
        })
    }
}

/// `Quantized` of `experts_int8.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Quantized {
    x: u64,
    codes: u64,
    absmax: u64,
    outliers: u64,
    starts: u64,
    stride: u32,
    reserved: u32,
}

/// Bytes of codes of `n` rows, of their scales, of their outlier columns as bits, and of those of experts, each at its first
/// assignment.
fn code_areas(n: usize, n_assignments: usize, cols: usize) -> [usize; 4] {
    let [codes, absmax, outliers] = gemm::code_areas(n, cols);
    [
        codes,
        absmax,
        outliers,
        bytes_of(n_assignments * cols.div_ceil(32)),
    ]
}

/// Bytes of all of them.
fn code_bytes(n: usize, n_assignments: usize, cols: usize) -> usize {
    let areas = code_areas(n, n_assignments, cols).into_iter();
    areas
        .map(|n_bytes| n_bytes.next_multiple_of(CODE_BORDER))
        .sum()
}

/// In place of a function's number.
const NO_ACTIVATION: u32 = u32::MAX;

/// Border that codes, which are read 16 at once, begin at.
const CODE_BORDER: usize = 16;

/// Rows that an expert may have, on average: with more, it is worth a product of its own.
const MOST: usize = 16;

/// Words of weights that a launch takes; arrays of arrays, which are plain bytes to `bytemuck`.
type Words = [[u64; 32]; 14];

/// Experts, so many as a launch can be told of, with the words of their weights.
fn told<'a, const N: usize>(
    experts: &'a [Expert<'a, Cuda>],
    n_words: usize,
    weights: impl Fn(&Expert<'_, Cuda>) -> [([u64; 6], usize); N] + 'a,
) -> impl Iterator<Item = (Words, &'a [Expert<'a, Cuda>])> + 'a {
    experts
        .chunks(size_of::<Words>() / size_of::<u64>() / n_words)
        .map(move |experts| {
            let mut words: Words = [[0; 32]; 14];
            let mut at = 0;
            for (of, n) in experts.iter().flat_map(&weights) {
                words.as_flattened_mut()[at..at + n].copy_from_slice(&of[..n]);
                at += n;
            }
            (words, experts)
        })
}

/// `Shape` of the kernels.
fn shape_of(told: &[Expert<'_, Cuda>], shape: [usize; 4]) -> [u32; 6] {
    let [rows, cols, up_row, block_log2] = shape;
    [told[0].expert, told.len(), rows, cols, up_row, block_log2]
        .map(|n| i32::try_from(n).expect("sizes of experts fit 31 bits") as u32)
}

/// A function's number; `None` of one that no gated experts have had yet, which the kernels do not know.
fn number(activation: Activation) -> Option<usize> {
    match activation {
        Activation::Relu => Some(0),
        Activation::Gelu => Some(1),
        Activation::GeluTanh => Some(2),
        Activation::Silu => Some(3),
        Activation::ReluSquared => None,
    }
}
