//! Choice of a kernel for few rows of activations and 4-bit weights.

use super::{CardShape, MAX_ROWS, Product, TILE_ROWS, WARPS};
use crate::Compute;

/// Kind of a 4-bit weight, as far as kernels differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FourBitKind {
    /// Scales are quantized themselves.
    pub(crate) is_double: bool,
    /// Elements that share a scale.
    pub(crate) block_size: usize,
}

/// Warps of a block that share the columns of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Rows are multiplied, by so many warps each.
    Rows(usize),
    /// Tiles are, by so many teams of warps.
    Teams(usize),
}

/// Launch of a kernel for 4-bit weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FourBitLaunch {
    /// Exactness of the kernel's products.
    pub(crate) compute: Compute,
    /// Rows of activations that a block computes: the number in the kernel's name.
    pub(crate) n_at_once: usize,
    /// Warps that share the columns of a row, or teams of warps that share those of a tile.
    pub(crate) sharing: Sharing,
    /// Groups of blocks that take a part of the columns each.
    pub(crate) slices: usize,
    /// Columns of a group, the last but for it.
    pub(crate) slice_len: usize,
    pub(crate) grid: [usize; 3],
    pub(crate) threads: usize,
    /// Bytes of shared memory beside the kernel's own.
    pub(crate) shared: usize,
}

impl FourBitLaunch {
    /// Elements of what groups leave to be added up.
    pub(crate) fn n_pieces(&self, product: Product<'_>) -> usize {
        match self.slices {
            1 => 0,
            slices => slices * product.n * product.rows.iter().sum::<usize>(),
        }
    }
}

/// The kernel for 4-bit weights: `None` where none takes such a shape, or so many rows.
pub(crate) fn four_bit(
    card: CardShape,
    product: Product<'_>,
    kind: FourBitKind,
    compute: Compute,
) -> Option<FourBitLaunch> {
    let fits = |height| product.rows.iter().all(|&rows| rows >= height);
    let takes_tiles = card.has_tiles() && product.cols.is_multiple_of(64) && fits(TILE_ROWS);
    let is_worth_it = match compute {
        // One row is multiplied faster as it is.
        Compute::F32 => product.n > 1,
        // Half the table is looked through, and x is read once.
        Compute::Half => true,
    };
    if takes_tiles && is_worth_it {
        return four_bit_tiles(card, product, kind, compute);
    }
    if product.cols.is_multiple_of(32) && fits(4) {
        return four_bit_rows(card, product);
    }
    None
}

/// Bytes of scratch memory for what groups leave, on any card.
pub(crate) fn piece_bytes(n: usize, cols: usize, rows: usize) -> usize {
    match most_slices(cols) {
        1 => 0,
        slices => slices * n.min(MAX_ROWS) * rows * size_of::<f32>(),
    }
}

/// Groups that there may be: none needs to have fewer than [`SLICE`] columns.
fn most_slices(cols: usize) -> usize {
    cols.div_ceil(SLICE).max(1)
}

fn four_bit_tiles(
    card: CardShape,
    product: Product<'_>,
    kind: FourBitKind,
    compute: Compute,
) -> Option<FourBitLaunch> {
    let most_at_once = match compute {
        Compute::F32 if product.n <= 4 => [4, 4],
        Compute::F32 => [8, 4],
        // A product of tensor cores has 8 columns, of which 8 rows of x are one each.
        Compute::Half => [8, 8],
    };
    let warps = if kind.block_size == 32 {
        [8, 8, 4]
    } else {
        [16, 8, 4]
    };
    for n_at_once in most_at_once {
        for n_warps in warps {
            for slices in 1..=most_slices(product.cols) {
                let n = product.n.min(n_at_once);
                let slice_len = slice_len(product.cols, slices, STAGE_COLS);
                let of_row = (n_warps / n.next_power_of_two()).max(1);
                let is_kept = slice_len.next_multiple_of(STAGE_COLS) <= KEPT * of_row;
                let shared = tiles_shared(kind, compute, (n_at_once, n), n_warps, slice_len);
                let fits = shared + TILES_OWN <= card.shared_per_block;
                if !is_kept || !fits || slice_len * (slices - 1) >= product.cols {
                    continue;
                }
                if slices > 1 && product.n > MAX_ROWS {
                    return None;
                }
                let on_one = (16 / n_warps).min(card.shared_per_block / (shared + TILES_OWN));
                let n_blocks = card.n_multiprocessors * on_one.max(1);
                let teams = teams(product, n_warps, slice_len, n_blocks / slices);
                let shape = BlockShape {
                    n_at_once,
                    sharing: Sharing::Teams(teams),
                    height: TILE_ROWS * teams,
                    n_warps,
                    shared,
                };
                return Some(shape.launch(product, compute, (slices, slice_len), n_blocks));
            }
        }
    }
    None
}

/// Teams of a block's warps: as many as take the fewest rounds of stages, the fewer among equals.
fn teams(product: Product<'_>, n_warps: usize, slice_len: usize, n_blocks: usize) -> usize {
    let n_stages = slice_len.div_ceil(STAGE_COLS);
    let n_rounds = |teams: usize| {
        let tiles = product.tiles(TILE_ROWS * teams);
        tiles.div_ceil(n_blocks.max(1)) * n_stages.div_ceil(n_warps / teams)
    };
    let teams = [1, 2, 4].into_iter().filter(|&teams| teams <= n_warps / 2);
    teams.min_by_key(|&teams| n_rounds(teams)).unwrap_or(1)
}

/// Table, map of scales, sums of two tiles, rings, and x: as `four_bit.cuh` lays them out.
fn tiles_shared(
    kind: FourBitKind,
    compute: Compute,
    (n_at_once, n): (usize, usize),
    n_warps: usize,
    slice_len: usize,
) -> usize {
    let n_scales = if kind.block_size == 32 { 8 } else { 4 };
    let stage = 2048 + 64 * n_scales * if kind.is_double { 2 } else { 1 };
    let map = if kind.is_double { 1024 } else { 0 };
    let sums = 2 * n_warps * 32 * 2 * (n_at_once / 4) * size_of::<f32>();
    let n_parts = match compute {
        Compute::F32 => 2,
        Compute::Half => 1,
    };
    let x = n_parts * n * (slice_len.next_multiple_of(STAGE_COLS) + 8) * size_of::<u16>();
    TABLE + map + sums + n_warps * RING * stage + x
}

fn four_bit_rows(card: CardShape, product: Product<'_>) -> Option<FourBitLaunch> {
    let most_at_once = if product.n == 1 { [1, 1] } else { [4, 1] };
    // One block alone does not keep a multiprocessor's loads under way, and more slices make smaller blocks.
    let choices = most_at_once.map(|n_at_once| [(n_at_once, 2), (n_at_once, 1)]);
    for (n_at_once, least) in choices.into_iter().flatten() {
        let most_slices = match product.n {
            0..=MAX_ROWS => most_slices(product.cols),
            _ => 1,
        };
        for slices in 1..=most_slices {
            let slice_len = slice_len(product.cols, slices, ROW_COLS);
            let shared = n_at_once * slice_len.div_ceil(ROW_COLS) * ROW_COLS * size_of::<f32>();
            let on_one = card.shared_per_block / (shared + ROWS_OWN);
            if on_one < least || slice_len * (slices - 1) >= product.cols {
                continue;
            }
            let height = if n_at_once == 1 { 4 } else { 2 };
            let n_blocks = card.n_multiprocessors * on_one.min(3);
            let mut split = 1;
            while split < WARPS
                && product.tiles(height) * slices * split < card.n_multiprocessors * 12
                && slice_len >= 2 * split * ROW_COLS
            {
                split *= 2;
            }
            let shape = BlockShape {
                n_at_once,
                sharing: Sharing::Rows(split),
                height: height * (WARPS / split),
                n_warps: WARPS,
                shared,
            };
            return Some(shape.launch(product, Compute::F32, (slices, slice_len), n_blocks));
        }
    }
    None
}

/// Shape of a kernel's blocks.
struct BlockShape {
    n_at_once: usize,
    sharing: Sharing,
    /// Rows of the weight that a block multiplies at a time.
    height: usize,
    n_warps: usize,
    shared: usize,
}

impl BlockShape {
    /// Launch of such blocks, as many as take turns on the card: `n_blocks`, or as many as there are slices.
    fn launch(
        self,
        product: Product<'_>,
        compute: Compute,
        (slices, slice_len): (usize, usize),
        n_blocks: usize,
    ) -> FourBitLaunch {
        let n_tiles = product.tiles(self.height).max(1);
        let of_slice = (n_blocks / slices).clamp(1, n_tiles);
        FourBitLaunch {
            compute,
            n_at_once: self.n_at_once,
            sharing: self.sharing,
            slices,
            slice_len,
            grid: [of_slice * slices, product.n.div_ceil(self.n_at_once), 1],
            threads: self.n_warps * 32,
            shared: self.shared,
        }
    }
}

/// Columns of each of `slices` parts, whole steps where there are several.
fn slice_len(cols: usize, slices: usize, step: usize) -> usize {
    match slices {
        1 => cols,
        slices => cols.div_ceil(slices).next_multiple_of(step),
    }
}

/// Columns that a group of blocks may be left with.
const SLICE: usize = 1536;

/// Bytes of the table of pairs of codes.
const TABLE: usize = 32768;
/// Stages of a ring.
const RING: usize = 2;
/// Columns of a stage.
const STAGE_COLS: usize = 256;
/// Columns of x that a warp keeps in registers while it is scaled.
const KEPT: usize = 1792;
/// Shared memory that the kernels of tiles have of themselves, at most.
pub(super) const TILES_OWN: usize = 256;
/// Columns that a warp takes at once where rows are multiplied.
const ROW_COLS: usize = 1024;
/// Shared memory that the kernels of rows have of themselves, at most.
pub(super) const ROWS_OWN: usize = 34304;
