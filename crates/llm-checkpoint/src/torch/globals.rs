//! The names that a pickle may use: an allow-list.

use std::fmt;

use llm_tensor::DType;

/// Meaning of a name. None of it is code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// A function that makes an empty mapping.
    Mapping,
    /// `(storage, offset, size, stride, ..)` make a tensor of the storage's elements.
    Tensor,
    /// The same, with the type of the elements as the seventh argument.
    TensorOfType,
    /// `(tensor, ..)` make a parameter, which is a tensor.
    Parameter,
    /// `(function, class, arguments, state)`: a tensor with attributes, or of a derived class.
    FromType,
    /// A function that makes tensors of a kind that we cannot read.
    UnreadableTensor(&'static str),
    /// A function that makes a tuple of one.
    Size,
    /// The class of a storage, which says what its elements are.
    StorageClass(&'static Elements),
    /// A type of elements.
    ElementType(&'static Elements),
    /// Anything that describes no weights.
    Other,
}

impl Global {
    /// Meaning of `name` of Python module `module`, if it is allowed.
    pub(super) fn find(module: &str, name: &str) -> Option<Global> {
        Some(match (module, name) {
            ("collections", "OrderedDict" | "defaultdict") => Global::Mapping,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::Tensor,
            ("torch._utils", "_rebuild_tensor_v3") => Global::TensorOfType,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Global::Parameter
            }
            ("torch._tensor", "_rebuild_from_type_v2") => Global::FromType,
            ("torch._utils", "_rebuild_qtensor") => Global::UnreadableTensor("a quantized tensor"),
            ("torch._utils", "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor") => {
                Global::UnreadableTensor("a sparse tensor")
            }
            ("torch._utils", "_rebuild_nested_tensor") => {
                Global::UnreadableTensor("a nested tensor")
            }
            ("torch._utils", "_rebuild_meta_tensor_no_storage") => {
                Global::UnreadableTensor("a meta tensor, without elements")
            }
            ("torch", "Size") => Global::Size,
            ("torch" | "torch.storage", "UntypedStorage") => Global::StorageClass(&UNTYPED),
            (
                "torch",
                "Tensor"
                | "device"
                | "per_tensor_affine"
                | "per_channel_affine"
                | "per_tensor_symmetric"
                | "per_channel_symmetric"
                | "per_channel_affine_float_qparams",
            )
            | ("torch._tensor", "Tensor")
            | ("torch.nn.parameter", "Parameter" | "Buffer")
            | ("torch.serialization", "_get_layout")
            | ("collections", "Counter")
            | ("_codecs", "encode")
            | (
                "builtins" | "__builtin__",
                "bytearray" | "complex" | "dict" | "float" | "frozenset" | "int" | "list" | "set",
            ) => Global::Other,
            ("torch" | "torch.cuda", name) if name.ends_with("Storage") => {
                Global::StorageClass(ELEMENTS.iter().find(|e| e.storage == name)?)
            }
            ("torch", name) => Global::ElementType(ELEMENTS.iter().find(|e| e.name == name)?),
            _ => return None,
        })
    }
}

/// A type of elements as PyTorch knows it.
#[derive(PartialEq, Eq)]
pub(super) struct Elements {
    /// Its name in module `torch`.
    pub(super) name: &'static str,
    /// The class of storages of such elements; empty where there is none.
    storage: &'static str,
    /// Bytes of an element.
    pub(super) n_bytes: u64,
    /// The same as we know it, if we do.
    pub(super) dtype: Option<DType>,
}

impl fmt::Debug for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Bytes whose meaning each tensor says for itself.
static UNTYPED: Elements = Elements {
    name: UNTYPED_NAME,
    storage: "UntypedStorage",
    n_bytes: 1,
    dtype: None,
};

pub(super) const UNTYPED_NAME: &str = "untyped";

const fn known(dtype: DType, storage: &'static str) -> Elements {
    Elements {
        name: dtype.torch_name(),
        storage,
        n_bytes: dtype.size() as u64,
        dtype: Some(dtype),
    }
}

const fn unknown(name: &'static str, storage: &'static str, n_bytes: u64) -> Elements {
    Elements {
        name,
        storage,
        n_bytes,
        dtype: None,
    }
}

static ELEMENTS: [Elements; 29] = [
    known(DType::F64, "DoubleStorage"),
    known(DType::F32, "FloatStorage"),
    known(DType::F16, "HalfStorage"),
    known(DType::BF16, "BFloat16Storage"),
    known(DType::F8E4M3, ""),
    known(DType::F8E5M2, ""),
    known(DType::F8E4M3FNUZ, ""),
    known(DType::F8E5M2FNUZ, ""),
    known(DType::F8E8M0, ""),
    known(DType::C64, "ComplexFloatStorage"),
    known(DType::U64, ""),
    known(DType::U32, ""),
    known(DType::U16, ""),
    known(DType::I64, "LongStorage"),
    known(DType::I32, "IntStorage"),
    known(DType::I16, "ShortStorage"),
    known(DType::I8, "CharStorage"),
    known(DType::U8, "ByteStorage"),
    known(DType::Bool, "BoolStorage"),
    unknown("complex128", "ComplexDoubleStorage", 16),
    unknown("complex32", "", 4),
    unknown("bits8", "", 1),
    unknown("bits16", "", 2),
    unknown("float4_e2m1fn_x2", "", 1),
    unknown("qint8", "QInt8Storage", 1),
    unknown("quint8", "QUInt8Storage", 1),
    unknown("qint32", "QInt32Storage", 4),
    unknown("quint4x2", "QUInt4x2Storage", 1),
    unknown("quint2x4", "QUInt2x4Storage", 1),
];
