//! The plainest implementation: one loop an operation, f64 accumulation, weights widened once to f32.

use llm_tensor::{Activation, DType, Norm, Pairing, f32_to_le_bytes, le_bytes_to_f32};

use crate::{
    Attention, Backend, BackendError, DeviceInfo, HostWeight, KvShape, LinearPart, NormOp, Output,
    Result, Rotary, Rows, WorkspaceShape,
};

/// A backend to hold others against; far too slow for real models, and it keeps a widened copy of the weights.
#[derive(Debug)]
pub struct Reference {
    info: DeviceInfo,
}

impl Reference {
    /// The reference has nothing to set.
    pub fn new() -> Self {
        Reference {
            info: DeviceInfo {
                name: "reference".to_owned(),
            },
        }
    }
}

impl Default for Reference {
    fn default() -> Self {
        Self::new()
    }
}

/// A weight widened to f32.
#[derive(Debug)]
pub struct ReferenceWeight {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

impl ReferenceWeight {
    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }
}

/// Keys and values, `[capacity, n_kv_heads · head_dim]` each, rounded to the cache's element type.
#[derive(Debug)]
pub struct ReferenceCache {
    shape: KvShape,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Backend for Reference {
    type Buffer = Vec<f32>;
    type Weight = ReferenceWeight;
    type KvCache = ReferenceCache;
    type Workspace = ();

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, n_elements: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; n_elements])
    }

    fn upload(&self, src: &[f32], dst: &mut Vec<f32>) -> Result<()> {
        dst[..src.len()].copy_from_slice(src);
        Ok(())
    }

    fn download(&self, src: &Vec<f32>, dst: &mut [f32]) -> Result<()> {
        dst.copy_from_slice(&src[..dst.len()]);
        Ok(())
    }

    fn load(&self, weight: HostWeight) -> Result<ReferenceWeight> {
        let HostWeight {
            dtype,
            rows,
            cols,
            bytes,
        } = weight;
        assert_eq!(
            bytes.len(),
            rows * cols * dtype.size(),
            "a weight of [{rows}, {cols}] {dtype}"
        );
        let mut values = vec![0.0; rows * cols];
        le_bytes_to_f32(dtype, &bytes, &mut values).map_err(|_| {
            BackendError::UnsupportedWeight {
                device: self.info.name.clone(),
                dtype,
            }
        })?;
        Ok(ReferenceWeight { rows, cols, values })
    }

    fn kv_cache(&self, shape: &KvShape) -> Result<ReferenceCache> {
        assert!(shape.dtype.is_weight(), "a cache of {}", shape.dtype);
        let n = shape.capacity * shape.n_kv_heads * shape.head_dim;
        Ok(ReferenceCache {
            shape: *shape,
            keys: vec![0.0; n],
            values: vec![0.0; n],
        })
    }

    fn workspace(&self, _: &WorkspaceShape) -> Result<()> {
        Ok(())
    }

    fn embed(&self, table: &ReferenceWeight, ids: &[u32], out: &mut Vec<f32>) -> Result<()> {
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(table.cols)) {
            out.copy_from_slice(table.row(id as usize));
        }
        Ok(())
    }

    fn add_positions(
        &self,
        table: &ReferenceWeight,
        positions: &[u32],
        x: &mut Vec<f32>,
    ) -> Result<()> {
        for (&position, x) in positions.iter().zip(x.chunks_exact_mut(table.cols)) {
            for (x, p) in x.iter_mut().zip(table.row(position as usize)) {
                *x += p;
            }
        }
        Ok(())
    }

    fn gather_rows(
        &self,
        x: &Vec<f32>,
        rows: &[usize],
        width: usize,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        for (&row, out) in rows.iter().zip(out.chunks_exact_mut(width)) {
            out.copy_from_slice(&x[row * width..][..width]);
        }
        Ok(())
    }

    fn norm(
        &self,
        op: &NormOp<'_, Self>,
        x: &Vec<f32>,
        out: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        let width = op.gain.cols;
        for (x, out) in x
            .chunks_exact(width)
            .zip(out.chunks_exact_mut(width))
            .take(n_tokens)
        {
            let mean_of = |f: &dyn Fn(f64) -> f64| {
                x.iter().map(|&v| f(f64::from(v))).sum::<f64>() / width as f64
            };
            let mean = match op.norm {
                Norm::Layer => mean_of(&|v| v),
                Norm::Rms => 0.0,
            };
            let scale = 1.0 / (mean_of(&|v| (v - mean) * (v - mean)) + f64::from(op.eps)).sqrt();
            for (i, out) in out.iter_mut().enumerate() {
                let bias = op.bias.map_or(0.0, |b| f64::from(b.values[i]));
                *out =
                    ((f64::from(x[i]) - mean) * scale * f64::from(op.gain.values[i]) + bias) as f32;
            }
        }
        Ok(())
    }

    fn linear(
        &self,
        parts: &[LinearPart<'_, Self>],
        x: &Vec<f32>,
        output: Output,
        out: &mut Vec<f32>,
        n_tokens: usize,
        (): &mut (),
    ) -> Result<()> {
        let out_width: usize = parts.iter().map(|p| p.weight.rows).sum();
        for token in 0..n_tokens {
            let mut column = token * out_width;
            for part in parts {
                let x = &x[token * part.weight.cols..][..part.weight.cols];
                for row in 0..part.weight.rows {
                    let bias = part.bias.map_or(0.0, |b| f64::from(b.values[row]));
                    let sum = dot(x, part.weight.row(row)) + bias;
                    match output {
                        Output::Write => out[column] = sum as f32,
                        Output::Add => out[column] = (f64::from(out[column]) + sum) as f32,
                    }
                    column += 1;
                }
            }
        }
        Ok(())
    }

    fn rotate(
        &self,
        op: &Rotary,
        angles: &Vec<f32>,
        x: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        let half = op.rotary_dim / 2;
        for token in 0..n_tokens {
            let (cos, sin) = angles[token * op.rotary_dim..][..op.rotary_dim].split_at(half);
            for head in x[token * op.row_width..]
                .chunks_exact_mut(op.head_dim)
                .take(op.n_heads)
            {
                for i in 0..half {
                    let (a, b) = match op.pairing {
                        Pairing::Adjacent => (2 * i, 2 * i + 1),
                        Pairing::Halves => (i, i + half),
                    };
                    let (x, y) = (f64::from(head[a]), f64::from(head[b]));
                    let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
                    (head[a], head[b]) = ((x * c - y * s) as f32, (y * c + x * s) as f32);
                }
            }
        }
        Ok(())
    }

    fn attention(
        &self,
        op: &Attention,
        qkv: &Vec<f32>,
        rows: Rows,
        cache: &mut ReferenceCache,
        out: &mut Vec<f32>,
        (): &mut (),
    ) -> Result<()> {
        let (q_width, kv_width) = (op.n_heads * op.head_dim, op.n_kv_heads * op.head_dim);
        assert_eq!(
            kv_width,
            cache.shape.n_kv_heads * cache.shape.head_dim,
            "keys as wide as the cache's"
        );
        assert!(
            rows.start + rows.n_tokens <= cache.shape.capacity,
            "{rows:?} within the cache"
        );
        let row = |i: usize| {
            &qkv[(rows.first + i) * (q_width + 2 * kv_width)..][..q_width + 2 * kv_width]
        };
        for i in 0..rows.n_tokens {
            let (k, v) = row(i)[q_width..].split_at(kv_width);
            let at = (rows.start + i) * kv_width;
            round_into(k, cache.shape.dtype, &mut cache.keys[at..][..kv_width]);
            round_into(v, cache.shape.dtype, &mut cache.values[at..][..kv_width]);
        }
        let group = op.n_heads / op.n_kv_heads;
        for i in 0..rows.n_tokens {
            for head in 0..op.n_heads {
                let q = &row(i)[head * op.head_dim..][..op.head_dim];
                let at = |position: usize| position * kv_width + head / group * op.head_dim;
                let n_seen = rows.start + i + 1;
                let scores: Vec<f64> = (0..n_seen)
                    .map(|p| dot(q, &cache.keys[at(p)..][..op.head_dim]) * f64::from(op.scale))
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                let out =
                    &mut out[(rows.first + i) * q_width + head * op.head_dim..][..op.head_dim];
                for (d, out) in out.iter_mut().enumerate() {
                    let sum: f64 = (0..n_seen)
                        .map(|p| weights[p] * f64::from(cache.values[at(p) + d]))
                        .sum();
                    *out = (sum / total) as f32;
                }
            }
        }
        Ok(())
    }

    fn activate(
        &self,
        activation: Activation,
        x: &mut Vec<f32>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        for x in &mut x[..n_tokens * width] {
            *x = activated(activation, f64::from(*x)) as f32;
        }
        Ok(())
    }

    fn gate(
        &self,
        activation: Activation,
        gate_up: &Vec<f32>,
        out: &mut Vec<f32>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        for (gate_up, out) in gate_up
            .chunks_exact(2 * width)
            .zip(out.chunks_exact_mut(width))
            .take(n_tokens)
        {
            let (gate, up) = gate_up.split_at(width);
            for (i, out) in out.iter_mut().enumerate() {
                *out = (activated(activation, f64::from(gate[i])) * f64::from(up[i])) as f32;
            }
        }
        Ok(())
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

fn round_into(src: &[f32], dtype: DType, dst: &mut [f32]) {
    let mut bytes = vec![0; src.len() * dtype.size()];
    f32_to_le_bytes(src, dtype, &mut bytes).expect("a cache is f32, f16 or bf16");
    le_bytes_to_f32(dtype, &bytes, dst).expect("a cache is f32, f16 or bf16");
}

fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::Gelu => x * normal_cdf(x),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

/// Φ(x), the normal distribution's cumulative function, to about 1e-15.
///
/// Φ(x) = 1/2 + φ(x) · (x + x³/3 + x⁵/(3·5) + …) (Marsaglia 2004); the series of the tail's complement cancels beyond
/// |x| ≈ 7, where Φ has long left what f32 can tell from 0 or 1.
fn normal_cdf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() > 7.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut sum, mut term, mut n) = (x, x, 1.0);
    while sum + term != sum {
        n += 2.0;
        term *= x * x / n;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_agree_with_tabled_values() {
        // Φ(1) and Φ(-2.5) from tables of the normal distribution.
        let cases = [
            (Activation::Gelu, 1.0, 0.841_344_746_068_542_9),
            (Activation::Gelu, -2.5, -2.5 * 0.006_209_665_325_776_132),
            (Activation::Gelu, 30.0, 30.0),
            (Activation::Relu, -1.0, 0.0),
            (Activation::Silu, 1.0, 0.731_058_578_630_004_9),
            (Activation::GeluTanh, 1.0, 0.841_191_990_608_276_6),
        ];
        for (activation, x, expected) in cases {
            let found = activated(activation, x);
            assert!(
                (found - expected).abs() < 1e-12,
                "{activation:?}({x}) = {found}, expected {expected}"
            );
        }
    }
}
