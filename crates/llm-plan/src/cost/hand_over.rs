//! Rows that go from one device to another.

use std::collections::BTreeMap;

use llm_arch::Unit;
use llm_tensor::Bytes;

use crate::activation::HostBuffers;
use crate::estimate::MemoryEstimate;
use crate::weights::Weights;
use crate::{RunOn, Speeds};

/// Hand-over of rows between devices, through the host's memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HandOver {
    /// The device that has made them.
    pub from: RunOn,
    /// The device that goes on with them; the CPU where the host reads a result.
    pub to: RunOn,
    /// Bytes of a row.
    pub row: Bytes,
    /// Times in a pass. A fraction is a chance: a router may choose none of the experts that compute elsewhere.
    pub times: f64,
}

impl HandOver {
    /// Seconds of all of them.
    pub(crate) fn seconds(&self, n_rows: f64, speeds: &Speeds) -> f64 {
        let n_bytes = self.row.get() as f64 * n_rows;
        self.times * speeds.hand_over(self.from, self.to, n_bytes)
    }
}

/// Hand-overs of a pass, in which experts of a layer are chosen with a chance that depends on how many they are: between
/// units that compute one after the other, to experts on other devices and back, to the host that asks a router for its
/// choice, and to the host in the end.
pub(super) fn hand_overs(
    weights: &Weights,
    (estimate, host): (&MemoryEstimate, &HostBuffers),
    is_read: impl Fn(Unit) -> bool,
    chance: impl Fn(usize, usize) -> f64,
) -> Vec<HandOver> {
    let bytes = |width: usize| Bytes::new((width * size_of::<f32>()) as u64);
    let row = bytes(weights.hidden);
    let beside = host.beside.into_iter().filter(|&width| width > 0);
    let mut found = HandOvers::default();
    let units = weights.units.in_order_of_computing();
    let units = units.map(|idx| &estimate.units()[idx]);
    let mut before = None;
    // Experts of the last layer that compute elsewhere, by device, and whether one is not resident on the layer's own.
    let mut layer = Experts::default();
    for unit in units.filter(|unit| is_read(unit.unit)) {
        let run_on = unit.placement.run_on;
        if let (Unit::Expert { layer: i, .. }, Some(device)) = (unit.unit, before) {
            layer.idx = i;
            layer.is_asked |= run_on != device || !unit.placement.is_resident();
            if run_on != device {
                *layer.elsewhere.entry(run_on).or_default() += 1;
            }
            continue;
        }
        if let Some(device) = before {
            found.end_layer(&mut layer, device, row, &chance);
            if device != run_on {
                let streams = match unit.unit {
                    // The norm before it makes them one row.
                    Unit::Head => row,
                    _ => bytes(weights.streams),
                };
                found.add(device, run_on, streams, 1.0);
                // Nobody needs what is beside once the layers are done.
                let rows = beside.clone().filter(|_| !is_last(unit.unit));
                rows.for_each(|width| found.add(device, run_on, bytes(width), 1.0));
            }
        }
        before = Some(run_on);
    }
    if let Some(device) = before {
        found.end_layer(&mut layer, device, row, &chance);
        if device != RunOn::Cpu {
            // The token that was chosen, or the logits that it is chosen from.
            found.add(device, RunOn::Cpu, Bytes::ZERO, 1.0);
        }
    }
    found.list
}

/// True of what follows the layers.
fn is_last(unit: Unit) -> bool {
    match unit {
        Unit::FinalNorm(_) | Unit::Head => true,
        Unit::Embedding | Unit::PerLayerTable | Unit::Layer(..) | Unit::Expert { .. } => false,
    }
}

/// Experts of a layer that are not resident where it computes.
#[derive(Debug, Default)]
struct Experts {
    idx: usize,
    elsewhere: BTreeMap<RunOn, usize>,
    is_asked: bool,
}

#[derive(Debug, Default)]
struct HandOvers {
    list: Vec<HandOver>,
}

impl HandOvers {
    fn add(&mut self, from: RunOn, to: RunOn, row: Bytes, times: f64) {
        let mut list = self.list.iter_mut();
        match list.find(|of| (of.from, of.to, of.row) == (from, to, row)) {
            Some(of) => of.times += times,
            None => self.list.push(HandOver {
                from,
                to,
                row,
                times,
            }),
        }
    }

    /// Adds those of a layer's experts.
    fn end_layer(
        &mut self,
        experts: &mut Experts,
        device: RunOn,
        row: Bytes,
        chance: impl Fn(usize, usize) -> f64,
    ) {
        let Experts {
            idx,
            elsewhere,
            is_asked,
        } = std::mem::take(experts);
        if is_asked && device != RunOn::Cpu {
            self.add(device, RunOn::Cpu, Bytes::ZERO, 1.0);
        }
        for (run_on, n) in elsewhere {
            let times = chance(idx, n);
            self.add(device, run_on, row, times);
            self.add(run_on, device, row, times);
        }
    }
}
