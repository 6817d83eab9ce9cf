//! Brings a bound model's weights to a device.

use std::collections::HashMap;
use std::path::Path;

use llm_arch::{Role, Unit};
use llm_plan::{DeviceMap, Encodings, Home, Limits, RunOn, Term, WeightDType};
use llm_quant::{Encoder, QuantConfig, Scheme, StoredWeight};
use llm_tensor::{Bytes, DType};

use crate::memory::Allocated;
use crate::probe::Origin;
use crate::rows::Rows;
use crate::session::Interrupt;
use crate::stage::{Device, StageOptions, WeightSource};
use crate::stream::{self, Stream};
use crate::{BoundModel, BoundTensor, Result, RuntimeError, Session, encode, offload, quantized};

/// How a model is loaded.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// How weights that are not quantized, and keys and values, are kept.
    pub dtype: WeightDType,
    /// How the others are to be quantized, of a checkpoint that is not quantized yet.
    pub quant: Option<&'a QuantConfig>,
    /// What quantizes them.
    pub encoder: &'a dyn Encoder,
    /// The largest passes.
    pub limits: Limits,
    /// What does not rest in memory; without it all does.
    pub offload: Option<OffloadOptions<'a>>,
}

/// What rests on disk.
#[derive(Debug, Clone, Copy)]
pub struct OffloadOptions<'a> {
    /// Where each unit rests, as was planned with the same options.
    pub map: &'a DeviceMap,
    /// Where units on disk are written as they are computed with, unless the checkpoint has them so.
    pub folder: &'a Path,
}

/// What loading is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Another run writes what this one needs too, which waits until that is done.
    Waiting,
    /// What rests on disk is written as it is computed with.
    Offloading(Progress),
    /// What rests in memory is loaded; bytes are counted as the checkpoint stores them.
    Loading(Progress),
}

/// How far something has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are done.
    pub done: Bytes,
    /// Bytes of all.
    pub total: Bytes,
}

/// Loads every weight that is to rest in memory, opens what is to rest on disk, and allocates all that the session will
/// need.
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
    let events: &mut dyn FnMut(Event) -> Result<()> = &mut |event| {
        events(event);
        match interrupt.is_raised() {
            true => Err(RuntimeError::Interrupted),
            false => Ok(()),
        }
    };
    let encodings = model.encodings(options.dtype, options.quant)?;
    let tensors: HashMap<_, _> = model
        .tensors()
        .map(|bound| ((bound.slot.unit, bound.slot.role), bound))
        .collect();
    let table = &tensors[&(Unit::Embedding, Role::TokenTable)];
    let kv_dtype = encodings.kv_dtype(table.stored());
    let stage = StageOptions {
        spec: model.spec().clone(),
        layers: 0..model.spec().decoder.n_layers(),
        limits: options.limits,
        kv_dtype,
    };
    let is_streamed = |unit: Unit| {
        let place = options.offload.and_then(|offload| offload.map.get(unit));
        place.is_some_and(|place| place.home == Home::Disk)
    };
    let resident = model
        .tensors()
        .filter(|bound| !is_streamed(bound.slot.unit));
    let total = resident.map(|bound| bound.tensor.stored_bytes()).sum();
    let stream = stream(model, &encodings, &is_streamed, options, events)?;
    let mut source = Source {
        model,
        tensors,
        encodings,
        encoder: options.encoder,
        stream,
        events,
        at: Progress {
            done: Bytes::ZERO,
            total,
        },
        allocated: Allocated::default(),
    };
    let stage = device.stage(&stage, &mut source)?;
    Ok(Session::new(
        model.spec().clone(),
        (vec![stage], source.allocated),
        options.limits,
        kv_dtype,
        Some(Origin {
            model: model.clone(),
            dtype: options.dtype,
        }),
    )
    .under(interrupt))
}

/// What rests on disk, if anything does, written where that has to be.
fn stream(
    model: &BoundModel,
    encodings: &Encodings<'_>,
    is_streamed: &dyn Fn(Unit) -> bool,
    options: &LoadOptions<'_>,
    events: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<Option<Stream>> {
    let mut units: Vec<Unit> = model.tensors().map(|bound| bound.slot.unit).collect();
    units.sort_unstable();
    units.dedup();
    units.retain(|&unit| is_streamed(unit));
    let (Some(offload), false) = (options.offload, units.is_empty()) else {
        return Ok(None);
    };
    let offloaded = offload::prepare(
        model,
        encodings,
        options.encoder,
        RunOn::Cpu,
        offload.folder,
        &units,
        &mut |event| {
            events(match event {
                offload::Event::Waiting => Event::Waiting,
                offload::Event::Progress { done, total } => {
                    Event::Offloading(Progress { done, total })
                }
            })
        },
    )?;
    let n_tokens = options.limits.n_tokens;
    stream::open(model, encodings, is_streamed, offloaded, n_tokens).map(Some)
}

struct Source<'a> {
    model: &'a BoundModel,
    tensors: HashMap<(Unit, Role), BoundTensor<'a>>,
    encodings: Encodings<'a>,
    encoder: &'a dyn Encoder,
    stream: Option<Stream>,
    events: &'a mut dyn FnMut(Event) -> Result<()>,
    at: Progress,
    /// The weights that were handed over.
    allocated: Allocated,
}

impl Source<'_> {
    fn read(&mut self, unit: Unit, role: Role) -> Result<StoredWeight> {
        let bound = self.tensors[&(unit, role)];
        let weight = weight(
            self.model,
            &bound,
            &self.encodings,
            RunOn::Cpu,
            self.encoder,
        )?;
        self.at.done += bound.tensor.stored_bytes();
        (self.events)(Event::Loading(self.at))?;
        Ok(weight)
    }
}

impl WeightSource for Source<'_> {
    fn weight(&mut self, unit: Unit, role: Role) -> Result<StoredWeight> {
        let weight = self.read(unit, role)?;
        let bytes = weight.stored_bytes();
        self.allocated.add_to(unit, Term::Weights, bytes.elements);
        let statistics = Term::QuantizationStatistics;
        self.allocated.add_to(unit, statistics, bytes.statistics);
        Ok(weight)
    }

    fn values(&mut self, unit: Unit, role: Role) -> Result<Vec<f32>> {
        let values = self.read(unit, role)?.values();
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

    fn stream(&mut self) -> Option<Stream> {
        self.stream.take()
    }
}

/// The weight of a bound tensor, as `encodings` has it kept for the device that computes with it: the checkpoint's own
/// bytes where these are right.
///
/// # Errors
/// [`RuntimeError::Checkpoint`] when it cannot be read, [`RuntimeError::NotQuantizable`], [`RuntimeError::Quantized`].
pub(crate) fn weight(
    model: &BoundModel,
    bound: &BoundTensor<'_>,
    encodings: &Encodings<'_>,
    run_on: RunOn,
    encoder: &dyn Encoder,
) -> Result<StoredWeight> {
    if bound.stored().quantized().is_some() {
        return quantized::stored(model.checkpoint(), bound);
    }
    let rows = Rows::new(model.checkpoint(), bound);
    let dense = |dtype| -> Result<StoredWeight> {
        let shape = (rows.rows, rows.cols);
        Ok(StoredWeight::dense(dtype, shape, rows.load(dtype)?))
    };
    // What is quantized is first rounded to the type that it would otherwise be kept in.
    let source = encodings.dense_dtype(bound.stored());
    let scheme = encodings.scheme(bound.slot, bound.stored(), run_on);
    match scheme {
        Scheme::Dense(dtype) => dense(dtype),
        Scheme::Int8(format) => encode::int8(&rows, source, format, encoder),
        Scheme::Int8PerUse(dtype, _) => Ok(StoredWeight {
            scheme,
            ..dense(dtype)?
        }),
        Scheme::FourBit(format) => encode::four_bit(&rows, source, format, encoder),
        Scheme::Ggml(_) | Scheme::Fp8(_) => Err(RuntimeError::NotEncodable {
            path: rows.path().to_owned(),
            tensor: rows.name().to_owned(),
            scheme,
        }),
    }
}
