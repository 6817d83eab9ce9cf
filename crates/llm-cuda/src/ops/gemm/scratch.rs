//! Scratch memory of products by tiles.

use llm_tensor::WorkspaceShape;

use super::tiles::{Form, MAX_MULTIPROCESSORS, MIN_STEPS, PackedTiles, Split, Tiles};
use crate::memory::bytes_of;
use crate::ops::packed;
use crate::{Compute, choose, workspace};

/// Bytes of the parts or codes of `n` rows, of their scales, of outlier columns as bits, of sums of runs of columns, and of pieces
/// of results.
pub(super) fn areas(tiles: Tiles, n: usize, cols: usize, n_pieces: usize) -> [usize; 5] {
    let mut sums = 0;
    let [parts, scales, outliers] = match tiles {
        Tiles::Plain(_) => [0; 3],
        Tiles::Packed(PackedTiles { run, .. }) => {
            let [parts, of_runs, scales] = packed::split_areas(n, cols, run);
            sums = of_runs;
            [parts, scales, 0]
        }
        Tiles::Dense(_) | Tiles::FourBit(_) => {
            let n_parts = tiles.split().map_or(0, Split::n_parts);
            [n_parts * n * padded(cols) * 2, bytes_of(n), 0]
        }
        Tiles::Int8 { .. } => code_areas(n, cols),
    };
    [parts, scales, outliers, sums, bytes_of(n_pieces)]
}

/// Bytes of the codes of `n` rows, of their scales, and of outlier columns: for each row, and in the first for all.
pub(in crate::ops) fn code_areas(n: usize, cols: usize) -> [usize; 3] {
    [n * cols, bytes_of(n), bytes_of(n * cols.div_ceil(32))]
}

/// Bytes that suffice for every product within `shape`, on any card.
pub(in crate::ops) fn scratch_bytes(shape: &WorkspaceShape) -> usize {
    if shape.n_tokens < choose::LEAST_BY_TILES {
        return 0;
    }
    let n = shape.n_tokens.min(CHUNK);
    // There are pieces while blocks are fewer than wanted; then their results are fewer than those blocks have, but for one
    // of outlier columns.
    let most = 2 * MAX_MULTIPROCESSORS * 64 * 128;
    let pieces = |n: usize| {
        let results = (shape.cols.div_ceil(16 * MIN_STEPS) + 1) * n * shape.rows;
        results.min(most + (n * shape.rows).min(most))
    };
    let parts = areas(MOST_PARTS, n, shape.cols, pieces(n));
    let all = shape.n_tokens;
    let codes = areas(Tiles::Int8 { tiled: true }, all, shape.cols, pieces(all));
    workspace::bytes(parts).max(workspace::bytes(codes))
}

/// Products whose activations have the most parts.
const MOST_PARTS: Tiles = Tiles::Dense(Split {
    form: Form::Bf16,
    compute: Compute::F32,
});

/// Columns with the zeros behind them.
pub(super) fn padded(cols: usize) -> usize {
    cols.next_multiple_of(32)
}

/// Rows of activations at a time: what their parts take is bounded.
pub(super) const CHUNK: usize = 512;

#[cfg(test)]
mod tests {
    use llm_tensor::DType;

    use super::*;

    #[test]
    fn scratch_memory_suffices_for_every_kernel() {
        let split = [Compute::F32, Compute::Half].map(|compute| {
            let dense = [Form::F16, Form::Bf16].map(|form| Tiles::Dense(Split { form, compute }));
            [dense[0], dense[1], Tiles::FourBit(compute)]
        });
        let others = [
            Tiles::Plain(DType::F32),
            Tiles::Int8 { tiled: true },
            Tiles::Int8 { tiled: false },
            Tiles::Packed(PackedTiles::EXAMPLE),
        ];
        for tiles in split.into_iter().flatten().chain(others) {
            for n_tokens in [2, 8, 9, 16, 17, 64, 65, 200, 512, 5000] {
                for rows in [1, 100, 1000, 5000, 150_000] {
                    for cols in [8, 100, 5000, 30_000] {
                        let n = match tiles {
                            Tiles::Int8 { .. } => n_tokens,
                            Tiles::Plain(_)
                            | Tiles::Packed(_)
                            | Tiles::Dense(_)
                            | Tiles::FourBit(_) => n_tokens.min(CHUNK),
                        };
                        let blocks = tiles.blocks(n, (rows, cols), 500);
                        let results = blocks.n_piece_results(n * rows, tiles);
                        let shape = WorkspaceShape {
                            n_tokens,
                            cols,
                            rows,
                            context: 1,
                            n_heads: 1,
                            n_kv_heads: 1,
                            head_dim: 1,
                            n_selecting: 0,
                        };
                        let needed = workspace::bytes(areas(tiles, n, cols, results));
                        assert!(needed <= scratch_bytes(&shape), "{tiles:?} {shape:?}");
                    }
                }
            }
        }
    }
}
