//! Weight encodings: LLM.int8(), NF4, FP4 and double quantization, exactly as bitsandbytes has them; GGUF's blocks, as
//! GGML has them; 8-bit floating-point numbers with scales; and codes with a scale a group, as GPTQ, AWQ, MXFP4 and others.
//!
//! A [`Scheme`] says how a weight matrix is kept, in which parts and how many bytes; a [`StoredWeight`] is a matrix
//! kept that way, [`Weight4Bit`] and [`Int8Weight`] what its parts mean. Everything here is scalar and exact, the
//! meaning that faster implementations of [`Encoder`] and of the products are held against. [`QuantConfig`] has the
//! user's options, in the words of `BitsAndBytesConfig`; [`layout`] is how quantized matrices lie in a checkpoint.
//!
//! *Sources*: Dettmers et al. 2022, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale"; Dettmers et al.
//! 2023, "QLoRA: Efficient Finetuning of Quantized LLMs" (NF4, double quantization).

mod activations;
mod code;
mod config;
mod decode;
pub mod double;
mod encoder;
mod error;
mod fields;
mod floats;
mod four_bit;
mod fp8;
mod ggml;
mod grouped;
mod int8;
pub mod layout;
mod parts;
mod rows;
mod scheme;
mod slice;
mod stored;

pub use activations::{ACTIVATION_BLOCK, Activations, BlockCodes, block_scale};
pub use code::{Code, Table};
pub use config::{LoadIn, QuantConfig};
pub use double::{DoubleAbsmax, NESTED_BLOCK, dynamic_map};
pub use encoder::{Encoder, Scalar};
pub use error::QuantError;
pub use four_bit::{Absmax, Weight4Bit};
pub use fp8::Fp8;
pub use ggml::GgmlType;
pub use grouped::{E2M1, GlobalScale, GroupCode, Grouped};
pub use int8::factors::{DEQUANTIZE, PRODUCT_SCALE, code_factor};
pub use int8::{Activations8, Int8Weight};
pub use parts::{Part, PartInfo, Parts, StoredBytes};
pub use rows::{Fp8Rows, GroupedRows};
pub use scheme::{BlockSize, FourBit, Int8, Scheme};
pub use stored::StoredWeight;

/// Result of everything that can fail here.
pub type Result<T> = std::result::Result<T, QuantError>;
