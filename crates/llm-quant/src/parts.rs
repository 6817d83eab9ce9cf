//! Parts of a matrix in a [`Scheme`], and their sizes.

use llm_tensor::{Bytes, DType};

use crate::double::NESTED_BLOCK;
use crate::scheme::Scheme;
use crate::{Code, Table};

/// Meaning of some bytes of a matrix that is kept in a [`Scheme`], or of a tensor beside it in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The elements, or their codes.
    Weight,
    /// The scales of 4-bit blocks, or their codes.
    Absmax,
    /// The value of each 4-bit code.
    QuantMap,
    /// The scales of groups of doubly quantized scales.
    NestedAbsmax,
    /// The value of each code of a doubly quantized scale.
    NestedQuantMap,
    /// The number that is added to all doubly quantized scales. Files have it in their [`Part::State`].
    NestedOffset,
    /// A [`QuantState`](crate::layout::QuantState) in JSON: of files alone.
    State(Code),
    /// The scales of 8-bit rows.
    Scb,
    /// The scales of blocks of 8-bit floating-point numbers, or of groups of codes. Files have them under several names.
    Scales,
    /// The zeros of groups of codes, a byte each.
    Zeros,
    /// The one number that belongs to all scales of a matrix, in f32.
    GlobalScale,
    /// The position of the code of each column among its row's, as u32.
    Order,
    /// The order that 8-bit elements lie in, see [`check_weight_format`](crate::layout::check_weight_format): of files
    /// alone.
    WeightFormat,
}

/// One of the parts that a matrix is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartInfo {
    /// Its name in files behind that of the module, as `weight.absmax`.
    pub name: &'static str,
    /// The type of its elements.
    pub dtype: DType,
    /// Size in bytes.
    pub bytes: u64,
}

/// Something for each part of a matrix, in the order of [`Scheme::parts`]; a handful, kept in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts<T> {
    entries: [Option<(Part, T)>; MAX_PARTS],
}

/// Bytes of a matrix in a scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoredBytes {
    /// The elements.
    pub elements: Bytes,
    /// Scales and tables that decode the elements.
    pub statistics: Bytes,
}

impl Scheme {
    /// The parts of a matrix `[rows, cols]`: the one list of them, and the one size formula, on disk and in memory. On
    /// disk there is, beside it, a line of JSON for each 4-bit matrix and one byte for each 8-bit matrix.
    pub fn parts(self, rows: u64, cols: u64) -> Parts<PartInfo> {
        let n = rows * cols;
        let mut parts = Parts::default();
        let mut add = |part: Part, dtype: DType, n_elements: u64| {
            let info = PartInfo {
                name: part.suffix(),
                dtype,
                bytes: n_elements * dtype.size() as u64,
            };
            parts.insert(part, info);
        };
        match self {
            Scheme::Dense(dtype) | Scheme::Int8PerUse(dtype, _) => add(Part::Weight, dtype, n),
            Scheme::Int8(_) => {
                add(Part::Weight, DType::I8, n);
                add(Part::Scb, DType::F32, rows);
            }
            Scheme::FourBit(format) => {
                let n_blocks = format.n_blocks(n);
                add(Part::Weight, DType::U8, n.div_ceil(2));
                match format.double_quant {
                    false => add(Part::Absmax, DType::F32, n_blocks),
                    true => add(Part::Absmax, DType::U8, n_blocks),
                }
                add(Part::QuantMap, DType::F32, size_of::<Table>() as u64 / 4);
                if format.double_quant {
                    let n_groups = n_blocks.div_ceil(NESTED_BLOCK as u64);
                    add(Part::NestedAbsmax, DType::F32, n_groups);
                    add(Part::NestedQuantMap, DType::F32, 256);
                    add(Part::NestedOffset, DType::F32, 1);
                }
            }
            Scheme::Ggml(ty) => {
                let n_blocks = rows * cols.div_ceil(ty.block_len() as u64);
                add(Part::Weight, DType::U8, n_blocks * ty.block_bytes() as u64);
            }
            Scheme::Fp8(format) => {
                let [n_rows, n_cols] = format.grid(rows, cols);
                add(Part::Weight, format.dtype, n);
                add(Part::Scales, format.scale, n_rows * n_cols);
            }
            Scheme::Grouped(format) => {
                let n_groups = rows * format.n_groups(cols);
                add(
                    Part::Weight,
                    format.code_dtype(),
                    rows * format.row_bytes(cols),
                );
                add(Part::Scales, format.scale, n_groups);
                if format.zeros {
                    add(Part::Zeros, DType::U8, n_groups);
                }
                if format.global.is_some() {
                    add(Part::GlobalScale, DType::F32, 1);
                }
                if format.order {
                    add(Part::Order, DType::U32, cols);
                }
            }
        }
        parts
    }

    /// Size of a matrix `[rows, cols]`: the sum over [`Scheme::parts`].
    pub fn stored_bytes(self, rows: u64, cols: u64) -> StoredBytes {
        StoredBytes::sum(self.parts(rows, cols).map(|_, info| info.bytes))
    }
}

impl StoredBytes {
    /// Both together.
    pub fn total(self) -> Bytes {
        self.elements + self.statistics
    }

    pub(crate) fn sum(parts: Parts<u64>) -> Self {
        let mut sum = StoredBytes::default();
        for (part, bytes) in parts {
            match part {
                Part::Weight => sum.elements += Bytes::new(bytes),
                Part::Absmax
                | Part::QuantMap
                | Part::NestedAbsmax
                | Part::NestedQuantMap
                | Part::NestedOffset
                | Part::State(_)
                | Part::Scb
                | Part::Scales
                | Part::Zeros
                | Part::GlobalScale
                | Part::Order
                | Part::WeightFormat => sum.statistics += Bytes::new(bytes),
            }
        }
        sum
    }
}

impl Part {
    /// All that bitsandbytes has tensors of, the weight last, since it is what no other is.
    pub const IN_FILES: [Part; 9] = [
        Part::Absmax,
        Part::QuantMap,
        Part::NestedAbsmax,
        Part::NestedQuantMap,
        Part::State(Code::Nf4),
        Part::State(Code::Fp4),
        Part::Scb,
        Part::WeightFormat,
        Part::Weight,
    ];

    /// Suffix behind the module's name, `X.`.
    const fn suffix(self) -> &'static str {
        match self {
            Part::Weight => "weight",
            Part::Absmax => "weight.absmax",
            Part::QuantMap => "weight.quant_map",
            Part::NestedAbsmax => "weight.nested_absmax",
            Part::NestedQuantMap => "weight.nested_quant_map",
            Part::NestedOffset => "weight.nested_offset",
            Part::State(Code::Nf4) => "weight.quant_state.bitsandbytes__nf4",
            Part::State(Code::Fp4) => "weight.quant_state.bitsandbytes__fp4",
            Part::Scb => "SCB",
            Part::Scales => "weight_scale_inv",
            Part::Zeros => "weight_zero_point",
            Part::GlobalScale => "weight_global_scale",
            Part::Order => "weight_order",
            Part::WeightFormat => "weight_format",
        }
    }

    /// True if files have a tensor of it.
    pub const fn is_in_files(self) -> bool {
        !matches!(self, Part::NestedOffset)
    }

    /// The name of the part of the matrix `weight`.
    ///
    /// # Panics
    /// When that is not called `X.weight`; only such matrices are quantized.
    pub fn name(self, weight: &str) -> String {
        let module = weight.strip_suffix(Part::Weight.suffix());
        let module = module.filter(|module| module.is_empty() || module.ends_with('.'));
        let module = module.unwrap_or_else(|| panic!("`{weight}` is not called X.weight"));
        format!("{module}{}", self.suffix())
    }

    /// The matrix that a tensor belongs to, `X.weight`, and as what; `None` for what no quantized matrix has.
    pub fn of_name(name: &str) -> Option<(String, Part)> {
        Part::IN_FILES.into_iter().find_map(|part| {
            let module = name.strip_suffix(part.suffix())?;
            let whole = module.is_empty() || module.ends_with('.');
            whole.then(|| (format!("{module}{}", Part::Weight.suffix()), part))
        })
    }
}

impl<T> Parts<T> {
    /// Of a matrix whose elements are all that it has.
    pub fn weight(weight: T) -> Self {
        Parts::from_iter([(Part::Weight, weight)])
    }

    /// Adds a part, behind the others.
    ///
    /// # Panics
    /// When it is there already, or when there are more than any scheme has.
    pub fn insert(&mut self, part: Part, value: T) {
        assert!(self.get(part).is_none(), "{part:?} is there twice");
        let free = self.entries.iter_mut().find(|entry| entry.is_none());
        *free.expect("no scheme has more parts") = Some((part, value));
    }

    /// Value of `part`, if any.
    pub fn get(&self, part: Part) -> Option<&T> {
        self.iter()
            .find_map(|(has, value)| (has == part).then_some(value))
    }

    /// Each part, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Part, &T)> {
        let entries = self.entries.iter().flatten();
        entries.map(|(part, value)| (*part, value))
    }

    /// The same parts with what `f` makes of each.
    pub fn map<U>(self, mut f: impl FnMut(Part, T) -> U) -> Parts<U> {
        Parts {
            entries: self
                .entries
                .map(|entry| entry.map(|(part, value)| (part, f(part, value)))),
        }
    }

    /// The same parts with what `f` makes of each, or its first error.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn try_map<U, E>(self, mut f: impl FnMut(Part, T) -> Result<U, E>) -> Result<Parts<U>, E> {
        self.into_iter()
            .map(|(part, value)| Ok((part, f(part, value)?)))
            .collect()
    }

    /// The same parts, borrowed.
    pub fn as_ref(&self) -> Parts<&T> {
        self.iter().collect()
    }
}

impl<T> Default for Parts<T> {
    fn default() -> Self {
        Parts {
            entries: std::array::from_fn(|_| None),
        }
    }
}

impl<T> FromIterator<(Part, T)> for Parts<T> {
    fn from_iter<I: IntoIterator<Item = (Part, T)>>(entries: I) -> Self {
        let mut parts = Parts::default();
        for (part, value) in entries {
            parts.insert(part, value);
        }
        parts
    }
}

impl<T> IntoIterator for Parts<T> {
    type Item = (Part, T);
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<(Part, T)>, MAX_PARTS>>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter().flatten()
    }
}

/// Codes, scales and values of codes, and of scales that are codes their scales, values and offset.
const MAX_PARTS: usize = 6;
