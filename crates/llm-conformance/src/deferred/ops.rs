//! Operations, recorded with handles of what they read and write.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use llm_backend::{
    Attention, Backend, Batch, Compression, CutOff, DeltaRule, Expert, ExpertBuffers, Groups,
    HeadGates, HeadNorm, HeadProducts, Heads, KvColumns, LinearPart, NormOp, Ops, OutColumns,
    Output, Queue, RelativeBias, Result, Rotary, RouterVectors, Routing, Rows, Run, Selected,
    Selection, ShortConv, StateBatch, StateSpace, StreamMix, StreamSum, StreamWeights, Streams,
    Xielu,
};
use llm_tensor::{Activation, ClampedGate};

use super::Deferred;
use super::memory::Shared;
use super::recorded::{
    LockedBeside, RecordedBatch, RecordedBeside, RecordedConv, RecordedDelta, RecordedNorm,
    RecordedPart, RecordedSpace, RecordedStates,
};
use super::schedule::{DeferredEvent, Schedule, lock};

/// Work that waits until somebody does.
pub struct DeferredQueue<B: Backend> {
    schedule: Arc<Mutex<Schedule<B>>>,
    number: usize,
}

impl<B: Backend> DeferredQueue<B> {
    pub(super) fn new(schedule: &Arc<Mutex<Schedule<B>>>, number: usize) -> Self {
        DeferredQueue {
            schedule: Arc::clone(schedule),
            number,
        }
    }

    fn put(
        &mut self,
        operation: impl FnOnce(&mut B::Queue) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        lock(&self.schedule).put(self.number, Box::new(operation));
        Ok(())
    }
}

impl<B: Backend> Queue<Deferred<B>> for DeferredQueue<B> {
    fn record(&mut self) -> Result<DeferredEvent<B>> {
        Ok(DeferredEvent {
            schedule: Arc::clone(&self.schedule),
            queue: self.number,
            n_done: lock(&self.schedule).end(self.number),
        })
    }

    fn wait(&mut self, event: &DeferredEvent<B>) -> Result<()> {
        assert!(
            Arc::ptr_eq(&self.schedule, &event.schedule),
            "a queue waits for those of its device"
        );
        lock(&self.schedule).put_wait(self.number, event.queue, event.n_done);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        lock(&self.schedule).ask(self.number, |queue| queue.finish())
    }

    fn upload(&mut self, src: &[f32], dst: &mut Shared<B::Buffer>) -> Result<()> {
        let (src, dst) = (src.to_vec(), dst.handle());
        self.put(move |queue| queue.upload(&src, &mut lock(&dst)))
    }

    fn upload_index(&mut self, src: &[u32], dst: &mut Shared<B::Index>) -> Result<()> {
        let (src, dst) = (src.to_vec(), dst.handle());
        self.put(move |queue| queue.upload_index(&src, &mut lock(&dst)))
    }

    fn download(&mut self, src: &Shared<B::Buffer>, dst: &mut [f32]) -> Result<()> {
        let src = src.handle();
        lock(&self.schedule).ask(self.number, |queue| queue.download(&lock(&src), dst))
    }

    /// Through a copy of the rows, taken when they are there: at the latest when the other device is waited for.
    fn copy_from(
        &mut self,
        from: &mut DeferredQueue<B>,
        src: &Shared<B::Buffer>,
        dst: &mut Shared<B::Buffer>,
        n_elements: usize,
    ) -> Result<()> {
        let mut rows = vec![0.0; n_elements];
        if !Arc::ptr_eq(&self.schedule, &from.schedule) {
            from.download(src, &mut rows)?;
            return self.upload(&rows, dst);
        }
        let rows = Arc::new(Mutex::new(rows));
        let (src, taken) = (src.handle(), Arc::clone(&rows));
        from.put(move |queue| queue.download(&lock(&src), &mut lock(&taken)))?;
        self.wait(&from.record()?)?;
        let dst = dst.handle();
        self.put(move |queue| queue.upload(&lock(&rows), &mut lock(&dst)))
    }

    fn bring(
        &mut self,
        pages: &Shared<B::HostPages>,
        range: Range<usize>,
        place: &mut Shared<B::Place>,
        at: usize,
    ) -> Result<()> {
        let (pages, place) = (pages.handle(), place.handle());
        self.put(move |queue| queue.bring(&lock(&pages), range, &mut lock(&place), at))
    }
}

impl<B: Backend> Ops<Deferred<B>> for DeferredQueue<B> {
    fn embed(
        &mut self,
        table: &Arc<B::Weight>,
        ids: &Shared<B::Index>,
        n: usize,
        scale: f32,
        out: &mut Shared<B::Buffer>,
    ) -> Result<()> {
        let (table, ids, out) = (Arc::clone(table), ids.handle(), out.handle());
        self.put(move |queue| queue.embed(&table, &lock(&ids), n, scale, &mut lock(&out)))
    }

    fn add_positions(
        &mut self,
        table: &Arc<B::Weight>,
        positions: &Shared<B::Index>,
        n: usize,
        x: &mut Shared<B::Buffer>,
    ) -> Result<()> {
        let (table, positions, x) = (Arc::clone(table), positions.handle(), x.handle());
        self.put(move |queue| queue.add_positions(&table, &lock(&positions), n, &mut lock(&x)))
    }

    fn gather_rows(
        &mut self,
        x: &Shared<B::Buffer>,
        rows: &Shared<B::Index>,
        n: usize,
        width: usize,
        out: &mut Shared<B::Buffer>,
    ) -> Result<()> {
        let (x, rows, out) = (x.handle(), rows.handle(), out.handle());
        self.put(move |queue| queue.gather_rows(&lock(&x), &lock(&rows), n, width, &mut lock(&out)))
    }

    fn norm(
        &mut self,
        op: &NormOp<'_, Deferred<B>>,
        x: &Shared<B::Buffer>,
        out: &mut Shared<B::Buffer>,
        n_tokens: usize,
    ) -> Result<()> {
        let (op, x, out) = (RecordedNorm::of(op), x.handle(), out.handle());
        self.put(move |queue| queue.norm(&op.op(), &lock(&x), &mut lock(&out), n_tokens))
    }

    fn linear_to(
        &mut self,
        columns: Option<OutColumns>,
        parts: &[LinearPart<'_, Deferred<B>>],
        x: &Shared<B::Buffer>,
        output: Output,
        out: &mut Shared<B::Buffer>,
        n_tokens: usize,
    ) -> Result<()> {
        let parts: Vec<_> = parts.iter().map(RecordedPart::of).collect();
        let (x, out) = (x.handle(), out.handle());
        self.put(move |queue| {
            let parts: Vec<_> = parts.iter().map(RecordedPart::part).collect();
            queue.linear_to(
                columns,
                &parts,
                &lock(&x),
                output,
                &mut lock(&out),
                n_tokens,
            )
        })
    }

    fn head_products(
        &mut self,
        op: &HeadProducts<'_, Deferred<B>>,
        x: &Shared<B::Buffer>,
        out: &mut Shared<B::Buffer>,
        n_tokens: usize,
    ) -> Result<()> {
        let HeadProducts {
            weight,
            n_heads,
            stride,
            first,
            n_rows,
            cols,
            side,
            carried,
        } = *op;
        let (weight, x, out) = (Arc::clone(weight), x.handle(), out.handle());
        self.put(move |queue| {
            let op = HeadProducts {
                weight: &*weight,
                n_heads,
                stride,
                first,
                n_rows,
                cols,
                side,
                carried,
            };
            queue.head_products(&op, &lock(&x), &mut lock(&out), n_tokens)
        })
    }

    fn rotate(
        &mut self,
        op: &Rotary,
        angles: &Shared<B::Buffer>,
        x: &mut Shared<B::Buffer>,
        n_tokens: usize,
    ) -> Result<()> {
        let (op, angles, x) = (*op, angles.handle(), x.handle());
        self.put(move |queue| queue.rotate(&op, &lock(&angles), &mut lock(&x), n_tokens))
    }

    fn norm_heads(
        &mut self,
        op: &NormOp<'_, Deferred<B>>,
        heads: &Heads,
        x: &mut Shared<B::Buffer>,
        n_tokens: usize,
    ) -> Result<()> {
        let (op, heads, x) = (RecordedNorm::of(op), *heads, x.handle());
        self.put(move |queue| queue.norm_heads(&op.op(), &heads, &mut lock(&x), n_tokens))
    }

    fn unit_heads(
        &mut self,
        eps: f32,
        heads: &Heads,
        x: &mut Shared<B::Buffer>,
        n_tokens: usize,
    ) -> Result<()> {
        let (heads, x) = (*heads, x.handle());
        self.put(move |queue| queue.unit_heads(eps, &heads, &mut lock(&x), n_tokens))
    }

    fn ungroup(
        &mut self,
        groups: &Groups,
        grouped: &Shared<B::Buffer>,
        out: &mut Shared<B::Buffer>,
        n_tokens: usize,
    ) -> Result<()> {
        let (groups, grouped, out) = (*groups, grouped.handle(), out.handle());
        self.put(move |queue| queue.ungroup(&groups, &lock(&grouped), &mut lock(&out), n_tokens))
    }

    fn append(
        &mut self,
        kv: &Shared<B::Buffer>,
        columns: &KvColumns,
        batch: &Batch<'_, Deferred<B>>,
        pool: &mut Shared<B::KvPool>,
    ) -> Result<()> {
        let (kv, columns, pool) = (kv.handle(), *columns, pool.handle());
        let batch = RecordedBatch::of(batch);
        self.put(move |queue| {
            batch.with(|batch| queue.append(&lock(&kv), &columns, batch, &mut lock(&pool)))
        })
    }

    fn copy_blocks(&mut self, pool: &mut Shared<B::KvPool>, blocks: &[(u32, u32)]) -> Result<()> {
        let (pool, blocks) = (pool.handle(), blocks.to_vec());
        self.put(move |queue| queue.copy_blocks(&mut lock(&pool), &blocks))
    }

    fn attention(
        &mut self,
        op: &Attention<'_, Deferred<B>>,
        q: &Shared<B::Buffer>,
        batch: &Batch<'_, Deferred<B>>,
        pool: &Shared<B::KvPool>,
        out: &mut Shared<B::Buffer>,
    ) -> Result<()> {
        let Attention {
            n_heads,
            n_kv_heads,
            head_dim,
            row_width,
            scale,
            soft_cap,
            mask,
            bias,
            sinks,
            selected,
            beside,
        } = *op;
        let beside = beside.map(|of| RecordedBeside::of(&of));
        let selected = selected.map(|of| (of.bits.handle(), of.row_words));
        let sinks = sinks.cloned();
        let bias = bias.map(|bias| (bias.table.handle(), bias.row, bias.zero));
        let (q, pool, out) = (q.handle(), pool.handle(), out.handle());
        let batch = RecordedBatch::of(batch);
        self.put(move |queue| {
            let table = bias.as_ref().map(|(table, ..)| lock(table));
            let bias = table.as_deref().zip(bias.as_ref());
            let bits = selected.as_ref().map(|(bits, _)| lock(bits));
            let bits = bits.as_deref().zip(selected.as_ref());
            let locked = beside.as_ref().map(RecordedBeside::lock);
            let op = Attention {
                n_heads,
                n_kv_heads,
                head_dim,
                row_width,
                scale,
                soft_cap,
                mask,
                bias: bias.map(|(table, &(_, row, zero))| RelativeBias { table, row, zero }),
                sinks: sinks.as_deref(),
                selected: bits.map(|(bits, &(_, row_words))| Selected { bits, row_words }),
                beside: locked.as_ref().map(LockedBeside::op),
            };
            batch
                .with(|batch| queue.attention(&op, &lock(&q), batch, &lock(&pool), &mut lock(&out)))
        })
    }

    fn select(
        &mut self,
        op: &Selection,
        (q, weights): (&Shared<B::Buffer>, &Shared<B::Buffer>),
        batch: &Batch<'_, Deferred<B>>,
        pool: &Shared<B::KvPool>,
        bits: &mut Shared<B::Buffer>,
    ) -> Result<()> {
        let (op, q, weights) = (*op, q.handle(), weights.handle());
        let (pool, bits, batch) = (pool.handle(), bits.handle(), RecordedBatch::of(batch));
        self.put(move |queue| {
            batch.with(|batch| {
                let inputs = (&*lock(&q), &*lock(&weights));
                queue.select(&op, inputs, batch, &lock(&pool), &mut lock(&bits))
            })
        })
    }

    fn compress(
        &mut self,
        op: &Compression<'_, Deferred<B>>,
        batch: &Batch<'_, Deferred<B>>,
        pool: &Shared<B::KvPool>,
        (entries, entries_index): (&[Rows], &Shared<B::Index>),
        out: &mut Shared<B::Buffer>,
    ) -> Result<()> {
        let Compression {
            rate,
            width,
            overlaps,
            bias,
        } = *op;
        let (bias, entries, entries_index) =
            (Arc::clone(bias), entries.to_vec(), entries_index.handle());
        let (pool, out, batch) = (pool.handle(), out.handle(), RecordedBatch::of(batch));
        self.put(move |queue| {
            let op = Compression {
                rate,
                width,
                overlaps,
                bias: &*bias,
            };
            batch.with(|batch| {
                let entries = (&entries[..], &*lock(&entries_index));
                queue.compress(&op, batch, &lock(&pool), entries, &mut lock(&out))
            })
        })
    }

    fn short_conv(
        &mut self,
        op: &ShortConv<'_, Deferred<B>>,
        x: &Shared<B::Buffer>,
        batch: &StateBatch<'_, Deferred<B>>,
        state: &mut Shared<B::Buffer>,
        out: &mut Shared<B::Buffer>,
    ) -> Result<()> {
        let (op, batch) = (RecordedConv::of(op), RecordedStates::of(batch));
        let (x, state, out) = (x.handle(), state.handle(), out.handle());
        self.put(move |queue| {
            let op = op.op();
            batch.with(|batch| {
                queue.short_conv(&op, &lock(&x), batch, &mut lock(&state), &mut lock(&out))
            })
        })
    }

    fn copy_slot(
        &mut self,
        state: &mut Shared<B::Buffer>,
        n_elements: usize,
        slots: (usize, usize),
    ) -> Result<()> {
        let state = state.handle();
        self.put(move |queue| queue.copy_slot(&mut lock(&state), n_elements, slots))
    }

    fn delta_rule(
        &mut self,
        op: &DeltaRule<'_, Deferred<B>>,
        (x, gates): (&Shared<B::Buffer>, &Shared<B::Buffer>),
        batch: &StateBatch<'_, Deferred<B>>,
        state: &mut Shared<B::Buffer>,
        out: &mut Shared<B::Buffer>,
    ) -> Result<()> {
        let (op, batch) = (RecordedDelta::of(op), RecordedStates::of(batch));
        let (x, gates) = (x.handle(), gates.handle());
        let (state, out) = (state.handle(), out.handle());
        self.put(move |queue| {
            let inputs = (&*lock(&x), &*lock(&gates));
            batch.with(|batch| {
                queue.delta_rule(&op.op(), inputs, batch, &mut lock(&state), &mut lock(&out))
            })
        })
    }

    fn state_space(
        &mut self,
        op: &StateSpace<'_, Deferred<B>>,
        (x, steps): (&Shared<B::Buffer>, &Shared<B::Buffer>),
        batch: &StateBatch<'_, Deferred<B>>,
        state: &mut Shared<B::Buffer>,
        out: &mut Shared<B::Buffer>,
    ) -> Result<()> {
        let (op, batch) = (RecordedSpace::of(op), RecordedStates::of(batch));
        let (x, steps) = (x.handle(), steps.handle());
        let (state, out) = (state.handle(), out.handle());
        self.put(move |queue| {
            let inputs = (&*lock(&x), &*lock(&steps));
            batch.with(|batch| {
                queue.state_space(&op.op(), inputs, batch, &mut lock(&state), &mut lock(&out))
            })
        })
    }

    fn gate_heads(
        &mut self,
        op: &HeadGates<'_, Deferred<B>>,
        gates: &Shared<B::Buffer>,
        x: &mut Shared<B::Buffer>,
        n_tokens: usize,
    ) -> Result<()> {
        let norm = op.norm.as_ref();
        let norm = norm.map(|norm| (RecordedNorm::of(&norm.op), norm.order));
        let HeadGates {
            function,
            n_heads,
            head_dim,
            first,
            row_width,
            ..
        } = *op;
        let (gates, x) = (gates.handle(), x.handle());
        self.put(move |queue| {
            let op = HeadGates {
                norm: norm.as_ref().map(|(norm, order)| HeadNorm {
                    op: norm.op(),
                    order: *order,
                }),
                function,
                n_heads,
                head_dim,
                first,
                row_width,
            };
            queue.gate_heads(&op, &lock(&gates), &mut lock(&x), n_tokens)
        })
    }

    fn add(
        &mut self,
        y: &Shared<B::Buffer>,
        x: &mut Shared<B::Buffer>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let (y, x) = (y.handle(), x.handle());
        self.put(move |queue| queue.add(&lock(&y), &mut lock(&x), width, n_tokens))
    }

    fn scale(&mut self, runs: &[Run], x: &mut Shared<B::Buffer>, n_tokens: usize) -> Result<()> {
        let (runs, x) = (runs.to_vec(), x.handle());
        self.put(move |queue| queue.scale(&runs, &mut lock(&x), n_tokens))
    }

    fn scale_by(
        &mut self,
        by: &Arc<B::Weight>,
        x: &mut Shared<B::Buffer>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let (by, x) = (by.clone(), x.handle());
        self.put(move |queue| queue.scale_by(&by, &mut lock(&x), width, n_tokens))
    }

    fn weigh_streams(
        &mut self,
        op: &StreamWeights<'_, Deferred<B>>,
        s: &Shared<B::Buffer>,
        weights: &mut Shared<B::Buffer>,
        n_tokens: usize,
    ) -> Result<()> {
        let (scale, base) = (Arc::clone(op.scale), Arc::clone(op.base));
        let StreamWeights {
            streams,
            norm_eps,
            eps,
            n_rounds,
            only_read,
            ..
        } = *op;
        let (s, weights) = (s.handle(), weights.handle());
        self.put(move |queue| {
            let op = StreamWeights {
                streams,
                norm_eps,
                scale: &*scale,
                base: &*base,
                eps,
                n_rounds,
                only_read,
            };
            queue.weigh_streams(&op, &lock(&s), &mut lock(&weights), n_tokens)
        })
    }

    fn mix_streams(
        &mut self,
        op: &StreamMix,
        coefficients: &Shared<B::Buffer>,
        y: Option<&Shared<B::Buffer>>,
        s: &mut Shared<B::Buffer>,
        n_tokens: usize,
    ) -> Result<()> {
        let (op, coefficients, s) = (*op, coefficients.handle(), s.handle());
        let y = y.map(Shared::handle);
        self.put(move |queue| {
            let y = y.as_ref().map(|y| lock(y));
            queue.mix_streams(
                &op,
                &lock(&coefficients),
                y.as_deref(),
                &mut lock(&s),
                n_tokens,
            )
        })
    }

    fn sum_streams(
        &mut self,
        op: &StreamSum,
        coefficients: &Shared<B::Buffer>,
        s: &Shared<B::Buffer>,
        out: &mut Shared<B::Buffer>,
        n_tokens: usize,
    ) -> Result<()> {
        let (op, coefficients) = (*op, coefficients.handle());
        let (s, out) = (s.handle(), out.handle());
        self.put(move |queue| {
            queue.sum_streams(
                &op,
                &lock(&coefficients),
                &lock(&s),
                &mut lock(&out),
                n_tokens,
            )
        })
    }

    fn match_streams(
        &mut self,
        streams: &Streams,
        floor: f32,
        s: &mut Shared<B::Buffer>,
        n_tokens: usize,
    ) -> Result<()> {
        let (streams, s) = (*streams, s.handle());
        self.put(move |queue| queue.match_streams(&streams, floor, &mut lock(&s), n_tokens))
    }

    fn cut_off(&mut self, op: &CutOff, x: &mut Shared<B::Buffer>, n_tokens: usize) -> Result<()> {
        let (op, x) = (*op, x.handle());
        self.put(move |queue| queue.cut_off(&op, &mut lock(&x), n_tokens))
    }

    fn tanh(&mut self, x: &mut Shared<B::Buffer>, width: usize, n_tokens: usize) -> Result<()> {
        let x = x.handle();
        self.put(move |queue| queue.tanh(&mut lock(&x), width, n_tokens))
    }

    fn activate(
        &mut self,
        activation: Activation,
        x: &mut Shared<B::Buffer>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let x = x.handle();
        self.put(move |queue| queue.activate(activation, &mut lock(&x), width, n_tokens))
    }

    fn activate_xielu(
        &mut self,
        op: &Xielu<'_, Deferred<B>>,
        x: &mut Shared<B::Buffer>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let (numbers, x) = (op.numbers().map(Arc::clone), x.handle());
        self.put(move |queue| {
            let [alpha_p, alpha_n, beta, eps] = &numbers;
            let op = Xielu::<B> {
                alpha_p,
                alpha_n,
                beta,
                eps,
            };
            queue.activate_xielu(&op, &mut lock(&x), width, n_tokens)
        })
    }

    fn gate(
        &mut self,
        activation: Activation,
        gate_up: &Shared<B::Buffer>,
        out: &mut Shared<B::Buffer>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let (gate_up, out) = (gate_up.handle(), out.handle());
        self.put(move |queue| {
            queue.gate(
                activation,
                &lock(&gate_up),
                &mut lock(&out),
                width,
                n_tokens,
            )
        })
    }

    fn gate_clamped(
        &mut self,
        gate: &ClampedGate,
        gate_up: &Shared<B::Buffer>,
        out: &mut Shared<B::Buffer>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let (gate, gate_up, out) = (*gate, gate_up.handle(), out.handle());
        self.put(move |queue| {
            queue.gate_clamped(&gate, &lock(&gate_up), &mut lock(&out), width, n_tokens)
        })
    }

    fn add_gated(
        &mut self,
        gates: &Shared<B::Buffer>,
        y: &Shared<B::Buffer>,
        x: &mut Shared<B::Buffer>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let (gates, y, x) = (gates.handle(), y.handle(), x.handle());
        self.put(move |queue| {
            queue.add_gated(&lock(&gates), &lock(&y), &mut lock(&x), width, n_tokens)
        })
    }

    fn scale_by_largest(
        &mut self,
        (scores, n_scores): (&Shared<B::Buffer>, usize),
        x: &mut Shared<B::Buffer>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let (scores, x) = (scores.handle(), x.handle());
        self.put(move |queue| {
            queue.scale_by_largest((&lock(&scores), n_scores), &mut lock(&x), width, n_tokens)
        })
    }

    fn route(
        &mut self,
        op: &Routing,
        vectors: RouterVectors<'_, Deferred<B>>,
        scores: &Shared<B::Buffer>,
        routes: &mut Shared<B::Routes>,
        n_tokens: usize,
    ) -> Result<()> {
        let (op, scores, routes) = (*op, scores.handle(), routes.handle());
        let (correction, scales) = (vectors.correction.cloned(), vectors.scales.cloned());
        let chosen = vectors.chosen.map(|chosen| chosen.handle());
        self.put(move |queue| {
            let chosen = chosen.as_ref().map(|chosen| lock(chosen));
            let vectors = RouterVectors {
                correction: correction.as_deref(),
                scales: scales.as_deref(),
                chosen: chosen.as_deref(),
            };
            queue.route(&op, vectors, &lock(&scores), &mut lock(&routes), n_tokens)
        })
    }

    fn chosen(&mut self, routes: &Shared<B::Routes>, n_rows: &mut [usize]) -> Result<()> {
        let routes = routes.handle();
        lock(&self.schedule).ask(self.number, |queue| queue.chosen(&lock(&routes), n_rows))
    }

    fn expert(
        &mut self,
        expert: &Expert<'_, Deferred<B>>,
        x: &Shared<B::Buffer>,
        routes: &Shared<B::Routes>,
        scratch: ExpertBuffers<'_, Deferred<B>>,
        out: &mut Shared<B::Buffer>,
    ) -> Result<()> {
        let gate_up: Vec<_> = expert.gate_up.iter().map(RecordedPart::of).collect();
        let down = RecordedPart::of(&expert.down);
        let Expert {
            expert,
            gate,
            width,
            hidden,
            ..
        } = *expert;
        let (x, routes, out) = (x.handle(), routes.handle(), out.handle());
        let [gathered, up, gated, delta] = [
            scratch.gathered.handle(),
            scratch.up.handle(),
            scratch.gated.handle(),
            scratch.delta.handle(),
        ];
        self.put(move |queue| {
            let gate_up: Vec<_> = gate_up.iter().map(RecordedPart::part).collect();
            let expert = Expert {
                expert,
                gate_up: &gate_up,
                down: down.part(),
                gate,
                width,
                hidden,
            };
            let scratch = ExpertBuffers {
                gathered: &mut *lock(&gathered),
                up: &mut *lock(&up),
                gated: &mut *lock(&gated),
                delta: &mut *lock(&delta),
            };
            queue.expert(&expert, &lock(&x), &lock(&routes), scratch, &mut lock(&out))
        })
    }

    fn gather_routed(
        &mut self,
        routes: &Shared<B::Routes>,
        expert: usize,
        x: &Shared<B::Buffer>,
        width: usize,
        out: &mut Shared<B::Buffer>,
    ) -> Result<()> {
        let (routes, x, out) = (routes.handle(), x.handle(), out.handle());
        self.put(move |queue| {
            queue.gather_routed(&lock(&routes), expert, &lock(&x), width, &mut lock(&out))
        })
    }

    fn scatter_routed(
        &mut self,
        routes: &Shared<B::Routes>,
        expert: usize,
        y: &Shared<B::Buffer>,
        width: usize,
        x: &mut Shared<B::Buffer>,
    ) -> Result<()> {
        let (routes, y, x) = (routes.handle(), y.handle(), x.handle());
        self.put(move |queue| {
            queue.scatter_routed(&lock(&routes), expert, &lock(&y), width, &mut lock(&x))
        })
    }
}
