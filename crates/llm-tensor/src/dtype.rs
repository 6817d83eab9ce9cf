use std::fmt;
use std::str::FromStr;

use crate::TensorError;

/// The types, each with the size of an element, its short name and PyTorch's.
macro_rules! dtypes {
    ($($(#[$doc:meta])* $dtype:ident $size:literal $name:literal $torch_name:literal;)+) => {
        /// The type of one element as it is stored, in a file or in memory; always little-endian.
        ///
        /// Exhaustive on purpose: a new element type must be considered wherever one is matched.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "the names are the field's own")]
        pub enum DType {
            $($(#[$doc])* $dtype,)+
        }

        impl DType {
            /// Every element type.
            pub const ALL: [DType; FACTS.len()] = [$(DType::$dtype),+];
        }

        const FACTS: &[(usize, &str, &str)] = &[$(($size, $name, $torch_name)),+];
    };
}

dtypes! {
    F64 8 "f64" "float64";
    F32 4 "f32" "float32";
    F16 2 "f16" "float16";
    BF16 2 "bf16" "bfloat16";
    F8E4M3 1 "f8e4m3" "float8_e4m3fn";
    F8E5M2 1 "f8e5m2" "float8_e5m2";
    F8E4M3FNUZ 1 "f8e4m3fnuz" "float8_e4m3fnuz";
    F8E5M2FNUZ 1 "f8e5m2fnuz" "float8_e5m2fnuz";
    /// A power of two, which only scales are.
    F8E8M0 1 "f8e8m0" "float8_e8m0fnu";
    /// A complex number of two f32.
    C64 8 "c64" "complex64";
    I64 8 "i64" "int64";
    I32 4 "i32" "int32";
    I16 2 "i16" "int16";
    I8 1 "i8" "int8";
    U64 8 "u64" "uint64";
    U32 4 "u32" "uint32";
    U16 2 "u16" "uint16";
    U8 1 "u8" "uint8";
    Bool 1 "bool" "bool";
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        FACTS[self as usize].0
    }

    /// The short name that we print and that flags take, as `bf16`.
    pub const fn name(self) -> &'static str {
        FACTS[self as usize].1
    }

    /// The name in PyTorch and in `config.json` (`dtype`, formerly `torch_dtype`), as `bfloat16`.
    pub const fn torch_name(self) -> &'static str {
        FACTS[self as usize].2
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
