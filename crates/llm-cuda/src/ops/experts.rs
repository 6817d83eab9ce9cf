//! The experts of a layer at once: `kernels/experts.cu`, and `kernels/experts_int8.cu` for weights in LLM.int8().

mod kind;

use bytemuck::{Pod, Zeroable};
use llm_backend::{Expert, ExpertBuffers, Result};
use llm_quant::Part;
use llm_tensor::{Activation, ClampedGate, DType, Gate, GateOrder};

use super::general::element;
use super::{gates, gemm, packed, routing};
use crate::choose::{self, CardShape};
use crate::formats::PackedKernels;
use crate::launch::Launch;
use crate::memory::{Span, bytes_of};
use crate::module::{Kernel, kernel};
use crate::routes::{List, Routes};
use crate::{Buffer, Cuda, CudaQueue, CudaWeight};

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
    gating: Gating,
    width: usize,
    hidden: usize,
    /// Rows that go to experts.
    n_assignments: usize,
    /// Rows before they go to any.
    n_tokens: usize,
    n_tiles: usize,
}

/// What becomes of the sums of gate and up.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Gating {
    /// The kernel that makes them applies the non-linearity of this number.
    Within(usize),
    /// They leave, and kernels of `kernels/experts_gate.cu` gate them and add biases of this type, where there are some.
    Clamped(ClampedGate, Option<DType>),
}

impl Gating {
    /// Nothing of what the kernels do not know.
    fn of(expert: &Expert<'_, Cuda>) -> Option<Self> {
        let biases = expert.gate_up.iter().chain([&expert.down]);
        let mut biases = biases.map(|part| part.bias.map(CudaWeight::dense));
        let of_first = biases.next()?;
        if biases.any(|of| of != of_first) {
            return None;
        }
        match expert.gate {
            Gate::Of(activation) if of_first.is_none() => number(activation).map(Gating::Within),
            Gate::Clamped(gate) => Some(Gating::Clamped(gate, of_first)),
            Gate::Of(_) | Gate::Absent(_) => None,
        }
    }
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
            let gating = Gating::of(expert)?;
            let rows = match expert.gate_up.len() {
                1 => 2 * width,
                2 => width,
                _ => return None,
            };
            let is_shaped = |weight: &CudaWeight, shape| (weight.rows(), weight.cols()) == shape;
            let mut gate_up = expert.gate_up.iter();
            let is_plain = gate_up.all(|part| is_shaped(part.weight, (rows, hidden)))
                && is_shaped(expert.down.weight, (hidden, width));
            let up = Kind::of(expert.gate_up[0].weight)?;
            let is_same = expert
                .gate_up
                .iter()
                .all(|part| Kind::of(part.weight) == Some(up));
            // Rows by turns are of one matrix. Rows of x are copied where its kernel takes none by a list.
            let is_known = match gating {
                Gating::Within(_) => true,
                Gating::Clamped(gate, _) => {
                    let is_one = expert.gate_up.len() == 1;
                    up.threshold().is_none() && (is_one || gate.order == GateOrder::Halves)
                }
            };
            (is_plain && is_same && is_known).then_some(Group {
                up,
                down: Kind::of(expert.down.weight)?,
                n_parts: expert.gate_up.len(),
                gating,
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
        let (of_x, of_sums) = match (self.gating, self.up.packed()) {
            (Gating::Within(_), _) => (of_x, 0),
            (Gating::Clamped(..), Some(_)) => (of_x, 2 * self.width),
            (Gating::Clamped(..), None) => {
                (bytes_of(self.n_assignments * self.hidden), 2 * self.width)
            }
        };
        bytes_of(gathered.n()) >= of_x
            && bytes_of(up.n()) >= of_gated.max(bytes_of(self.n_assignments * of_sums))
            && gated.n() >= self.n_assignments * self.width
            && delta.n() >= self.n_assignments * self.hidden
    }

    fn send(
        &self,
        queue: &CudaQueue,
        experts: &[Expert<'_, Cuda>],
        (x, [gathered, up]): (&Buffer, [Span<'_>; 2]),
        routes: &Routes,
        (gated, delta, out): (&mut Buffer, &mut Buffer, &mut Buffer),
    ) -> Result<()> {
        let (width, hidden) = (self.width, self.hidden);
        let x = x.first(routes.n_tokens * hidden).aligned(16);
        let gated = gated.first(self.n_assignments * width).aligned(16);
        let delta = delta.first(self.n_assignments * hidden).aligned(16);
        let lists = Lists {
            tiles: routes.span(List::Tiles).aligned(16),
            n_tiles: routes.span(List::TileCount),
        };
        match self.gating {
            Gating::Within(activation) => {
                let to = (activation, gated);
                self.gated(queue, experts, (x, gathered), (routes, &lists), to)?;
            }
            Gating::Clamped(gate, biases) => {
                let sums = up.part(0..bytes_of(self.n_assignments * 2 * width));
                let x = (x, gathered);
                self.sums(queue, experts, x, (routes, &lists), sums)?;
                self.clamped(queue, experts, (&gate, biases), &lists, (sums, gated))?;
            }
        }
        let product = Product {
            kind: self.down,
            weight: |expert| expert.down.weight,
            shape: [hidden, width],
        };
        let x = ((gated, None), up);
        self.product(queue, experts, &product, x, (routes, &lists), delta)?;
        if let Gating::Clamped(_, Some(dtype)) = self.gating {
            let bias = |expert: &Expert<'_, Cuda>| [address(expert.down.bias, 0)];
            for (words, told) in told(experts, 1, bias) {
                let launch = queue.launch(kernel!("experts_bias")).structure(&words);
                let launch = launch.structure(&shape_of(told, [hidden, 0, 0, 0]));
                let launch = lists.told(launch).bits(element(dtype)).pointer(delta);
                let grid = [hidden.div_ceil(256), self.n_tiles, 1];
                launch.grid(grid).threads(256).run()?;
            }
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

    /// Sums of gate and up of all assignments: of one matrix in rows of both, of two matrices all of one before all of the other.
    fn sums(
        &self,
        queue: &CudaQueue,
        experts: &[Expert<'_, Cuda>],
        (x, room): (Span<'_>, Span<'_>),
        (routes, lists): (&Routes, &Lists<'_>),
        sums: Span<'_>,
    ) -> Result<()> {
        let (n, hidden) = (self.n_assignments, self.hidden);
        let rows = routes.span(List::Rows);
        let x = match self.up.packed() {
            Some(_) => (x, Some((rows, self.n_tokens))),
            None => {
                let copied = room.part(0..bytes_of(n * hidden)).aligned(16);
                self.gather(queue, x, rows, copied)?;
                (copied, None)
            }
        };
        let n_rows = 2 * self.width / self.n_parts;
        let weights: [for<'a> fn(&Expert<'a, Cuda>) -> &'a CudaWeight; 2] = [
            |expert| expert.gate_up[0].weight,
            |expert| expert.gate_up[1].weight,
        ];
        for (i, &weight) in weights[..self.n_parts].iter().enumerate() {
            let product = Product {
                kind: self.up,
                weight,
                shape: [n_rows, hidden],
            };
            let n_bytes = bytes_of(n * n_rows);
            let sums = sums.part(i * n_bytes..(i + 1) * n_bytes);
            self.product(queue, experts, &product, (x, room), (routes, lists), sums)?;
        }
        Ok(())
    }

    /// Clamped gates of such sums.
    fn clamped(
        &self,
        queue: &CudaQueue,
        experts: &[Expert<'_, Cuda>],
        (gate, biases): (&ClampedGate, Option<DType>),
        lists: &Lists<'_>,
        (sums, gated): (Span<'_>, Span<'_>),
    ) -> Result<()> {
        let width = self.width;
        // Where the first sum of up is, those of a row, and how far columns are apart.
        let (of_up, row_width, step) = match (self.n_parts, gate.order) {
            (1, GateOrder::Pairs) => (1, 2 * width, 2),
            (1, GateOrder::Halves) => (width, 2 * width, 1),
            _ => (self.n_assignments * width, width, 1),
        };
        let columns = [row_width, step].map(|n| i32::try_from(n).expect("columns fit 31 bits"));
        let ups = sums.part(bytes_of(of_up)..bytes_of(self.n_assignments * 2 * width));
        let gate = gates::words(gate);
        let grid = [width.div_ceil(256), self.n_tiles, 1];
        let Some(dtype) = biases else {
            let launch = lists.told(queue.launch(kernel!("experts_gate")));
            let launch = launch.pointer(sums).pointer(ups).structure(&columns);
            let launch = launch.structure(&gate).int(width).pointer(gated);
            return launch.grid(grid).threads(256).run();
        };
        let of_both = |expert: &Expert<'_, Cuda>| {
            let parts = expert.gate_up;
            let of_up = if parts.len() == 1 { of_up } else { 0 };
            let up = parts[parts.len() - 1].bias;
            [address(parts[0].bias, 0), address(up, of_up)]
        };
        for (words, told) in told(experts, 2, of_both) {
            let launch = queue.launch(kernel!("experts_gate_biased"));
            let launch = launch.structure(&words);
            let launch = launch.structure(&shape_of(told, [width, 0, 0, 0]));
            let launch = lists.told(launch).pointer(sums).pointer(ups);
            let launch = launch.structure(&columns).structure(&gate);
            let launch = launch.bits(element(dtype)).pointer(gated);
            launch.grid(grid).threads(256).run()?;
        }
        Ok(())
    }

    /// Gate and up of all assignments, and the non-linearity between, in one kernel.
    fn gated(
        &self,
        queue: &CudaQueue,
        experts: &[Expert<'_, Cuda>],
        (x, room): (Span<'_>, Span<'_>),
        (routes, lists): (&Routes, &Lists<'_>),
        (activation, gated): (usize, Span<'_>),
    ) -> Result<()> {
        let (width, hidden) = (self.width, self.hidden);
        let rows = routes.span(List::Rows);
        let [kernel, _] = self.up.kernels();
        let up_row = if self.n_parts == 1 { width } else { 0 };
        let shape = [width, hidden, up_row, self.up.block_log2()];
        let weights = |expert: &Expert<'_, Cuda>| {
            let parts = expert.gate_up;
            [parts[0].weight, parts[parts.len() - 1].weight].map(|weight| self.up.words(weight))
        };
        let quantized = self.up.threshold().map(|threshold| {
            let rows = (x, self.n_tokens, hidden, Some(rows));
            self.quantize(queue, rows, threshold, routes, room)
        });
        let quantized = quantized.transpose()?;
        let split = split_of(queue, self.up, (x, self.n_tokens, hidden), room)?;
        for (words, told) in told(experts, 2 * self.up.n_words(), weights) {
            let launch = queue.launch(kernel).structure(&words);
            let launch = launch.structure(&shape_of(told, shape));
            if let Some(split) = &split {
                let launch = lists.told(launch).pointer(rows).structure(split);
                self.packed(
                    queue,
                    launch.int(activation),
                    (kernel, width, hidden),
                    gated,
                )?;
                continue;
            }
            let launch = match &quantized {
                Some(quantized) => lists.told(launch.structure(quantized)).pointer(rows),
                None => lists.told(launch).pointer(rows).pointer(x),
            };
            let launch = launch.int(activation).pointer(gated);
            let grid = [width.div_ceil(16), self.n_tiles, 1];
            launch.grid(grid).threads(256).run()?;
        }
        Ok(())
    }

    /// Sums of all assignments with one matrix of their experts. Rows of `x` lie in the order of assignments, or are assigned by
    /// a list, which formats of published files alone know.
    fn product(
        &self,
        queue: &CudaQueue,
        experts: &[Expert<'_, Cuda>],
        product: &Product,
        ((x, assigned), room): ((Span<'_>, Option<(Span<'_>, usize)>), Span<'_>),
        (routes, lists): (&Routes, &Lists<'_>),
        out: Span<'_>,
    ) -> Result<()> {
        let Product {
            kind,
            weight,
            shape: [rows, cols],
        } = *product;
        let [_, kernel] = kind.kernels();
        let n = assigned.map_or(self.n_assignments, |(_, n)| n);
        let weights = |expert: &Expert<'_, Cuda>| [kind.words(weight(expert))];
        let quantized = kind.threshold().map(|threshold| {
            let rows = (x, n, cols, None);
            self.quantize(queue, rows, threshold, routes, room)
        });
        let quantized = quantized.transpose()?;
        let split = split_of(queue, kind, (x, n, cols), room)?;
        for (words, told) in told(experts, kind.n_words(), weights) {
            let launch = queue.launch(kernel).structure(&words);
            let launch = launch.structure(&shape_of(told, [rows, cols, 0, kind.block_log2()]));
            if let Some(split) = &split {
                let launch = lists.told(launch);
                let launch = launch.pointer_or_null(assigned.map(|(rows, _)| rows));
                let launch = launch.structure(split).bits(NO_ACTIVATION);
                self.packed(queue, launch, (kernel, rows, cols), out)?;
                continue;
            }
            let launch = match &quantized {
                Some(quantized) => lists.told(launch.structure(quantized)),
                None => lists.told(launch).pointer(x),
            };
            let launch = launch.pointer(out);
            let grid = [rows.div_ceil(32), self.n_tiles, 1];
            launch.grid(grid).threads(256).run()?;
        }
        Ok(())
    }

    /// Rows of `x` in the order of assignments.
    fn gather(&self, queue: &CudaQueue, x: Span<'_>, rows: Span<'_>, out: Span<'_>) -> Result<()> {
        let launch = queue.launch(kernel!("gather_rows")).pointer(x);
        let launch = launch.int(self.n_tokens).pointer(rows);
        let launch = launch.int(self.hidden).pointer(out);
        let grid = [self.n_assignments, self.hidden.div_ceil(256), 1];
        launch.grid(grid).threads(256).run()
    }
}

/// A matrix of each expert.
struct Product {
    kind: Kind,
    weight: for<'a> fn(&Expert<'a, Cuda>) -> &'a CudaWeight,
    /// Rows and columns.
    shape: [usize; 2],
}

/// Tiles of assignments, as kernels are told of them.
struct Lists<'a> {
    tiles: Span<'a>,
    n_tiles: Span<'a>,
}

impl<'a> Lists<'a> {
    fn told<'l>(&self, launch: Launch<'l>) -> Launch<'l>
    where
        'a: 'l,
    {
        launch.pointer(self.tiles).pointer(self.n_tiles)
    }
}

/// Rows of activations as kernels for formats of published files take them; nothing for other weights.
fn split_of(
    queue: &CudaQueue,
    kind: Kind,
    (x, n, cols): (Span<'_>, usize, usize),
    room: Span<'_>,
) -> Result<Option<[u64; 5]>> {
    let of = |format: PackedKernels| packed_split(queue, (x, n), (cols, format.run), room);
    kind.packed().map(of).transpose()
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

/// Address of an element of a bias, as words of weights are told; none is the address 0.
fn address(bias: Option<&CudaWeight>, first: usize) -> ([u64; 6], usize) {
    let address = bias.map_or(0, |bias| {
        bias.part(Part::Weight).address() + (first * bias.dense().size()) as u64
    });
    ([address, 0, 0, 0, 0, 0], 1)
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
