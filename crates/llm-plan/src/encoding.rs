use llm_arch::{Role, Slot, Stored, TensorKind};
use llm_quant::{GgmlType, QuantConfig, Scheme};
use llm_tensor::DType;

use crate::RunOn;

/// Element type of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightDType {
    /// The one that the configuration names, else each tensor's own. Matrices in GGUF's blocks stay in them where they are computed with so;
    /// what else is in blocks decodes to bf16.
    Auto,
    /// This one.
    As(DType),
}

/// Form in which a checkpoint holds a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StoredTensor {
    /// The encoding.
    pub scheme: Scheme,
    /// The order of its elements in the file.
    pub order: Order,
}

/// Order of the elements of a tensor in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One after the other.
    Rows,
    /// Otherwise, or with gaps, as views are in PyTorch's files.
    Strided,
}

impl StoredTensor {
    /// A tensor in order.
    pub const fn in_order(scheme: Scheme) -> Self {
        StoredTensor {
            scheme,
            order: Order::Rows,
        }
    }

    /// The scheme of a matrix in the layout of bitsandbytes, which is computed with as it is stored whatever is asked for.
    pub const fn quantized(self) -> Option<Scheme> {
        match self.scheme {
            Scheme::Int8(_) | Scheme::FourBit(_) => Some(self.scheme),
            // What these become is a matter of what is asked for.
            Scheme::Ggml(_) | Scheme::Fp8(_) | Scheme::Grouped(_) => None,
            Scheme::Dense(_) | Scheme::Int8PerUse(..) => None,
        }
    }

    /// True if a matrix that is to be kept in `scheme` is stored in it, in codes: its parts are taken as they are.
    pub fn stays_in(self, scheme: Scheme) -> bool {
        match self.scheme {
            Scheme::Dense(_) | Scheme::Int8PerUse(..) => false,
            Scheme::Int8(_)
            | Scheme::FourBit(_)
            | Scheme::Ggml(_)
            | Scheme::Fp8(_)
            | Scheme::Grouped(_) => self.scheme == scheme,
        }
    }

    /// True if the format is one of published files that a processor computes with.
    pub(crate) const fn is_packed(self) -> bool {
        match self.scheme {
            Scheme::Ggml(_) | Scheme::Fp8(_) | Scheme::Grouped(_) => true,
            Scheme::Dense(_) | Scheme::Int8PerUse(..) | Scheme::Int8(_) | Scheme::FourBit(_) => {
                false
            }
        }
    }

    /// The same for GPUs.
    pub(crate) const fn is_packed_on_gpu(self) -> bool {
        self.is_packed() && gpus_compute_with(self.scheme)
    }
}

/// True of a scheme that GPUs have kernels for; weights in others they compute with decoded.
pub const fn gpus_compute_with(scheme: Scheme) -> bool {
    match scheme {
        Scheme::Dense(dtype) | Scheme::Int8PerUse(dtype, _) => dtype.is_weight(),
        Scheme::Int8(_) | Scheme::FourBit(_) => true,
        // Codes that name points of a grid are not looked up there.
        Scheme::Ggml(
            GgmlType::IQ2XXS
            | GgmlType::IQ2XS
            | GgmlType::IQ2S
            | GgmlType::IQ3XXS
            | GgmlType::IQ3S
            | GgmlType::IQ1S
            | GgmlType::IQ1M,
        ) => false,
        Scheme::Ggml(
            GgmlType::Q4_0
            | GgmlType::Q4_1
            | GgmlType::Q5_0
            | GgmlType::Q5_1
            | GgmlType::Q8_0
            | GgmlType::Q2K
            | GgmlType::Q3K
            | GgmlType::Q4K
            | GgmlType::Q5K
            | GgmlType::Q6K
            | GgmlType::IQ4NL
            | GgmlType::IQ4XS
            | GgmlType::TQ1_0
            | GgmlType::TQ2_0
            | GgmlType::MXFP4
            | GgmlType::NVFP4,
        ) => true,
        Scheme::Fp8(format) => {
            let is_known = matches!(format.dtype, DType::F8E4M3 | DType::F8E5M2);
            is_known && (format.scale.is_weight() || is_exponent(format.scale))
        }
        // A row is multiplied in the order of its columns.
        Scheme::Grouped(format) => {
            let has_scales = format.scale.is_weight()
                || is_exponent(format.scale)
                || matches!(format.scale, DType::F8E4M3);
            !format.order && has_scales
        }
    }
}

const fn is_exponent(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::F8E8M0)
}

/// Encodings of a model's tensors once they are loaded: what a plan counts, a loader writes and `inspect` lists.
#[derive(Debug, Clone, Copy)]
pub struct Encodings<'a> {
    /// The element type asked for.
    pub dtype: WeightDType,
    /// The one that the configuration names.
    pub config_dtype: Option<DType>,
    /// The quantization asked for.
    pub quant: Option<&'a QuantConfig>,
}

impl Encodings<'_> {
    /// Scheme of `slot`, given how the checkpoint holds it and which device computes with it.
    ///
    /// A matrix quantized already stays as it is, unless it is multiplied from both sides; in a format of published files it does where neither an element type
    /// nor a quantization is asked for and the device that computes with it has kernels for it. Of the rest the
    /// projections are quantized, unless they are wide; the head is not; and where the user lists modules not to quantize,
    /// that list decides instead, for the head too.
    pub fn scheme(&self, slot: &Slot, stored: StoredTensor, run_on: RunOn) -> Scheme {
        if let Some(scheme) = stored.quantized()
            && slot.kind != TensorKind::Both
        {
            return scheme;
        }
        if self.stays_packed(slot, stored, run_on) {
            return stored.scheme;
        }
        if slot.kind == TensorKind::Single {
            return Scheme::Dense(DType::F32);
        }
        let dtype = self.dense_dtype(stored);
        let dense = match (slot.kind, dtype) {
            (TensorKind::WideProjection, DType::F16) => DType::F32,
            _ => dtype,
        };
        let Some(quant) = self.quant else {
            return Scheme::Dense(dense);
        };
        let module = slot.name.strip_suffix(".weight").unwrap_or(&slot.name);
        let is_quantized = match slot.kind {
            TensorKind::Projection => quant.skips(module) != Some(true),
            TensorKind::Head => quant.skips(module) == Some(false),
            TensorKind::WideProjection
            | TensorKind::Both
            | TensorKind::Other
            | TensorKind::Single => false,
        };
        if !is_quantized {
            return Scheme::Dense(dense);
        }
        if self.keeps_cpu_in_f32() && run_on == RunOn::Cpu {
            return Scheme::Dense(DType::F32);
        }
        match quant.scheme() {
            // Sixteen bits is what stays of wider weights; narrower ones are not made wider.
            Scheme::Int8PerUse(_, format) if dense == DType::BF16 => {
                Scheme::Int8PerUse(DType::BF16, format)
            }
            scheme => scheme,
        }
    }

    /// True of a matrix in a format of published files that is computed with as it is: whole, in order, and where nothing
    /// else is asked for.
    fn stays_packed(&self, slot: &Slot, stored: StoredTensor, run_on: RunOn) -> bool {
        let is_in_order = match stored.scheme {
            // Codes are brought into order while they are read.
            Scheme::Grouped(_) => true,
            Scheme::Dense(_)
            | Scheme::Int8PerUse(..)
            | Scheme::Int8(_)
            | Scheme::FourBit(_)
            | Scheme::Ggml(_)
            | Scheme::Fp8(_) => stored.order == Order::Rows,
        };
        let is_whole = slot.stored == Stored::AsIs && is_in_order;
        let is_matrix = matches!(slot.shape.as_slice(), [_, _])
            && !becomes_table(slot.role)
            && slot.kind != TensorKind::Both;
        let is_other_asked_for = match self.dtype {
            WeightDType::Auto => self.quant.is_some(),
            WeightDType::As(_) => true,
        };
        let is_computed_with = match run_on {
            RunOn::Cpu => true,
            RunOn::Gpu(_) => stored.is_packed_on_gpu(),
        };
        stored.is_packed() && is_whole && is_matrix && !is_other_asked_for && is_computed_with
    }

    /// True if devices of different kinds may keep a model that is `stored` so in different encodings.
    pub fn differ_by_device(&self, stored: &[StoredTensor]) -> bool {
        let differs = |stored: &StoredTensor| stored.is_packed() && !stored.is_packed_on_gpu();
        self.keeps_cpu_in_f32() || stored.iter().any(differs)
    }

    /// True where what would be quantized stays in 32 bits on the CPU, and so computes there:
    /// `llm_int8_enable_fp32_cpu_offload`.
    pub fn keeps_cpu_in_f32(&self) -> bool {
        self.quant
            .is_some_and(|quant| quant.llm_int8_enable_fp32_cpu_offload)
    }

    /// The element type of what is not quantized; what is, is rounded to it first.
    pub fn dense_dtype(&self, stored: StoredTensor) -> DType {
        match (self.dtype, self.config_dtype) {
            (WeightDType::As(dtype), _) | (WeightDType::Auto, Some(dtype)) => dtype,
            (WeightDType::Auto, None) => match stored.scheme.elements() {
                Some(dtype) if dtype.is_weight() => dtype,
                // What is left of floating point is f64, which nothing computes with.
                Some(dtype) if !dtype.is_float8() => DType::F32,
                // All of the numbers of 8 bits are among those of bf16.
                Some(_) | None => DType::BF16,
            },
        }
    }

    /// The element type of keys and values, given how the table of tokens is held.
    pub fn kv_dtype(&self, table: StoredTensor) -> DType {
        self.dense_dtype(table)
    }
}

/// Roles that are not kept: the runtime makes a table of its own of them, which counts as activations.
pub fn becomes_table(role: Role) -> bool {
    matches!(role, Role::RelativeBias | Role::RopeFactors)
}
