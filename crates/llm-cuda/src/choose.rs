//! Choice of a kernel, and of the shape of its launch, for products with few rows of activations: by scheme, shape and card.
//!
//! Nothing here asks a driver. What was measured, on which card, is in `docs/gpu.md`.

mod blas;
mod four_bit;

pub(crate) use blas::{BLAS_WORKSPACE, ManyKind, ManyRows, blas_may_pay, blas_pays};
pub(crate) use four_bit::{FourBitKind, FourBitLaunch, Sharing, four_bit, piece_bytes};

use crate::probe::GpuFacts;

/// Rows of activations that these kernels are meant for: they read the weights once for as many. With more rows the products of
/// tiles are faster.
pub(crate) const MAX_ROWS: usize = 8;

/// The fewest rows that any product takes tiles for.
pub(crate) const LEAST_BY_TILES: usize = 2;

/// True if a product with `n` rows of activations is one of tiles. Before 8.0 4-bit weights are read once by tiles alone, where
/// there are several rows.
pub(crate) fn by_tiles(card: CardShape, n: usize, is_four_bit: bool) -> bool {
    match is_four_bit && !card.has_tiles() {
        true => n >= LEAST_BY_TILES,
        false => n > MAX_ROWS,
    }
}

/// What a choice depends on of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CardShape {
    pub(crate) compute_capability: (u32, u32),
    /// Multiprocessors.
    pub(crate) n_multiprocessors: usize,
    /// Shared memory that a block may take, in bytes.
    pub(crate) shared_per_block: usize,
}

impl CardShape {
    pub(crate) fn of(facts: &GpuFacts) -> Self {
        CardShape {
            compute_capability: facts.compute_capability,
            n_multiprocessors: facts.n_multiprocessors as usize,
            shared_per_block: facts.shared_per_block.get() as usize,
        }
    }

    /// True if it has asynchronous copies and tensor products of 16 rows.
    pub(crate) fn has_tiles(self) -> bool {
        self.compute_capability >= (8, 0)
    }
}

/// Shape of a product: weights whose results lie side by side, and rows of activations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product<'a> {
    /// Rows of each weight.
    pub(crate) rows: &'a [usize],
    /// Columns of every weight.
    pub(crate) cols: usize,
    /// Rows of activations, at most.
    pub(crate) n: usize,
}

impl Product<'_> {
    /// Tiles of `height` rows, none across two weights.
    fn tiles(&self, height: usize) -> usize {
        self.rows.iter().map(|rows| rows.div_ceil(height)).sum()
    }
}

/// Launch of a kernel whose warps take rows of the weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowsLaunch {
    /// Rows of activations that a block computes: the number in the kernel's name.
    pub(crate) n_at_once: usize,
    /// Takes tiles of the weight by tensor cores.
    pub(crate) by_tiles: bool,
    /// Warps that share the columns of a row.
    pub(crate) split: usize,
    pub(crate) grid: [usize; 3],
    /// Of a block.
    pub(crate) threads: usize,
}

/// The kernel for weights that are not quantized, of `element_bytes` an element.
pub(crate) fn dense(card: CardShape, product: Product<'_>, element_bytes: usize) -> RowsLaunch {
    let n_at_once = at_once(product.n);
    let (height, n_loads) = match n_at_once {
        1 => (1, 4),
        2 => (2, 2),
        _ => (4, 1),
    };
    let step = 32 * n_loads * LOAD_BYTES / element_bytes;
    let wanted = card.n_multiprocessors * if n_at_once == 1 { 24 } else { 12 };
    rows_launch(product, n_at_once, false, (height, step, wanted))
}

/// The kernel for LLM.int8().
pub(crate) fn int8(card: CardShape, product: Product<'_>) -> RowsLaunch {
    if product.n > 1 && card.has_tiles() {
        let wanted = card.n_multiprocessors * 16;
        return rows_launch(product, MAX_ROWS, true, (TILE_ROWS, 256, wanted));
    }
    let n_at_once = at_once(product.n);
    let (height, n_loads) = match n_at_once {
        1 => (1, 4),
        2 => (2, 2),
        _ => (4, 1),
    };
    let wanted = card.n_multiprocessors * if n_at_once == 1 { 24 } else { 12 };
    let shape = (height, 32 * n_loads * LOAD_BYTES, wanted);
    rows_launch(product, n_at_once, false, shape)
}

/// The kernel for weights in formats of published files, whose blocks have so many warps; and the tiles that a warp takes one after
/// the other, for which it brings one row of activations to the form of tensor cores once.
pub(crate) fn packed(card: CardShape, product: Product<'_>, n_warps: usize) -> (RowsLaunch, usize) {
    let n_at_once = if product.n == 1 { 1 } else { MAX_ROWS };
    let wanted = card.n_multiprocessors * 16;
    let launch = |n_tiles| {
        let shape = (TILE_ROWS * n_tiles, 256, wanted);
        of_warps(product, n_at_once, n_warps, shape)
    };
    let mut n_tiles = 1;
    while n_at_once == 1 && n_tiles < MOST_TILES {
        let many = launch(2 * n_tiles);
        if 2 * many.grid[0] * n_warps < wanted {
            break;
        }
        n_tiles *= 2;
    }
    (launch(n_tiles), n_tiles)
}

/// Warps that share columns of experts' weights `[rows, cols]`, where there are so many tiles of assignments.
pub(crate) fn packed_experts(
    card: CardShape,
    (rows, cols): (usize, usize),
    n_tiles: usize,
    n_warps: usize,
) -> usize {
    let all = [rows * n_tiles];
    let product = Product {
        rows: &all,
        cols,
        n: MAX_ROWS,
    };
    packed(card, product, n_warps).0.split
}

/// The one that multiplies rows of them one by one.
pub(crate) fn packed_any(card: CardShape, product: Product<'_>) -> RowsLaunch {
    let wanted = card.n_multiprocessors * 12;
    rows_launch(product, MAX_ROWS, false, (1, 128, wanted))
}

/// Kernels are there for 1, 2, 4 and 8 rows.
fn at_once(n: usize) -> usize {
    n.clamp(1, MAX_ROWS).next_power_of_two()
}

fn rows_launch(
    product: Product<'_>,
    n_at_once: usize,
    by_tiles: bool,
    shape: (usize, usize, usize),
) -> RowsLaunch {
    RowsLaunch {
        by_tiles,
        ..of_warps(product, n_at_once, WARPS, shape)
    }
}

/// Warps share columns until there are `wanted` of them, or until one has fewer than four steps where they are many.
fn of_warps(
    product: Product<'_>,
    n_at_once: usize,
    n_warps: usize,
    (height, step, wanted): (usize, usize, usize),
) -> RowsLaunch {
    let n_tiles = product.tiles(height);
    let mut split = 1;
    while split < n_warps {
        let are_few = n_tiles * split < wanted && product.cols >= 2 * split * step;
        if !are_few && product.cols < 6 * split * step {
            break;
        }
        split *= 2;
    }
    RowsLaunch {
        n_at_once,
        by_tiles: false,
        split,
        grid: [
            n_tiles.div_ceil(n_warps / split),
            product.n.div_ceil(n_at_once),
            1,
        ],
        threads: 32 * n_warps,
    }
}

/// Tiles that a warp may take one after the other: `MOST_TILES` of `packed_mma.cuh`.
const MOST_TILES: usize = 4;
/// Warps of a block.
const WARPS: usize = 8;
/// Bytes that a lane reads at once.
const LOAD_BYTES: usize = 16;
/// Rows of a weight in a tensor product.
pub(crate) const TILE_ROWS: usize = 16;

#[cfg(test)]
mod tests;
