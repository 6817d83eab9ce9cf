use llm_tensor::DType;

/// Errors of a quantized matrix, or of a wish for one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// A name that stands for no 4-bit code.
    #[error("unknown 4-bit encoding `{name}`; known are nf4 and fp4")]
    UnknownCode {
        /// The name as given.
        name: String,
    },
    /// Bytes that are not as many as the matrix needs.
    #[error("{what} of a matrix [{rows}, {cols}] in {scheme} take {expected} bytes, found {found}")]
    Length {
        /// Part of the matrix.
        what: &'static str,
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// The scheme's name.
        scheme: String,
        /// Bytes of the scheme.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// Elements that are no numbers to compute with.
    #[error("elements of {scheme} are no numbers to compute with")]
    NoNumbers {
        /// The encoding.
        scheme: String,
    },
    /// Scales of scales that are not as many as the scales need.
    #[error(
        "the scales of {n_blocks} doubly quantized scales take {expected} bytes, found {found}"
    )]
    NestedLength {
        /// Blocks, hence scales, of the matrix.
        n_blocks: u64,
        /// Bytes of their scales.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// A value of a configuration, or of what is written beside a matrix, that cannot be meant.
    #[error("`{key}` is {found}, expected {expected}")]
    BadValue {
        /// The key.
        key: String,
        /// The value as JSON.
        found: String,
        /// Values that are understood.
        expected: String,
    },
    /// An entry of a list of modules that are not quantized, which is a regular expression that is not understood.
    #[error(
        "`llm_int8_skip_modules` has `{module}`, which is not understood as a regular expression: {reason}"
    )]
    SkipModule {
        /// The entry.
        module: String,
        /// Problem found in it.
        reason: String,
    },
    /// A key that nothing here reads, and that may change what the others mean.
    #[error("key `{key}` is not understood, and so not safe to ignore; understood are {known}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The keys that we know.
        known: String,
    },
    /// A configuration of another library.
    #[error(
        "weights quantized by `{found}` are not understood; understood are those of bitsandbytes (LLM.int8(), nf4, fp4), gptq, awq, compressed-tensors, modelopt, mxfp4 and fp8"
    )]
    UnknownMethod {
        /// The configuration's `quant_method`.
        found: String,
    },
    /// State of a 4-bit matrix that is no JSON object.
    #[error("the state of a 4-bit matrix is no JSON object of at most {limit} bytes: {reason}")]
    NoState {
        /// Bytes that it may have.
        limit: usize,
        /// Problem found in it.
        reason: String,
    },
    /// Packed codes that are no whole number of the elements that they are to be declared as.
    #[error("{n_bytes} bytes of codes are no whole number of {storage} elements; u8 always fits")]
    Storage {
        /// Bytes of the codes.
        n_bytes: u64,
        /// The element type to be declared.
        storage: DType,
    },
    /// An 8-bit matrix whose elements do not lie row by row.
    #[error(
        "the 8-bit matrix lies in the order `{found}`, expected `row`: load and save it anew with bitsandbytes 0.45 or later"
    )]
    WeightFormat {
        /// The order's name.
        found: String,
    },
}
