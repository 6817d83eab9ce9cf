//! Choice between cuBLAS and tiles, for products with many rows of activations.

use llm_tensor::WorkspaceShape;

/// A product that either may make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ManyRows {
    /// Rows of activations.
    pub(crate) n: usize,
    /// Of the weight.
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) kind: ManyKind,
}

/// Factors of such a product, and how often cuBLAS multiplies them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ManyKind {
    /// f32 by f32, once.
    Plain,
    /// So many 16-bit parts of the activations with a 16-bit weight.
    Split {
        /// Parts.
        n: usize,
        /// By one call, side by side.
        at_once: bool,
    },
    /// Two parts of the activations with two of a weight that is decoded, three of the four.
    Decoded,
    /// The same of a weight in a format of published files, whose own kernels nobody has measured: they are taken to be as fast as
    /// those for f32.
    Unpacked,
}

/// True where cuBLAS takes less time.
pub(crate) fn blas_pays(product: ManyRows) -> bool {
    let ManyRows {
        n,
        rows,
        cols,
        kind,
    } = product;
    let elements = rows as f64 * cols as f64;
    let operations = 2.0 * n as f64 * elements;
    // Of results, read and written by `n` more passes.
    let results = |n_passes: f64| 4.0 * n_passes * n as f64 * rows as f64 / BANDWIDTH;
    let longer = |bytes: f64, rate: f64| (bytes / BANDWIDTH).max(operations / rate);
    let (own, blas) = match kind {
        ManyKind::Plain => (
            longer(4.0 * elements, OWN_F32),
            CALL + longer(4.0 * elements, BLAS_F32),
        ),
        ManyKind::Split { n, at_once: true } => (
            longer(2.0 * elements, OWN_16 / n as f64),
            CALL + longer(2.0 * elements, BLAS_16 / n as f64) + results(n as f64 + 1.0),
        ),
        ManyKind::Split { n, at_once: false } => (
            longer(2.0 * elements, OWN_16 / n as f64),
            n as f64 * (CALL + longer(2.0 * elements, BLAS_16)) + results(n as f64 - 1.0),
        ),
        ManyKind::Decoded | ManyKind::Unpacked => (
            match kind {
                ManyKind::Unpacked => longer(elements, OWN_F32),
                ManyKind::Plain | ManyKind::Split { .. } | ManyKind::Decoded => {
                    longer(0.5 * elements, OWN_FOUR_BIT)
                }
            },
            4.0 * CALL
                + 4.5 * elements / BANDWIDTH
                + 3.0 * longer(2.0 * elements, BLAS_16)
                + results(2.0),
        ),
    };
    blas < own
}

/// True where it may pay for some product within `shape`: then a queue has cuBLAS, and memory for it.
pub(crate) fn blas_may_pay(shape: &WorkspaceShape) -> bool {
    let kinds = [
        ManyKind::Plain,
        ManyKind::Split {
            n: 1,
            at_once: true,
        },
        ManyKind::Decoded,
    ];
    kinds.into_iter().any(|kind| {
        blas_pays(ManyRows {
            n: shape.n_tokens,
            rows: shape.rows,
            cols: shape.cols,
            kind,
        })
    })
}

/// Bytes that cuBLAS computes in: as many as NVIDIA advises for Hopper, and more than for older cards.
pub(crate) const BLAS_WORKSPACE: usize = 32 << 20;

// Of an H100 (`docs/gpu.md`); cards have much the same proportions. Operations a second are those of one product, whatever it
// is the sum of.
const BANDWIDTH: f64 = 2.9e12;
/// Seconds of a call beyond the product.
const CALL: f64 = 8e-6;
const BLAS_16: f64 = 600e12;
/// Of one part.
const OWN_16: f64 = 330e12;
const OWN_FOUR_BIT: f64 = 88e12;
// Not measured: two thirds, and a third, of what the card's f32 units can.
const BLAS_F32: f64 = 45e12;
const OWN_F32: f64 = 22e12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cublas_is_for_many_rows_of_large_weights() {
        let bf16 = ManyKind::Split {
            n: 3,
            at_once: false,
        };
        let f16 = ManyKind::Split {
            n: 2,
            at_once: true,
        };
        let cases = [
            // As measured by torch and here: 3 × 58 and 175 µs with what starts a call, 3 × 124 and 651.
            (bf16, 512, (4096, 4096), true),
            (bf16, 512, (14336, 4096), true),
            (bf16, 64, (14336, 4096), false),
            (bf16, 64, (28672, 8192), false),
            (bf16, 512, (512, 512), false),
            (f16, 256, (4096, 4096), true),
            (f16, 16, (4096, 4096), false),
            (ManyKind::Plain, 128, (2048, 2048), true),
            (ManyKind::Plain, 9, (256, 256), false),
            (ManyKind::Decoded, 512, (14336, 4096), true),
            (ManyKind::Decoded, 64, (14336, 4096), false),
        ];
        for (kind, n, (rows, cols), pays) in cases {
            let product = ManyRows {
                n,
                rows,
                cols,
                kind,
            };
            assert_eq!(blas_pays(product), pays, "{product:?}");
        }
    }

    #[test]
    fn small_models_do_without_it() {
        let shape = |n_tokens, cols, rows| WorkspaceShape {
            n_tokens,
            cols,
            rows,
            context: 512,
            n_heads: 8,
            n_kv_heads: 8,
            head_dim: 64,
            n_selecting: 0,
        };
        assert!(blas_may_pay(&shape(512, 4096, 14336)));
        assert!(!blas_may_pay(&shape(1, 4096, 128_000)));
        assert!(!blas_may_pay(&shape(512, 256, 1024)));
    }
}
