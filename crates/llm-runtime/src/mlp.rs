//! Feed-forward: one for all tokens, or experts.

use std::slice::from_ref;

use llm_arch::{ExpertOf, ExpertsSpec, Gating, MlpOf, MlpSpec, ModelSpec, Role, Unit, Weighting};
use llm_backend::{Backend, Output};
use llm_plan::RunOn;
use llm_tensor::Bytes;

use crate::Result;
use crate::activations::Activations;
use crate::block::{Call, Input};
use crate::device::Elsewhere;
use crate::link::OnDevice;
use crate::memory::vec_bytes;
use crate::projection::apply;
use crate::source::WeightSource;
use crate::stream::{Key, Stream, Weights};

/// The experts of a layer: weights of their own, each on the device that computes with it.
pub(crate) struct Experts<B: Backend> {
    layer: usize,
    spec: ExpertsSpec,
    /// By expert.
    weights: Vec<ExpertWeights<B>>,
}

/// An expert as the device of its layer has it.
enum ExpertWeights<B: Backend> {
    Here(Weights<B, ExpertOf<Role>>),
    /// On another device.
    On(RunOn),
}

impl<B: Backend> Experts<B> {
    /// Those of a decoder's layer, if it has any. `on` says which of them compute on another device.
    pub(crate) fn load(
        backend: &B,
        stream: Option<&Stream>,
        source: &mut dyn WeightSource,
        (model, layer): (&ModelSpec, usize),
        on: impl Fn(Unit) -> Option<RunOn>,
    ) -> Result<Option<Self>> {
        let (MlpSpec::Experts(spec), Some(roles)) =
            (model.decoder.layers[layer].mlp, ExpertOf::of(model, layer))
        else {
            return Ok(None);
        };
        let load = |expert| {
            let unit = Unit::Expert { layer, expert };
            Ok(match on(unit) {
                Some(run_on) => ExpertWeights::On(run_on),
                None => {
                    let key = Key::Unit(unit);
                    ExpertWeights::Here(Weights::load(backend, stream, key, roles, source)?)
                }
            })
        };
        Ok(Some(Experts {
            layer,
            spec,
            weights: (0..spec.n_experts).map(load).collect::<Result<_>>()?,
        }))
    }

    /// Whether some are brought when a router names them.
    pub(crate) fn is_streamed(&self) -> bool {
        self.weights.iter().any(|weights| match weights {
            ExpertWeights::Here(weights) => weights.is_streamed(),
            ExpertWeights::On(_) => false,
        })
    }

    fn unit(&self, expert: usize) -> Unit {
        let layer = self.layer;
        Unit::Expert { layer, expert }
    }

    /// Sends each expert the rows for which the layer's block chose it, and adds the results to `a.x`.
    pub(crate) fn forward(
        &self,
        backend: &B,
        stream: Option<&Stream>,
        a: &mut Activations<B>,
        elsewhere: &mut dyn Elsewhere,
    ) -> Result<()> {
        let is_chosen = |expert: usize| !a.routing.by_expert[expert].rows.is_empty();
        if let Some(stream) = stream.filter(|_| self.is_streamed()) {
            let chosen = (0..self.weights.len()).filter(|&expert| is_chosen(expert));
            stream.resolve(chosen.map(|expert| Key::Unit(self.unit(expert))));
        }
        let is_apart = |weights: &_| matches!(weights, ExpertWeights::On(_));
        if self.weights.iter().any(is_apart) {
            elsewhere.expect_experts(self.layer, &is_chosen);
        }
        for (i, weights) in self.weights.iter().enumerate() {
            let rows = &a.routing.by_expert[i].rows;
            let n = rows.len();
            if n == 0 {
                continue;
            }
            backend.gather_rows(&a.normed, rows, a.hidden, &mut a.gathered)?;
            match weights {
                ExpertWeights::Here(weights) => {
                    expert(&*weights.get(backend, stream)?, backend, &self.spec, n, a)?;
                }
                &ExpertWeights::On(run_on) => {
                    let mut port = OnDevice {
                        backend,
                        activations: a,
                    };
                    elsewhere.expert((run_on, self.unit(i)), &mut port, n)?;
                }
            }
            let chosen = &a.routing.by_expert[i];
            backend.scatter_add(&a.delta, &chosen.rows, &chosen.weights, a.hidden, &mut a.x)?;
        }
        Ok(())
    }
}

/// Takes the first `n` rows of `a.gathered` through an expert to `a.delta`.
pub(crate) fn expert<B: Backend>(
    weights: &ExpertOf<B::Weight>,
    backend: &B,
    spec: &ExpertsSpec,
    n: usize,
    a: &mut Activations<B>,
) -> Result<()> {
    let (parts, up) = (weights.up.parts(), (Output::Write, &mut a.up));
    apply(backend, parts, &a.gathered, up, n, &mut a.workspace)?;
    backend.gate(spec.activation, &a.up, &mut a.gated, spec.width, n)?;
    let (down, delta) = (from_ref(&weights.down), (Output::Write, &mut a.delta));
    apply(backend, down, &a.gated, delta, n, &mut a.workspace)
}

/// Computes a block's feed-forward. Of experts it says which compute next.
pub(crate) fn forward<B: Backend>(
    mlp: &MlpOf<B::Weight>,
    call: &Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
) -> Result<()> {
    let Call {
        backend, n_tokens, ..
    } = *call;
    match mlp {
        MlpOf::Dense { spec, up, down } => {
            let x = match input {
                Input::Stream => &a.x,
                Input::Normed => &a.normed,
            };
            let out = (Output::Write, &mut a.up);
            apply(backend, up.parts(), x, out, n_tokens, &mut a.workspace)?;
            let inner = match spec.gating {
                Gating::None => {
                    backend.activate(spec.activation, &mut a.up, spec.width, n_tokens)?;
                    &a.up
                }
                Gating::Separate | Gating::Fused => {
                    backend.gate(spec.activation, &a.up, &mut a.gated, spec.width, n_tokens)?;
                    &a.gated
                }
            };
            let out = match output {
                Output::Write => &mut a.delta,
                Output::Add => &mut a.x,
            };
            let (down, out) = (from_ref(down), (output, out));
            apply(backend, down, inner, out, n_tokens, &mut a.workspace)
        }
        MlpOf::Experts { spec, router } => {
            assert!(
                input == Input::Normed && output == Output::Add,
                "experts read a normed copy of the stream and add to it"
            );
            let (router, out) = (from_ref(router), (Output::Write, &mut a.scores));
            apply(backend, router, &a.normed, out, n_tokens, &mut a.workspace)?;
            a.routing.choose(spec, n_tokens, |scores| {
                Ok(backend.download(&a.scores, scores)?)
            })
        }
    }
}

/// Which rows of a pass go to which expert, by the router's scores.
#[derive(Debug, Default)]
pub(crate) struct Routing {
    /// `[n_tokens, n_experts]`.
    scores: Vec<f32>,
    /// Experts of a row by score, reused.
    order: Vec<usize>,
    by_expert: Vec<Chosen>,
}

/// An expert's rows, in order, and the weight of its result in each.
#[derive(Debug, Default, Clone)]
struct Chosen {
    rows: Vec<usize>,
    weights: Vec<f32>,
}

impl Routing {
    /// Room for passes of `n_tokens`.
    pub(crate) fn new(n_experts: usize, n_tokens: usize) -> Self {
        let chosen = || Chosen {
            rows: Vec::with_capacity(n_tokens),
            weights: Vec::with_capacity(n_tokens),
        };
        Routing {
            scores: vec![0.0; n_experts * n_tokens],
            order: Vec::with_capacity(n_experts),
            by_expert: (0..n_experts).map(|_| chosen()).collect(),
        }
    }

    pub(crate) fn bytes(&self) -> Bytes {
        let Routing {
            scores,
            order,
            by_expert,
        } = self;
        let lists = by_expert.iter();
        let lists = lists.map(|chosen| vec_bytes(&chosen.rows) + vec_bytes(&chosen.weights));
        vec_bytes(scores) + vec_bytes(order) + vec_bytes(by_expert) + lists.sum()
    }

    fn choose(
        &mut self,
        spec: &ExpertsSpec,
        n_tokens: usize,
        fill: impl FnOnce(&mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let scores = &mut self.scores[..n_tokens * spec.n_experts];
        fill(scores)?;
        for chosen in &mut self.by_expert {
            chosen.rows.clear();
            chosen.weights.clear();
        }
        for (row, scores) in scores.chunks_exact_mut(spec.n_experts).enumerate() {
            softmax(scores);
            self.order.clear();
            self.order.extend(0..spec.n_experts);
            // Among equals the first, as the references' top-k has it.
            self.order
                .sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            let active = &self.order[..spec.n_active];
            let total: f32 = match spec.weighting {
                Weighting::Probability => 1.0,
                Weighting::Normalised => active.iter().map(|&expert| scores[expert]).sum(),
            };
            for &expert in active {
                self.by_expert[expert].rows.push(row);
                self.by_expert[expert].weights.push(scores[expert] / total);
            }
        }
        Ok(())
    }
}

fn softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - max).exp();
        total += *score;
    }
    for score in scores {
        *score /= total;
    }
}

#[cfg(test)]
mod tests {
    use llm_tensor::Activation;

    use super::*;

    #[test]
    fn rows_go_to_their_best_experts_with_weights_that_sum_to_one() {
        let spec = ExpertsSpec {
            n_experts: 3,
            n_active: 2,
            width: 1,
            activation: Activation::Silu,
            weighting: Weighting::Normalised,
        };
        let mut routing = Routing::new(3, 4);
        let scores = [0.0, 2.0, 1.0, /**/ 5.0, 5.0, 5.0];
        routing
            .choose(&spec, 2, |out| {
                out.copy_from_slice(&scores);
                Ok(())
            })
            .unwrap();
        let rows: Vec<_> = routing
            .by_expert
            .iter()
            .map(|chosen| chosen.rows.clone())
            .collect();
        assert_eq!(rows, [vec![1], vec![0, 1], vec![0]]);
        let weight = routing.by_expert[1].weights[0];
        assert!(
            (weight - 1.0 / (1.0 + (-1f32).exp())).abs() < 1e-6,
            "{weight}"
        );
        assert_eq!(routing.by_expert[1].weights[1], 0.5);
    }
}
