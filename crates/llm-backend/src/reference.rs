//! The plainest implementation: one loop an operation, f64 accumulation, weights widened once to f32.

mod cache;
mod scalar;
mod weight;

use llm_quant::Activations8;
use llm_tensor::{Activation, Bytes, KvShape, Pairing, WorkspaceShape};

use self::cache::{ReferenceCache, round_into};
use self::scalar::{activated, biased, dot, normalise};
pub(crate) use self::weight::encoded;
use self::weight::{ReferenceWeight, int8_dot};
use crate::{
    Allocation, Attention, Backend, DeviceInfo, HeadGroups, Heads, HostWeight, KvColumns,
    LinearPart, NormOp, Output, Result, Rotary, Rows, Seen,
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

impl Allocation for Vec<f32> {
    fn bytes(&self) -> Bytes {
        Bytes::new(size_of_val(self.as_slice()) as u64)
    }
}

/// No scratch memory.
impl Allocation for () {
    fn bytes(&self) -> Bytes {
        Bytes::ZERO
    }
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
        match weight {
            HostWeight::Dense(dense) => self.widened(&dense),
            HostWeight::FourBit(weight) => Ok(ReferenceWeight {
                rows: weight.rows(),
                cols: weight.cols(),
                values: (0..weight.rows() * weight.cols())
                    .map(|i| weight.element(i))
                    .collect(),
                int8: None,
            }),
            HostWeight::Int8(weight) => Ok(ReferenceWeight {
                rows: weight.rows(),
                cols: weight.cols(),
                values: (0..weight.rows() * weight.cols())
                    .map(|i| weight.element(i))
                    .collect(),
                int8: Some(weight),
            }),
            HostWeight::Int8PerUse(dense, format) => Ok(ReferenceWeight {
                int8: Some(encoded(&dense, format)),
                ..self.widened(&dense)?
            }),
        }
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

    fn kv_cache_bytes(&self, shape: &KvShape) -> Bytes {
        let n_elements = 2 * shape.capacity * shape.n_kv_heads * shape.head_dim;
        Bytes::new((n_elements * size_of::<f32>()) as u64)
    }

    fn workspace(&self, _: &WorkspaceShape) -> Result<()> {
        Ok(())
    }

    fn workspace_bytes(&self, _: &WorkspaceShape) -> Bytes {
        Bytes::ZERO
    }

    fn embed(
        &self,
        table: &ReferenceWeight,
        ids: &[u32],
        scale: f32,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(table.cols)) {
            for (out, value) in out.iter_mut().zip(table.row(id as usize)) {
                *out = value * scale;
            }
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
            out.copy_from_slice(x);
            normalise(op, out);
        }
        Ok(())
    }

    fn norm_heads(
        &self,
        op: &NormOp<'_, Self>,
        heads: &Heads,
        x: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        for row in x.chunks_exact_mut(heads.row_width).take(n_tokens) {
            let heads = row
                .chunks_exact_mut(heads.head_dim)
                .skip(heads.first)
                .take(heads.n_heads);
            heads.for_each(|head| normalise(op, head));
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
        let mut first = 0;
        for LinearPart { weight, bias } in parts {
            let cols = weight.cols;
            let x = &x[..n_tokens * cols];
            let quantized = weight.int8.as_ref().map(|int8| {
                let threshold = int8.format().threshold;
                (int8, Activations8::quantize(x, cols, threshold))
            });
            for (token, x) in x.chunks_exact(cols).enumerate() {
                let out = &mut out[token * out_width + first..][..weight.rows];
                for (row, out) in out.iter_mut().enumerate() {
                    let product = match &quantized {
                        None => dot(x, weight.row(row)),
                        Some((int8, activations)) => {
                            int8_dot(int8, activations, token, row, x, weight.row(row))
                        }
                    };
                    let sum = product + bias.map_or(0.0, |b| f64::from(b.values[row]));
                    match output {
                        Output::Write => *out = sum as f32,
                        Output::Add => *out = (f64::from(*out) + sum) as f32,
                    }
                }
            }
            first += weight.rows;
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

    fn ungroup(
        &self,
        groups: &HeadGroups,
        grouped: &Vec<f32>,
        out: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        let HeadGroups {
            n_groups,
            n_queries,
            head_dim,
        } = *groups;
        let width = n_groups * (n_queries + 2) * head_dim;
        let rows = grouped.chunks_exact(width).zip(out.chunks_exact_mut(width));
        for (grouped, out) in rows.take(n_tokens) {
            for (i, head) in grouped.chunks_exact(head_dim).enumerate() {
                let (group, member) = (i / (n_queries + 2), i % (n_queries + 2));
                let place = if member < n_queries {
                    group * n_queries + member
                } else {
                    (member * n_groups) + group
                };
                out[place * head_dim..][..head_dim].copy_from_slice(head);
            }
        }
        Ok(())
    }

    fn append(
        &self,
        kv: &Vec<f32>,
        columns: &KvColumns,
        rows: Rows,
        cache: &mut ReferenceCache,
    ) -> Result<()> {
        let width = cache.width();
        for i in 0..rows.n_tokens {
            let row = &kv[(rows.first + i) * columns.row_width + columns.first..][..2 * width];
            let (k, v) = row.split_at(width);
            let at = cache.slot(rows.start + i) * width;
            round_into(k, cache.shape.dtype, &mut cache.keys[at..][..width]);
            round_into(v, cache.shape.dtype, &mut cache.values[at..][..width]);
        }
        Ok(())
    }

    fn copy_cache(
        &self,
        from: &ReferenceCache,
        n_positions: usize,
        to: &mut ReferenceCache,
    ) -> Result<()> {
        assert_eq!(from.shape, to.shape, "caches of the same shape");
        let n = n_positions.min(from.shape.capacity) * from.width();
        to.keys[..n].copy_from_slice(&from.keys[..n]);
        to.values[..n].copy_from_slice(&from.values[..n]);
        Ok(())
    }

    fn attention(
        &self,
        op: &Attention<'_, Self>,
        q: &Vec<f32>,
        rows: Rows,
        cache: &ReferenceCache,
        out: &mut Vec<f32>,
        (): &mut (),
    ) -> Result<()> {
        assert_eq!(
            cache.width(),
            op.n_kv_heads * op.head_dim,
            "keys as wide as the cache's"
        );
        let (group, dim) = (op.n_heads / op.n_kv_heads, op.head_dim);
        for i in 0..rows.n_tokens {
            let position = rows.start + i;
            let seen = match op.seen {
                Seen::Past { window } => {
                    (position + 1).saturating_sub(window.unwrap_or(usize::MAX))..position + 1
                }
                Seen::All { n_positions } => 0..n_positions,
            };
            assert!(
                seen.len() <= cache.shape.capacity,
                "positions {seen:?} within the cache"
            );
            for head in 0..op.n_heads {
                let q = &q[(rows.first + i) * op.row_width + head * dim..][..dim];
                let at = |p: usize| cache.slot(p) * cache.width() + head / group * dim;
                let score = |p: usize| {
                    let product = dot(q, &cache.keys[at(p)..][..dim]) * f64::from(op.scale);
                    let capped = op
                        .soft_cap
                        .map(f64::from)
                        .map_or(product, |cap| cap * (product / cap).tanh());
                    capped + op.bias.map_or(0.0, |bias| biased(&bias, head, p, position))
                };
                let scores: Vec<f64> = seen.clone().map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                let out = &mut out[((rows.first + i) * op.n_heads + head) * dim..][..dim];
                for (d, out) in out.iter_mut().enumerate() {
                    let values = seen.clone().map(|p| f64::from(cache.values[at(p) + d]));
                    *out = (weights.iter().zip(values).map(|(w, v)| w * v).sum::<f64>() / total)
                        as f32;
                }
            }
        }
        Ok(())
    }

    fn add(&self, y: &Vec<f32>, x: &mut Vec<f32>, width: usize, n_tokens: usize) -> Result<()> {
        for (x, y) in x.iter_mut().zip(y).take(width * n_tokens) {
            *x += y;
        }
        Ok(())
    }

    fn scatter_add(
        &self,
        y: &Vec<f32>,
        rows: &[usize],
        weights: &[f32],
        width: usize,
        x: &mut Vec<f32>,
    ) -> Result<()> {
        for ((&row, weight), y) in rows.iter().zip(weights).zip(y.chunks_exact(width)) {
            for (x, y) in x[row * width..].iter_mut().zip(y) {
                *x += weight * y;
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
