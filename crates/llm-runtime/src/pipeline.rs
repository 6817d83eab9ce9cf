//! The stages of a model in order, and the devices that have them.

use llm_arch::{ModelSpec, Side, Unit};
use llm_plan::{ActivationWidths, Home, Limits, RunOn, StagePlan, Term};

use crate::Result;
use crate::allocated::{Allocated, vec_bytes};
use crate::device::{Elsewhere, Stages};
use crate::link;
use crate::pass::{Interrupts, Pass};
use crate::port::{Crossing, Port};
use crate::probe::Probe;

/// Stages in the order in which they compute.
pub(crate) struct Pipeline {
    parts: Vec<Part>,
    steps: Vec<Step>,
    hidden: usize,
    has_streams: bool,
    /// What crosses from stage to stage, and how wide its rows are.
    crossings: Vec<(Crossing, usize)>,
    /// Rows that cross between devices, `[n_tokens, widest]`.
    host: Vec<f32>,
}

/// The stages of one device.
pub(crate) struct Part {
    pub(crate) run_on: RunOn,
    pub(crate) stages: Box<dyn Stages>,
}

/// A stage, and what passes it takes part in.
struct Step {
    /// Index of its device among the parts.
    part: usize,
    embeds: bool,
    adds_inputs: bool,
    encodes: bool,
    decodes: bool,
    /// True of the norm before the head, and of the head.
    ends: bool,
    /// True of a head whose norm is another stage's.
    is_head_alone: bool,
}

impl Pipeline {
    pub(crate) fn new(
        spec: &ModelSpec,
        limits: &Limits,
        stages: &[StagePlan],
        parts: Vec<Part>,
    ) -> Self {
        let step = |stage: &StagePlan| {
            let part = parts.iter().position(|part| part.run_on == stage.run_on);
            Step {
                part: part.expect("a part for the device of each stage"),
                embeds: stage.has(Unit::Embedding),
                adds_inputs: stage.has(Unit::PerLayerTable),
                encodes: stage.layers(Side::Encoder).next().is_some()
                    || stage.has(Unit::FinalNorm(Side::Encoder)),
                decodes: stage.layers(Side::Decoder).next().is_some(),
                ends: stage.has(Unit::FinalNorm(Side::Decoder)) || stage.has(Unit::Head),
                is_head_alone: stage.has(Unit::Head) && !stage.has(Unit::FinalNorm(Side::Decoder)),
            }
        };
        let [inputs, lent, selected] = ActivationWidths::beside(spec, limits);
        let crossings = [
            (Crossing::Hidden, spec.hidden),
            (
                Crossing::Streams,
                (spec.decoder.streams).map_or(0, |of| of.row_width(spec.hidden)),
            ),
            (Crossing::Inputs, inputs),
            (Crossing::Lent, lent),
            (Crossing::Selected, selected),
        ];
        // One device keeps its hidden states to itself, but for what an encoder made of a prompt.
        let n_crossing = match parts.len() > 1 || spec.encoder.is_some() {
            true => limits.n_tokens * ActivationWidths::widest_crossing(spec, limits),
            false => 0,
        };
        Pipeline {
            steps: stages.iter().map(step).collect(),
            hidden: spec.hidden,
            has_streams: spec.decoder.streams.is_some(),
            crossings: crossings.into_iter().filter(|of| of.1 > 0).collect(),
            host: vec![0.0; n_crossing],
            parts,
        }
    }

    /// Adds a device that has no stage.
    #[cfg(test)]
    pub(crate) fn add(&mut self, part: Part) {
        self.parts.push(part);
    }

    /// Computes a pass, up to the rows that logits are made of.
    pub(crate) fn forward(&mut self, pass: &Pass<'_>) -> Result<()> {
        let takes_part = |step: &Step| {
            let makes_rows = step.embeds || step.adds_inputs || step.decodes;
            makes_rows || (step.ends && pass.logits)
        };
        let mut last = None;
        for (i, step) in self.steps.iter().enumerate() {
            if !takes_part(step) {
                continue;
            }
            if let Some(from) = last.replace(step.part) {
                // Streams are one row from the norm before the head on.
                let is_one_row = !self.has_streams || step.is_head_alone;
                let is_needed = |(of, _): &&(Crossing, usize)| match of {
                    Crossing::Hidden => is_one_row,
                    Crossing::Streams => !is_one_row,
                    _ => step.adds_inputs || step.decodes,
                };
                for &(of, width) in self.crossings.iter().filter(is_needed) {
                    let (way, rows) = ((from, step.part), (of, pass.ids.len() * width));
                    carry(&mut self.parts, way, rows, &mut self.host)?;
                }
            }
            let (before, rest) = self.parts.split_at_mut(step.part);
            let (part, after) = rest.split_first_mut().expect("the stage's part");
            let mut others = Others {
                parts: [before, after],
                hidden: self.hidden,
                host: &mut self.host,
            };
            part.stages.forward(i, pass, &mut others)?;
        }
        Ok(())
    }

    /// Has the encoder read a prompt, and all layers take from its result what they will attend to: the result `[ids, hidden]`.
    pub(crate) fn encode(
        &mut self,
        sequence: usize,
        ids: &[u32],
        watch: (Interrupts<'_>, Option<&Probe>),
    ) -> Result<&[f32]> {
        let n_elements = ids.len() * self.hidden;
        let mut last = None;
        for (i, step) in self.steps.iter().enumerate() {
            if !(step.embeds || step.encodes) {
                continue;
            }
            if let Some(from) = last.replace(step.part) {
                let way = (from, step.part);
                let rows = (Crossing::Hidden, n_elements);
                carry(&mut self.parts, way, rows, &mut self.host)?;
            }
            self.parts[step.part].stages.encode(i, ids, watch)?;
        }
        let encoded = last.expect("a stage of the encoder");
        for to in 0..self.parts.len() {
            if self
                .steps
                .iter()
                .any(|step| step.part == to && step.decodes)
            {
                let rows = (Crossing::Encoded, n_elements);
                carry(&mut self.parts, (encoded, to), rows, &mut self.host)?;
                self.parts[to]
                    .stages
                    .attend_to(sequence, ids.len(), watch.0)?;
            }
        }
        let rows = &mut self.host[..n_elements];
        self.parts[encoded]
            .stages
            .download(Crossing::Encoded, rows)?;
        Ok(rows)
    }

    /// True if all devices still have what position `len` of `sequence` sees.
    pub(crate) fn can_rewind(&self, sequence: usize, len: usize) -> bool {
        let mut parts = self.parts.iter();
        parts.all(|part| part.stages.can_rewind(sequence, len))
    }

    /// Takes all devices back to `len` positions of `sequence`, which [`Pipeline::can_rewind`] allows.
    pub(crate) fn rewind(&mut self, sequence: usize, len: usize) {
        for part in &mut self.parts {
            part.stages.rewind(sequence, len);
        }
    }

    /// Makes sequence `to` what `from` is.
    pub(crate) fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        let mut parts = self.parts.iter_mut();
        parts.try_for_each(|part| part.stages.fork(from, to))
    }

    /// Logits of some rows of the last pass into `out` `[rows, vocab]`.
    pub(crate) fn logits(&mut self, rows: &[usize], out: &mut [f32]) -> Result<()> {
        self.of_head(|head| head.logits(rows, out))
    }

    /// The most probable tokens after some rows of the last pass; see [`Stages::ids`].
    pub(crate) fn ids(&mut self, rows: &[usize], ids: &mut [Option<u32>]) -> Result<()> {
        self.of_head(|head| head.ids(rows, ids))
    }

    /// Asks the head's device for what a pass came to, which waits for it.
    fn of_head(&mut self, ask: impl FnOnce(&mut dyn Stages) -> Result<()>) -> Result<()> {
        let head = self.steps.last().expect("a model has a stage").part;
        ask(&mut *self.parts[head].stages)?;
        // The others are done, too, as the head's device has waited for their rows; whether they failed only they know.
        let mut others = self.parts.iter_mut().enumerate();
        others.try_for_each(|(i, part)| match i == head {
            true => Ok(()),
            false => part.stages.finish(),
        })
    }

    /// Counts everything but weights.
    pub(crate) fn count(&self, allocated: &mut Allocated) {
        for part in &self.parts {
            part.stages.count(allocated);
        }
        allocated.add(Home::Ram, Term::Activations, vec_bytes(&self.host));
    }
}

/// Brings rows from one part to another.
fn carry(
    parts: &mut [Part],
    (from, to): (usize, usize),
    rows: (Crossing, usize),
    host: &mut [f32],
) -> Result<()> {
    let Ok([from, to]) = parts.get_disjoint_mut([from, to]) else {
        // A device keeps what it has made.
        return Ok(());
    };
    link::carry(rows, &mut *from.stages, &mut *to.stages, host)
}

/// All parts but the one that computes.
struct Others<'a> {
    parts: [&'a mut [Part]; 2],
    hidden: usize,
    host: &'a mut [f32],
}

impl Elsewhere for Others<'_> {
    fn expect_experts(&self, layer: usize, is_chosen: &dyn Fn(usize) -> bool) {
        for part in self.parts.iter().flat_map(|parts| parts.iter()) {
            part.stages.expect_experts(layer, is_chosen);
        }
    }

    fn expert(
        &mut self,
        (run_on, unit): (RunOn, Unit),
        port: &mut dyn Port,
        n_rows: usize,
    ) -> Result<()> {
        let mut parts = self.parts.iter_mut().flat_map(|parts| parts.iter_mut());
        let part = parts.find(|part| part.run_on == run_on);
        let stages = &mut *part.expect("a part for the device of each expert").stages;
        let n_elements = n_rows * self.hidden;
        let host = &mut *self.host;
        link::carry((Crossing::ExpertInput, n_elements), port, stages, host)?;
        stages.expert(unit, n_rows)?;
        link::carry((Crossing::ExpertOutput, n_elements), stages, port, host)
    }
}
