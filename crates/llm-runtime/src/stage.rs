//! A run of units on one device: generic inside, dynamic outside.

use std::ops::Range;
use std::sync::Arc;

use llm_arch::{
    EncoderSpec, FinalNorm, HeadMatrix, LayerSpec, ModelSpec, NormSpec, Positions, Role, Side,
    StackSpec, Unit,
};
use llm_backend::{Allocation, Backend, DeviceInfo, HostWeight, Output, Rows};
use llm_plan::{ActivationWidths, CacheShape, HeadWidths, Limits, Term};
use llm_tensor::{Bytes, DType};

use crate::activations::Activations;
use crate::angles::Angles;
use crate::block::{Block, BlockCache, Call};
use crate::memory::{Allocated, kv_shape};
use crate::projection::{NormWeights, Projection};
use crate::relative::BiasTable;
use crate::session::Interrupt;
use crate::{Result, RuntimeError};

/// Where a stage's weights come from.
pub trait WeightSource {
    /// The weight of a slot, ready to compute with.
    ///
    /// # Errors
    /// When it cannot be read.
    fn weight(&mut self, unit: Unit, role: Role) -> Result<HostWeight>;

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
    /// Whether logits of some of the rows are asked for next.
    pub logits: bool,
    /// Checked between blocks.
    pub interrupt: &'a Interrupt,
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
        interrupt: &Interrupt,
        memory: &mut [f32],
    ) -> Result<()>;

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
    /// The first stage's.
    embedding: Option<Embedding<B>>,
    /// The first stage's, in encoder-decoder models.
    encoder: Option<Encoder<B>>,
    blocks: Vec<Block<B>>,
    bias: Option<BiasTable<B>>,
    /// The last stage's.
    head: Option<Head<B>>,
    /// By block, then by sequence.
    caches: Vec<Vec<BlockCache<B>>>,
    activations: Activations<B>,
    angles: Angles,
    /// What an encoder made of a prompt, `[n_tokens, hidden]`.
    memory: Option<B::Buffer>,
}

struct Embedding<B: Backend> {
    tokens: Arc<B::Weight>,
    positions: Option<B::Weight>,
    norm: Option<NormWeights<B>>,
    project: Option<Projection<B>>,
}

struct Encoder<B: Backend> {
    spec: EncoderSpec,
    blocks: Vec<Block<B>>,
    bias: Option<BiasTable<B>>,
    norm: NormWeights<B>,
    /// Of one block at a time: an encoder's keys and values are forgotten after it.
    cache: BlockCache<B>,
}

struct Head<B: Backend> {
    norm: Option<NormWeights<B>>,
    project: Option<Projection<B>>,
    matrix: Projection<B>,
    /// The rows that logits are asked of, and what becomes of them.
    rows: B::Buffer,
    normed: B::Buffer,
    projected: B::Buffer,
    logits: B::Buffer,
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
        let embedding = if is_first {
            Some(Embedding::load(b, spec, source)?)
        } else {
            None
        };
        let encoder = match &spec.encoder {
            Some(encoder) if is_first => Some(Encoder::load(b, encoder, options, source)?),
            _ => None,
        };
        let has_cross = spec.encoder.is_some();
        let block = |i| Block::load(b, source, stack, (Side::Decoder, i), has_cross);
        let blocks = layers.clone().map(block).collect::<Result<Vec<_>>>()?;
        let head = match is_last {
            true => Some(Head::load(b, spec, limits, embedding.as_ref(), source)?),
            false => None,
        };
        let sequences = |layer: &LayerSpec| {
            let capacity = limits.capacity(layer.window);
            (0..limits.n_sequences)
                .map(|_| {
                    cache(
                        b,
                        stack,
                        capacity,
                        *kv_dtype,
                        has_cross.then_some(limits.n_tokens),
                    )
                })
                .collect::<Result<Vec<_>>>()
        };
        let memory_width = ActivationWidths::of(spec).memory;
        Ok(BackendStage {
            caches: stack.layers[layers.clone()]
                .iter()
                .map(sequences)
                .collect::<Result<_>>()?,
            activations: Activations::new(b, spec, limits)?,
            angles: Angles::new(&stack.positions, source, limits.n_tokens)?,
            bias: BiasTable::load(b, source, (Side::Decoder, stack), limits.context)?,
            memory: match has_cross {
                true => Some(b.alloc(limits.n_tokens * memory_width)?),
                false => None,
            },
            options: options.clone(),
            embedding,
            encoder,
            blocks,
            head,
            backend,
        })
    }
}

impl<B: Backend> Stage for BackendStage<B> {
    fn forward(&mut self, pass: &Pass<'_>, hidden: &mut [f32]) -> Result<()> {
        let (backend, spec, n_tokens) = (&*self.backend, &self.options.spec, pass.ids.len());
        let a = &mut self.activations;
        match &self.embedding {
            Some(embedding) => embedding.forward(backend, spec, pass, &mut self.angles, a)?,
            None => backend.upload(hidden, &mut a.x)?,
        }
        for kind in 0..self.angles.n_kinds() {
            backend.upload(self.angles.table(kind, pass), &mut a.angles[kind])?;
        }
        let call = Call {
            backend,
            side: Side::Decoder,
            stack: &spec.decoder,
            bias: self.bias.as_ref(),
            n_tokens,
            sequences: pass.sequences,
        };
        let layers = &spec.decoder.layers[self.options.layers.clone()];
        for ((block, layer), caches) in self.blocks.iter().zip(layers).zip(&mut self.caches) {
            if pass.interrupt.is_raised() {
                return Err(RuntimeError::Interrupted);
            }
            block.forward(&call, layer, a, caches)?;
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
        interrupt: &Interrupt,
        memory: &mut [f32],
    ) -> Result<()> {
        let backend = &*self.backend;
        let (Some(buffer), a) = (&mut self.memory, &mut self.activations) else {
            return Ok(());
        };
        if let (Some(encoder), Some(embedding)) = (&mut self.encoder, &self.embedding) {
            let scale = self.options.spec.embedding.scale;
            backend.embed(&embedding.tokens, ids, scale, &mut a.x)?;
            encoder.forward(backend, ids.len(), interrupt, a, buffer)?;
            backend.download(buffer, memory)?;
        } else {
            backend.upload(memory, buffer)?;
        }
        let attention = &self.options.spec.decoder.block.attention;
        for (block, caches) in self.blocks.iter().zip(&mut self.caches) {
            block.encode_memory(
                backend,
                attention,
                buffer,
                ids.len(),
                a,
                &mut caches[sequence],
            )?;
        }
        Ok(())
    }

    fn logits(&mut self, rows: &[usize], out: &mut [f32]) -> Result<()> {
        let (backend, spec, a) = (&*self.backend, &self.options.spec, &mut self.activations);
        let head = self
            .head
            .as_mut()
            .expect("logits are asked of the last stage");
        let n = rows.len();
        backend.gather_rows(&a.x, rows, spec.hidden, &mut head.rows)?;
        let mut x = &head.rows;
        if let Some(norm) = &head.norm {
            backend.norm(&norm.op(), x, &mut head.normed, n)?;
            x = &head.normed;
        }
        if let Some(project) = &head.project {
            project.apply(
                backend,
                x,
                (Output::Write, &mut head.projected),
                n,
                &mut a.workspace,
            )?;
            x = &head.projected;
        }
        head.matrix.apply(
            backend,
            x,
            (Output::Write, &mut head.logits),
            n,
            &mut a.workspace,
        )?;
        backend.download(&head.logits, out)?;
        if spec.head.scale != 1.0 {
            out.iter_mut().for_each(|logit| *logit *= spec.head.scale);
        }
        if let Some(cap) = spec.head.soft_cap {
            out.iter_mut()
                .for_each(|logit| *logit = cap * (*logit / cap).tanh());
        }
        Ok(())
    }

    fn count(&self, allocated: &mut Allocated) {
        for (layer, caches) in self.options.layers.clone().zip(&self.caches) {
            let unit = Unit::Layer(Side::Decoder, layer);
            let caches = caches.iter().map(BlockCache::bytes).sum();
            allocated.add_to(unit, Term::KvCache, caches);
        }
        self.activations.count(allocated);
        let bias = |table: &Option<BiasTable<B>>| table.as_ref().map(BiasTable::bytes);
        let rest = [
            Some(self.angles.bytes()),
            bias(&self.bias),
            self.memory.as_ref().map(B::Buffer::bytes),
            self.head.as_ref().map(Head::bytes),
        ];
        allocated.add(Term::Activations, rest.into_iter().flatten().sum());
        if let Some(encoder) = &self.encoder {
            allocated.add(Term::KvCache, encoder.cache.bytes());
            let bias = bias(&encoder.bias).unwrap_or(Bytes::ZERO);
            allocated.add(Term::Activations, bias);
        }
    }
}

impl<B: Backend> Embedding<B> {
    fn load(backend: &B, spec: &ModelSpec, source: &mut dyn WeightSource) -> Result<Self> {
        let unit = Unit::Embedding;
        Ok(Embedding {
            tokens: Arc::new(backend.load(source.weight(unit, Role::TokenTable)?)?),
            positions: match spec.decoder.positions {
                Positions::Learned { .. } => {
                    Some(backend.load(source.weight(unit, Role::PositionTable)?)?)
                }
                Positions::Rotary(_) | Positions::Alibi { .. } | Positions::Buckets { .. } => None,
            },
            norm: match &spec.embedding.norm {
                Some(norm) => {
                    let roles = (Role::EmbedNorm, Role::EmbedNormBias);
                    Some(NormWeights::load(backend, source, unit, norm, roles)?)
                }
                None => None,
            },
            project: match spec.embedding.width == spec.hidden {
                true => None,
                false => Some(Projection::load(
                    backend,
                    source,
                    unit,
                    &[(Role::ProjectIn, None)],
                )?),
            },
        })
    }

    /// Hidden states of the pass's tokens into `a.x`.
    fn forward(
        &self,
        backend: &B,
        spec: &ModelSpec,
        pass: &Pass<'_>,
        angles: &mut Angles,
        a: &mut Activations<B>,
    ) -> Result<()> {
        let (n_tokens, scale) = (pass.ids.len(), spec.embedding.scale);
        match &self.project {
            None => backend.embed(&self.tokens, pass.ids, scale, &mut a.x)?,
            Some(project) => {
                backend.embed(&self.tokens, pass.ids, scale, &mut a.embedded)?;
                project.apply(
                    backend,
                    &a.embedded,
                    (Output::Write, &mut a.x),
                    n_tokens,
                    &mut a.workspace,
                )?;
            }
        }
        if let Some(table) = &self.positions {
            backend.add_positions(table, angles.rows(pass), &mut a.x)?;
        }
        if let Some(norm) = &self.norm {
            backend.norm(&norm.op(), &a.x, &mut a.normed, n_tokens)?;
            std::mem::swap(&mut a.x, &mut a.normed);
        }
        Ok(())
    }
}

impl<B: Backend> Encoder<B> {
    fn load(
        backend: &B,
        spec: &EncoderSpec,
        options: &StageOptions,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let (stack, n_tokens) = (&spec.stack, options.limits.n_tokens);
        let block = |i| Block::load(backend, source, stack, (Side::Encoder, i), false);
        let blocks = (0..stack.n_layers()).map(block).collect::<Result<_>>()?;
        Ok(Encoder {
            spec: spec.clone(),
            blocks,
            bias: BiasTable::load(backend, source, (Side::Encoder, stack), n_tokens)?,
            norm: final_norm(backend, source, Side::Encoder, &stack.norm)?,
            cache: cache(backend, stack, n_tokens, options.kv_dtype, None)?,
        })
    }

    /// From the embedded prompt in `a.x` to `memory`.
    fn forward(
        &mut self,
        backend: &B,
        n_tokens: usize,
        interrupt: &Interrupt,
        a: &mut Activations<B>,
        memory: &mut B::Buffer,
    ) -> Result<()> {
        let stack = &self.spec.stack;
        let sequences = [(
            0,
            Rows {
                first: 0,
                n_tokens,
                start: 0,
            },
        )];
        let bias = self.bias.as_ref();
        let call = Call {
            backend,
            side: Side::Encoder,
            stack,
            bias,
            n_tokens,
            sequences: &sequences,
        };
        for (block, layer) in self.blocks.iter().zip(&stack.layers) {
            if interrupt.is_raised() {
                return Err(RuntimeError::Interrupted);
            }
            block.forward(&call, layer, a, std::slice::from_mut(&mut self.cache))?;
        }
        Ok(backend.norm(&self.norm.op(), &a.x, memory, n_tokens)?)
    }
}

impl<B: Backend> Head<B> {
    fn load(
        backend: &B,
        spec: &ModelSpec,
        limits: &Limits,
        embedding: Option<&Embedding<B>>,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let (stack, width) = (&spec.decoder, spec.embedding.width);
        let matrix = match (spec.head.matrix, embedding) {
            (HeadMatrix::Tied, Some(embedding)) => Arc::clone(&embedding.tokens),
            (HeadMatrix::Tied, None) => {
                Arc::new(backend.load(source.weight(Unit::Embedding, Role::TokenTable)?)?)
            }
            (HeadMatrix::Separate, _) => {
                Arc::new(backend.load(source.weight(Unit::Head, Role::Head)?)?)
            }
        };
        let bias = match spec.head.bias {
            true => Some(backend.load(source.weight(Unit::Head, Role::HeadBias)?)?),
            false => None,
        };
        let widths = HeadWidths::of(spec);
        let alloc = |width: usize| backend.alloc(limits.n_logits * width);
        Ok(Head {
            norm: match stack.final_norm {
                FinalNorm::Present => {
                    Some(final_norm(backend, source, Side::Decoder, &stack.norm)?)
                }
                FinalNorm::Absent => None,
            },
            project: match width == spec.hidden {
                true => None,
                false => Some(Projection::load(
                    backend,
                    source,
                    Unit::Head,
                    &[(Role::ProjectOut, None)],
                )?),
            },
            matrix: Projection::shared(matrix, bias),
            rows: alloc(widths.rows)?,
            normed: alloc(widths.normed)?,
            projected: alloc(widths.projected)?,
            logits: alloc(widths.logits)?,
        })
    }

    /// Buffers.
    fn bytes(&self) -> Bytes {
        let buffers = [&self.rows, &self.normed, &self.projected, &self.logits];
        buffers.into_iter().map(B::Buffer::bytes).sum()
    }
}

fn final_norm<B: Backend>(
    backend: &B,
    source: &mut dyn WeightSource,
    side: Side,
    spec: &NormSpec,
) -> Result<NormWeights<B>> {
    let roles = (Role::FinalNorm, Role::FinalNormBias);
    NormWeights::load(backend, source, Unit::FinalNorm(side), spec, roles)
}

/// An empty cache of `capacity` positions and, for cross-attention, of an encoder's.
fn cache<B: Backend>(
    backend: &B,
    stack: &StackSpec,
    capacity: usize,
    dtype: DType,
    cross_capacity: Option<usize>,
) -> Result<BlockCache<B>> {
    let shape = |capacity| kv_shape(CacheShape::of(stack, capacity, dtype));
    Ok(BlockCache {
        own: backend.kv_cache(&shape(capacity))?,
        cross: match cross_capacity {
            Some(capacity) => Some(backend.kv_cache(&shape(capacity))?),
            None => None,
        },
        n_encoded: 0,
    })
}
