//! The driver and its GPUs, looked at.

use std::sync::Arc;

use llm_tensor::Bytes;

use crate::NoGpu;
use crate::driver::{self, Attribute, Context};

/// A driver that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// Newest version of CUDA that it knows, as 12040 for 12.4.
    pub version: u32,
    /// Its GPUs, in its order; one at least.
    pub gpus: Vec<GpuFacts>,
    /// Numbers of those that cannot be opened, as other programs have them to themselves or left them no memory, each with
    /// the reason.
    pub unusable: Vec<(usize, NoGpu)>,
}

/// Facts of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuFacts {
    /// Number of the GPU among the driver's, from zero.
    pub number: usize,
    /// The maker's name for it.
    pub name: String,
    /// Number that no other GPU has, as 32 hexadecimal digits.
    pub uuid: String,
    /// Major and minor number of what it can do.
    pub compute_capability: (u32, u32),
    /// Memory in all.
    pub total: Bytes,
    /// Memory that no program had taken when it was looked at.
    pub free: Bytes,
    /// Multiprocessors.
    pub n_multiprocessors: u32,
    /// Shared memory that a block may take.
    pub shared_per_block: Bytes,
}

impl GpuFacts {
    /// True if the kernels run on it.
    pub fn is_supported(&self) -> bool {
        self.compute_capability >= OLDEST
    }

    pub(crate) fn of(number: usize, context: &Context) -> Result<Self, NoGpu> {
        let of = |attribute| context.attribute(attribute);
        let (free, total) = context.memory()?;
        Ok(GpuFacts {
            number,
            name: context.name()?,
            uuid: context.uuid()?,
            compute_capability: (of(Attribute::ComputeMajor)?, of(Attribute::ComputeMinor)?),
            total: Bytes::new(total),
            free: Bytes::new(free),
            n_multiprocessors: of(Attribute::Multiprocessors)?,
            shared_per_block: Bytes::new(of(Attribute::SharedPerBlock)?.into()),
        })
    }
}

/// The name that a GPU has as a device, by its number and its maker's name: `cuda:0 (NVIDIA L4)`.
pub fn device_name(number: usize, name: &str) -> String {
    format!("cuda:{number} ({name})")
}

/// Looks for a driver and its GPUs, whatever the machine has.
///
/// # Errors
/// The reason why there is none to compute on; it is no failure of the program.
pub fn probe() -> Result<Driver, NoGpu> {
    let version = driver::open()?;
    let (mut gpus, mut unusable) = (Vec::new(), Vec::new());
    for number in 0..driver::device_count()? {
        let context = Context::retain(number).map_err(NoGpu::from);
        match context.and_then(|context| GpuFacts::of(number, &context)) {
            Ok(facts) => gpus.push(facts),
            Err(reason) => unusable.push((number, reason)),
        }
    }
    match unusable.first() {
        Some((_, reason)) if gpus.is_empty() => Err(reason.clone()),
        _ => Ok(Driver {
            version,
            gpus,
            unusable,
        }),
    }
}

/// The context of a GPU that the kernels run on.
pub(crate) fn open(number: usize) -> Result<(Arc<Context>, GpuFacts), NoGpu> {
    driver::open()?;
    let n_gpus = driver::device_count()?;
    if number >= n_gpus {
        return Err(NoGpu::NoSuchDevice { number, n_gpus });
    }
    let context = Context::retain(number)?;
    let facts = GpuFacts::of(number, &context)?;
    if !facts.is_supported() {
        return Err(NoGpu::OldDevice {
            name: facts.name,
            found: facts.compute_capability,
            oldest: OLDEST,
        });
    }
    Ok((Arc::new(context), facts))
}

/// The compute capability of the oldest PTX.
const OLDEST: (u32, u32) = (7, 5);
