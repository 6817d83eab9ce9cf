/// Errors of sizes, shapes, element types' names and conversions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// A shape whose number of elements does not fit 64 bits.
    #[error("shape {shape} has more elements than 64 bits can count")]
    TooManyElements {
        /// The shape as printed.
        shape: String,
    },
    /// A byte size that does not fit 64 bits.
    #[error("{n_elements} elements of {dtype} are more bytes than 64 bits can count")]
    TooManyBytes {
        /// Number of elements asked for.
        n_elements: u64,
        /// Their element type.
        dtype: &'static str,
    },
    /// The name of an element type that we do not know.
    #[error("unknown element type `{name}`; known are {known}")]
    UnknownDType {
        /// The name as given.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A text that is not a byte size.
    #[error(
        "`{text}` is not a size; write a number with B, KB, MB, GB, TB (powers of 1000) or K, M, G, T, KiB, MiB, GiB, TiB (powers of 1024)"
    )]
    NotASize {
        /// The text as given.
        text: String,
    },
    /// Integers, booleans and 8-bit floats are read, but not turned into floating-point weights.
    #[error("cannot convert elements of {from} to {to}")]
    NoConversion {
        /// The element type at hand.
        from: &'static str,
        /// The one asked for.
        to: &'static str,
    },
}
