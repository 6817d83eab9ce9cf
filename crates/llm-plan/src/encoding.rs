use llm_arch::{Slot, TensorKind};
use llm_quant::{QuantConfig, Scheme};
use llm_tensor::DType;

use crate::RunOn;

/// Element type of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightDType {
    /// The one that the configuration names, else each tensor's own; GGUF's quantized blocks decode to bf16.
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

    /// The scheme of a matrix quantized by bitsandbytes, which every device computes with as it is stored.
    pub const fn quantized(self) -> Option<Scheme> {
        match self.scheme {
            Scheme::Int8(_) | Scheme::FourBit(_) => Some(self.scheme),
            Scheme::Ggml(_) | Scheme::Fp8(_) | Scheme::Grouped(_) => None,
            Scheme::Dense(_) | Scheme::Int8PerUse(..) => None,
        }
    }

    /// The scheme of a matrix in a format of published files, which the CPU computes with as it is stored.
    pub const fn packed(self) -> Option<Scheme> {
        match self.scheme {
            Scheme::Fp8(_) | Scheme::Grouped(_) => Some(self.scheme),
            Scheme::Ggml(_) => None,
            Scheme::Int8(_) | Scheme::FourBit(_) => None,
            Scheme::Dense(_) | Scheme::Int8PerUse(..) => None,
        }
    }
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
    /// A matrix quantized already stays as it is, where the device can compute with that. Of the rest the projections are quantized, unless they are wide; the
    /// head is not; and where the user lists modules not to quantize, that list decides instead, for the head too.
    pub fn scheme(&self, slot: &Slot, stored: StoredTensor, run_on: RunOn) -> Scheme {
        if let Some(scheme) = self.as_stored(stored, run_on) {
            return scheme;
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
            TensorKind::WideProjection | TensorKind::Other => false,
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

    /// Scheme of a matrix that a device computes with as the checkpoint has it. A GPU decodes the formats of published files,
    /// and so does everybody where another element type, or a quantization, is asked for.
    pub fn as_stored(&self, stored: StoredTensor, run_on: RunOn) -> Option<Scheme> {
        let is_as_asked = self.dtype == WeightDType::Auto && self.quant.is_none();
        let packed = match run_on {
            RunOn::Cpu if is_as_asked => stored.packed(),
            RunOn::Cpu | RunOn::Gpu(_) => None,
        };
        stored.quantized().or(packed)
    }

    /// True where a device computes with a tensor otherwise than another: the CPU's weights take other memory than a GPU's.
    pub fn differ_by_device(&self, stored: &[StoredTensor]) -> bool {
        let differs = |&tensor: &StoredTensor| {
            self.as_stored(tensor, RunOn::Cpu) != self.as_stored(tensor, RunOn::Gpu(0))
        };
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
