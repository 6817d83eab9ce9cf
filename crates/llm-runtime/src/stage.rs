//! A run of units on one device: generic inside, dynamic outside.

mod embedding;
mod encoder;
mod head;

use std::ops::Range;
use std::sync::Arc;

use llm_arch::{BlockOf, LayerSpec, ModelSpec, Role, Side, Unit};
use llm_backend::{Allocation, Backend, DeviceInfo, Rows};
use llm_plan::{ActivationWidths, Limits, Term};
use llm_quant::StoredWeight;
use llm_tensor::DType;

use self::embedding::Embedding;
use self::encoder::Encoder;
use self::head::Head;
use crate::activations::Activations;
use crate::angles::Angles;
use crate::block::{self, Call};
use crate::memory::Allocated;
use crate::mlp::Experts;
use crate::probe::Probe;
use crate::relative::BiasTable;
use crate::session::Interrupt;
use crate::state::LayerState;
use crate::stream::{Key, Next, Stream, Weights};
use crate::{Result, RuntimeError, mixer};

/// Where a stage's weights come from.
pub trait WeightSource {
    /// The weight of a slot, ready to compute with.
    ///
    /// # Errors
    /// When it cannot be read.
    fn weight(&mut self, unit: Unit, role: Role) -> Result<StoredWeight>;

    /// The elements of a slot that is no weight itself: a table that a device computes with is made of them.
    ///
    /// # Errors
    /// When they cannot be read.
    fn values(&mut self, unit: Unit, role: Role) -> Result<Vec<f32>>;

    /// The stretches of the rotary wavelengths, where the checkpoint holds them.
    ///
    /// # Errors
    /// When they cannot be read.
    fn rope_factors(&mut self) -> Result<Option<Vec<f32>>>;

    /// What rests on disk and is brought whenever it is needed, if anything does; asked for once, before all else.
    fn stream(&mut self) -> Option<Stream>;
}

/// A device that stages can be built on, whatever its backend.
pub trait Device: Send + Sync {
    /// What the device is.
    fn info(&self) -> &DeviceInfo;

    /// Loads the units of a stage and allocates all that it will need.
    ///
    /// # Errors
    /// When a weight cannot be read or the device has no room.
    fn stage(
        &self,
        options: &StageOptions,
        source: &mut dyn WeightSource,
    ) -> Result<Box<dyn Stage>>;
}

impl<B: Backend> Device for Arc<B> {
    fn info(&self) -> &DeviceInfo {
        B::info(self)
    }

    fn stage(
        &self,
        options: &StageOptions,
        source: &mut dyn WeightSource,
    ) -> Result<Box<dyn Stage>> {
        Ok(Box::new(BackendStage::load(
            Arc::clone(self),
            options,
            source,
        )?))
    }
}

/// What a stage is to hold.
#[derive(Debug, Clone)]
pub struct StageOptions {
    /// The whole model.
    pub spec: ModelSpec,
    /// The layers of this stage; the first stage also embeds, the last one also makes logits.
    pub layers: Range<usize>,
    /// The largest passes it has to serve.
    pub limits: Limits,
    /// How the KV cache keeps its elements.
    pub kv_dtype: DType,
}

/// One pass: rows of one or more sequences.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// The token of each row.
    pub ids: &'a [u32],
    /// Which rows belong to which sequence.
    pub sequences: &'a [(usize, Rows)],
    /// Of each of them how many positions are to be read in all: how far apart positions are may depend on it.
    pub horizons: &'a [usize],
    /// Whether logits of some of the rows are asked for next.
    pub logits: bool,
    /// Checked between blocks.
    pub interrupt: &'a Interrupt,
    /// What looks at each unit's results, if anything does.
    pub probe: Option<&'a Probe>,
}

/// A run of consecutive units on one device.
pub trait Stage: Send {
    /// Runs the pass. `hidden` `[n_tokens, hidden]` brings the previous stage's result and takes this one's; the
    /// first stage does not read it, the last one does not write it.
    ///
    /// # Errors
    /// When the device fails or the interrupt is raised.
    fn forward(&mut self, pass: &Pass<'_>, hidden: &mut [f32]) -> Result<()>;

    /// Reads the prompt of an encoder-decoder model: the first stage turns `ids` into `memory` `[ids, hidden]`, and every
    /// stage takes from it what its blocks will attend to.
    ///
    /// # Errors
    /// When the device fails or the interrupt is raised.
    fn encode(
        &mut self,
        sequence: usize,
        ids: &[u32],
        watch: (&Interrupt, Option<&Probe>),
        memory: &mut [f32],
    ) -> Result<()>;

    /// Forgets positions of a sequence from `len` on; returns how many are left: `len`, or fewer where what the position
    /// before `len` needs is gone. Other stages may have fewer; then this is asked again.
    fn rewind(&mut self, sequence: usize, len: usize) -> usize;

    /// Makes sequence `to` what `from` is.
    ///
    /// # Errors
    /// When the device fails.
    fn fork(&mut self, from: usize, to: usize) -> Result<()>;

    /// Logits of some rows of the last pass into `out` `[rows, vocab]`; the last stage's only.
    ///
    /// # Errors
    /// When the device fails.
    fn logits(&mut self, rows: &[usize], out: &mut [f32]) -> Result<()>;

    /// Counts everything but the weights, which whoever hands them over counts.
    fn count(&self, allocated: &mut Allocated);
}

struct BackendStage<B: Backend> {
    backend: Arc<B>,
    options: StageOptions,
    /// What rests on disk.
    stream: Option<Stream>,
    /// The first stage's.
    embedding: Option<Embedding<B>>,
    /// The first stage's, in encoder-decoder models.
    encoder: Option<Encoder<B>>,
    blocks: Vec<Weights<B, BlockOf<Role>>>,
    /// By block; none where its feed-forward is dense.
    experts: Vec<Option<Experts<B>>>,
    bias: Option<BiasTable<B>>,
    /// The last stage's.
    head: Option<Head<B>>,
    /// By block, then by sequence.
    states: Vec<Vec<LayerState<B>>>,
    /// Prompts that an encoder has read.
    n_encodings: u64,
    activations: Activations<B>,
    angles: Angles,
    /// What an encoder made of a prompt, `[n_tokens, hidden]`.
    memory: Option<B::Buffer>,
}

impl<B: Backend> BackendStage<B> {
    fn load(
        backend: Arc<B>,
        options: &StageOptions,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let StageOptions {
            spec,
            layers,
            limits,
            kv_dtype,
        } = options;
        let (b, stack) = (&*backend, &spec.decoder);
        let (is_first, is_last) = (layers.start == 0, layers.end == stack.n_layers());
        let mut stream = source.stream();
        let embedding = if is_first {
            Some(Embedding::load(b, spec, stream.as_mut(), source)?)
        } else {
            None
        };
        let stream = stream;
        let streamed = stream.as_ref();
        let encoder = match &spec.encoder {
            Some(encoder) if is_first => {
                Some(Encoder::load(b, encoder, options, streamed, source)?)
            }
            _ => None,
        };
        let has_cross = spec.encoder.is_some();
        let (mut blocks, mut experts) = (Vec::new(), Vec::new());
        for i in layers.clone() {
            let key = Key::Unit(Unit::Layer(Side::Decoder, i));
            let roles = BlockOf::of(spec, Side::Decoder, i);
            blocks.push(Weights::load(b, streamed, key, roles, source)?);
            experts.push(Experts::load(b, streamed, source, spec, i)?);
        }
        let head = match is_last {
            true => Some(Head::load(
                b,
                spec,
                limits,
                embedding.as_ref(),
                streamed,
                source,
            )?),
            false => None,
        };
        let state =
            |layer: &LayerSpec| LayerState::new(b, &layer.mixer, limits, *kv_dtype, has_cross);
        let states = |layer| (0..limits.n_sequences).map(|_| state(layer)).collect();
        let memory_width = ActivationWidths::of(spec).memory;
        let stage = BackendStage {
            states: stack.layers[layers.clone()]
                .iter()
                .map(states)
                .collect::<Result<_>>()?,
            n_encodings: 0,
            activations: Activations::new(b, spec, limits)?,
            angles: Angles::new(&stack.positions, source, limits.n_tokens)?,
            bias: BiasTable::load(b, source, (Side::Decoder, stack), limits.context)?,
            memory: match has_cross {
                true => Some(b.alloc(limits.n_tokens * memory_width)?),
                false => None,
            },
            options: options.clone(),
            stream,
            embedding,
            encoder,
            blocks,
            experts,
            head,
            backend,
        };
        // The first pass finds its first weights on their way.
        stage.expect(stage.decoder());
        Ok(stage)
    }

    /// Tells the stream, if there is one, what comes.
    fn expect(&self, next: impl Iterator<Item = Next>) {
        if let Some(stream) = &self.stream {
            stream.expect(next);
        }
    }

    /// What a pass is computed with before logits are asked for, in order.
    fn decoder(&self) -> impl Iterator<Item = Next> + '_ {
        let block = |(i, experts): (usize, &Option<Experts<B>>)| {
            let layer = Next::Key(Key::Unit(Unit::Layer(Side::Decoder, i)));
            let experts = experts.as_ref().filter(|experts| experts.is_streamed());
            let unknown = experts.map(|_| Next::Unknown);
            [Some(layer), unknown].into_iter().flatten()
        };
        let layers = self.options.layers.clone().zip(&self.experts);
        let embedding = [Next::Key(Key::Unit(Unit::Embedding))];
        embedding.into_iter().chain(layers.flat_map(block))
    }

    /// What logits are computed with.
    fn head() -> impl Iterator<Item = Next> {
        let norm = Key::Unit(Unit::FinalNorm(Side::Decoder));
        [norm, Key::Unit(Unit::Head), Key::TiedTable]
            .into_iter()
            .map(Next::Key)
    }
}

impl<B: Backend> Stage for BackendStage<B> {
    fn forward(&mut self, pass: &Pass<'_>, hidden: &mut [f32]) -> Result<()> {
        let head = Self::head().filter(|_| pass.logits);
        self.expect(self.decoder().chain(head).chain(self.decoder()));
        let (backend, spec, n_tokens) = (&*self.backend, &self.options.spec, pass.ids.len());
        let (stack, stream) = (&spec.decoder, self.stream.as_ref());
        let a = &mut self.activations;
        match &mut self.embedding {
            Some(embedding) => {
                embedding.forward(backend, spec, stream, pass, &mut self.angles, a)?;
            }
            None => backend.upload(hidden, &mut a.x)?,
        }
        let n_elements = n_tokens * spec.hidden;
        if let Some(probe) = pass.probe {
            probe.look(backend, &a.x, n_elements, Unit::Embedding)?;
        }
        for kind in 0..self.angles.n_kinds() {
            backend.upload(self.angles.table(kind, pass), &mut a.angles[kind])?;
        }
        let call = Call {
            backend,
            side: Side::Decoder,
            stack,
            bias: self.bias.as_ref(),
            n_tokens,
            sequences: pass.sequences,
        };
        let blocks = self.blocks.iter().zip(&self.experts).zip(&mut self.states);
        for (i, ((block, experts), states)) in self.options.layers.clone().zip(blocks) {
            if pass.interrupt.is_raised() {
                return Err(RuntimeError::Interrupted);
            }
            let block = block.get(backend, stream)?;
            block::forward(&block, &call, a, states)?;
            // Experts may be brought to its place.
            drop(block);
            if let Some(experts) = experts {
                experts.forward(backend, stream, a)?;
            }
            if let Some(probe) = pass.probe {
                let unit = Unit::Layer(Side::Decoder, i);
                probe.look(backend, &a.x, n_elements, unit)?;
            }
        }
        if self.head.is_none() {
            backend.download(&a.x, hidden)?;
        }
        Ok(())
    }

    fn encode(
        &mut self,
        sequence: usize,
        ids: &[u32],
        (interrupt, probe): (&Interrupt, Option<&Probe>),
        memory: &mut [f32],
    ) -> Result<()> {
        self.n_encodings += 1;
        let encoder = self.encoder.iter().flat_map(Encoder::keys).map(Next::Key);
        self.expect(encoder.chain(self.decoder()).chain(self.decoder()));
        let (backend, stream) = (&*self.backend, self.stream.as_ref());
        let (Some(buffer), a) = (&mut self.memory, &mut self.activations) else {
            return Ok(());
        };
        if let (Some(encoder), Some(embedding)) = (&mut self.encoder, &mut self.embedding) {
            let scale = self.options.spec.embedding.scale;
            embedding.tokens.embed(backend, ids, scale, &mut a.x)?;
            if let Some(probe) = probe {
                let n_elements = ids.len() * self.options.spec.hidden;
                probe.look(backend, &a.x, n_elements, Unit::Embedding)?;
            }
            let watch = (interrupt, probe);
            encoder.forward(backend, stream, ids.len(), watch, a, buffer)?;
            backend.download(buffer, memory)?;
        } else {
            backend.upload(memory, buffer)?;
        }
        for (block, states) in self.blocks.iter().zip(&mut self.states) {
            if interrupt.is_raised() {
                return Err(RuntimeError::Interrupted);
            }
            let block = block.get(backend, stream)?;
            if let (Some(cross), Some(state)) = (&block.cross, states[sequence].encoded()) {
                let memory = (&*buffer, ids.len(), self.n_encodings);
                mixer::encode(&cross.compute, backend, memory, a, state)?;
            }
        }
        Ok(())
    }

    fn rewind(&mut self, sequence: usize, len: usize) -> usize {
        let states = self.states.iter_mut();
        let kept = states.map(|states| states[sequence].rewind(len));
        kept.min().unwrap_or(len)
    }

    fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        for states in &mut self.states {
            let [from, to] = states
                .get_disjoint_mut([from, to])
                .expect("two sequences of the session");
            to.copy_from(&*self.backend, from)?;
        }
        Ok(())
    }

    fn logits(&mut self, rows: &[usize], out: &mut [f32]) -> Result<()> {
        let head = self
            .head
            .as_mut()
            .expect("logits are asked of the last stage");
        let (backend, spec) = (&*self.backend, &self.options.spec);
        let a = &mut self.activations;
        head.forward(backend, spec, self.stream.as_ref(), a, (rows, out))
    }

    fn count(&self, allocated: &mut Allocated) {
        for (layer, states) in self.options.layers.clone().zip(&self.states) {
            let unit = Unit::Layer(Side::Decoder, layer);
            let states = states.iter().map(LayerState::bytes).sum();
            allocated.add_to(unit, Term::KvCache, states);
        }
        self.activations.count(allocated);
        let rest = [
            Some(self.angles.bytes()),
            self.bias.as_ref().map(BiasTable::bytes),
            self.memory.as_ref().map(B::Buffer::bytes),
            self.head.as_ref().map(Head::bytes),
        ];
        allocated.add(Term::Activations, rest.into_iter().flatten().sum());
        if let Some(encoder) = &self.encoder {
            encoder.count(allocated);
        }
        let staging = [
            self.stream.as_ref().map(Stream::bytes),
            self.embedding.as_ref().map(Embedding::staging_bytes),
        ];
        allocated.add(Term::Staging, staging.into_iter().flatten().sum());
    }
}
