//! From a spec to its slots, in the order in which they compute.

use llm_tensor::Norm;

use super::naming::name_of;
use super::{Matrices, Module, Naming, Role, Side, Slot, Stored, TensorKind, Unit};
use crate::RopeScaling;
use crate::spec::{
    AttentionSpec, BlockSpec, DenseMlp, FinalNorm, Gating, HeadMatrix, LayerSpec, MlpSpec,
    ModelSpec, NormSpec, Packing, Positions, Residual, StackSpec,
};

/// Walks a spec and lists what each part of it needs.
pub(super) struct Slots<'a> {
    pub(super) naming: &'a Naming,
    pub(super) hidden: usize,
    pub(super) out: Vec<Slot>,
}

impl Slots<'_> {
    pub(super) fn model(&mut self, spec: &ModelSpec) {
        let stack = &spec.decoder;
        let width = spec.embedding.width;
        self.plain(Unit::Embedding, Role::TokenTable, &[spec.vocab, width]);
        match &stack.positions {
            Positions::Learned { rows, .. } => {
                self.plain(Unit::Embedding, Role::PositionTable, &[*rows, self.hidden])
            }
            Positions::Rotary(kinds) => {
                for rotary in kinds
                    .iter()
                    .filter(|rotary| rotary.scaling == RopeScaling::Stored)
                {
                    self.plain(Unit::Embedding, Role::RopeFactors, &[rotary.dim / 2]);
                }
            }
            Positions::Alibi { .. } | Positions::Buckets { .. } => {}
        }
        if let Some(norm) = &spec.embedding.norm {
            self.norm(Unit::Embedding, norm, Role::EmbedNorm, Role::EmbedNormBias);
        }
        if width != self.hidden {
            self.plain(Unit::Embedding, Role::ProjectIn, &[self.hidden, width]);
        }
        if let Some(encoder) = &spec.encoder {
            self.stack(Side::Encoder, &encoder.stack, Cross::Absent);
        }
        let cross = if spec.encoder.is_some() {
            Cross::Present
        } else {
            Cross::Absent
        };
        self.stack(Side::Decoder, stack, cross);
        if width != self.hidden {
            self.plain(Unit::Head, Role::ProjectOut, &[width, self.hidden]);
        }
        match spec.head.matrix {
            HeadMatrix::Tied => {}
            HeadMatrix::Separate => self.plain(Unit::Head, Role::Head, &[spec.vocab, width]),
        }
        self.bias(Unit::Head, Role::HeadBias, spec.vocab, spec.head.bias);
    }

    fn stack(&mut self, side: Side, stack: &StackSpec, cross: Cross) {
        for (i, layer) in stack.layers.iter().enumerate() {
            self.block(Unit::Layer(side, i), i, layer, stack, cross);
        }
        match stack.final_norm {
            FinalNorm::Present => {
                self.norm(
                    Unit::FinalNorm(side),
                    &stack.norm,
                    Role::FinalNorm,
                    Role::FinalNormBias,
                );
            }
            FinalNorm::Absent => {}
        }
    }

    fn block(&mut self, unit: Unit, i: usize, layer: &LayerSpec, stack: &StackSpec, cross: Cross) {
        let BlockSpec {
            residual,
            attention,
        } = &stack.block;
        let norm = &stack.norm;
        self.norm(unit, norm, Role::AttnNorm, Role::AttnNormBias);
        self.qkv(unit, attention);
        if let (Positions::Buckets { n_buckets, .. }, 0) = (&stack.positions, i) {
            self.plain(unit, Role::RelativeBias, &[*n_buckets, attention.n_heads]);
        }
        self.matrix(unit, Role::Out, &[self.hidden, attention.q_width()]);
        self.bias(unit, Role::OutBias, self.hidden, attention.out_bias);
        match residual {
            Residual::Sandwich => self.plain(unit, Role::PostAttnNorm, &[self.hidden]),
            Residual::Sequential
            | Residual::PostNorm
            | Residual::Normed
            | Residual::ParallelOneNorm
            | Residual::ParallelTwoNorms => {}
        }
        match cross {
            Cross::Absent => {}
            Cross::Present => {
                let (q, kv) = (attention.q_width(), attention.kv_width());
                self.plain(unit, Role::CrossNorm, &[self.hidden]);
                self.matrix(unit, Role::CrossQ, &[q, self.hidden]);
                self.matrix(unit, Role::CrossK, &[kv, self.hidden]);
                self.matrix(unit, Role::CrossV, &[kv, self.hidden]);
                self.matrix(unit, Role::CrossOut, &[self.hidden, q]);
            }
        }
        match residual {
            Residual::ParallelOneNorm => {}
            Residual::Sequential
            | Residual::Sandwich
            | Residual::PostNorm
            | Residual::Normed
            | Residual::ParallelTwoNorms => self.norm(unit, norm, Role::MlpNorm, Role::MlpNormBias),
        }
        match &layer.mlp {
            MlpSpec::Dense(mlp) => self.mlp(unit, mlp),
            MlpSpec::Experts(experts) => {
                self.plain(unit, Role::Router, &[experts.n_experts, self.hidden]);
                for expert in 0..experts.n_experts {
                    let unit = Unit::Expert { layer: i, expert };
                    self.matrix(unit, Role::Gate, &[experts.width, self.hidden]);
                    self.matrix(unit, Role::Up, &[experts.width, self.hidden]);
                    self.matrix(unit, Role::Down, &[self.hidden, experts.width]);
                }
            }
        }
        if *residual == Residual::Sandwich {
            self.plain(unit, Role::PostMlpNorm, &[self.hidden]);
        }
    }

    fn qkv(&mut self, unit: Unit, attention: &AttentionSpec) {
        let (q, kv, hidden) = (attention.q_width(), attention.kv_width(), self.hidden);
        match attention.packing {
            Packing::Separate => {
                let parts = [
                    (Role::Q, Role::QBias, q),
                    (Role::K, Role::KBias, kv),
                    (Role::V, Role::VBias, kv),
                ];
                for (matrix, bias, width) in parts {
                    self.matrix(unit, matrix, &[width, hidden]);
                    self.bias(unit, bias, width, attention.qkv_bias);
                }
            }
            Packing::Stacked | Packing::PerGroup => {
                self.matrix(unit, Role::Qkv, &[q + 2 * kv, hidden]);
                self.bias(unit, Role::QkvBias, q + 2 * kv, attention.qkv_bias);
            }
        }
        if attention.qk_norm.is_some() {
            self.plain(unit, Role::QNorm, &[attention.head_dim]);
            self.plain(unit, Role::KNorm, &[attention.head_dim]);
        }
    }

    fn mlp(&mut self, unit: Unit, mlp: &DenseMlp) {
        match mlp.gating {
            Gating::None => {}
            Gating::Separate => {
                self.matrix(unit, Role::Gate, &[mlp.width, self.hidden]);
                self.bias(unit, Role::GateBias, mlp.width, mlp.bias);
            }
            Gating::Fused => {
                self.matrix(unit, Role::GateUp, &[2 * mlp.width, self.hidden]);
                self.bias(unit, Role::GateUpBias, 2 * mlp.width, mlp.bias);
            }
        }
        match mlp.gating {
            Gating::None | Gating::Separate => {
                self.matrix(unit, Role::Up, &[mlp.width, self.hidden]);
                self.bias(unit, Role::UpBias, mlp.width, mlp.bias);
            }
            Gating::Fused => {}
        }
        self.matrix(unit, Role::Down, &[self.hidden, mlp.width]);
        self.bias(unit, Role::DownBias, self.hidden, mlp.bias);
    }

    fn norm(&mut self, unit: Unit, spec: &NormSpec, gain: Role, bias: Role) {
        self.plain(unit, gain, &[self.hidden]);
        match spec.norm {
            Norm::Layer => self.plain(unit, bias, &[self.hidden]),
            Norm::Rms => {}
        }
    }

    fn matrix(&mut self, unit: Unit, role: Role, shape: &[usize]) {
        let stored = match self.naming.matrices {
            Matrices::OutIn => Stored::AsIs,
            Matrices::InOut => Stored::Transposed,
        };
        let module = match unit {
            // In every family that has experts.
            Unit::Expert { .. } => Module::Experts,
            Unit::Embedding | Unit::Layer(..) | Unit::FinalNorm(_) | Unit::Head => {
                self.naming.module
            }
        };
        self.push(unit, role, shape, (stored, module));
    }

    fn bias(&mut self, unit: Unit, role: Role, width: usize, has_bias: bool) {
        if has_bias {
            self.plain(unit, role, &[width]);
        }
    }

    fn plain(&mut self, unit: Unit, role: Role, shape: &[usize]) {
        self.push(unit, role, shape, (Stored::AsIs, Module::Linear));
    }

    fn push(
        &mut self,
        unit: Unit,
        role: Role,
        shape: &[usize],
        (stored, module): (Stored, Module),
    ) {
        let names = match unit {
            Unit::Layer(Side::Encoder, _) | Unit::FinalNorm(Side::Encoder) => {
                self.naming.encoder_names
            }
            Unit::Embedding
            | Unit::Layer(Side::Decoder, _)
            | Unit::Expert { .. }
            | Unit::FinalNorm(Side::Decoder)
            | Unit::Head => self.naming.names,
        };
        // A family's experts have names of their own beside those of its dense layers.
        let is_expert = matches!(unit, Unit::Expert { .. });
        let named = |(r, name): &&(Role, &str)| *r == role && name.contains("{e}") == is_expert;
        let (_, pattern) = names
            .iter()
            .copied()
            .flatten()
            .find(named)
            .expect("a family names every role it uses");
        let name = name_of(pattern, unit);
        self.out.push(Slot {
            unit,
            role,
            shape: shape.to_vec(),
            stored,
            kind: if self.naming.wide.contains(&role) {
                TensorKind::WideProjection
            } else {
                role.kind()
            },
            module,
            name,
            base_prefix: self.naming.base_prefix,
        });
    }
}

/// Whether a block attends to an encoder's result.
#[derive(Clone, Copy)]
enum Cross {
    Present,
    Absent,
}
