//! One block, generic over the backend.

use llm_arch::{BlockSpec, NormSpec, Packing, Positions, Role, StackSpec, Unit};
use llm_backend::{Attention, Backend, LinearPart, NormOp, Output, Rotary, Rows};
use llm_tensor::Norm;

use crate::Result;
use crate::stage::WeightSource;

/// A normalisation's learned vectors.
pub(crate) struct NormWeights<B: Backend> {
    gain: B::Weight,
    bias: Option<B::Weight>,
}

impl<B: Backend> NormWeights<B> {
    pub(crate) fn load(
        backend: &B,
        source: &mut dyn WeightSource,
        unit: Unit,
        spec: &NormSpec,
        (gain, bias): (Role, Role),
    ) -> Result<Self> {
        Ok(NormWeights {
            gain: backend.load(source.weight(unit, gain)?)?,
            bias: match spec.norm {
                Norm::Layer => Some(backend.load(source.weight(unit, bias)?)?),
                Norm::Rms => None,
            },
        })
    }

    pub(crate) fn op(&self, spec: &NormSpec) -> NormOp<'_, B> {
        NormOp {
            norm: spec.norm,
            eps: spec.eps,
            gain: &self.gain,
            bias: self.bias.as_ref(),
        }
    }
}

/// Matrices that are applied to the same rows, with their biases.
struct Projection<B: Backend> {
    parts: Vec<(B::Weight, Option<B::Weight>)>,
}

impl<B: Backend> Projection<B> {
    fn load(
        backend: &B,
        source: &mut dyn WeightSource,
        unit: Unit,
        roles: &[(Role, Role)],
        has_bias: bool,
    ) -> Result<Self> {
        let part = |&(weight, bias): &(Role, Role)| {
            let weight = backend.load(source.weight(unit, weight)?)?;
            let bias = if has_bias {
                Some(backend.load(source.weight(unit, bias)?)?)
            } else {
                None
            };
            Ok((weight, bias))
        };
        Ok(Projection {
            parts: roles.iter().map(part).collect::<Result<_>>()?,
        })
    }

    fn apply(&self, call: Call<'_, B>, output: Output, workspace: &mut B::Workspace) -> Result<()> {
        let Call {
            backend,
            x,
            out,
            n_tokens,
        } = call;
        let n_parts = self.parts.len();
        // On the stack, the last part repeated to fill up: the hot path allocates nothing.
        let parts: [_; MAX_PARTS] = std::array::from_fn(|i| {
            let (weight, bias) = &self.parts[i.min(n_parts - 1)];
            LinearPart {
                weight,
                bias: bias.as_ref(),
            }
        });
        Ok(backend.linear(&parts[..n_parts], x, output, out, n_tokens, workspace)?)
    }
}

/// Queries, keys and values.
const MAX_PARTS: usize = 3;

/// Where a projection reads and writes.
struct Call<'a, B: Backend> {
    backend: &'a B,
    x: &'a B::Buffer,
    out: &'a mut B::Buffer,
    n_tokens: usize,
}

/// One block's weights on a device.
pub(crate) struct Block<B: Backend> {
    attn_norm: NormWeights<B>,
    qkv: Projection<B>,
    out: Projection<B>,
    mlp_norm: NormWeights<B>,
    up: Projection<B>,
    down: Projection<B>,
}

/// The activations of a pass, reused by every block. Widths are per token.
pub(crate) struct Activations<B: Backend> {
    /// The residual stream, `hidden` wide.
    pub(crate) x: B::Buffer,
    /// A normalised copy of it.
    pub(crate) normed: B::Buffer,
    /// `[q | k | v]`.
    pub(crate) qkv: B::Buffer,
    /// Heads' results, `n_heads · head_dim` wide.
    pub(crate) attended: B::Buffer,
    /// `[gate | up]`, or just `up`.
    pub(crate) up: B::Buffer,
    /// The product of both, the MLP's `width`; nothing where there is no gate.
    pub(crate) gated: B::Buffer,
    /// `[cos | sin]` of the pass's rotary angles.
    pub(crate) angles: B::Buffer,
    /// Scratch memory of the operations.
    pub(crate) workspace: B::Workspace,
}

impl<B: Backend> Block<B> {
    pub(crate) fn load(
        backend: &B,
        source: &mut dyn WeightSource,
        stack: &StackSpec,
        layer: usize,
    ) -> Result<Self> {
        let unit = Unit::Layer(layer);
        let BlockSpec { attention, mlp } = &stack.block;
        let qkv: &[_] = match attention.packing {
            Packing::Separate => &[
                (Role::Q, Role::QBias),
                (Role::K, Role::KBias),
                (Role::V, Role::VBias),
            ],
            Packing::Stacked => &[(Role::Qkv, Role::QkvBias)],
        };
        let up: &[_] = match mlp.gated {
            true => &[(Role::Gate, Role::GateBias), (Role::Up, Role::UpBias)],
            false => &[(Role::Up, Role::UpBias)],
        };
        let attn_norm = (Role::AttnNorm, Role::AttnNormBias);
        let mlp_norm = (Role::MlpNorm, Role::MlpNormBias);
        Ok(Block {
            attn_norm: NormWeights::load(backend, source, unit, &stack.norm, attn_norm)?,
            qkv: Projection::load(backend, source, unit, qkv, attention.qkv_bias)?,
            out: Projection::load(
                backend,
                source,
                unit,
                &[(Role::Out, Role::OutBias)],
                attention.out_bias,
            )?,
            mlp_norm: NormWeights::load(backend, source, unit, &stack.norm, mlp_norm)?,
            up: Projection::load(backend, source, unit, up, mlp.bias)?,
            down: Projection::load(
                backend,
                source,
                unit,
                &[(Role::Down, Role::DownBias)],
                mlp.bias,
            )?,
        })
    }

    /// Runs the block over `n_tokens` rows of `a.x`; `sequences` gives each sequence's rows, `caches` its cache.
    ///
    /// ```text
    /// x ─┬─ norm ─ q k v ─ rotate ─ attention ─ out ─ + ─┬─ norm ─ gate, up ─ activate ─ down ─ + ─► x
    ///    └───────────────────────────────────────────┘   └────────────────────────────────────┘
    /// ```
    pub(crate) fn forward(
        &self,
        backend: &B,
        stack: &StackSpec,
        a: &mut Activations<B>,
        n_tokens: usize,
        sequences: &[(usize, Rows)],
        caches: &mut [B::KvCache],
    ) -> Result<()> {
        let BlockSpec { attention, mlp } = &stack.block;
        backend.norm(
            &self.attn_norm.op(&stack.norm),
            &a.x,
            &mut a.normed,
            n_tokens,
        )?;
        let call = Call {
            backend,
            x: &a.normed,
            out: &mut a.qkv,
            n_tokens,
        };
        self.qkv.apply(call, Output::Write, &mut a.workspace)?;
        match &stack.positions {
            Positions::Learned { .. } => {}
            Positions::Rotary(rotary) => {
                let op = Rotary {
                    n_heads: attention.n_heads + attention.n_kv_heads,
                    head_dim: attention.head_dim,
                    rotary_dim: rotary.dim,
                    pairing: rotary.pairing,
                    row_width: attention.q_width() + 2 * attention.kv_width(),
                };
                backend.rotate(&op, &a.angles, &mut a.qkv, n_tokens)?;
            }
        }
        let op = Attention {
            n_heads: attention.n_heads,
            n_kv_heads: attention.n_kv_heads,
            head_dim: attention.head_dim,
            scale: attention.scale,
        };
        for &(sequence, rows) in sequences {
            let cache = &mut caches[sequence];
            backend.attention(&op, &a.qkv, rows, cache, &mut a.attended, &mut a.workspace)?;
        }
        let call = Call {
            backend,
            x: &a.attended,
            out: &mut a.x,
            n_tokens,
        };
        self.out.apply(call, Output::Add, &mut a.workspace)?;

        backend.norm(
            &self.mlp_norm.op(&stack.norm),
            &a.x,
            &mut a.normed,
            n_tokens,
        )?;
        let call = Call {
            backend,
            x: &a.normed,
            out: &mut a.up,
            n_tokens,
        };
        self.up.apply(call, Output::Write, &mut a.workspace)?;
        let inner = if mlp.gated {
            backend.gate(mlp.activation, &a.up, &mut a.gated, mlp.width, n_tokens)?;
            &a.gated
        } else {
            backend.activate(mlp.activation, &mut a.up, mlp.width, n_tokens)?;
            &a.up
        };
        let call = Call {
            backend,
            x: inner,
            out: &mut a.x,
            n_tokens,
        };
        self.down.apply(call, Output::Add, &mut a.workspace)
    }
}
