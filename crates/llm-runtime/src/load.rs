//! Brings a bound model's weights to a device.

use std::collections::HashMap;

use llm_arch::{Role, Slot, Unit};
use llm_backend::HostWeight;
use llm_checkpoint::{Encoding, TensorInfo};
use llm_tensor::{Bytes, DType};

use crate::arrange::arrange;
use crate::stage::{Device, Limits, StageOptions, WeightSource};
use crate::{BoundModel, Result, RuntimeError, Session};

/// How a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// How weights, and keys and values, are kept.
    pub dtype: WeightDType,
    /// The largest passes.
    pub limits: Limits,
}

/// In which element type weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightDType {
    /// The one that the configuration names, else each tensor's own; quantized blocks decode to bf16.
    Auto,
    /// This one.
    As(DType),
}

/// How far loading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the tensors, as the checkpoint stores them, that are loaded.
    pub done: Bytes,
    /// Bytes of all.
    pub total: Bytes,
}

/// Loads every weight and allocates all that the session will need.
///
/// # Errors
/// When a weight cannot be read or the device has no room.
pub fn load(
    model: &BoundModel,
    device: &dyn Device,
    options: &LoadOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Session> {
    if let WeightDType::As(dtype) = options.dtype
        && !dtype.is_weight()
    {
        return Err(RuntimeError::WeightDType { dtype });
    }
    let slots: HashMap<_, _> = model
        .tensors()
        .map(|(slot, tensor)| ((slot.unit, slot.role), (slot, tensor)))
        .collect();
    let (_, table) = slots[&(Unit::Embedding, Role::TokenTable)];
    let kv_dtype = options.dtype.of(model, table);
    let stage = StageOptions {
        spec: model.spec().clone(),
        layers: 0..model.spec().decoder.n_layers(),
        limits: options.limits,
        kv_dtype,
    };
    let total = model
        .tensors()
        .map(|(_, tensor)| tensor.stored_bytes())
        .sum();
    let mut source = Source {
        model,
        slots,
        dtype: options.dtype,
        progress,
        at: Progress {
            done: Bytes::ZERO,
            total,
        },
    };
    let stage = device.stage(&stage, &mut source)?;
    Ok(Session::new(
        model.spec().clone(),
        vec![stage],
        options.limits,
        kv_dtype,
    ))
}

impl WeightDType {
    fn of(self, model: &BoundModel, tensor: &TensorInfo) -> DType {
        match self {
            WeightDType::As(dtype) => dtype,
            WeightDType::Auto => model.spec().dtype.unwrap_or(match tensor.encoding {
                Encoding::Plain(dtype) if dtype.is_weight() => dtype,
                // What is left of floating point is f64, which nothing computes with.
                Encoding::Plain(_) => DType::F32,
                Encoding::Block(_) => DType::BF16,
            }),
        }
    }
}

struct Source<'a> {
    model: &'a BoundModel,
    slots: HashMap<(Unit, Role), (&'a Slot, &'a TensorInfo)>,
    dtype: WeightDType,
    progress: &'a mut dyn FnMut(Progress),
    at: Progress,
}

impl WeightSource for Source<'_> {
    fn weight(&mut self, unit: Unit, role: Role) -> Result<HostWeight> {
        let (slot, tensor) = self.slots[&(unit, role)];
        let weight = arrange(
            self.model.checkpoint(),
            tensor,
            slot,
            self.dtype.of(self.model, tensor),
        )?;
        self.at.done += tensor.stored_bytes();
        (self.progress)(self.at);
        Ok(weight)
    }

    fn rope_factors(&mut self) -> Result<Option<Vec<f32>>> {
        let Some((_, tensor)) = self.slots.get(&(Unit::Embedding, Role::RopeFactors)) else {
            return Ok(None);
        };
        let n_elements = tensor.shape.n_elements();
        let mut factors = vec![0f32; n_elements as usize];
        let out = bytemuck::cast_slice_mut(&mut factors);
        self.model
            .checkpoint()
            .read_into(&tensor.name, 0..n_elements, DType::F32, out)?;
        Ok(Some(factors))
    }
}
