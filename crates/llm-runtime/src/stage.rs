//! A run of units on one device: generic inside, dynamic outside.

use std::ops::Range;
use std::sync::Arc;

use llm_arch::{Head, ModelSpec, Positions, Role, Unit};
use llm_backend::{
    Backend, DeviceInfo, HostWeight, KvShape, LinearPart, Output, Rows, WorkspaceShape,
};
use llm_tensor::DType;

use crate::block::{Activations, Block, NormWeights};
use crate::session::Interrupt;
use crate::{Result, RuntimeError};

/// Where a stage's weights come from.
pub trait WeightSource {
    /// The weight of a slot, ready to compute with.
    ///
    /// # Errors
    /// When it cannot be read.
    fn weight(&mut self, unit: Unit, role: Role) -> Result<HostWeight>;

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

/// The largest passes that a session serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that are kept at a time.
    pub n_sequences: usize,
    /// Positions of each.
    pub context: usize,
    /// Rows of one pass; longer prompts are fed in pieces.
    pub n_tokens: usize,
    /// Rows whose logits are computed at a time.
    pub n_logits: usize,
}

/// One pass: rows of one or more sequences.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// The token of each row.
    pub ids: &'a [u32],
    /// Which rows belong to which sequence.
    pub sequences: &'a [(usize, Rows)],
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

    /// Logits of some rows of the last pass into `out` `[rows, vocab]`; the last stage's only.
    ///
    /// # Errors
    /// When the device fails.
    fn logits(&mut self, rows: &[usize], out: &mut [f32]) -> Result<()>;
}

struct BackendStage<B: Backend> {
    backend: Arc<B>,
    options: StageOptions,
    /// The first stage's.
    embedding: Option<Embedding<B>>,
    blocks: Vec<Block<B>>,
    /// The last stage's.
    head: Option<HeadWeights<B>>,
    /// By block, then by sequence.
    caches: Vec<Vec<B::KvCache>>,
    activations: Activations<B>,
    angles: Angles,
}

struct Embedding<B: Backend> {
    tokens: Arc<B::Weight>,
    positions: Option<B::Weight>,
}

struct HeadWeights<B: Backend> {
    norm: NormWeights<B>,
    matrix: Arc<B::Weight>,
    /// The rows that logits are asked of, and their normalised form.
    rows: B::Buffer,
    normed: B::Buffer,
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
        let stack = &spec.decoder;
        let is_first = layers.start == 0;
        let is_last = layers.end == stack.n_layers;
        let load = |source: &mut dyn WeightSource, unit, role| -> Result<B::Weight> {
            Ok(backend.load(source.weight(unit, role)?)?)
        };
        let embedding = match is_first {
            true => Some(Embedding {
                tokens: Arc::new(load(source, Unit::Embedding, Role::TokenTable)?),
                positions: match stack.positions {
                    Positions::Learned { .. } => {
                        Some(load(source, Unit::Embedding, Role::PositionTable)?)
                    }
                    Positions::Rotary(_) => None,
                },
            }),
            false => None,
        };
        let blocks = layers
            .clone()
            .map(|i| Block::load(&*backend, source, stack, i))
            .collect::<Result<Vec<_>>>()?;
        let head = match is_last {
            true => Some(HeadWeights {
                norm: NormWeights::load(
                    &*backend,
                    source,
                    Unit::FinalNorm,
                    &stack.norm,
                    (Role::FinalNorm, Role::FinalNormBias),
                )?,
                matrix: match (spec.head, &embedding) {
                    (Head::Tied, Some(embedding)) => Arc::clone(&embedding.tokens),
                    (Head::Tied, None) => {
                        Arc::new(load(source, Unit::Embedding, Role::TokenTable)?)
                    }
                    (Head::Separate, _) => Arc::new(load(source, Unit::Head, Role::Head)?),
                },
                rows: backend.alloc(limits.n_logits * spec.hidden)?,
                normed: backend.alloc(limits.n_logits * spec.hidden)?,
                logits: backend.alloc(limits.n_logits * spec.vocab)?,
            }),
            false => None,
        };
        let attention = &stack.block.attention;
        let kv_shape = KvShape {
            n_kv_heads: attention.n_kv_heads,
            head_dim: attention.head_dim,
            capacity: limits.context,
            dtype: *kv_dtype,
        };
        let sequences = || {
            (0..limits.n_sequences)
                .map(|_| Ok(backend.kv_cache(&kv_shape)?))
                .collect::<Result<_>>()
        };
        Ok(BackendStage {
            caches: blocks.iter().map(|_| sequences()).collect::<Result<_>>()?,
            activations: activations(&*backend, spec, limits)?,
            angles: Angles::new(&stack.positions, source, limits.n_tokens)?,
            options: options.clone(),
            backend,
            embedding,
            blocks,
            head,
        })
    }
}

impl<B: Backend> Stage for BackendStage<B> {
    fn forward(&mut self, pass: &Pass<'_>, hidden: &mut [f32]) -> Result<()> {
        let (backend, stack, n_tokens) =
            (&*self.backend, &self.options.spec.decoder, pass.ids.len());
        let a = &mut self.activations;
        match &self.embedding {
            Some(embedding) => {
                backend.embed(&embedding.tokens, pass.ids, &mut a.x)?;
                if let Some(table) = &embedding.positions {
                    backend.add_positions(table, self.angles.positions_of(pass), &mut a.x)?;
                }
            }
            None => backend.upload(hidden, &mut a.x)?,
        }
        match &stack.positions {
            Positions::Learned { .. } => {}
            Positions::Rotary(_) => backend.upload(self.angles.of(pass), &mut a.angles)?,
        }
        for (block, caches) in self.blocks.iter().zip(&mut self.caches) {
            if pass.interrupt.is_raised() {
                return Err(RuntimeError::Interrupted);
            }
            block.forward(backend, stack, a, n_tokens, pass.sequences, caches)?;
        }
        if self.head.is_none() {
            backend.download(&a.x, hidden)?;
        }
        Ok(())
    }

    fn logits(&mut self, rows: &[usize], out: &mut [f32]) -> Result<()> {
        let backend = &*self.backend;
        let spec = &self.options.spec;
        let head = self
            .head
            .as_mut()
            .expect("logits are asked of the last stage");
        backend.gather_rows(&self.activations.x, rows, spec.hidden, &mut head.rows)?;
        backend.norm(
            &head.norm.op(&spec.decoder.norm),
            &head.rows,
            &mut head.normed,
            rows.len(),
        )?;
        backend.linear(
            &[LinearPart {
                weight: &*head.matrix,
                bias: None,
            }],
            &head.normed,
            Output::Write,
            &mut head.logits,
            rows.len(),
            &mut self.activations.workspace,
        )?;
        Ok(backend.download(&head.logits, out)?)
    }
}

fn activations<B: Backend>(
    backend: &B,
    spec: &ModelSpec,
    limits: &Limits,
) -> Result<Activations<B>> {
    let stack = &spec.decoder;
    let (attention, mlp) = (&stack.block.attention, &stack.block.mlp);
    let qkv = attention.q_width() + 2 * attention.kv_width();
    let (up, gated) = if mlp.gated {
        (2 * mlp.width, mlp.width)
    } else {
        (mlp.width, 0)
    };
    let angles = match &stack.positions {
        Positions::Learned { .. } => 0,
        Positions::Rotary(rotary) => rotary.dim,
    };
    let alloc = |width: usize| backend.alloc(limits.n_tokens * width);
    let workspace = WorkspaceShape {
        n_tokens: limits.n_tokens,
        cols: spec.hidden.max(attention.q_width()).max(mlp.width),
        rows: qkv.max(up).max(spec.hidden).max(spec.vocab),
        context: limits.context,
        n_heads: attention.n_heads,
        n_kv_heads: attention.n_kv_heads,
        head_dim: attention.head_dim,
    };
    Ok(Activations {
        x: alloc(spec.hidden)?,
        normed: alloc(spec.hidden)?,
        qkv: alloc(qkv)?,
        attended: alloc(attention.q_width())?,
        up: alloc(up)?,
        gated: alloc(gated)?,
        angles: alloc(angles)?,
        workspace: backend.workspace(&workspace)?,
    })
}

/// What the positions of a pass mean, computed once for all its blocks.
struct Angles {
    /// Radians per position, of each rotary pair.
    frequencies: Vec<f32>,
    positions: Vec<u32>,
    /// `[n_tokens, cos | sin]`.
    table: Vec<f32>,
}

impl Angles {
    fn new(positions: &Positions, source: &mut dyn WeightSource, n_tokens: usize) -> Result<Self> {
        let frequencies = match positions {
            Positions::Learned { .. } => Vec::new(),
            Positions::Rotary(rotary) => rotary.frequencies(source.rope_factors()?.as_deref()),
        };
        Ok(Angles {
            positions: Vec::with_capacity(n_tokens),
            table: Vec::with_capacity(n_tokens * 2 * frequencies.len()),
            frequencies,
        })
    }

    fn positions_of(&mut self, pass: &Pass<'_>) -> &[u32] {
        self.positions.clear();
        for (_, rows) in pass.sequences {
            self.positions
                .extend((rows.start..rows.start + rows.n_tokens).map(|p| p as u32));
        }
        &self.positions
    }

    fn of(&mut self, pass: &Pass<'_>) -> &[f32] {
        self.positions_of(pass);
        self.table.clear();
        for &position in &self.positions {
            // The product rounded to f32 as the references round it, its sine and cosine exact to f32.
            let angles = self
                .frequencies
                .iter()
                .map(|f| f64::from(position as f32 * f));
            self.table.extend(angles.clone().map(|a| a.cos() as f32));
            self.table.extend(angles.map(|a| a.sin() as f32));
        }
        &self.table
    }
}
