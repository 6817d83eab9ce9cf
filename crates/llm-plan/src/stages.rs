//! Runs of units that one device computes, cut from a device map.

use llm_arch::{Side, Unit};

use crate::{DeviceMap, Home, Placement, PlanError, Result, RunOn};

/// Units that one device computes without another in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePlan {
    /// The device.
    pub run_on: RunOn,
    /// Units and where they rest, in the order in which they compute; a layer's experts follow it.
    pub units: Vec<(Unit, Home)>,
    /// Experts of its layers that compute on other devices, in the same order.
    pub remote: Vec<(Unit, Placement)>,
}

impl DeviceMap {
    /// The stages of the model, in the order in which they compute; of two that follow each other each is on another
    /// device.
    ///
    /// A tied head is on the device of its table. After layers on another device it is a stage of its own, or one with the
    /// norm before it, and computes with the weights of that device's first stage.
    ///
    /// # Errors
    /// [`PlanError::TiedApart`].
    pub fn stages(&self) -> Result<Vec<StagePlan>> {
        self.check_tied()?;
        let mut stages: Vec<StagePlan> = Vec::new();
        for (unit, placement) in self.iter() {
            let Placement { home, run_on } = placement;
            match (stages.last_mut(), unit) {
                (Some(stage), _) if stage.run_on == run_on => stage.units.push((unit, home)),
                // It follows its layer, which is the last stage's.
                (Some(stage), Unit::Expert { .. }) => stage.remote.push((unit, placement)),
                _ => stages.push(StagePlan {
                    run_on,
                    units: vec![(unit, home)],
                    remote: Vec::new(),
                }),
            }
        }
        Ok(stages)
    }

    /// A tied head has the table's home and device.
    fn check_tied(&self) -> Result<()> {
        let [table, head] = [Unit::Embedding, Unit::Head].map(|unit| self.get(unit));
        match self.is_tied() && table != head {
            true => Err(PlanError::TiedApart {
                head: Unit::Head.to_string(),
                table: Unit::Embedding.to_string(),
            }),
            false => Ok(()),
        }
    }
}

impl StagePlan {
    /// Layers of a side.
    pub fn layers(&self, side: Side) -> impl Iterator<Item = usize> + '_ {
        self.units.iter().filter_map(move |&(unit, _)| match unit {
            Unit::Layer(of, i) if of == side => Some(i),
            Unit::Layer(..)
            | Unit::Embedding
            | Unit::PerLayerTable
            | Unit::Expert { .. }
            | Unit::FinalNorm(_)
            | Unit::Head => None,
        })
    }

    /// True if a unit is among those that it computes.
    pub fn has(&self, unit: Unit) -> bool {
        self.units.iter().any(|&(of, _)| of == unit)
    }
}
