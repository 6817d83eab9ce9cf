//! Brings a bound model's weights to a device.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use llm_arch::{Role, Unit};
use llm_plan::{
    DeviceMap, Encodings, Home, Limits, Placement, RunOn, Term, WeightDType, becomes_table,
};
use llm_quant::{Encoder, QuantConfig, StoredBytes, StoredWeight};
use llm_tensor::{Bytes, DType};

use crate::allocated::Allocated;
use crate::device::{Device, StageOptions};
use crate::encode::{weight, weight_into};
use crate::offload::Prepared;
use crate::pass::Interrupt;
use crate::pipeline::{Part, Pipeline};
use crate::probe::Origin;
use crate::progress::{Event, Progress};
use crate::source::WeightSource;
use crate::stream::{self, Feed};
use crate::{BoundModel, BoundTensor, Result, RuntimeError, Session, offload};

/// Options of loading.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// Element type of weights that are not quantized, and of keys and values.
    pub dtype: WeightDType,
    /// Quantization of the others, of a checkpoint that is not quantized yet.
    pub quant: Option<&'a QuantConfig>,
    /// Encoder that quantizes them.
    pub encoder: &'a dyn Encoder,
    /// The largest passes.
    pub limits: Limits,
    /// Places of units; without it all are resident, on one device.
    pub offload: Option<OffloadOptions<'a>>,
}

/// Places of units, and of the files of those on disk.
#[derive(Debug, Clone, Copy)]
pub struct OffloadOptions<'a> {
    /// Home and device of each unit, as was planned with the same options.
    pub map: &'a DeviceMap,
    /// Folder in which units on disk are written as they are computed with, unless the checkpoint has them so.
    pub folder: &'a Path,
}

/// Loads every resident weight, opens the offloaded ones, and allocates all that the session will need, for the CPU to compute on `device`.
///
/// Weights are quantized while they are read, in pieces and in parallel.
///
/// # Errors
/// When a weight cannot be read or quantized, the offload folder cannot be written, or the device has no room.
pub fn load(
    model: &BoundModel,
    device: &dyn Device,
    options: &LoadOptions<'_>,
    events: &mut dyn FnMut(Event),
) -> Result<Session> {
    load_under(model, device, options, &Interrupt::default(), events)
}

/// As [`load`], with the interrupt that the session will have: raised while loading, it ends that.
///
/// # Errors
/// As [`load`], and [`RuntimeError::Interrupted`].
pub fn load_under(
    model: &BoundModel,
    device: &dyn Device,
    options: &LoadOptions<'_>,
    interrupt: &Interrupt,
    events: &mut dyn FnMut(Event),
) -> Result<Session> {
    let devices = [(RunOn::Cpu, device)];
    load_on(model, &devices, options, interrupt, events)
}

/// As [`load_under`], on the devices that the map of [`LoadOptions::offload`] names; without one, all on the first.
///
/// # Errors
/// As [`load_under`], and [`RuntimeError::NoDevice`].
///
/// # Panics
/// When there is no device, or the map is of another model.
pub fn load_on(
    model: &BoundModel,
    devices: &[(RunOn, &dyn Device)],
    options: &LoadOptions<'_>,
    interrupt: &Interrupt,
    events: &mut dyn FnMut(Event),
) -> Result<Session> {
    let events: &mut dyn FnMut(Event) -> Result<()> = &mut |event| {
        events(event);
        match interrupt.is_raised() {
            true => Err(RuntimeError::Interrupted),
            false => Ok(()),
        }
    };
    options.limits.check(model.spec())?;
    let whole;
    let map = match options.offload {
        Some(offload) => offload.map,
        None => {
            let &(first, _) = devices.first().expect("a device to load to");
            whole = DeviceMap::on_one(model.spec(), first);
            &whole
        }
    };
    let encodings = model.encodings(options.dtype, options.quant)?;
    let tensors: HashMap<_, _> = model
        .tensors()
        .map(|bound| ((bound.slot.unit, bound.slot.role), bound))
        .collect();
    let table = &tensors[&(Unit::Embedding, Role::TokenTable)];
    let kv_dtype = encodings.kv_dtype(table.stored());
    let is_on_disk = |unit: Unit| placement(map, unit).home == Home::Disk;
    let in_memory = model
        .tensors()
        .filter(|bound| !is_on_disk(bound.slot.unit) && !becomes_table(bound.slot.role));
    let (mut total, mut units) = (Bytes::ZERO, HashSet::new());
    for bound in in_memory {
        total += bound.tensor.stored_bytes();
        units.insert(bound.slot.unit);
    }
    let mut feeds = HashMap::new();
    for run_on in map.devices() {
        let feed = feed(model, &encodings, (run_on, map), options, events)?;
        feeds.extend(feed.map(|feed| (run_on, feed)));
    }
    let mut source = Source {
        model,
        map,
        tensors,
        encodings,
        encoder: options.encoder,
        events,
        done: Bytes::ZERO,
        total,
        begun: HashSet::new(),
        total_units: units.len(),
        allocated: Allocated::default(),
    };
    let stages = map.stages()?;
    let part = |run_on: RunOn| {
        let device = devices.iter().find(|(of, _)| *of == run_on);
        let &(_, device) = device.ok_or(RuntimeError::NoDevice { run_on })?;
        let options = StageOptions {
            spec: model.spec().clone(),
            stages: stages.clone(),
            run_on,
            limits: options.limits,
            kv_dtype,
        };
        let stages = device.stages(&options, &mut source, feeds.remove(&run_on))?;
        Ok(Part { run_on, stages })
    };
    let parts = map.devices().into_iter().map(part);
    let parts = parts.collect::<Result<_>>()?;
    let pipeline = Pipeline::new(model.spec(), &options.limits, &stages, parts);
    Ok(Session::new(
        model.spec().clone(),
        (pipeline, source.allocated),
        options.limits,
        kv_dtype,
        Some(Origin {
            model: model.clone(),
            dtype: options.dtype,
        }),
    )
    .under(interrupt))
}

fn placement(map: &DeviceMap, unit: Unit) -> Placement {
    map.get(unit)
        .unwrap_or_else(|| panic!("the device map has a place for the {unit}"))
}

/// Stream of what a device computes with and does not hold, if there is such: what is on disk is written where that has to be.
fn feed(
    model: &BoundModel,
    encodings: &Encodings<'_>,
    (run_on, map): (RunOn, &DeviceMap),
    options: &LoadOptions<'_>,
    events: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<Option<Feed>> {
    let offloaded = map
        .iter()
        .filter(|(_, at)| at.run_on == run_on && !at.is_resident());
    let offloaded: Vec<_> = offloaded.collect();
    let (Some(offload), false) = (options.offload, offloaded.is_empty()) else {
        return Ok(None);
    };
    let on_disk = offloaded.iter().filter(|(_, at)| at.home == Home::Disk);
    let on_disk: Vec<Unit> = on_disk.map(|&(unit, _)| unit).collect();
    let prepared = match on_disk.is_empty() {
        true => Prepared::default(),
        false => offload::prepare(
            model,
            encodings,
            options.encoder,
            run_on,
            offload.folder,
            &on_disk,
            events,
        )?,
    };
    let at = (run_on, |unit| placement(map, unit));
    let sizes = (options.limits.n_tokens, map.slice());
    stream::open(model, encodings, at, prepared, sizes).map(Some)
}

struct Source<'a> {
    model: &'a BoundModel,
    map: &'a DeviceMap,
    tensors: HashMap<(Unit, Role), BoundTensor<'a>>,
    encodings: Encodings<'a>,
    encoder: &'a dyn Encoder,
    events: &'a mut dyn FnMut(Event) -> Result<()>,
    done: Bytes,
    total: Bytes,
    begun: HashSet<Unit>,
    total_units: usize,
    /// The weights that were handed over.
    allocated: Allocated,
}

impl Source<'_> {
    /// As the device of `at` computes with it.
    fn read(&self, unit: Unit, role: Role, at: Placement) -> Result<StoredWeight> {
        let (bound, run_on) = (self.tensors[&(unit, role)], at.run_on);
        weight(self.model, &bound, &self.encodings, run_on, self.encoder)
    }

    /// Counts a weight that was handed over.
    fn count(&mut self, unit: Unit, role: Role, bytes: StoredBytes) -> Result<()> {
        self.done += self.tensors[&(unit, role)].tensor.stored_bytes();
        self.begun.insert(unit);
        (self.events)(Event::Loading(Progress {
            done: self.done,
            total: self.total,
            unit,
            n_units: self.begun.len(),
            total_units: self.total_units,
        }))?;
        let (home, allocated) = (placement(self.map, unit).home, &mut self.allocated);
        allocated.add_to(unit, home, Term::Weights, bytes.elements);
        let statistics = Term::QuantizationStatistics;
        allocated.add_to(unit, home, statistics, bytes.statistics);
        Ok(())
    }
}

impl WeightSource for Source<'_> {
    fn weight(&mut self, unit: Unit, role: Role) -> Result<StoredWeight> {
        let weight = self.read(unit, role, placement(self.map, unit))?;
        self.count(unit, role, weight.stored_bytes())?;
        Ok(weight)
    }

    fn weight_into(
        &mut self,
        unit: Unit,
        role: Role,
        to: &StoredWeight<Range<usize>>,
        out: &mut [u8],
    ) -> Result<()> {
        let how = (&self.encodings, placement(self.map, unit).run_on);
        let bound = &self.tensors[&(unit, role)];
        weight_into(self.model, bound, how, self.encoder, (to, out))?;
        let bytes = to.scheme.stored_bytes(to.rows as u64, to.cols as u64);
        self.count(unit, role, bytes)
    }

    fn values(&mut self, unit: Unit, role: Role) -> Result<Vec<f32>> {
        let values = self.read(unit, role, placement(self.map, unit))?.values();
        Ok(values.expect("a bound tensor's elements are floating-point"))
    }

    fn rope_factors(&mut self) -> Result<Option<Vec<f32>>> {
        let Some(bound) = self.tensors.get(&(Unit::Embedding, Role::RopeFactors)) else {
            return Ok(None);
        };
        let n_elements = bound.tensor.shape.n_elements();
        let mut factors = vec![0f32; n_elements as usize];
        let out = bytemuck::cast_slice_mut(&mut factors);
        self.model
            .checkpoint()
            .read_tensor(bound.tensor, 0..n_elements, DType::F32, out)?;
        Ok(Some(factors))
    }
}
