//! Causes of numbers that are not finite.

use std::fmt;
use std::path::PathBuf;

use llm_arch::Unit;
use llm_tensor::DType;

/// Cause of a number that is not finite.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum NotFinite {
    /// The checkpoint holds such a number.
    Stored {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// NaN or an infinity.
        value: f32,
    },
    /// A weight is too large for the type that it is kept in.
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The weight.
        value: f32,
        /// The type.
        dtype: DType,
    },
    /// A unit made them of finite ones.
    Made {
        /// The unit.
        unit: Unit,
        /// The type that its weights are kept in.
        dtype: DType,
    },
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotFinite::Stored {
                path,
                tensor,
                value,
            } => {
                let path = path.display();
                write!(f, "tensor `{tensor}` in {path} holds {value}")
            }
            NotFinite::TooLarge {
                path,
                tensor,
                value,
                dtype,
            } => {
                let path = path.display();
                write!(
                    f,
                    "tensor `{tensor}` in {path} holds {value:e}, which is an infinity in {dtype}: {}",
                    wider(*dtype)
                )
            }
            NotFinite::Made { unit, dtype } => {
                write!(f, "{unit} makes them of finite numbers and finite weights")?;
                match dtype {
                    DType::F32 => {
                        f.write_str(", in f32: these may not be the weights that were trained")
                    }
                    dtype => write!(f, ", which are kept in {dtype}: {}", wider(*dtype)),
                }
            }
        }
    }
}

/// Advice of an element type that holds larger numbers.
fn wider(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "try --dtype bf16, or --dtype f32",
        _ => "try --dtype f32",
    }
}
