//! From a spec to the tensors of each unit: the one place that knows which there are.

use std::convert::Infallible;

use llm_tensor::Gate;

use super::block::{
    After, AltUpOf, ApartOf, AttentionOf, Before, BlockOf, CollapseOf, CompressedOf, CrossOf,
    DeltaLatentsOf, DeltaOf, DenseOf, EmbeddingOf, EntriesOf, EntryIndexOf, ExpertOf, ExpertsOf,
    HeadOf, HybridOf, HyperOf, IndexOf, InputOf, LatentExpertsOf, LatentInputOf, LatentOf,
    LaurelOf, LinearOf, MixerOf, MlpOf, NormOf, PerLayerOf, ProjectionOf, SharedKeyOf, SharedOf,
    ShortConvOf, StateSpaceOf, StreamWeightsOf, StreamsEndOf, StreamsOf, SublayerOf, TryMap,
    XieluOf,
};
use super::{Role, Unit};
use crate::RopeScaling;
use crate::spec::{
    AttentionSpec, DeltaPacking, DeltaSpec, DenseMlp, EntriesSpec, ExpertsSpec, FinalNorm, Gating,
    HeadMatrix, IndexHeads, Join, LatentSpec, LayerSpec, MixerSpec, MlpSpec, ModelSpec,
    NonLinearity, NormOver, NormSpec, Packing, PerLayerPart, PerLayerSpec, Positions, QkNorm,
    SharedKeySpec, SharedSpec, ShortConvSpec, Side, StateSpaceSpec, StreamsJoin, StreamsSpec,
};

impl ModelSpec {
    /// Tensors of each unit, by their roles.
    pub fn roles(&self) -> Walk<'_, impl FnMut(Role, &[usize]) -> Role> {
        Walk::new(self, |role, _| role)
    }
}

/// All units of a model, in the order in which they compute.
pub(super) fn units(spec: &ModelSpec) -> impl Iterator<Item = Unit> {
    let of_side = |side| {
        let layers = spec.stack(side).map_or(&[][..], |stack| &stack.layers);
        let of_layer = move |(i, layer): (usize, &LayerSpec)| {
            let experts = 0..layer.mlp.n_experts();
            let experts = experts.map(move |expert| Unit::Expert { layer: i, expert });
            std::iter::once(Unit::Layer(side, i)).chain(experts)
        };
        let layers = layers.iter().enumerate().flat_map(of_layer);
        layers.chain([Unit::FinalNorm(side)])
    };
    let table = spec.embedding.per_layer.map(|_| Unit::PerLayerTable);
    std::iter::once(Unit::Embedding)
        .chain(table)
        .chain(of_side(Side::Encoder))
        .chain(of_side(Side::Decoder))
        .chain([Unit::Head])
}

/// A model unit by unit, with something in each tensor's place that is made of its role and shape, in the order in which
/// they compute.
#[derive(Debug)]
pub struct Walk<'a, F> {
    spec: &'a ModelSpec,
    make: F,
}

impl<'a, T, F: FnMut(Role, &[usize]) -> T> Walk<'a, F> {
    pub(super) fn new(spec: &'a ModelSpec, make: F) -> Self {
        Walk { spec, make }
    }

    /// All tensors of a unit, those included that are made into tables.
    pub(super) fn unit(&mut self, unit: Unit) {
        match unit {
            Unit::Embedding => drop(self.embedding()),
            Unit::PerLayerTable => drop(self.per_layer_table()),
            Unit::Layer(side, layer) => {
                self.relative_bias(side, layer);
                self.block(side, layer);
            }
            Unit::Expert { layer, .. } => drop(self.expert(layer)),
            Unit::FinalNorm(side) => {
                if self.streams_end(side).is_none() {
                    self.final_norm(side);
                }
            }
            Unit::Head => drop(self.head()),
        }
    }

    /// The embedding.
    pub fn embedding(&mut self) -> EmbeddingOf<T> {
        let ModelSpec { hidden, vocab, .. } = *self.spec;
        let (width, norm) = (self.spec.embedding.width, self.spec.embedding.norm);
        EmbeddingOf {
            tokens: (self.make)(Role::TokenTable, &[vocab, width]),
            positions: match self.spec.decoder.positions {
                Positions::Learned { rows, .. } => {
                    Some((self.make)(Role::PositionTable, &[rows, hidden]))
                }
                Positions::Rotary(_) | Positions::Alibi { .. } | Positions::Buckets { .. } => None,
            },
            rope_factors: self.rope_factors(),
            input: InputOf {
                norm: norm.map(|norm| self.norms(&norm.of(Role::EmbedNorm), hidden)),
                project: (width != hidden).then(|| self.matrix(Role::ProjectIn, [hidden, width])),
                per_layer: self.per_layer_part(0).map(|part| LatentInputOf {
                    project: self.matrix(Role::PerLayerModel, [part.row_width, hidden]),
                    norm: {
                        let norm = self.spec.decoder.norm.of(Role::PerLayerNorm);
                        self.norms(&norm, part.width)
                    },
                }),
                streams: self.spec.decoder.streams.and_then(|of| match of.join {
                    StreamsJoin::AltUp(_) => Some(self.of_streams(STREAM_IN, of.n)),
                    StreamsJoin::Hyper(_) => None,
                }),
            },
        }
    }

    /// The table of rows that layers take in, if there is one.
    pub fn per_layer_table(&mut self) -> Option<T> {
        let vocab = self.spec.embedding.per_layer?.vocab;
        let row_width = self.per_layer_part(0)?.row_width;
        Some((self.make)(Role::PerLayerTable, &[vocab, row_width]))
    }

    fn per_layer_part(&self, layer: usize) -> Option<PerLayerPart> {
        let PerLayerSpec {
            width, activation, ..
        } = self.spec.embedding.per_layer?;
        Some(PerLayerPart {
            width,
            activation,
            first: layer * width,
            row_width: self.spec.decoder.n_layers() * width,
        })
    }

    /// What a layer does with its part of those rows.
    fn per_layer(&mut self, side: Side, layer: usize) -> Option<PerLayerOf<T>> {
        let spec = (self.per_layer_part(layer)).filter(|_| side == Side::Decoder)?;
        let hidden = self.spec.hidden;
        let norm = self.spec.decoder.norm.of(Role::PostPerLayerNorm);
        Some(PerLayerOf {
            spec,
            gate: self.matrix(Role::PerLayerGate, [spec.width, hidden]),
            out: self.matrix(Role::PerLayerOut, [hidden, spec.width]),
            norm: self.norms(&norm, hidden),
        })
    }

    fn rope_factors(&mut self) -> Option<T> {
        let mut kinds = self.spec.decoder.positions.rotary().iter();
        let stored = kinds.find(|kind| kind.scaling == RopeScaling::Stored);
        let dim = stored?.dim;
        Some((self.make)(Role::RopeFactors, &[dim / 2]))
    }

    /// Relative bias of the heads of all a stack's layers, which the first has.
    fn relative_bias(&mut self, side: Side, layer: usize) -> Option<T> {
        let stack = self.spec.stack(side)?;
        match stack.positions {
            Positions::Buckets { n_buckets, .. } if layer == 0 => Some((self.make)(
                Role::RelativeBias,
                &[n_buckets, stack.n_heads()],
            )),
            Positions::Learned { .. }
            | Positions::Rotary(_)
            | Positions::Alibi { .. }
            | Positions::Buckets { .. } => None,
        }
    }

    /// A block.
    ///
    /// # Panics
    /// When the model has no such layer.
    pub fn block(&mut self, side: Side, layer: usize) -> BlockOf<T> {
        let stack = self.spec.stack(side).expect("a stack that has layers");
        let LayerSpec { mixer, mlp } = &stack.layers[layer];
        let [around_mixer, around_mlp] = stack.residual.sublayers(&stack.norm);
        let has_cross = side == Side::Decoder && self.spec.encoder.is_some();
        BlockOf {
            mixer: self.mixer(around_mixer, mixer),
            // Its heads are those of the mixer.
            cross: match mixer {
                MixerSpec::Attention(attention) if has_cross => {
                    let norm = stack.norm.of(Role::CrossNorm);
                    let around = (Before::Norm(norm), After::Add);
                    Some(self.sublayer(around, |walk| walk.cross(attention)))
                }
                MixerSpec::Attention(_)
                | MixerSpec::Latent(_)
                | MixerSpec::SharedKey(_)
                | MixerSpec::Conv(_)
                | MixerSpec::Delta(_)
                | MixerSpec::StateSpace(_)
                | MixerSpec::Hybrid(_)
                | MixerSpec::Absent => None,
            },
            mlp: self.mlp(around_mlp, (mlp, &stack.norm)),
            per_layer: self.per_layer(side, layer),
            streams: (stack.streams).map(|of| self.streams(of)),
            scale: (stack.scaled_layers).then(|| (self.make)(Role::LayerScale, &[1])),
        }
    }

    fn streams(&mut self, spec: StreamsSpec) -> StreamsOf<T> {
        let (n, hidden) = (spec.n, self.spec.hidden);
        let norm = self.spec.decoder.norm;
        let of = match spec.join {
            StreamsJoin::AltUp(of) => of,
            StreamsJoin::Hyper(_) => {
                return StreamsOf::Hyper(HyperOf {
                    mixer: self.stream_weights(MIXER_STREAMS, spec, (3, spec.n_coefficients())),
                    mlp: self.stream_weights(MLP_STREAMS, spec, (3, spec.n_coefficients())),
                });
            }
        };
        StreamsOf::AltUp(AltUpOf {
            spec,
            norm: self.norms(&norm.of(Role::StreamNorm), hidden),
            router: self.matrix(Role::StreamRouter, [n, hidden]),
            predict: self.matrix(Role::StreamPredict, [n * n, n]),
            correct: self.matrix(Role::StreamCorrect, [n, n]),
            laurel: LaurelOf {
                down: self.matrix(Role::LaurelDown, [of.laurel_rank, hidden]),
                up: self.matrix(Role::LaurelUp, [hidden, of.laurel_rank]),
                norm: self.norms(&norm.of(Role::LaurelNorm), hidden),
            },
            scale: (of.scales_first).then(|| (self.make)(Role::StreamScale, &[hidden])),
        })
    }

    /// What makes so many weights of streams, in so many parts, by the roles of products, base and scale.
    fn stream_weights(
        &mut self,
        [products, base, scale]: [Role; 3],
        spec: StreamsSpec,
        (n_parts, n_weights): (usize, usize),
    ) -> StreamWeightsOf<T> {
        let width = spec.row_width(self.spec.hidden);
        StreamWeightsOf {
            spec,
            norm_eps: self.spec.decoder.norm.eps,
            products: self.matrix(products, [n_weights, width]),
            base: (self.make)(base, &[n_weights]),
            scale: (self.make)(scale, &[n_parts]),
        }
    }

    /// A matrix for each stream but the first.
    fn of_streams(&mut self, [a, b, c]: [Role; 3], n: usize) -> ProjectionOf<T> {
        let hidden = self.spec.hidden;
        let mut part = |role| self.matrix(role, [hidden, hidden]);
        match n {
            2 => ProjectionOf::One([part(a)]),
            3 => ProjectionOf::Two([part(a), part(b)]),
            4 => ProjectionOf::Three([part(a), part(b), part(c)]),
            n => panic!("{n} streams, of which there are 2 to 4"),
        }
    }

    fn mixer(
        &mut self,
        around: (Before<Role>, After<Role>),
        spec: &MixerSpec,
    ) -> Option<SublayerOf<MixerOf<T>, T>> {
        Some(match spec {
            MixerSpec::Attention(attention) => {
                self.sublayer(around, |walk| MixerOf::Attention(walk.attention(attention)))
            }
            MixerSpec::Latent(latent) => {
                self.sublayer(around, |walk| MixerOf::Latent(walk.latent(latent)))
            }
            MixerSpec::SharedKey(of) => {
                self.sublayer(around, |walk| MixerOf::SharedKey(walk.shared_key(of)))
            }
            MixerSpec::Conv(conv) => {
                self.sublayer(around, |walk| MixerOf::Conv(walk.short_conv(conv)))
            }
            MixerSpec::Delta(delta) => {
                self.sublayer(around, |walk| MixerOf::Delta(walk.delta(delta)))
            }
            MixerSpec::StateSpace(space) => {
                self.sublayer(around, |walk| MixerOf::StateSpace(walk.state_space(space)))
            }
            MixerSpec::Hybrid(hybrid) => self.sublayer(around, |walk| {
                MixerOf::Hybrid(HybridOf {
                    attention: walk.attention(&hybrid.attention),
                    space: walk.state_space(&hybrid.space),
                })
            }),
            MixerSpec::Absent => return None,
        })
    }

    fn sublayer<C>(
        &mut self,
        (before, after): (Before<Role>, After<Role>),
        compute: impl FnOnce(&mut Self) -> C,
    ) -> SublayerOf<C, T> {
        let hidden = self.spec.hidden;
        SublayerOf {
            before: self.norms(&before, hidden),
            compute: compute(self),
            after: self.norms(&after, hidden),
        }
    }

    fn attention(&mut self, spec: &AttentionSpec) -> AttentionOf<T> {
        let (q, kv, hidden) = (spec.q_width(), spec.kv_width(), self.spec.hidden);
        let mut part = |weight, width| self.linear(weight, [width, hidden], spec.qkv_bias);
        AttentionOf {
            spec: *spec,
            qkv: match spec.packing {
                _ if spec.keys_of.is_some() => {
                    ProjectionOf::One([part(Role::Q, spec.gated_q_width())])
                }
                Packing::Separate => {
                    let q = part(Role::Q, spec.gated_q_width());
                    ProjectionOf::Three([q, part(Role::K, kv), part(Role::V, kv)])
                }
                Packing::KeysAreValues => {
                    let q = part(Role::Q, spec.gated_q_width());
                    ProjectionOf::Two([q, part(Role::K, kv)])
                }
                Packing::Stacked | Packing::PerGroup => {
                    ProjectionOf::One([part(Role::Qkv, spec.qkv_width())])
                }
            },
            q_norm: self.qk_norm(spec, Role::QNorm, q),
            k_norm: match spec.keys_of {
                None => self.qk_norm(spec, Role::KNorm, kv),
                Some(_) => None,
            },
            out: self.linear(Role::Out, [hidden, q], spec.out_bias),
            sinks: (spec.sinks).then(|| (self.make)(Role::Sinks, &[spec.n_heads])),
        }
    }

    fn latent(&mut self, spec: &LatentSpec) -> LatentOf<T> {
        let (hidden, values) = (self.spec.hidden, spec.values_width());
        let q_latent = spec.q_rank.map(|rank| {
            let down = self.linear(Role::QDown, [rank, hidden], spec.bias);
            self.latent_input(down, spec.norm.of(Role::QLatentNorm), rank)
        });
        let (q, q_cols) = match spec.q_rank {
            Some(rank) => (Role::QUp, rank),
            None => (Role::Q, hidden),
        };
        let q = self.matrix(q, [spec.q_width(), q_cols]);
        let down = self.linear(Role::KvDown, [spec.key_dim(), hidden], spec.bias);
        LatentOf {
            spec: *spec,
            q_latent,
            q,
            kv_latent: self.latent_input(down, spec.norm.of(Role::KvLatentNorm), spec.kv_rank),
            kv: match spec.kv_apart {
                true => self.heads(Role::KeysUp, [spec.n_heads, spec.kv_rank, spec.nope_dim]),
                false => self.matrix(Role::KvUp, [spec.n_heads * spec.kv_dim(), spec.kv_rank]),
            },
            values: (spec.kv_apart).then(|| {
                let shape = [spec.n_heads, spec.value_dim, spec.kv_rank];
                self.heads(Role::ValuesUp, shape)
            }),
            out: self.linear(Role::Out, [hidden, values], spec.bias),
            index: (spec.index.and_then(|index| index.heads))
                .map(|heads| self.index(&heads, spec.q_rank.unwrap_or(hidden))),
        }
    }

    fn index(&mut self, spec: &IndexHeads, q_cols: usize) -> IndexOf<T> {
        let hidden = self.spec.hidden;
        IndexOf {
            spec: *spec,
            q: self.matrix(Role::IndexQ, [spec.q_width(), q_cols]),
            k: self.matrix(Role::IndexK, [spec.head_dim, hidden]),
            k_norm: self.norms(&spec.norm.of(Role::IndexKNorm), spec.head_dim),
            weigh: self.matrix(Role::IndexWeights, [spec.n_heads, hidden]),
        }
    }

    fn shared_key(&mut self, spec: &SharedKeySpec) -> SharedKeyOf<T> {
        let (hidden, rank) = (self.spec.hidden, spec.q_rank);
        let down = self.matrix(Role::QDown, [rank, hidden]);
        let q_latent = self.latent_input(down, spec.norm.of(Role::QLatentNorm), rank);
        let q = self.matrix(Role::QUp, [spec.q_width(), rank]);
        let key = self.matrix(Role::K, [spec.head_dim, hidden]);
        SharedKeyOf {
            spec: *spec,
            q_latent,
            q,
            k: self.latent_input(key, spec.norm.of(Role::KNorm), spec.head_dim),
            entries: spec.entries.map(|entries| self.entries(spec, &entries)),
            groups: self.matrix(Role::OutGroups, [spec.groups_rank(), spec.group_width()]),
            out: self.matrix(Role::Out, [hidden, spec.groups_rank()]),
            sinks: (self.make)(Role::Sinks, &[spec.n_heads]),
        }
    }

    fn entries(&mut self, spec: &SharedKeySpec, entries: &EntriesSpec) -> EntriesOf<T> {
        let keys = [
            Role::EntryFeatures,
            Role::EntryGates,
            Role::EntryPlaces,
            Role::EntryNorm,
        ];
        let index = [
            Role::IndexFeatures,
            Role::IndexGates,
            Role::IndexPlaces,
            Role::IndexNorm,
        ];
        EntriesOf {
            spec: *entries,
            keys: self.compressed(keys, (spec, entries, spec.head_dim)),
            index: entries.index.map(|of| EntryIndexOf {
                spec: of,
                keys: self.compressed(index, (spec, entries, of.head_dim)),
                q: self.matrix(Role::IndexQ, [of.q_width(), spec.q_rank]),
                weigh: self.matrix(Role::IndexWeights, [of.n_heads, self.spec.hidden]),
            }),
        }
    }

    /// What entries of so many elements are compressed of, by the roles of features, gates, places and norm.
    fn compressed(
        &mut self,
        [features, gates, places, norm]: [Role; 4],
        (spec, entries, width): (&SharedKeySpec, &EntriesSpec, usize),
    ) -> CompressedOf<T> {
        let (hidden, n_features) = (self.spec.hidden, entries.features(width));
        let mut part = |role| self.matrix(role, [n_features, hidden]);
        CompressedOf {
            project: ProjectionOf::Two([part(features), part(gates)]),
            places: (self.make)(places, &[entries.rate, n_features]),
            norm: self.norms(&spec.norm.of(norm), width),
        }
    }

    fn latent_input(
        &mut self,
        project: LinearOf<T>,
        norm: NormOf<Role>,
        rank: usize,
    ) -> LatentInputOf<T> {
        LatentInputOf {
            project,
            norm: self.norms(&norm, rank),
        }
    }

    fn short_conv(&mut self, spec: &ShortConvSpec) -> ShortConvOf<T> {
        let (channels, hidden) = (spec.n_channels, self.spec.hidden);
        let projected = [spec.projected_width(), hidden];
        ShortConvOf {
            spec: *spec,
            project: self.linear(Role::ConvIn, projected, spec.bias),
            taps: self.linear(Role::ConvTaps, [channels, spec.kernel], spec.bias),
            out: self.linear(Role::ConvOut, [hidden, channels], spec.bias),
        }
    }

    fn delta(&mut self, spec: &DeltaSpec) -> DeltaOf<T> {
        let (hidden, heads) = (self.spec.hidden, spec.n_value_heads);
        let (conv, values) = (spec.conv_width(), spec.values_width());
        let (keys, kernel) = (spec.keys_width(), spec.kernel);
        let mut part = |role, width| self.matrix(role, [width, hidden]);
        DeltaOf {
            spec: *spec,
            project: match spec.packing {
                DeltaPacking::Separate => ProjectionOf::Four([
                    part(Role::DeltaQkv, conv),
                    part(Role::DeltaGate, values),
                    part(Role::DeltaStrength, heads),
                    part(Role::DeltaDecay, heads),
                ]),
                DeltaPacking::PairsPerKeyHead => ProjectionOf::Three([
                    part(Role::DeltaQkv, conv),
                    part(Role::DeltaGate, values),
                    part(Role::DeltaStrengthDecay, 2 * heads),
                ]),
                DeltaPacking::PerKeyHead => ProjectionOf::Two([
                    part(Role::DeltaQkvGate, conv + values),
                    part(Role::DeltaStrengthDecay, 2 * heads),
                ]),
                DeltaPacking::Channels { .. } => ProjectionOf::Four([
                    part(Role::Q, keys),
                    part(Role::K, keys),
                    part(Role::V, values),
                    part(Role::DeltaStrength, heads),
                ]),
            },
            latents: match spec.packing {
                DeltaPacking::Separate
                | DeltaPacking::PairsPerKeyHead
                | DeltaPacking::PerKeyHead => None,
                DeltaPacking::Channels { rank } => Some(DeltaLatentsOf {
                    gate_down: self.matrix(Role::DeltaGateDown, [rank, hidden]),
                    gate_up: self.matrix(Role::DeltaGateUp, [values, rank]),
                    decay_down: self.matrix(Role::DeltaDecayDown, [rank, hidden]),
                    decay_up: self.matrix(Role::DeltaDecayUp, [spec.n_decays(), rank]),
                }),
            },
            taps: match spec.packing {
                DeltaPacking::Separate
                | DeltaPacking::PairsPerKeyHead
                | DeltaPacking::PerKeyHead => {
                    ProjectionOf::One([self.matrix(Role::ConvTaps, [conv, kernel])])
                }
                DeltaPacking::Channels { .. } => ProjectionOf::Three([
                    self.matrix(Role::QTaps, [keys, kernel]),
                    self.matrix(Role::KTaps, [keys, kernel]),
                    self.matrix(Role::VTaps, [values, kernel]),
                ]),
            },
            rate: (self.make)(Role::DeltaRate, &[heads]),
            offset: (self.make)(Role::DeltaOffset, &[spec.n_decays()]),
            norm: self.norms(&spec.norm.of(Role::DeltaNorm), spec.value_dim),
            out: self.matrix(Role::DeltaOut, [hidden, values]),
        }
    }

    fn state_space(&mut self, spec: &StateSpaceSpec) -> StateSpaceOf<T> {
        let (hidden, heads) = (self.spec.hidden, [spec.n_heads]);
        let (conv, values) = (spec.conv_width(), spec.values_width());
        let projected = [spec.projected_width(), hidden];
        StateSpaceOf {
            spec: *spec,
            project: self.linear(Role::SpaceIn, projected, spec.bias),
            taps: self.linear(Role::ConvTaps, [conv, spec.kernel], spec.conv_bias),
            rate: (self.make)(Role::SpaceRate, &heads),
            offset: (self.make)(Role::SpaceOffset, &heads),
            skip: (self.make)(Role::SpaceSkip, &heads),
            norm: (spec.norm).map(|of| self.norms(&of.norm.of(Role::SpaceNorm), values)),
            out: self.linear(Role::SpaceOut, [hidden, values], spec.bias),
        }
    }

    /// Norm of queries or keys, `width` of all heads.
    fn qk_norm(&mut self, spec: &AttentionSpec, gain: Role, width: usize) -> Option<NormOf<T>> {
        let QkNorm { norm, over, .. } = spec.qk_norm?;
        let width = match over {
            NormOver::Head => spec.head_dim,
            NormOver::AllHeads => width,
        };
        Some(self.norms(&norm.of(gain), width))
    }

    fn cross(&mut self, spec: &AttentionSpec) -> CrossOf<T> {
        let (q, kv, hidden) = (spec.q_width(), spec.kv_width(), self.spec.hidden);
        CrossOf {
            spec: *spec,
            q: self.matrix(Role::CrossQ, [q, hidden]),
            kv: ProjectionOf::Two([
                self.matrix(Role::CrossK, [kv, hidden]),
                self.matrix(Role::CrossV, [kv, hidden]),
            ]),
            out: self.matrix(Role::CrossOut, [hidden, q]),
        }
    }

    fn mlp(
        &mut self,
        around: (Before<Role>, After<Role>),
        (spec, norm): (&MlpSpec, &NormSpec),
    ) -> Option<SublayerOf<MlpOf<T>, T>> {
        match *spec {
            MlpSpec::Dense(spec) => Some(self.sublayer(around, |walk| {
                let roles = [Role::Gate, Role::Up, Role::GateUp, Role::Down];
                MlpOf::Dense(walk.dense(spec, roles))
            })),
            MlpSpec::Experts(spec) => {
                Some(self.sublayer(around, |walk| MlpOf::Experts(walk.experts(spec, norm))))
            }
            MlpSpec::Absent => None,
        }
    }

    fn experts(&mut self, spec: ExpertsSpec, norm: &NormSpec) -> ExpertsOf<T> {
        let n_experts = spec.routing.n_experts;
        ExpertsOf {
            spec,
            router: self.linear(Role::Router, [n_experts, self.spec.hidden], spec.bias),
            correction: (spec.correction)
                .then(|| (self.make)(Role::RouterCorrection, &[n_experts])),
            by_token: spec.by_token.then(|| {
                let shape = [self.spec.vocab, spec.routing.n_active];
                (self.make)(Role::RouterTokens, &shape)
            }),
            latent: spec.latent.map(|width| LatentExpertsOf {
                enter: self.matrix(Role::ExpertsIn, [width, self.spec.hidden]),
                leave: self.matrix(Role::ExpertsOut, [self.spec.hidden, width]),
            }),
            shared: spec.shared.map(|shared| self.shared(shared)),
            apart: (spec.is_apart()).then(|| self.apart(n_experts, norm)),
        }
    }

    fn apart(&mut self, n_experts: usize, norm: &NormSpec) -> ApartOf<T> {
        let hidden = self.spec.hidden;
        let mut norms = |gain| self.norms(&norm.of(gain), hidden);
        ApartOf {
            router: norms(Role::RouterNorm),
            before: norms(Role::ExpertsNorm),
            after: norms(Role::PostExpertsNorm),
            after_shared: norms(Role::PostSharedNorm),
            scales: (self.make)(Role::RouterScales, &[n_experts]),
        }
    }

    fn shared(&mut self, spec: SharedSpec) -> SharedOf<T> {
        let SharedSpec { mlp, join } = spec;
        let roles = [
            Role::SharedGate,
            Role::SharedUp,
            Role::SharedGateUp,
            Role::SharedDown,
        ];
        let hidden = self.spec.hidden;
        SharedOf {
            score: (join == Join::Gated).then(|| self.matrix(Role::SharedScore, [1, hidden])),
            mlp: self.dense(mlp, roles),
        }
    }

    /// A feed-forward, by the roles of its gate, its up, both in one and its down.
    fn dense(&mut self, spec: DenseMlp, roles: [Role; 4]) -> DenseOf<T> {
        let (hidden, width) = (self.spec.hidden, spec.width);
        let [gate, up, gate_up, down] = roles;
        let mut part = |weight, width| self.linear(weight, [width, hidden], spec.bias);
        let up = match spec.gating {
            Gating::None => ProjectionOf::One([part(up, width)]),
            Gating::Separate => ProjectionOf::Two([part(gate, width), part(up, width)]),
            Gating::Fused => ProjectionOf::One([part(gate_up, 2 * width)]),
        };
        let down = self.linear(down, [hidden, width], spec.bias);
        let xielu = (spec.activation == NonLinearity::Xielu).then(|| self.xielu());
        DenseOf {
            spec,
            up,
            down,
            xielu,
        }
    }

    /// Each expert of a layer of the decoder, if the layer has any.
    ///
    /// # Panics
    /// When the model has no such layer.
    pub fn expert(&mut self, layer: usize) -> Option<ExpertOf<T>> {
        match self.spec.decoder.layers[layer].mlp {
            MlpSpec::Dense(_) | MlpSpec::Absent => None,
            MlpSpec::Experts(spec) => {
                let row = spec.row_width(self.spec.hidden);
                Some(ExpertOf {
                    up: {
                        let mut part = |role, width| self.linear(role, [width, row], spec.bias);
                        let width = spec.width;
                        match spec.gate {
                            Gate::Absent(_) => ProjectionOf::One([part(Role::Up, width)]),
                            Gate::Of(_) | Gate::Clamped(_) if spec.is_one_matrix() => {
                                ProjectionOf::One([part(Role::GateUp, 2 * width)])
                            }
                            Gate::Of(_) | Gate::Clamped(_) => {
                                ProjectionOf::Two([part(Role::Gate, width), part(Role::Up, width)])
                            }
                        }
                    },
                    down: self.linear(Role::Down, [row, spec.width], spec.bias),
                })
            }
        }
    }

    fn xielu(&mut self) -> XieluOf<T> {
        let mut number = |role| (self.make)(role, &[1]);
        XieluOf {
            alpha_p: number(Role::XieluAlphaP),
            alpha_n: number(Role::XieluAlphaN),
            beta: number(Role::XieluBeta),
            eps: number(Role::XieluEps),
        }
    }

    /// The norm after the last block of a side, if there is one.
    pub fn final_norm(&mut self, side: Side) -> Option<NormOf<T>> {
        let stack = self.spec.stack(side)?;
        match stack.final_norm {
            FinalNorm::Present => {
                let norm = stack.norm.of(Role::FinalNorm);
                Some(self.norms(&norm, self.spec.hidden))
            }
            FinalNorm::Absent => None,
        }
    }

    /// What makes one row of several streams after the last block, with the norm of it.
    pub fn streams_end(&mut self, side: Side) -> Option<StreamsEndOf<T>> {
        let of = self.spec.stack(side)?.streams?;
        Some(StreamsEndOf {
            collapse: match of.join {
                StreamsJoin::AltUp(_) => CollapseOf::Mean(self.of_streams(STREAM_OUT, of.n)),
                StreamsJoin::Hyper(_) => {
                    CollapseOf::Weighed(self.stream_weights(END_STREAMS, of, (1, of.n)))
                }
            },
            norm: self.final_norm(side)?,
        })
    }

    /// The head.
    pub fn head(&mut self) -> HeadOf<T> {
        let ModelSpec { hidden, vocab, .. } = *self.spec;
        let (width, head) = (self.spec.embedding.width, self.spec.head);
        HeadOf {
            project: (width != hidden).then(|| self.matrix(Role::ProjectOut, [width, hidden])),
            matrix: match head.matrix {
                HeadMatrix::Tied => None,
                HeadMatrix::Separate => Some((self.make)(Role::Head, &[vocab, width])),
            },
            bias: head.bias.then(|| (self.make)(Role::HeadBias, &[vocab])),
        }
    }

    /// Norms of rows of `width`.
    fn norms<N: TryMap<Role>>(&mut self, norms: &N, width: usize) -> N::Of<T> {
        let mut make = |&role: &Role| Ok::<_, Infallible>((self.make)(role, &[width]));
        let Ok(norms) = norms.try_map(&mut make);
        norms
    }

    fn matrix(&mut self, role: Role, shape: [usize; 2]) -> LinearOf<T> {
        self.linear(role, shape, false)
    }

    /// Of each head a matrix, one below the other.
    fn heads(&mut self, role: Role, shape: [usize; 3]) -> LinearOf<T> {
        LinearOf {
            weight: (self.make)(role, &shape),
            bias: None,
        }
    }

    fn linear(&mut self, role: Role, shape: [usize; 2], has_bias: bool) -> LinearOf<T> {
        let bias = role.bias().filter(|_| has_bias);
        LinearOf {
            weight: (self.make)(role, &shape),
            bias: bias.map(|bias| (self.make)(bias, &shape[..1])),
        }
    }
}

/// Weights of streams: products, what is added to them, and what multiplies them.
const MIXER_STREAMS: [Role; 3] = [
    Role::MixerStreams,
    Role::MixerStreamsBase,
    Role::MixerStreamsScale,
];
const MLP_STREAMS: [Role; 3] = [
    Role::MlpStreams,
    Role::MlpStreamsBase,
    Role::MlpStreamsScale,
];
const END_STREAMS: [Role; 3] = [
    Role::EndStreams,
    Role::EndStreamsBase,
    Role::EndStreamsScale,
];
/// From the residual to its further streams, one each.
const STREAM_IN: [Role; 3] = [Role::StreamIn1, Role::StreamIn2, Role::StreamIn3];
/// From them to what is made one row of.
const STREAM_OUT: [Role; 3] = [Role::StreamOut1, Role::StreamOut2, Role::StreamOut3];
