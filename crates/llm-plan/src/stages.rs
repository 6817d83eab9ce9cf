//! Runs of units that one device computes, cut from a device map.

use llm_arch::{ModelSpec, Side, Unit};

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

impl DeviceMap {
    /// Check that GPUs have kernels for what the map has them compute: attention to entries, and what is around it, computes on the
    /// CPU alone.
    ///
    /// # Errors
    /// [`PlanError::NoGpuKernels`].
    pub fn check_kernels(&self, spec: &ModelSpec) -> Result<()> {
        let layers = &spec.decoder.layers;
        let is_cpus = |unit| match unit {
            Unit::Layer(Side::Decoder, layer) | Unit::Expert { layer, .. } => {
                layers[layer].mixer.shared_key().is_some()
            }
            Unit::FinalNorm(Side::Decoder) => spec.decoder.shared_keys().next().is_some(),
            Unit::Layer(Side::Encoder, _)
            | Unit::FinalNorm(Side::Encoder)
            | Unit::Embedding
            | Unit::PerLayerTable
            | Unit::Head => false,
        };
        for (unit, Placement { run_on, .. }) in self.iter() {
            if let RunOn::Gpu(gpu) = run_on
                && is_cpus(unit)
            {
                return Err(PlanError::NoGpuKernels {
                    gpu,
                    unit: unit.to_string(),
                    family: spec.family,
                });
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::golden;
    use crate::units::Units;

    #[test]
    fn what_gpus_have_no_kernels_for_computes_on_the_cpu() {
        let spec = golden("deepseek-v4").spec;
        let units = Units::of(&spec);
        // All units on the CPU but one.
        let check = |unit: Unit, gpu: u32| {
            let place = |&of: &Unit| Placement {
                home: Home::Ram,
                run_on: match of == unit {
                    true => RunOn::Gpu(gpu),
                    false => RunOn::Cpu,
                },
            };
            let placements: Vec<_> = units.list().iter().map(place).collect();
            DeviceMap::new(&units, spec.is_tied(), &placements).check_kernels(&spec)
        };
        let expert = Unit::Expert {
            layer: 2,
            expert: 4,
        };
        let layer = Unit::Layer(Side::Decoder, 1);
        for unit in [layer, expert, Unit::FinalNorm(Side::Decoder)] {
            let refusal = PlanError::NoGpuKernels {
                gpu: 1,
                unit: unit.to_string(),
                family: "deepseek_v4",
            };
            assert_eq!(check(unit, 1), Err(refusal));
        }
        assert_eq!(check(Unit::Embedding, 0), Ok(()));
        let other = golden("glm-moe-dsa-sparse").spec;
        let gpu = DeviceMap::on_one(&other, RunOn::Gpu(0));
        assert_eq!(gpu.check_kernels(&other), Ok(()));
    }
}
