//! Keys and values of layers that later layers see too, where these compute on other devices: each device has a copy.

use std::collections::BTreeMap;

use llm_arch::{ModelSpec, Side};
use llm_backend::{Backend, KvColumns, Ops};
use llm_plan::{ActivationWidths, RunOn, StagePlan};

use crate::Result;
use crate::activations::Activations;
use crate::state::{LayerState, SequenceBlocks};
use crate::sublayer::LentColumns;

/// What layers of a device lend to those of others, and borrow of them.
pub(super) struct Lending {
    /// Layers that lend, and where they leave their keys and values.
    lends: BTreeMap<usize, LentColumns>,
    /// By stage, the layers of other devices whose keys and values some of its layers see.
    borrows: Vec<BTreeMap<usize, LentColumns>>,
}

impl Lending {
    pub(super) fn of(spec: &ModelSpec, stages: &[StagePlan], run_on: RunOn) -> Self {
        let row_width = ActivationWidths::of(spec).lent;
        let mut devices = BTreeMap::new();
        for stage in stages {
            devices.extend(stage.layers(Side::Decoder).map(|i| (i, stage.run_on)));
        }
        let mut lending = Lending {
            lends: BTreeMap::new(),
            borrows: vec![BTreeMap::new(); stages.len()],
        };
        for (stage, borrows) in stages.iter().zip(&mut lending.borrows) {
            for layer in stage.layers(Side::Decoder) {
                let lender = spec.decoder.state_of(layer);
                let Some(columns) = ActivationWidths::lent_columns(spec, lender) else {
                    continue;
                };
                let columns = LentColumns {
                    first: columns.start,
                    row_width,
                };
                let at = devices[&lender];
                if at == run_on && stage.run_on != run_on {
                    lending.lends.insert(lender, columns);
                } else if at != run_on && stage.run_on == run_on {
                    borrows.insert(lender, columns);
                }
            }
        }
        lending
    }

    /// Where a layer leaves its keys and values for other devices, if it does.
    pub(super) fn lends(&self, layer: usize) -> Option<LentColumns> {
        self.lends.get(&layer).copied()
    }

    /// Adds what layers of other devices made of a pass's rows to the copies that a stage's layers see.
    pub(super) fn take<B: Backend>(
        &self,
        stage: usize,
        queue: &mut B::Queue,
        (sequences, states): (&SequenceBlocks<B>, &mut BTreeMap<usize, LayerState<B>>),
        a: &Activations<B>,
    ) -> Result<()> {
        for (lender, &LentColumns { first, row_width }) in &self.borrows[stage] {
            let state = states.get_mut(lender).and_then(|of| of.mixer.kv.as_mut());
            let kv = state.expect("a copy of what a layer sees");
            let (columns, batch) = (
                KvColumns { first, row_width },
                sequences.own.batch(kv.group),
            );
            queue.append(&a.rows.lent, &columns, &batch, &mut kv.pool)?;
        }
        Ok(())
    }
}
