//! Feed-forward: one for all tokens, or experts.

use std::slice::from_ref;

use llm_arch::{
    ApartOf, DenseOf, ExpertOf, ExpertsOf, ExpertsSpec, Gating, MlpOf, MlpSpec, ModelSpec,
    NonLinearity, Role, SharedOf, Unit,
};
use llm_backend::{
    Backend, CutOff, Expert, ExpertBuffers, LinearPart, Ops, Output, RouterVectors, Run, Xielu,
};
use llm_plan::RunOn;

use crate::Result;
use crate::activations::Activations;
use crate::device::Elsewhere;
use crate::link::OnDevice;
use crate::projection::{apply, apply_back, norm_op, part, parts, scale};
use crate::source::WeightSource;
use crate::stream::{Key, Stream, Tensor, Weights};
use crate::sublayer::{Call, Input};

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
        stream: Option<&Stream<B>>,
        source: &mut dyn WeightSource,
        (model, layer): (&ModelSpec, usize),
        on: impl Fn(Unit) -> Option<RunOn>,
    ) -> Result<Option<Self>> {
        let (MlpSpec::Experts(spec), Some(roles)) =
            (model.decoder.layers[layer].mlp, model.roles().expert(layer))
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
            weights: (0..spec.routing.n_experts)
                .map(load)
                .collect::<Result<_>>()?,
        }))
    }

    /// True if some are brought when a router names them.
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

    /// True if the host has to know of a router's choice.
    fn is_asked(&self) -> bool {
        self.weights.iter().any(|weights| match weights {
            ExpertWeights::Here(weights) => weights.is_streamed(),
            ExpertWeights::On(_) => true,
        })
    }

    /// Sends each expert the rows for which the layer's block chose it, and adds the results to `a.rows.x`, or to
    /// `a.rows.left`.
    pub(crate) fn forward(
        &self,
        queue: &mut B::Queue,
        stream: Option<&Stream<B>>,
        a: &mut Activations<B>,
        elsewhere: &mut dyn Elsewhere,
    ) -> Result<()> {
        if let Some(all) = self.resident() {
            return self.all(&all, queue, a);
        }
        // All may have some, where nobody needs to know.
        a.n_rows.fill(usize::MAX);
        if self.is_asked() {
            queue.chosen(
                a.routes.as_ref().expect(ROUTED),
                &mut a.n_rows[..self.spec.routing.n_experts],
            )?;
        }
        let is_chosen = |expert: usize| a.n_rows[expert] > 0;
        if let Some(stream) = stream.filter(|_| self.is_streamed()) {
            let chosen = (0..self.weights.len()).filter(|&expert| is_chosen(expert));
            stream.resolve(chosen.map(|expert| Key::Unit(self.unit(expert))));
        }
        let is_apart = |weights: &_| matches!(weights, ExpertWeights::On(_));
        if self.weights.iter().any(is_apart) {
            elsewhere.expect_experts(self.layer, &is_chosen);
        }
        for (i, weights) in self.weights.iter().enumerate() {
            let n = a.n_rows[i];
            if n == 0 {
                continue;
            }
            match weights {
                ExpertWeights::Here(weights) => {
                    let weights = weights.get(queue, stream)?;
                    self.expert((i, n), &weights, queue, a)?;
                    weights.end(queue)?;
                }
                &ExpertWeights::On(run_on) => {
                    self.gather(i, queue, a)?;
                    let mut port = OnDevice {
                        queue: &mut *queue,
                        activations: &mut *a,
                    };
                    elsewhere.expert((run_on, self.unit(i)), &mut port, n)?;
                    self.scatter(i, queue, a)?;
                }
            }
        }
        Ok(())
    }

    /// All experts' weights, if each is here for good.
    fn resident(&self) -> Option<Vec<&ExpertOf<Tensor<B>>>> {
        let here = self.weights.iter().map(|weights| match weights {
            ExpertWeights::Here(weights) => weights.resident(),
            ExpertWeights::On(_) => None,
        });
        here.collect()
    }

    /// Sends all experts their rows, and adds their results.
    fn all(
        &self,
        weights: &[&ExpertOf<Tensor<B>>],
        queue: &mut B::Queue,
        a: &mut Activations<B>,
    ) -> Result<()> {
        let up: Vec<_> = weights.iter().map(|w| parts(w.up.parts())).collect();
        let experts = weights.iter().zip(&up).enumerate();
        let experts: Vec<_> = experts
            .map(|(i, (weights, up))| self.op(i, weights, up, a.hidden))
            .collect();
        let routes = a.routes.as_ref().expect(ROUTED);
        let scratch = ExpertBuffers {
            gathered: &mut a.rows.gathered,
            up: &mut a.rows.up,
            gated: &mut a.rows.gated,
            delta: &mut a.rows.delta,
        };
        let (x, out) = match self.spec.have_own_rows() {
            true => (&a.rows.entered, &mut a.rows.left),
            false => (&a.rows.normed, &mut a.rows.x),
        };
        Ok(queue.experts(&experts, x, routes, scratch, out)?)
    }

    /// Sends an expert its rows, at most `n`, and adds its results.
    fn expert(
        &self,
        (expert, n): (usize, usize),
        weights: &ExpertOf<Tensor<B>>,
        queue: &mut B::Queue,
        a: &mut Activations<B>,
    ) -> Result<()> {
        let ExpertOf { up, down } = weights;
        if up
            .parts()
            .iter()
            .chain([down])
            .any(|linear| !linear.weight.is_here())
        {
            self.gather(expert, queue, a)?;
            self::expert(weights, queue, &self.spec, n, a)?;
            return self.scatter(expert, queue, a);
        }
        let up = parts(weights.up.parts());
        let op = self.op(expert, weights, &up, a.hidden);
        let routes = a.routes.as_ref().expect(ROUTED);
        let scratch = ExpertBuffers {
            gathered: &mut a.rows.gathered,
            up: &mut a.rows.up,
            gated: &mut a.rows.gated,
            delta: &mut a.rows.delta,
        };
        let (x, out) = match self.spec.have_own_rows() {
            true => (&a.rows.entered, &mut a.rows.left),
            false => (&a.rows.normed, &mut a.rows.x),
        };
        Ok(queue.expert(&op, x, routes, scratch, out)?)
    }

    /// Gathers the rows of an expert in `a.rows.gathered`.
    fn gather(&self, expert: usize, queue: &mut B::Queue, a: &mut Activations<B>) -> Result<()> {
        let (routes, width) = (
            a.routes.as_ref().expect(ROUTED),
            self.spec.row_width(a.hidden),
        );
        let x = match self.spec.have_own_rows() {
            true => &a.rows.entered,
            false => &a.rows.normed,
        };
        Ok(queue.gather_routed(routes, expert, x, width, &mut a.rows.gathered)?)
    }

    /// Adds what an expert made in `a.rows.delta` to the rows that it is of.
    fn scatter(&self, expert: usize, queue: &mut B::Queue, a: &mut Activations<B>) -> Result<()> {
        let (routes, width) = (
            a.routes.as_ref().expect(ROUTED),
            self.spec.row_width(a.hidden),
        );
        let out = match self.spec.have_own_rows() {
            true => &mut a.rows.left,
            false => &mut a.rows.x,
        };
        Ok(queue.scatter_routed(routes, expert, &a.rows.delta, width, out)?)
    }

    /// An expert as a device is told of it; `up` are its parts.
    fn op<'a>(
        &self,
        expert: usize,
        weights: &'a ExpertOf<Tensor<B>>,
        up: &'a [LinearPart<'a, B>],
        hidden: usize,
    ) -> Expert<'a, B> {
        Expert {
            expert,
            gate_up: &up[..weights.up.parts().len()],
            down: part(&weights.down),
            gate: self.spec.gate,
            width: self.spec.width,
            hidden: self.spec.row_width(hidden),
        }
    }
}

/// Takes the first `n` rows of `a.rows.gathered` through an expert to `a.rows.delta`.
pub(crate) fn expert<B: Backend>(
    weights: &ExpertOf<Tensor<B>>,
    queue: &mut B::Queue,
    spec: &ExpertsSpec,
    n: usize,
    a: &mut Activations<B>,
) -> Result<()> {
    let up = (Output::Write, &mut a.rows.up);
    apply::<B>(queue, weights.up.parts(), &a.rows.gathered, up, n)?;
    let (up, gated) = (&mut a.rows.up, &mut a.rows.gated);
    let inner = queue.gate_by(&spec.gate, up, gated, spec.width, n)?;
    let delta = (Output::Write, &mut a.rows.delta);
    apply::<B>(queue, from_ref(&weights.down), inner, delta, n)
}

/// Computes a block's feed-forward. Of experts it says which compute next.
pub(crate) fn forward<B: Backend>(
    mlp: &MlpOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
) -> Result<()> {
    match mlp {
        MlpOf::Dense(mlp) => dense(mlp, call, (input, output), a),
        MlpOf::Experts(experts) => {
            let is_apart = experts.apart.is_some();
            assert!(
                input == Input::Normed && (output == Output::Write) == is_apart,
                "experts read a normed copy of the residual and add to it, unless they are kept apart"
            );
            if let (Some(shared), Some(apart)) = (&experts.shared, &experts.apart) {
                return self::apart(experts, (shared, apart), call, a);
            }
            route(experts, call, a)?;
            if let Some(shared) = &experts.shared {
                self::shared(shared, call, a)?;
            }
            weigh_inputs(experts, call, a)
        }
    }
}

fn dense<B: Backend>(
    DenseOf {
        spec,
        up,
        down,
        xielu,
    }: &DenseOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
) -> Result<()> {
    let (queue, n_tokens) = (&mut *call.queue, call.n_tokens);
    let x = match input {
        Input::Residual => &a.rows.x,
        Input::Normed => &a.rows.normed,
    };
    let out = (Output::Write, &mut a.rows.up);
    apply::<B>(queue, up.parts(), x, out, n_tokens)?;
    let (width, x) = (spec.width, &mut a.rows.up);
    let inner = match (spec.activation, spec.gating) {
        (NonLinearity::Of(activation), Gating::None) => {
            queue.activate(activation, x, width, n_tokens)?;
            &a.rows.up
        }
        (NonLinearity::Of(activation), Gating::Separate | Gating::Fused) => {
            if let Some([of_gate, _]) = spec.scales
                && of_gate != 1.0
            {
                let run = |factor| Run {
                    n_columns: spec.width,
                    factor,
                };
                queue.scale(&[of_gate, 1.0].map(run), x, n_tokens)?;
            }
            if let Some(deviations) = spec.cut_off {
                let op = CutOff {
                    width,
                    row_width: 2 * width,
                    deviations,
                };
                queue.cut_off(&op, x, n_tokens)?;
            }
            queue.gate(activation, x, &mut a.rows.gated, width, n_tokens)?;
            &a.rows.gated
        }
        (NonLinearity::Clamped(gate), gating) => {
            assert_ne!(gating, Gating::None, "a clamped gate gates");
            queue.gate_clamped(&gate, x, &mut a.rows.gated, width, n_tokens)?;
            &a.rows.gated
        }
        (NonLinearity::Xielu, gating) => {
            assert_eq!(gating, Gating::None, "xIELU activates what no gate is for");
            let numbers = xielu.as_ref().expect("xIELU has numbers");
            let op = Xielu {
                alpha_p: &*numbers.alpha_p,
                alpha_n: &*numbers.alpha_n,
                beta: &*numbers.beta,
                eps: &*numbers.eps,
            };
            queue.activate_xielu(&op, x, width, n_tokens)?;
            &a.rows.up
        }
    };
    let down = (down, spec.scales.map_or(1.0, |[_, of_result]| of_result));
    let to = (output, &mut a.rows.x, &mut a.rows.delta);
    apply_back::<B>(queue, down, inner, to, (a.hidden, n_tokens))
}

/// Makes what experts added up in rows of their own part of the residual, or has it in `a.rows.delta` where a norm follows.
pub(crate) fn join<B: Backend>(
    experts: &ExpertsOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    let (queue, n_tokens) = (&mut *call.queue, call.n_tokens);
    if let Some(latent) = &experts.latent {
        let (leave, out) = (from_ref(&latent.leave), (Output::Add, &mut a.rows.x));
        apply::<B>(queue, leave, &a.rows.left, out, n_tokens)?;
    }
    if let Some(apart) = &experts.apart {
        let rows = &mut a.rows;
        queue.norm(
            &norm_op(&apart.after),
            &rows.left,
            &mut rows.delta,
            n_tokens,
        )?;
        queue.add(&rows.normed, &mut rows.delta, a.hidden, n_tokens)?;
    }
    Ok(())
}

/// Computes what all tokens go to, into `a.rows.normed`, and chooses the experts that are kept apart from it: router and experts
/// read norms of their own.
fn apart<B: Backend>(
    experts: &ExpertsOf<Tensor<B>>,
    (shared, apart): (&SharedOf<Tensor<B>>, &ApartOf<Tensor<B>>),
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    dense(&shared.mlp, call, (Input::Normed, Output::Write), a)?;
    let (queue, n_tokens) = (&mut *call.queue, call.n_tokens);
    let (spec, rows) = (&experts.spec, &mut a.rows);
    let norm = norm_op(&apart.after_shared);
    queue.norm(&norm, &rows.delta, &mut rows.normed, n_tokens)?;

    queue.norm(
        &norm_op(&apart.router),
        &rows.x,
        &mut rows.entered,
        n_tokens,
    )?;
    let (router, out) = (from_ref(&experts.router), (Output::Write, &mut rows.scores));
    apply::<B>(queue, router, &rows.entered, out, n_tokens)?;
    let by_root = (a.hidden as f32).sqrt().recip();
    let size = (spec.routing.n_experts, n_tokens);
    scale::<B>(queue, by_root, &mut rows.scores, size)?;
    let routes = a.routes.as_mut().expect(ROUTED);
    let vectors = RouterVectors {
        correction: None,
        scales: Some(&*apart.scales),
        chosen: None,
    };
    queue.route(&spec.routing, vectors, &rows.scores, routes, n_tokens)?;

    queue.norm(
        &norm_op(&apart.before),
        &rows.x,
        &mut rows.entered,
        n_tokens,
    )?;
    // Experts add to it.
    scale::<B>(queue, 0.0, &mut rows.left, (a.hidden, n_tokens))
}

/// Chooses experts by the scores of a router, and begins what they read and add to.
fn route<B: Backend>(
    experts: &ExpertsOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    let ExpertsOf {
        spec,
        router,
        correction,
        by_token,
        latent,
        shared: _,
        apart: _,
    } = experts;
    let (queue, n_tokens) = (&mut *call.queue, call.n_tokens);
    let (router, out) = (from_ref(router), (Output::Write, &mut a.rows.scores));
    apply::<B>(queue, router, &a.rows.normed, out, n_tokens)?;
    if let Some(table) = by_token {
        queue.embed(table, &a.ids, n_tokens, 1.0, &mut a.rows.gathered)?;
    }
    let routes = a.routes.as_mut().expect(ROUTED);
    let vectors = RouterVectors {
        correction: correction.as_deref(),
        scales: None,
        chosen: by_token.as_ref().map(|_| &a.rows.gathered),
    };
    queue.route(&spec.routing, vectors, &a.rows.scores, routes, n_tokens)?;
    if let Some(latent) = latent {
        let (enter, out) = (
            from_ref(&latent.enter),
            (Output::Write, &mut a.rows.entered),
        );
        apply::<B>(queue, enter, &a.rows.normed, out, n_tokens)?;
        let size = (spec.row_width(a.hidden), n_tokens);
        scale::<B>(queue, 0.0, &mut a.rows.left, size)?;
    }
    Ok(())
}

/// Multiplies what experts read by their weights, where these are of that.
fn weigh_inputs<B: Backend>(
    experts: &ExpertsOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    let spec = &experts.spec;
    if !spec.weighs_inputs {
        return Ok(());
    }
    let shared = experts.shared.as_ref();
    let has_scores = shared.is_none_or(|shared| shared.score.is_none());
    assert!(
        spec.routing.n_active == 1 && !spec.have_own_rows() && has_scores,
        "an expert for a row, which it reads as it is, and scores of experts still"
    );
    let scores = (&a.rows.scores, spec.routing.n_experts);
    let (x, n_tokens) = (&mut a.rows.normed, call.n_tokens);
    Ok(call.queue.scale_by_largest(scores, x, a.hidden, n_tokens)?)
}

/// Adds the result of an expert that all tokens go to.
fn shared<B: Backend>(
    SharedOf { mlp, score }: &SharedOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    let Some(score) = score else {
        return dense(mlp, call, (Input::Normed, Output::Add), a);
    };
    dense(mlp, call, (Input::Normed, Output::Write), a)?;
    let (queue, n_tokens) = (&mut *call.queue, call.n_tokens);
    // The router's scores have been used.
    let out = (Output::Write, &mut a.rows.scores);
    apply::<B>(queue, from_ref(score), &a.rows.normed, out, n_tokens)?;
    let (gates, delta) = (&a.rows.scores, &a.rows.delta);
    Ok(queue.add_gated(gates, delta, &mut a.rows.x, a.hidden, n_tokens)?)
}

const ROUTED: &str = "room for a router's choice, in a model with experts";
