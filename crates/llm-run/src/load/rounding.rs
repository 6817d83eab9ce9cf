//! Activations in 8 bits, where they are asked for: the matrices that take them so.

use std::collections::BTreeMap;

use anyhow::Result;
use llm_arch::{Role, TensorKind, Unit};
use llm_plan::{Encodings, Plan, RunOn};
use llm_quant::Activations;
use llm_runtime::BoundModel;

use crate::failure::refuse;

/// Matrices that the CPU multiplies with, by what is done with activations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rounding {
    n_rounded: usize,
    /// Those that take activations as they are: how many there are in each encoding.
    exact: BTreeMap<String, usize>,
}

impl Rounding {
    /// `None` where activations are kept in f32.
    ///
    /// # Errors
    /// When the plan has nothing computed on the CPU.
    pub(super) fn of(
        activations: Activations,
        model: &BoundModel,
        encodings: &Encodings<'_>,
        plan: &Plan,
    ) -> Result<Option<Self>> {
        match activations {
            Activations::F32 => return Ok(None),
            Activations::Q8 => {}
        }
        if !plan.map.devices().contains(&RunOn::Cpu) {
            return refuse(
                "--activations q8 is for what the CPU multiplies, and here GPUs compute everything; leave it out, or give --device cpu",
            );
        }
        let mut rounding = Rounding::default();
        for bound in model.tensors() {
            let slot = bound.slot;
            let unit = match slot.kind {
                TensorKind::Projection | TensorKind::WideProjection | TensorKind::Head => slot.unit,
                TensorKind::Other if slot.role == Role::TokenTable && plan.map.is_tied() => {
                    Unit::Head
                }
                TensorKind::Both | TensorKind::Other | TensorKind::Single => continue,
            };
            if plan
                .map
                .get(unit)
                .is_none_or(|place| place.run_on != RunOn::Cpu)
            {
                continue;
            }
            let scheme = encodings.scheme(slot, bound.stored(), RunOn::Cpu);
            if activations.are_rounded_for(scheme) {
                rounding.n_rounded += 1;
            } else {
                *rounding.exact.entry(scheme.to_string()).or_default() += 1;
            }
        }
        Ok(Some(rounding))
    }

    /// Notice of the matrices that take activations as they are, if there are any.
    pub(super) fn notice(&self) -> Option<String> {
        let counts = self
            .exact
            .iter()
            .map(|(scheme, n)| format!("{n} in {scheme}"));
        let counts: Vec<_> = counts.collect();
        (!counts.is_empty()).then(|| {
            format!(
                "--activations q8 is for matrices in GGUF's blocks of whole numbers; others multiply activations in f32: {}",
                counts.join(", ")
            )
        })
    }

    /// The same as a line beside the memory that is used.
    pub(crate) fn line(&self) -> String {
        let n_exact: usize = self.exact.values().sum();
        format!(
            "activations are rounded to 8 bits for {} of {} matrices on the CPU\n",
            self.n_rounded,
            self.n_rounded + n_exact
        )
    }
}
