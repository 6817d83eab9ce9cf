//! Products with weights of the sizes that 7B to 70B models have, and attention, as shares of the copy bandwidth.
//!
//! Weights rotate through more memory than the second-level cache holds, so that each is read from the GPU's memory.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use llm_backend::{Backend, LinearPart, Ops, Output, Queue};
use llm_benches::{four_bit_weights, int8_weights, weights};
use llm_cuda::Cuda;
use llm_quant::{BlockSize, Code, FourBit, Int8, StoredWeight};
use llm_tensor::{DType, WorkspaceShape};
use serde_json::json;

use crate::timing::seconds;
use crate::{Encoding, Extent, attention};

/// Prints a line of JSON for each encoding, shape and number of rows.
///
/// # Errors
/// When there is no GPU, or it fails.
pub(crate) fn run(extent: Extent, copy: f64) -> Result<()> {
    let gpu = Arc::new(Cuda::new(0)?);
    attention::run(&gpu, extent, copy)?;
    let (shapes, n_rows, rotated, time): (&[(usize, usize)], &[usize], u64, Duration) = match extent
    {
        Extent::Small => (&[(128, 256)], &[1, 8, 33], 1, Duration::ZERO),
        Extent::Full => (
            &[
                (4096, 4096),
                (14336, 4096),
                (4096, 14336),
                (28672, 8192),
                (8192, 28672),
            ],
            &[1, 2, 8, 16, 64, 512],
            // Second-level caches hold up to 126 MB.
            400 << 20,
            Duration::from_millis(25),
        ),
    };
    for &shape in shapes {
        for encoding in Encoding::ALL {
            let measured = Weights::new(&gpu, encoding, shape, rotated)?;
            for &n_tokens in n_rows {
                measured.measure(n_tokens, time, copy)?;
            }
        }
    }
    Ok(())
}

/// Copies of a weight, of which one after the other is used.
struct Weights<B: Backend> {
    device: Arc<B>,
    encoding: Encoding,
    shape: (usize, usize),
    n_bytes: u64,
    copies: Vec<B::Weight>,
}

impl<B: Backend> Weights<B> {
    fn new(
        device: &Arc<B>,
        encoding: Encoding,
        shape: (usize, usize),
        rotated: u64,
    ) -> Result<Self> {
        let weight = weight(encoding, shape);
        let n_bytes = weight.stored_bytes().total().get();
        let n_copies = rotated.div_ceil(n_bytes).max(2);
        let copies = (0..n_copies).map(|_| device.load(weight.clone()));
        Ok(Weights {
            device: Arc::clone(device),
            encoding,
            shape,
            n_bytes,
            copies: copies.collect::<Result<_, _>>()?,
        })
    }

    fn measure(&self, n_tokens: usize, time: Duration, copy: f64) -> Result<()> {
        let (device, (rows, cols)) = (&self.device, self.shape);
        let mut queue = device.queue(Some(&WorkspaceShape {
            n_tokens,
            cols,
            rows,
            context: 1,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 1,
            n_selecting: 0,
        }))?;
        let mut x = device.alloc(n_tokens * cols)?;
        let values = (0..n_tokens * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0);
        queue.upload(&values.collect::<Vec<_>>(), &mut x)?;
        let mut out = device.alloc(n_tokens * rows)?;
        let mut next = 0;
        let seconds = seconds::<B>(&mut queue, time, |queue| {
            let weight = &self.copies[next % self.copies.len()];
            next += 1;
            let parts = [LinearPart { weight, bias: None }];
            Ok(queue.linear(&parts, &x, Output::Write, &mut out, n_tokens)?)
        })?;
        let activations = 4 * n_tokens as u64 * (rows + cols) as u64;
        let moved = (self.n_bytes + activations) as f64;
        println!(
            "{}",
            json!({
                "what": "product",
                "encoding": self.encoding.name(),
                "rows": rows,
                "cols": cols,
                "n_tokens": n_tokens,
                "microseconds": seconds * 1e6,
                "weight_bytes": self.n_bytes,
                "bytes_per_second": moved / seconds,
                "share_of_copy": moved / seconds / copy,
                "teraflops": 2.0 * (n_tokens * rows * cols) as f64 / seconds / 1e12,
            })
        );
        Ok(())
    }
}

fn weight(encoding: Encoding, shape: (usize, usize)) -> StoredWeight {
    let four_bit = |double_quant| {
        let format = FourBit {
            code: Code::Nf4,
            block_size: BlockSize::DEFAULT,
            double_quant,
        };
        four_bit_weights(format, &[shape])
    };
    let (mut weights, _) = match encoding {
        Encoding::Bf16 => weights(DType::BF16, &[shape]),
        Encoding::Int8 => int8_weights(Int8 { threshold: 6.0 }, &[shape]),
        Encoding::Nf4 => four_bit(false),
        Encoding::Nf4Double => four_bit(true),
    };
    weights.remove(0)
}
