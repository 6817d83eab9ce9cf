//! Exactness of products.

/// Exactness of products with f16, bf16 and 4-bit weights on tensor cores. Those of f32 and 8-bit weights have one alone, and sums
/// are always f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compute {
    /// As f32 would give them: activations are split into several 16-bit numbers, each multiplied.
    #[default]
    F32,
    /// Activations, and values of 4-bit codes, are rounded to 16 bits and multiplied once.
    Half,
}
