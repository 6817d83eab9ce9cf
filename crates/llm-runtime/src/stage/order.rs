//! Order in which a device needs its offloaded weights.

use llm_arch::{Side, Unit};
use llm_plan::{Home, RunOn, StagePlan};

use crate::stream::{Key, Next};

/// Parcels that a device computes with, in order.
pub(super) struct Order {
    encoder: Vec<(usize, Key)>,
    decoder: Vec<Step>,
}

struct Step {
    /// Number of the stage.
    stage: usize,
    next: Next,
    /// True where only logits need it.
    for_logits: bool,
}

impl Order {
    pub(super) fn of(stages: &[StagePlan], run_on: RunOn) -> Self {
        let mut order = Order {
            encoder: Vec::new(),
            decoder: Vec::new(),
        };
        for (i, stage) in stages.iter().enumerate() {
            match stage.run_on == run_on {
                true => order.add_own(i, stage),
                false => {
                    let remote = stage.remote.iter();
                    let here = remote.filter(|(_, at)| at.run_on == run_on && !at.is_resident());
                    order.add_experts(i, here.map(|&(unit, _)| unit));
                }
            }
        }
        order
    }

    fn add_own(&mut self, stage: usize, plan: &StagePlan) {
        let mut add = |next, for_logits| {
            self.decoder.push(Step {
                stage,
                next,
                for_logits,
            });
        };
        for (at, &(unit, _)) in plan.units.iter().enumerate() {
            let key = Key::Unit(unit);
            match unit {
                Unit::Embedding => add(Next::Key(key), false),
                Unit::Layer(Side::Decoder, _) => {
                    add(Next::Key(key), false);
                    let is_expert = |(unit, _): &&(Unit, Home)| matches!(unit, Unit::Expert { .. });
                    let mut experts = plan.units[at + 1..].iter().take_while(is_expert);
                    // Only a router can name them.
                    if experts.any(|&(_, home)| home != plan.run_on.memory()) {
                        add(Next::Unknown, false);
                    }
                }
                Unit::Layer(Side::Encoder, _) | Unit::FinalNorm(Side::Encoder) => {
                    self.encoder.push((stage, key));
                }
                Unit::FinalNorm(Side::Decoder) => add(Next::Key(key), true),
                Unit::Head => {
                    add(Next::Key(key), true);
                    add(Next::Key(Key::TiedTable), true);
                }
                // Of this a pass looks up rows.
                Unit::PerLayerTable | Unit::Expert { .. } => {}
            }
        }
    }

    /// Offloaded experts of layers on another device.
    fn add_experts(&mut self, stage: usize, experts: impl Iterator<Item = Unit>) {
        let mut last = None;
        for unit in experts {
            if let Unit::Expert { layer, .. } = unit
                && last != Some(layer)
            {
                last = Some(layer);
                self.decoder.push(Step {
                    stage,
                    next: Next::Unknown,
                    for_logits: false,
                });
            }
        }
    }

    /// Parcels for the rest of a pass that has come to a stage.
    pub(super) fn pass(&self, stage: usize, logits: bool) -> impl Iterator<Item = Next> + '_ {
        let steps = self.decoder.iter();
        let steps = steps.filter(move |s| s.stage >= stage && (logits || !s.for_logits));
        steps.map(|step| step.next)
    }

    /// Parcels for the next pass, as far as they are known.
    pub(super) fn next_pass(&self) -> impl Iterator<Item = Next> + '_ {
        self.pass(0, false)
    }

    /// Parcels for what the decoder's layers attend to of an encoder's result.
    pub(super) fn attend_to(&self) -> impl Iterator<Item = Next> + '_ {
        self.decoder.iter().filter_map(|step| match step.next {
            Next::Key(key @ Key::Unit(Unit::Layer(..))) => Some(Next::FromEncoded(key)),
            Next::Key(_) | Next::FromEncoded(_) | Next::Unknown => None,
        })
    }

    /// Parcels for an encoder from a stage on.
    pub(super) fn encoder(&self, stage: usize) -> impl Iterator<Item = Next> + '_ {
        let keys = self.encoder.iter().filter(move |(of, _)| *of >= stage);
        keys.map(|&(_, key)| Next::Key(key))
    }
}
