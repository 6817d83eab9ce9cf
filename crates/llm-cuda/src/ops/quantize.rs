//! Weights encoded and decoded on the GPU, to the bytes that `llm-quant` writes.

use std::sync::Arc;

use llm_backend::{Queue, Result};
use llm_quant::{Code, FourBit, NESTED_BLOCK, Part, Parts, Scheme, StoredWeight, dynamic_map};
use llm_tensor::DType;

use super::general::element;
use crate::memory::{Memory, bytes_of};
use crate::module::{Kernel, kernel};
use crate::weight::Piece;
use crate::{CudaQueue, CudaWeight};

impl CudaQueue {
    /// A weight that is not quantized, encoded: the bytes are those of [`llm_quant::Encoder`]. It allocates, and waits.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`](llm_backend::BackendError::OutOfMemory), and the driver's.
    ///
    /// # Panics
    /// When the weight is quantized already, lies at an odd address, or `scheme` is not one that weights are encoded in.
    pub fn encode(&mut self, weight: &CudaWeight, scheme: Scheme) -> Result<CudaWeight> {
        let (rows, cols) = (weight.rows(), weight.cols());
        let infos = scheme.parts(rows as u64, cols as u64);
        let parts = infos.try_map(|_, info| self.memory(info.bytes as usize))?;
        let encoded = Encoding {
            queue: self,
            weight,
            parts: &parts,
        };
        // Scales that are encoded themselves stay until they have been read.
        let scales = match scheme {
            Scheme::FourBit(format) => Some(encoded.four_bit(format)?),
            Scheme::Int8(_) => {
                encoded.int8()?;
                None
            }
            Scheme::Dense(_)
            | Scheme::Int8PerUse(..)
            | Scheme::Ggml(_)
            | Scheme::Fp8(_)
            | Scheme::Grouped(_) => {
                panic!("weights are not encoded in {scheme}")
            }
        };
        self.finish()?;
        drop(scales);
        let parts = parts.map(|_, memory| {
            let n = memory.n_bytes();
            Piece::of(&memory, 0..n)
        });
        Ok(CudaWeight::new(StoredWeight {
            scheme,
            rows,
            cols,
            parts,
        }))
    }

    /// A quantized weight, decoded to elements of `dtype`. It allocates, and waits.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`](llm_backend::BackendError::OutOfMemory), and the driver's.
    ///
    /// # Panics
    /// When the weight is not in 8 or 4 bits, or its scales lie at odd addresses.
    pub fn decode(&mut self, weight: &CudaWeight, dtype: DType) -> Result<CudaWeight> {
        let (rows, cols) = (weight.rows(), weight.cols());
        let n = rows * cols;
        let elements = self.memory(n * dtype.size())?;
        let out = elements.span(0..elements.n_bytes());
        let of = element(dtype) as usize;
        match weight.scheme() {
            Scheme::Int8(_) => {
                let launch = self.launch(INT8_DECODE[of]);
                let launch = launch.pointer(weight.part(Part::Weight));
                let launch = launch.pointer(weight.part(Part::Scb).aligned(4));
                launch
                    .int(cols)
                    .pointer(out)
                    .grid([rows, 1, 1])
                    .threads(THREADS)
                    .run()?;
            }
            Scheme::FourBit(format) => {
                let scales = self.scales(weight, format)?;
                let absmax = match &scales {
                    Some(scales) => scales.span(0..scales.n_bytes()),
                    None => weight.part(Part::Absmax).aligned(4),
                };
                let launch = self.launch(FOUR_BIT_DECODE[of]);
                let launch = launch.pointer(weight.part(Part::Weight));
                let launch = launch.pointer(weight.part(Part::QuantMap).aligned(4));
                let launch = launch.pointer(absmax).long(0).long(n);
                let launch = launch.int(format.block_size.get()).pointer(out);
                launch.grid(blocks(n.div_ceil(2))).threads(THREADS).run()?;
                // Until the scales have been read they must stay.
                self.finish()?;
            }
            scheme @ (Scheme::Dense(_)
            | Scheme::Int8PerUse(..)
            | Scheme::Ggml(_)
            | Scheme::Fp8(_)
            | Scheme::Grouped(_)) => panic!("a weight in {scheme} is not decoded"),
        }
        self.finish()?;
        let n_bytes = elements.n_bytes();
        Ok(CudaWeight::new(StoredWeight {
            scheme: Scheme::Dense(dtype),
            rows,
            cols,
            parts: Parts::weight(Piece::of(&elements, 0..n_bytes)),
        }))
    }

    /// Scales that are quantized themselves, decoded.
    fn scales(&self, weight: &CudaWeight, format: FourBit) -> Result<Option<Arc<Memory>>> {
        if !format.double_quant {
            return Ok(None);
        }
        let n = format.n_blocks((weight.rows() * weight.cols()) as u64) as usize;
        let scales = self.memory(bytes_of(n))?;
        let launch = self.launch(kernel!("four_bit_double_decode"));
        let launch = launch.pointer(weight.part(Part::Absmax)).long(n);
        let nested = [Part::NestedAbsmax, Part::NestedQuantMap, Part::NestedOffset];
        let launch = nested.into_iter().fold(launch, |launch, part| {
            launch.pointer(weight.part(part).aligned(4))
        });
        let launch = launch.pointer(scales.span(0..scales.n_bytes()));
        launch.grid(blocks(n)).threads(THREADS).run()?;
        Ok(Some(scales))
    }

    fn memory(&self, n_bytes: usize) -> Result<Arc<Memory>> {
        Memory::new(&self.card, n_bytes, "weights").map(Arc::new)
    }
}

/// A dense weight, and memory for the parts that it is encoded to.
struct Encoding<'a> {
    queue: &'a CudaQueue,
    weight: &'a CudaWeight,
    parts: &'a Parts<Arc<Memory>>,
}

impl Encoding<'_> {
    /// The scales as f32, which are a part of the weight unless they are encoded themselves.
    fn four_bit(&self, format: FourBit) -> Result<Arc<Memory>> {
        let (queue, dtype) = (self.queue, self.weight.dense());
        let n = self.weight.rows() * self.weight.cols();
        let n_blocks = format.n_blocks(n as u64) as usize;
        queue.write(
            self.part(Part::QuantMap),
            bytemuck::cast_slice(format.code.table()),
        )?;
        let wide = match format.double_quant {
            true => queue.memory(bytes_of(n_blocks))?,
            false => Arc::clone(self.part(Part::Absmax)),
        };
        let scales = wide.span(0..bytes_of(n_blocks));
        let launch = queue.launch(FOUR_BIT_ENCODE[element(dtype) as usize]);
        let launch = launch.pointer(self.elements(dtype)).long(n);
        let launch = launch.int(format.block_size.get());
        let launch = launch.int(usize::from(format.code == Code::Fp4));
        let packed = self.part(Part::Weight);
        let launch = launch
            .pointer(packed.span(0..packed.n_bytes()))
            .pointer(scales);
        let warps = n.div_ceil(format.block_size.get().max(256));
        launch.grid(blocks(warps * 32)).threads(THREADS).run()?;
        if !format.double_quant {
            return Ok(wide);
        }
        let all = |part: Part| {
            let memory = self.part(part);
            memory.span(0..memory.n_bytes())
        };
        queue.write(
            self.part(Part::NestedQuantMap),
            bytemuck::cast_slice(dynamic_map()),
        )?;
        let launch = queue.launch(kernel!("four_bit_double_offset"));
        let launch = launch.pointer(scales).long(n_blocks);
        let launch = launch.pointer(all(Part::NestedOffset));
        launch.threads(THREADS).run()?;
        let launch = queue.launch(kernel!("four_bit_double_encode"));
        let launch = launch.pointer(scales).long(n_blocks);
        let launch = launch.pointer(all(Part::NestedQuantMap));
        let launch = launch.pointer(all(Part::NestedOffset));
        let launch = launch
            .pointer(all(Part::Absmax))
            .pointer(all(Part::NestedAbsmax));
        let grid = [n_blocks.div_ceil(NESTED_BLOCK), 1, 1];
        launch.grid(grid).threads(THREADS).run()?;
        Ok(wide)
    }

    fn int8(&self) -> Result<()> {
        let (rows, cols) = (self.weight.rows(), self.weight.cols());
        let dtype = self.weight.dense();
        let [codes, absmax] = [Part::Weight, Part::Scb].map(|part| {
            let memory = self.part(part);
            memory.span(0..memory.n_bytes())
        });
        let launch = self.queue.launch(INT8_ENCODE[element(dtype) as usize]);
        let launch = launch.pointer(self.elements(dtype)).int(cols);
        let launch = launch.pointer(codes).pointer(absmax);
        launch.grid([rows, 1, 1]).threads(THREADS).run()
    }

    fn elements(&self, dtype: DType) -> crate::memory::Span<'_> {
        self.weight.part(Part::Weight).aligned(dtype.size() as u64)
    }

    fn part(&self, part: Part) -> &Arc<Memory> {
        let found = self.parts.get(part);
        found.unwrap_or_else(|| panic!("no memory for {part:?}"))
    }
}

/// Blocks of as many threads; they go on to what is left.
fn blocks(n_threads: usize) -> [usize; 3] {
    [n_threads.div_ceil(THREADS).min(8192), 1, 1]
}

const THREADS: usize = 256;

// Kernels by element type.
const INT8_DECODE: [Kernel; 3] = kernel!["int8_decode_f32", "int8_decode_f16", "int8_decode_bf16"];
const INT8_ENCODE: [Kernel; 3] = kernel!["int8_encode_f32", "int8_encode_f16", "int8_encode_bf16"];
const FOUR_BIT_DECODE: [Kernel; 3] = kernel![
    "four_bit_decode_f32",
    "four_bit_decode_f16",
    "four_bit_decode_bf16"
];
const FOUR_BIT_ENCODE: [Kernel; 3] = kernel![
    "four_bit_encode_f32",
    "four_bit_encode_f16",
    "four_bit_encode_bf16"
];

#[cfg(test)]
mod tests;
