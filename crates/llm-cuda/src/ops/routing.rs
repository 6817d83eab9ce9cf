//! Choice of experts, and rows sent to them and back: `kernels/routing.cu`.

use llm_backend::{Expert, ExpertBuffers, Output, Result, RouterVectors, Routing};
use llm_tensor::{ExpertGroups, GroupRank, Scoring, Weighting};

use super::gates;
use super::general::vector;
use super::linear;
use crate::launch::Launch;
use crate::module::kernel;
use crate::routes::{Layout, List, Routes};
use crate::{Buffer, Cuda, CudaQueue};

/// Chooses the experts of each row, and lists the rows of each.
pub(super) fn route(
    queue: &CudaQueue,
    (op, vectors): (&Routing, RouterVectors<'_, Cuda>),
    scores: &Buffer,
    routes: &mut Routes,
    n_tokens: usize,
) -> Result<()> {
    let layout = routes.layout();
    assert!(
        (op.n_experts, op.n_active) == (layout.n_experts, layout.n_active)
            && op.n_active <= op.n_experts
            && n_tokens <= layout.n_tokens,
        "{op:?} of {n_tokens} rows in room for {layout:?}"
    );
    routes.n_tokens = n_tokens;
    let RouterVectors {
        correction,
        scales,
        chosen: given,
    } = vectors;
    let is_near = matches!(op.weighting, Weighting::NearTies { .. });
    assert!(given.is_none() || !is_near, "ties of ranks: {op:?}");
    for of_experts in [correction, scales].into_iter().flatten() {
        assert_eq!(of_experts.cols(), op.n_experts, "an element for each");
    }
    let scores = scores.first(n_tokens * op.n_experts);
    let words = Words::of(op);
    let choosing = |kernel| {
        let launch = queue.launch(kernel).structure(&words);
        let launch = vector(vector(launch, correction), scales);
        let given = given.map(|given| given.first(n_tokens * op.n_active));
        launch.pointer_or_null(given).pointer(scores).int(n_tokens)
    };
    let grid = [op.n_experts, 1, 1];
    if n_tokens <= FEW && op.n_active <= FEW_ACTIVE {
        return lists(choosing(kernel!("routing_few")), routes)
            .grid(grid)
            .threads(256)
            .run();
    }
    let (chosen, weights) = (routes.span(List::Chosen), routes.span(List::Weights));
    let launch = choosing(kernel!("routing_choose"));
    let launch = launch.pointer(chosen).pointer(weights);
    launch
        .grid([n_tokens.div_ceil(8), 1, 1])
        .threads(256)
        .run()?;
    let launch = queue
        .launch(kernel!("routing_lists"))
        .pointer(chosen)
        .pointer(weights);
    let launch = launch.int(n_tokens).int(op.n_active).int(op.n_experts);
    lists(launch, routes).grid(grid).threads(256).run()
}

/// A choice as the kernels are told of it.
#[derive(Debug, Clone, Copy, bytemuck::NoUninit)]
#[repr(C)]
struct Words {
    n_experts: u32,
    n_active: u32,
    scoring: u32,
    n_groups: u32,
    n_active_groups: u32,
    by_two: u32,
    weighting: u32,
    eps: f32,
    scale: f32,
    tolerance: f32,
}

impl Words {
    fn of(op: &Routing) -> Self {
        let (n_groups, n_active_groups, by_two) = match op.groups {
            None => (0, 0, 0),
            Some(ExpertGroups {
                n_groups,
                n_active,
                rank,
            }) => {
                assert!(n_groups <= ExpertGroups::MOST, "{op:?}");
                let by_two = match rank {
                    GroupRank::First => 0,
                    GroupRank::FirstTwo => 1,
                };
                (n_groups, n_active, by_two)
            }
        };
        Words {
            n_experts: op.n_experts as u32,
            n_active: op.n_active as u32,
            scoring: match op.scoring {
                Scoring::Softmax => 0,
                Scoring::Sigmoid => 1,
                Scoring::Plain => 2,
                Scoring::SqrtSoftplus => 3,
            },
            n_groups: n_groups as u32,
            n_active_groups: n_active_groups as u32,
            by_two,
            weighting: match op.weighting {
                Weighting::Probability => 0,
                Weighting::Normalised => 1,
                Weighting::NearTies { .. } => 2,
            },
            eps: op.eps,
            scale: op.scale,
            tolerance: match op.weighting {
                Weighting::Probability | Weighting::Normalised => 0.0,
                Weighting::NearTies { tolerance } => tolerance,
            },
        }
    }
}

/// Rows that one launch chooses for and lists, and experts of each.
const FEW: usize = 8;
const FEW_ACTIVE: usize = 64;

fn lists<'a>(launch: Launch<'a>, routes: &Routes) -> Launch<'a> {
    let lists = [
        List::Starts,
        List::Rows,
        List::RowWeights,
        List::Slots,
        List::Tiles,
        List::TileCount,
    ];
    let launch = lists.into_iter().fold(launch, |launch, list| {
        launch.pointer(
            routes
                .span(list)
                .aligned(if list == List::Tiles { 16 } else { 4 }),
        )
    });
    launch.int(Layout::TILE_ROWS)
}

/// Multiplies each row of `x` by the sigmoid of the largest of its scores.
pub(super) fn scale_by_largest(
    queue: &CudaQueue,
    (scores, n_scores): (&Buffer, usize),
    x: &mut Buffer,
    (width, n): (usize, usize),
) -> Result<()> {
    let launch = queue.launch(kernel!("routing_scale"));
    let launch = launch.pointer(scores.first(n_scores * n)).int(n_scores);
    let launch = launch.pointer(x.first(width * n)).int(width);
    launch.grid([n, 1, 1]).threads(256).run()
}

/// Rows of each expert, read back.
pub(super) fn chosen(queue: &mut CudaQueue, routes: &Routes, n_rows: &mut [usize]) -> Result<()> {
    assert_eq!(n_rows.len(), routes.layout().n_experts, "experts");
    let mut starts = [0u32; READ_AT_ONCE + 1];
    for (i, n_rows) in n_rows.chunks_mut(READ_AT_ONCE).enumerate() {
        let starts = &mut starts[..=n_rows.len()];
        let at = routes.starts().start + 4 * i * READ_AT_ONCE;
        queue.read(&routes.memory, at, bytemuck::cast_slice_mut(starts))?;
        for (n, bounds) in n_rows.iter_mut().zip(starts.windows(2)) {
            *n = (bounds[1] - bounds[0]) as usize;
        }
    }
    Ok(())
}

/// Experts whose rows are read back by one copy: more than most models have.
const READ_AT_ONCE: usize = 256;

/// Sends an expert its rows, and adds its results.
pub(super) fn expert(
    queue: &CudaQueue,
    expert: &Expert<'_, Cuda>,
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
    let (number, n) = (expert.expert, routes.n_tokens);
    let bounds = Some(routes.bounds(number));
    gather_routed(queue, (routes, number), x, expert.hidden, gathered)?;
    linear::linear(
        queue,
        expert.gate_up,
        gathered,
        (Output::Write, None, up),
        (n, bounds),
    )?;
    let inner = gates::gate(queue, &expert.gate, (up, gated), (expert.width, n, bounds))?;
    linear::linear(
        queue,
        &[expert.down],
        inner,
        (Output::Write, None, delta),
        (n, bounds),
    )?;
    scatter_routed(queue, (routes, number), delta, expert.hidden, out)
}

/// An expert's rows of `x`, one after the other.
pub(super) fn gather_routed(
    queue: &CudaQueue,
    (routes, expert): (&Routes, usize),
    x: &Buffer,
    width: usize,
    out: &mut Buffer,
) -> Result<()> {
    let n = routes.n_tokens;
    let launch = queue
        .launch(kernel!("routing_gather"))
        .pointer(routes.span(List::Starts));
    let launch = launch
        .pointer(routes.span(List::Rows))
        .int(of(routes, expert));
    let launch = launch.pointer(x.first(n * width)).int(width);
    over_rows(launch.pointer(out.first(n * width)), n, width)
}

/// Adds an expert's results, times their weights, to its rows of `x`.
pub(super) fn scatter_routed(
    queue: &CudaQueue,
    (routes, expert): (&Routes, usize),
    y: &Buffer,
    width: usize,
    x: &mut Buffer,
) -> Result<()> {
    let n = routes.n_tokens;
    let launch = queue
        .launch(kernel!("routing_scatter"))
        .pointer(routes.span(List::Starts));
    let launch = launch.pointer(routes.span(List::Rows));
    let launch = launch
        .pointer(routes.span(List::RowWeights))
        .int(of(routes, expert));
    let launch = launch.pointer(y.first(n * width)).int(width);
    over_rows(launch.pointer(x.first(n * width)), n, width)
}

/// An expert's number.
fn of(routes: &Routes, expert: usize) -> usize {
    let n_experts = routes.layout().n_experts;
    assert!(expert < n_experts, "expert {expert} of {n_experts}");
    expert
}

/// A kernel whose blocks take rows again and again, as many as an expert has.
fn over_rows(launch: Launch<'_>, n: usize, width: usize) -> Result<()> {
    let grid = [n.min(MAX_ROWS), width.div_ceil(256), 1];
    launch.grid(grid).threads(256).run()
}

/// Rows beyond which a block takes several: an expert has few of a pass.
const MAX_ROWS: usize = 64;
