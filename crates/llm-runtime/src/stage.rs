//! The stages of a model on one device: generic inside, dynamic outside.

mod embedding;
mod encoder;
mod head;
mod lending;
mod order;
mod per_layer;
mod table;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use llm_arch::{
    BlockOf, ExpertOf, LayerSpec, MlpSpec, ModelSpec, NormOf, Role, Side, StreamsEndOf, Unit,
};
use llm_backend::{Backend, DeviceInfo, Ops, Queue};
use llm_plan::{ActivationWidths, Home, StagePlan, Term, workspace_shape};
use llm_tensor::Bytes;

use self::embedding::Embedding;
use self::encoder::Encoder;
use self::head::Head;
use self::lending::Lending;
use self::order::Order;
use self::table::Table;
use crate::activations::Activations;
use crate::allocated::Allocated;
use crate::angles::Angles;
use crate::block;
use crate::device::{Device, Elsewhere, StageOptions, Stages};
use crate::link::OnDevice;
use crate::mlp::{self, Experts};
use crate::pass::{Interrupts, Pass};
use crate::port::{Crossing, Lane, Port};
use crate::probe::Probe;
use crate::projection::norm_op;
use crate::relative::BiasTable;
use crate::source::WeightSource;
use crate::state::{LayerState, SequenceBlocks};
use crate::stream::{Feed, Key, Stream, Weights};
use crate::sublayer::Call;
use crate::{Result, RuntimeError, mixer, streams};

impl<B: Backend> Device for Arc<B> {
    fn info(&self) -> &DeviceInfo {
        B::info(self)
    }

    fn stages(
        &self,
        options: &StageOptions,
        source: &mut dyn WeightSource,
        feed: Option<Feed>,
    ) -> Result<Box<dyn Stages>> {
        let stages = BackendStages::load(Arc::clone(self), options, source, feed)?;
        Ok(Box::new(stages))
    }
}

struct BackendStages<B: Backend> {
    backend: Arc<B>,
    options: StageOptions,
    /// By number among all stages of the model; nothing of those of other devices.
    segments: Vec<Segment>,
    /// Offloaded weights,
    stream: Option<Stream<B>>,
    /// and the order in which they are needed.
    order: Order,
    embedding: Option<Embedding<B>>,
    /// Of rows that layers take in.
    per_layer_table: Option<Table<B>>,
    encoder: Option<Encoder<B>>,
    /// Layers of the decoder, by number.
    layers: BTreeMap<usize, Layer<B>>,
    /// States, by the layer that makes them: of these layers, and of others whose keys and values they see.
    states: BTreeMap<usize, LayerState<B>>,
    lending: Lending,
    bias: Option<BiasTable<B>>,
    /// The norm before a head on another device.
    final_norm: Option<Weights<B, NormOf<Role>>>,
    /// The same with what makes one row of streams, which the head's own device has too.
    streams_end: Option<Weights<B, StreamsEndOf<Role>>>,
    head: Option<Head<B>>,
    /// Experts of other devices' layers.
    guests: BTreeMap<Unit, Weights<B, ExpertOf<Role>>>,
    queue: B::Queue,
    /// Blocks of the layers' states, by sequence.
    sequences: SequenceBlocks<B>,
    activations: Activations<B>,
    angles: Angles,
}

/// A layer of the decoder.
struct Layer<B: Backend> {
    block: Weights<B, BlockOf<Role>>,
    /// None where its feed-forward is dense.
    experts: Option<Experts<B>>,
}

/// The units of a stage, as ranges.
#[derive(Debug, Clone, Default)]
struct Segment {
    embeds: bool,
    /// Rows that layers take in.
    adds_inputs: bool,
    /// Layers of the encoder; true where its norm follows.
    encoder: (Range<usize>, bool),
    /// Layers of the decoder; true where its norm follows without the head, or with streams.
    decoder: (Range<usize>, bool),
}

impl Segment {
    fn of(stage: &StagePlan, spec: &ModelSpec) -> Self {
        let layers = |side| {
            let mut layers = stage.layers(side);
            let first = layers.next();
            first.map_or(0..0, |first| first..layers.last().unwrap_or(first) + 1)
        };
        let norm = |side| stage.has(Unit::FinalNorm(side));
        Segment {
            embeds: stage.has(Unit::Embedding),
            adds_inputs: stage.has(Unit::PerLayerTable),
            encoder: (layers(Side::Encoder), norm(Side::Encoder)),
            decoder: (
                layers(Side::Decoder),
                norm(Side::Decoder) && (!stage.has(Unit::Head) || spec.decoder.streams.is_some()),
            ),
        }
    }
}

impl<B: Backend> BackendStages<B> {
    fn load(
        backend: Arc<B>,
        options: &StageOptions,
        source: &mut dyn WeightSource,
        feed: Option<Feed>,
    ) -> Result<Self> {
        let StageOptions {
            spec,
            stages,
            run_on,
            limits,
            kv_dtype,
        } = options;
        let (b, stack) = (&*backend, &spec.decoder);
        let stream = feed.map(|feed| Stream::new(&backend, feed, source));
        let mut stream = stream.transpose()?;
        let mut queue = backend.queue(Some(&workspace_shape(spec, limits)))?;
        let sequences = SequenceBlocks::new(b, spec, limits, *kv_dtype)?;
        let embedding = match options.has(Unit::Embedding) {
            true => Some(Embedding::load(b, spec, stream.as_mut(), source)?),
            false => None,
        };
        let per_layer_table = match options.has(Unit::PerLayerTable) {
            true => {
                let role = Role::PerLayerTable;
                Some(Table::load(b, role, stream.as_mut(), source)?)
            }
            false => None,
        };
        let streamed = stream.as_ref();
        let encoder = match &spec.encoder {
            Some(encoder) => Encoder::load(b, &mut queue, encoder, options, streamed, source)?,
            None => None,
        };
        let sizes = (limits, *kv_dtype);
        let (mut layers, mut states) = (BTreeMap::new(), BTreeMap::new());
        let (mut final_norm, mut streams_end, mut head) = (None, None, None);
        for stage in options.own() {
            let remote = stage.remote.iter().map(|&(unit, at)| (unit, at.run_on));
            let remote: HashMap<_, _> = remote.collect();
            let apart = |unit| remote.get(&unit).copied();
            for i in stage.layers(Side::Decoder) {
                let key = Key::Unit(Unit::Layer(Side::Decoder, i));
                let layer = Layer {
                    block: {
                        let roles = spec.roles().block(Side::Decoder, i);
                        Weights::load(b, streamed, key, roles, source)?
                    },
                    experts: Experts::load(b, streamed, source, (spec, i), apart)?,
                };
                layers.insert(i, layer);
                if let Entry::Vacant(state) = states.entry(stack.state_of(i)) {
                    let mixer = &stack.layers[*state.key()].mixer;
                    state.insert(LayerState::new(b, mixer, &sequences, sizes)?);
                }
            }
            let norm_unit = Unit::FinalNorm(Side::Decoder);
            let norm = spec.roles().final_norm(Side::Decoder);
            let mut norm = norm.filter(|_| stage.has(norm_unit));
            let end = spec.roles().streams_end(Side::Decoder);
            if let Some(end) = end.filter(|_| norm.take().is_some()) {
                let key = Key::Unit(norm_unit);
                streams_end = Some(Weights::load(b, streamed, key, end, source)?);
            }
            if stage.has(Unit::Head) {
                let spec = (spec, norm);
                let embedding = embedding.as_ref();
                head = Some(Head::load(b, spec, limits, embedding, streamed, source)?);
            } else if let Some(norm) = norm {
                let key = Key::Unit(norm_unit);
                final_norm = Some(Weights::load(b, streamed, key, norm, source)?);
            }
        }
        let mut guests = BTreeMap::new();
        for &(unit, at) in stages.iter().flat_map(|stage| &stage.remote) {
            if let Unit::Expert { layer, .. } = unit
                && let Some(roles) = spec.roles().expert(layer)
                && at.run_on == *run_on
            {
                let weights = Weights::load(b, streamed, Key::Unit(unit), roles, source)?;
                guests.insert(unit, weights);
            }
        }
        let segment = |stage: &StagePlan| match stage.run_on == *run_on {
            true => Segment::of(stage, spec),
            false => Segment::default(),
        };
        let part = BackendStages {
            segments: stages.iter().map(segment).collect(),
            order: Order::of(stages, *run_on),
            lending: Lending::of(spec, stages, *run_on),
            layers,
            states,
            guests,
            activations: Activations::new(b, spec, limits)?,
            angles: Angles::new(&stack.positions, source, limits.n_tokens)?,
            bias: BiasTable::load(
                b,
                &mut queue,
                source,
                (Side::Decoder, stack),
                limits.context,
            )?,
            options: options.clone(),
            queue,
            sequences,
            stream,
            embedding,
            per_layer_table,
            encoder,
            final_norm,
            streams_end,
            head,
            backend,
        };
        // The first pass finds its first weights on their way.
        if let Some(stream) = &part.stream {
            stream.expect(part.order.next_pass());
        }
        Ok(part)
    }
}

impl<B: Backend> BackendStages<B> {
    fn port(&mut self) -> OnDevice<'_, B> {
        OnDevice {
            queue: &mut self.queue,
            activations: &mut self.activations,
        }
    }
}

impl<B: Backend> Stages for BackendStages<B> {
    fn forward(
        &mut self,
        stage: usize,
        pass: &Pass<'_>,
        elsewhere: &mut dyn Elsewhere,
    ) -> Result<()> {
        let stream = self.stream.as_ref();
        if let Some(stream) = stream {
            let now = self.order.pass(stage, pass.logits);
            stream.expect(now.chain(self.order.next_pass()));
        }
        let Segment {
            embeds,
            adds_inputs,
            decoder: (layers, ends),
            ..
        } = self.segments[stage].clone();
        let (backend, spec, n_tokens) = (&*self.backend, &self.options.spec, pass.ids.len());
        let (queue, a) = (&mut self.queue, &mut self.activations);
        if let Some(embedding) = self.embedding.as_mut().filter(|_| embeds) {
            embedding.forward(queue, (backend, stream), spec, pass, &mut self.angles, a)?;
            if let Some(probe) = pass.probe {
                let (x, width) = a.residual();
                probe.look::<B>(queue, x, n_tokens * width, Unit::Embedding)?;
            }
        }
        if let Some(table) = self.per_layer_table.as_mut().filter(|_| adds_inputs) {
            per_layer::add_rows(table, (queue, backend), spec, pass.ids, a)?;
            if let Some(probe) = pass.probe {
                let n_elements = n_tokens * ActivationWidths::of(spec).inputs;
                probe.look::<B>(queue, &a.rows.inputs, n_elements, Unit::PerLayerTable)?;
            }
        }
        if !layers.is_empty() {
            for kind in 0..self.angles.n_kinds() {
                queue.upload(self.angles.table(kind, pass), &mut a.rows.angles[kind])?;
            }
            let layers_of = &spec.decoder.layers[layers.clone()];
            let is_by_token = |layer: &LayerSpec| layer.mlp.experts().is_some_and(|of| of.by_token);
            if layers_of.iter().any(is_by_token) {
                queue.upload_index(pass.ids, &mut a.ids)?;
            }
            for (i, kind) in spec.decoder.entry_kinds().into_iter().enumerate() {
                let to = &mut a.rows.angles[self.angles.n_kinds() + i];
                queue.upload(self.angles.entries(kind, pass), to)?;
            }
            self.sequences.begin(queue, pass.sequences)?;
            for state in self.states.values_mut() {
                state.copy(queue, &self.sequences)?;
            }
            self.sequences.own.end_copies();
            let states = (&self.sequences, &mut self.states);
            self.lending.take(stage, queue, states, a)?;
        }
        for (&i, layer) in self.layers.range_mut(layers) {
            if pass.interrupt.is_raised() {
                return Err(RuntimeError::Interrupted);
            }
            let mut call = Call {
                queue: &mut *queue,
                side: Side::Decoder,
                stack: &spec.decoder,
                bias: self.bias.as_ref(),
                n_tokens,
                lends: self.lending.lends(i),
                sequences: &self.sequences,
            };
            let block = layer.block.get(call.queue, stream)?;
            let state = self.states.get_mut(&spec.decoder.state_of(i));
            let state = state.expect("a state for every layer");
            block::forward(&block, &mut call, a, state)?;
            match &layer.experts {
                Some(experts) if block::follows_experts(&block) => {
                    experts.forward(call.queue, stream, a, elsewhere)?;
                    block::end(&block, &mut call, a)?;
                    block.end(queue)?;
                }
                experts => {
                    // Experts may be brought to its place.
                    block.end(queue)?;
                    if let Some(experts) = experts {
                        experts.forward(queue, stream, a, elsewhere)?;
                    }
                }
            }
            if let Some(probe) = pass.probe {
                let (unit, (x, width)) = (Unit::Layer(Side::Decoder, i), a.residual());
                probe.look::<B>(queue, x, n_tokens * width, unit)?;
            }
        }
        if let Some(end) = self.streams_end.as_ref().filter(|_| ends && pass.logits) {
            let end = end.get(queue, stream)?;
            streams::collapse(queue, &end.collapse, a, n_tokens)?;
            let op = norm_op(&end.norm);
            queue.norm(&op, &a.rows.x, &mut a.rows.normed, n_tokens)?;
            end.end(queue)?;
            std::mem::swap(&mut a.rows.x, &mut a.rows.normed);
        }
        if let Some(norm) = self.final_norm.as_ref().filter(|_| ends && pass.logits) {
            let norm = norm.get(queue, stream)?;
            queue.norm(&norm_op(&norm), &a.rows.x, &mut a.rows.normed, n_tokens)?;
            norm.end(queue)?;
            std::mem::swap(&mut a.rows.x, &mut a.rows.normed);
        }
        Ok(())
    }

    fn encode(
        &mut self,
        stage: usize,
        ids: &[u32],
        watch: (Interrupts<'_>, Option<&Probe>),
    ) -> Result<()> {
        let stream = self.stream.as_ref();
        if let Some(stream) = stream {
            // Every layer of the decoder takes from the result what it will attend to.
            let next = self.order.attend_to().chain(self.order.next_pass());
            stream.expect(self.order.encoder(stage).chain(next));
        }
        let segment = self.segments[stage].clone();
        let (backend, queue, a) = (&*self.backend, &mut self.queue, &mut self.activations);
        if let Some(embedding) = self.embedding.as_mut().filter(|_| segment.embeds) {
            let scale = self.options.spec.embedding.scale;
            let to = (&mut a.ids, &mut a.rows.x);
            embedding.tokens.embed(queue, backend, (ids, scale), to)?;
            if let (_, Some(probe)) = watch {
                let n_elements = ids.len() * self.options.spec.hidden;
                probe.look::<B>(queue, &a.rows.x, n_elements, Unit::Embedding)?;
            }
        }
        let units = segment.encoder;
        match &mut self.encoder {
            Some(encoder) => encoder.forward(queue, stream, units, ids.len(), watch, a),
            None => Ok(()),
        }
    }

    fn attend_to(
        &mut self,
        sequence: usize,
        n_positions: usize,
        interrupt: Interrupts<'_>,
    ) -> Result<()> {
        let stream = self.stream.as_ref();
        let (queue, a) = (&mut self.queue, &mut self.activations);
        let Some(encoded) = &mut self.sequences.encoded else {
            return Ok(());
        };
        encoded.begin(queue, sequence, n_positions)?;
        for (i, layer) in &mut self.layers {
            if interrupt.is_raised() {
                return Err(RuntimeError::Interrupted);
            }
            let block = layer.block.get(queue, stream)?;
            let state = self.states.get_mut(i).and_then(|of| of.cross.as_mut());
            if let (Some(cross), Some(kv)) = (&block.cross, state) {
                mixer::encode(&cross.compute, queue, (encoded, n_positions), a, kv)?;
            }
            block.end(queue)?;
        }
        Ok(())
    }

    fn expect_experts(&self, layer: usize, is_chosen: &dyn Fn(usize) -> bool) {
        let Some(stream) = &self.stream else {
            return;
        };
        let unit = |expert| Unit::Expert { layer, expert };
        let guests = self.guests.range(unit(0)..=unit(usize::MAX));
        let chosen = |unit: &Unit| match unit {
            Unit::Expert { expert, .. } => is_chosen(*expert),
            Unit::Embedding
            | Unit::PerLayerTable
            | Unit::Layer(..)
            | Unit::FinalNorm(_)
            | Unit::Head => false,
        };
        if guests.clone().any(|(_, weights)| weights.is_streamed()) {
            let chosen = guests.map(|(&unit, _)| unit).filter(chosen);
            stream.resolve(chosen.map(Key::Unit));
        }
    }

    fn expert(&mut self, unit: Unit, n_rows: usize) -> Result<()> {
        let Unit::Expert { layer, .. } = unit else {
            unreachable!("{unit} is no expert")
        };
        let MlpSpec::Experts(spec) = &self.options.spec.decoder.layers[layer].mlp else {
            unreachable!("{unit} is of a layer that has experts")
        };
        let weights = self.guests.get(&unit).expect("an expert of this device");
        let queue = &mut self.queue;
        let weights = weights.get(queue, self.stream.as_ref())?;
        mlp::expert(&*weights, queue, spec, n_rows, &mut self.activations)?;
        weights.end(queue)
    }

    fn can_rewind(&self, sequence: usize, len: usize) -> bool {
        self.sequences.can_rewind(sequence, len)
    }

    fn rewind(&mut self, sequence: usize, len: usize) {
        self.sequences.rewind(sequence, len);
    }

    fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        if self.sequences.fork(from, to) {
            for state in self.states.values_mut() {
                state.copy_slot(&mut self.queue, (from, to))?;
            }
        }
        Ok(())
    }

    fn logits(&mut self, rows: &[usize], out: &mut [f32]) -> Result<()> {
        let head = self
            .head
            .as_mut()
            .expect("logits are asked of the head's device");
        let stream = self.stream.as_ref();
        let (queue, x) = (&mut self.queue, &self.activations.rows.x);
        head.forward(queue, stream, &self.options.spec, x, (rows, out))
    }

    fn ids(&mut self, rows: &[usize], ids: &mut [Option<u32>]) -> Result<()> {
        let head = self
            .head
            .as_mut()
            .expect("ids are asked of the head's device");
        let stream = self.stream.as_ref();
        let (queue, x) = (&mut self.queue, &self.activations.rows.x);
        head.choose(queue, stream, &self.options.spec, x, (rows, ids))
    }

    fn finish(&mut self) -> Result<()> {
        Ok(self.queue.finish()?)
    }

    fn count(&self, allocated: &mut Allocated) {
        let home = self.options.run_on.memory();
        for (&i, state) in &self.states {
            let unit = Unit::Layer(Side::Decoder, i);
            match self.layers.contains_key(&i) {
                true => allocated.add_to(unit, home, Term::KvCache, state.bytes()),
                // Another device's is the layer's own.
                false => allocated.add(home, Term::KvCache, state.bytes()),
            }
        }
        self.activations.count(home, allocated);
        let StageOptions { spec, limits, .. } = &self.options;
        let workspace = self.backend.workspace_bytes(&workspace_shape(spec, limits));
        allocated.add(home, Term::Workspace, workspace);
        let rest = [
            Some(self.sequences.bytes()),
            self.bias.as_ref().map(BiasTable::bytes),
            self.head.as_ref().map(Head::bytes),
        ];
        let rest: Bytes = rest.into_iter().flatten().sum();
        allocated.add(home, Term::Activations, rest);
        allocated.add(Home::Ram, Term::Activations, self.angles.bytes());
        if let Some(encoder) = &self.encoder {
            encoder.count(home, allocated);
        }
        if let Some(stream) = &self.stream {
            stream.count(home, allocated);
        }
        if let Some(embedding) = &self.embedding {
            embedding.count(home, allocated);
        }
        if let Some(table) = &self.per_layer_table {
            table.count(home, allocated);
        }
    }
}

impl<B: Backend> Port for BackendStages<B> {
    fn download(&mut self, rows: Crossing, out: &mut [f32]) -> Result<()> {
        self.port().download(rows, out)
    }

    fn upload(&mut self, rows: Crossing, from: &[f32]) -> Result<()> {
        self.port().upload(rows, from)
    }

    fn lane(&mut self, rows: Crossing) -> Lane<'_> {
        Lane::of::<B>(&mut self.queue, self.activations.crossing(rows))
    }

    fn take(&mut self, rows: Crossing, n_elements: usize, from: Lane<'_>) -> Result<bool> {
        self.port().take(rows, n_elements, from)
    }
}
