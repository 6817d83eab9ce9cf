use std::fmt;
use std::str::FromStr;

use crate::TensorError;

/// The type of one element as it is stored, in a file or in memory; always little-endian.
///
/// Exhaustive on purpose: a new element type must be considered wherever one is matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the field's own")]
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    F8E4M3FNUZ,
    F8E5M2FNUZ,
    /// A power of two, which only scales are.
    F8E8M0,
    /// A complex number of two f32.
    C64,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

impl DType {
    /// Every element type.
    pub const ALL: [DType; 19] = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F8E4M3,
        DType::F8E5M2,
        DType::F8E4M3FNUZ,
        DType::F8E5M2FNUZ,
        DType::F8E8M0,
        DType::C64,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
        DType::Bool,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::C64 | DType::I64 | DType::U64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3FNUZ | DType::F8E5M2FNUZ => 1,
            DType::F8E8M0 | DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// The short name that we print and that flags take, as `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F8E4M3 => "f8e4m3",
            DType::F8E5M2 => "f8e5m2",
            DType::F8E4M3FNUZ => "f8e4m3fnuz",
            DType::F8E5M2FNUZ => "f8e5m2fnuz",
            DType::F8E8M0 => "f8e8m0",
            DType::C64 => "c64",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::I16 => "i16",
            DType::I8 => "i8",
            DType::U64 => "u64",
            DType::U32 => "u32",
            DType::U16 => "u16",
            DType::U8 => "u8",
            DType::Bool => "bool",
        }
    }

    /// The name in PyTorch and in `config.json` (`dtype`, formerly `torch_dtype`), as `bfloat16`.
    pub const fn torch_name(self) -> &'static str {
        match self {
            DType::F64 => "float64",
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            DType::F8E4M3 => "float8_e4m3fn",
            DType::F8E5M2 => "float8_e5m2",
            DType::F8E4M3FNUZ => "float8_e4m3fnuz",
            DType::F8E5M2FNUZ => "float8_e5m2fnuz",
            DType::F8E8M0 => "float8_e8m0fnu",
            DType::C64 => "complex64",
            DType::I64 => "int64",
            DType::I32 => "int32",
            DType::I16 => "int16",
            DType::I8 => "int8",
            DType::U64 => "uint64",
            DType::U32 => "uint32",
            DType::U16 => "uint16",
            DType::U8 => "uint8",
            DType::Bool => "bool",
        }
    }

    /// True if dense weights can be kept in this type and computed with.
    pub const fn is_weight(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }

    /// True if its elements are numbers that weights can be: of floating point, though perhaps not to be computed with
    /// as they are.
    pub const fn is_float(self) -> bool {
        match self {
            DType::F64 | DType::F32 | DType::F16 | DType::BF16 => true,
            DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3FNUZ | DType::F8E5M2FNUZ => true,
            DType::F8E8M0 | DType::C64 => false,
            DType::I64 | DType::I32 | DType::I16 | DType::I8 => false,
            DType::U64 | DType::U32 | DType::U16 | DType::U8 | DType::Bool => false,
        }
    }

    /// True if an element is a floating-point number of eight bits.
    pub const fn is_float8(self) -> bool {
        self.is_float() && self.size() == 1
    }

    pub(crate) fn names() -> String {
        Self::ALL.map(DType::name).join(", ")
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Takes the short name, PyTorch's name and other common ones, as `bf16`, `bfloat16`, `torch.bfloat16`, `half`, `fp16`.
impl FromStr for DType {
    type Err = TensorError;

    fn from_str(name: &str) -> Result<Self, TensorError> {
        let bare = name
            .strip_prefix("torch.")
            .unwrap_or(name)
            .to_ascii_lowercase();
        let alias = match bare.as_str() {
            "float" | "fp32" => "f32",
            "half" | "fp16" => "f16",
            "double" | "fp64" => "f64",
            other => other,
        };
        Self::ALL
            .into_iter()
            .find(|d| d.name() == alias || d.torch_name() == alias)
            .ok_or_else(|| TensorError::UnknownDType {
                name: name.to_owned(),
                known: Self::names(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back() {
        for dtype in DType::ALL {
            for name in [
                dtype.name().to_owned(),
                dtype.torch_name().to_owned(),
                format!("torch.{}", dtype.torch_name()),
            ] {
                assert_eq!(name.parse(), Ok(dtype), "{name}");
            }
        }
        for (name, dtype) in [
            ("half", DType::F16),
            ("fp16", DType::F16),
            ("FP16", DType::F16),
            ("float", DType::F32),
            ("fp32", DType::F32),
            ("fp64", DType::F64),
            ("BFloat16", DType::BF16),
        ] {
            assert_eq!(name.parse(), Ok(dtype), "{name}");
        }
        let error = "int3".parse::<DType>().unwrap_err().to_string();
        assert!(
            error.contains("`int3`") && error.contains("bf16"),
            "{error}"
        );
    }
}
