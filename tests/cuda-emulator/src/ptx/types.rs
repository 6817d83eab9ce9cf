//! Element types of PTX.

/// Type of an operand or a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    B8,
    B16,
    B32,
    B64,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
    Tf32,
    F32,
    F64,
    Pred,
}

impl Type {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, ty)| *ty)
    }

    /// Bytes in memory; a predicate has none there, and counts as one.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::S8 | Self::B8 | Self::Pred => 1,
            Self::U16 | Self::S16 | Self::B16 | Self::F16 | Self::Bf16 => 2,
            Self::U32
            | Self::S32
            | Self::B32
            | Self::F16x2
            | Self::Bf16x2
            | Self::Tf32
            | Self::F32 => 4,
            Self::U64 | Self::S64 | Self::B64 | Self::F64 => 8,
        }
    }

    pub(crate) fn is_wide(self) -> bool {
        self.bytes() == 8
    }
}

const NAMES: [(&str, Type); 20] = [
    ("u8", Type::U8),
    ("u16", Type::U16),
    ("u32", Type::U32),
    ("u64", Type::U64),
    ("s8", Type::S8),
    ("s16", Type::S16),
    ("s32", Type::S32),
    ("s64", Type::S64),
    ("b8", Type::B8),
    ("b16", Type::B16),
    ("b32", Type::B32),
    ("b64", Type::B64),
    ("f16", Type::F16),
    ("bf16", Type::Bf16),
    ("f16x2", Type::F16x2),
    ("bf16x2", Type::Bf16x2),
    ("tf32", Type::Tf32),
    ("f32", Type::F32),
    ("f64", Type::F64),
    ("pred", Type::Pred),
];
