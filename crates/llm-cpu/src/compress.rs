//! Compression of runs of positions to entries, which are shared out.

use half::{bf16, f16};
use llm_backend::{Batch, Compression, Rows};

use crate::Cpu;
use crate::kv_pool::{KvPool, KvView};
use crate::math::exp;
use crate::share;
use crate::simd::{Element, ElementType, Kernel, MAX_LANES, Simd};

/// Entries of the sequences of `batch`, whose features and gates are in `pool`, into rows of `out` `[_, width]`.
pub(crate) fn compress(
    cpu: &Cpu,
    op: &Compression<'_, Cpu>,
    batch: &Batch<'_, Cpu>,
    pool: &KvPool,
    entries: &[Rows],
    out: &mut [f32],
) {
    let shape = pool.shape();
    assert_eq!(
        (shape.n_kv_heads, shape.head_dim),
        (1, op.features()),
        "features as the pool has them"
    );
    let bias = op.bias.dense();
    assert!(
        (bias.rows, bias.cols) == (op.rate, op.features()),
        "a bias for each place of a run"
    );
    assert_eq!(entries.len(), batch.rows.len(), "entries of each sequence");
    let tables = batch.tables.as_slice().chunks_exact(batch.table_len);
    for (rows, table) in entries.iter().zip(tables) {
        let out = &mut out[rows.first * op.width..][..rows.n_tokens * op.width];
        let work = op.features() * op.rate;
        let of_rows = share::Rows::new(out, op.width);
        let min_rows = MIN_WORK.div_ceil(work);
        cpu.pool
            .split(rows.n_tokens, min_rows, of_rows, |units, out| {
                for (unit, out) in units.zip(out.chunks_exact_mut(op.width)) {
                    cpu.level.run(Entry {
                        op,
                        entry: rows.start + unit,
                        view: pool.sequence(table),
                        out,
                    });
                }
            });
    }
}

/// One entry.
struct Entry<'a> {
    op: &'a Compression<'a, Cpu>,
    entry: usize,
    view: KvView<'a>,
    /// `[width]`.
    out: &'a mut [f32],
}

impl Kernel for Entry<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.view.element() {
            ElementType::F32 => self.all::<S, f32>(simd),
            ElementType::F16 => self.all::<S, f16>(simd),
            ElementType::Bf16 => self.all::<S, bf16>(simd),
        }
    }
}

impl Entry<'_> {
    #[inline(always)]
    fn all<S: Simd, E: Element>(self, simd: S) {
        let (width, panel) = (self.op.width, self.view.panel());
        let bias = self.op.bias.dense();
        for d in (0..width).step_by(S::LANES) {
            let n = S::LANES.min(width - d);
            let gate = |(position, place, series): (usize, usize, usize)| {
                let column = series + d;
                let values = self.view.values(0, position).wrapping_add(column * E::SIZE);
                // SAFETY: the column is one of the position's values, after which a panel of elements can be read.
                let gate = unsafe { E::load(simd, values) };
                simd.add(gate, bias.row(place).get(simd, column))
            };
            // A key lies along its panel, an element of each position after the other.
            let feature = |(position, _, series): (usize, usize, usize)| {
                let keys = self.view.keys(0, position);
                let mut lanes = [0.0; MAX_LANES];
                for (lane, feature) in lanes[..n].iter_mut().enumerate() {
                    let at = (series + d + lane) * panel + position % panel;
                    // SAFETY: the element is one of the position's key.
                    *feature = unsafe { E::read(keys.wrapping_add(at * E::SIZE)) };
                }
                simd.get(&lanes, 0)
            };
            let places = self.op.places(self.entry);
            let mut most = simd.splat(f32::NEG_INFINITY);
            for place in places.clone() {
                most = simd.max(most, gate(place));
            }
            let (mut total, mut sum) = (simd.splat(0.0), simd.splat(0.0));
            for place in places {
                let weight = exp(simd, simd.sub(gate(place), most));
                total = simd.add(total, weight);
                sum = simd.fma(weight, feature(place), sum);
            }
            let mut lanes = [0.0; MAX_LANES];
            simd.put(&mut lanes, 0, simd.div(sum, total));
            self.out[d..d + n].copy_from_slice(&lanes[..n]);
        }
    }
}

/// Elements below which a thread is not worth a fork.
const MIN_WORK: usize = if cfg!(miri) { 1 } else { 1 << 12 };
