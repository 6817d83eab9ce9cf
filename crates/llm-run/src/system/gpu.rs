//! GPUs of this machine, as its driver shows them, or the reason why there is none.

use std::fmt;
use std::fs;
use std::path::Path;

use llm_cuda::{GpuFacts, Products};
use llm_tensor::Bytes;
use serde::Serialize;

use super::{MeasuredGpu, Measurement};

/// A GPU that can be computed on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gpu {
    pub(crate) number: u32,
    pub(crate) name: String,
    /// Number that no other GPU has.
    pub(crate) uuid: String,
    /// Major and minor.
    pub(crate) compute_capability: (u32, u32),
    /// Version of CUDA that its driver is for, as 12.4.
    pub(crate) cuda_version: String,
    pub(crate) total: Bytes,
    /// Bytes that nobody has taken.
    pub(crate) free: Bytes,
    /// Measurement by `llm-run doctor`, with this driver.
    pub(crate) measured: Option<MeasuredGpu>,
}

/// Reason why there is no GPU to compute on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoGpu {
    /// In a sentence without its full stop.
    pub(crate) reason: String,
    /// True where there seems to be one, which cannot be used as it is.
    pub(crate) is_broken: bool,
}

impl fmt::Display for NoGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// GPUs that the driver shows.
#[derive(Debug, Default)]
pub(crate) struct ShownGpus {
    /// Those that can be computed on, by number; at least one.
    pub(crate) gpus: Vec<Gpu>,
    /// The others.
    pub(crate) left_out: Vec<LeftOut>,
}

/// A GPU that cannot be computed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) number: u32,
    /// In a sentence without its full stop.
    pub(crate) reason: String,
    /// True where it could be at another time.
    #[serde(skip)]
    pub(crate) is_broken: bool,
}

/// `GPU 1 is left out: …`.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU {} is left out: {}", self.number, self.reason)
    }
}

/// GPUs that the driver shows, one of which can be computed on at least.
///
/// # Errors
/// Reason why there is none.
pub(crate) fn gpus() -> Result<ShownGpus, NoGpu> {
    let driver = llm_cuda::probe().map_err(because)?;
    let (new, old): (Vec<_>, Vec<_>) = driver.gpus.into_iter().partition(GpuFacts::is_supported);
    let version = capability((driver.version / 1000, driver.version % 1000 / 10));
    let old = old.into_iter().map(|old| LeftOut {
        number: old.number as u32,
        reason: format!(
            "{} has compute capability {}, and 7.5 is the least that is supported",
            old.name,
            capability(old.compute_capability)
        ),
        is_broken: false,
    });
    let unusable = driver.unusable.into_iter();
    let unusable = unusable.map(|(number, reason)| LeftOut {
        number: number as u32,
        reason: reason.to_string(),
        is_broken: true,
    });
    let mut left_out: Vec<_> = old.chain(unusable).collect();
    left_out.sort_by_key(|gpu| gpu.number);
    if new.is_empty() {
        return Err(match left_out.into_iter().next() {
            Some(LeftOut { reason, .. }) => NoGpu {
                reason,
                is_broken: true,
            },
            None => because(llm_cuda::NoGpu::NoDevice),
        });
    }
    let kept = Measurement::kept();
    let gpu = |facts| {
        let gpu = Gpu::of(facts, &version);
        let measured = kept.gpus().iter().find(|measured| gpu.is_in(measured));
        Gpu {
            measured: measured.cloned(),
            ..gpu
        }
    };
    Ok(ShownGpus {
        gpus: new.into_iter().map(gpu).collect(),
        left_out,
    })
}

/// Two numbers of a version: `9.0`.
pub(crate) fn capability((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

impl Gpu {
    /// The device as what computes on it calls it.
    pub(crate) fn device(&self) -> String {
        llm_cuda::device_name(self.number as usize, &self.name)
    }

    /// True if a measurement is of this GPU, with this driver.
    pub(crate) fn is_in(&self, measured: &MeasuredGpu) -> bool {
        let driver = (&self.name, &self.uuid, &self.cuda_version);
        driver == (&measured.name, &measured.uuid, &measured.cuda_version)
    }

    fn of(facts: GpuFacts, cuda_version: &str) -> Self {
        Gpu {
            cuda_version: cuda_version.to_owned(),
            number: facts.number as u32,
            name: facts.name,
            uuid: facts.uuid,
            compute_capability: facts.compute_capability,
            total: facts.total,
            free: facts.free,
            measured: None,
        }
    }

    /// True where what a process takes of it was measured.
    pub(crate) fn has_measured_context(&self) -> bool {
        let measured = self.measured.as_ref();
        measured.is_some_and(|gpu| gpu.context_bytes.is_some())
    }

    /// Bytes that a process takes of it before it allocates anything: as measured, else more than cards in use today do.
    pub(crate) fn context(&self) -> Bytes {
        let measured = self.measured.as_ref().and_then(|gpu| gpu.context_bytes);
        measured.map_or(llm_cuda::costs::CONTEXT, Bytes::new)
    }

    /// Bytes that cuBLAS takes of it for itself, where it is installed: as measured, else about what it does today.
    pub(crate) fn cublas(&self) -> Bytes {
        let measured = self.measured.as_ref().and_then(|gpu| gpu.cublas_bytes);
        match Products::installed() {
            Products::CuBlas => measured.map_or(llm_cuda::costs::CUBLAS_CONTEXT, Bytes::new),
            Products::Own => Bytes::ZERO,
        }
    }
}

fn because(none: llm_cuda::NoGpu) -> NoGpu {
    let is_broken = match &none {
        llm_cuda::NoGpu::NoDriver => return without_library(Path::new("/")),
        llm_cuda::NoGpu::NoDevice => false,
        _ => true,
    };
    NoGpu {
        reason: none.to_string(),
        is_broken,
    }
}

/// Reason where the driver's library is not found. `root` is where `proc` is found.
fn without_library(root: &Path) -> NoGpu {
    match fs::read_to_string(root.join("proc/driver/nvidia/version")) {
        Ok(text) => {
            let driver = match driver_version(&text) {
                Some(version) => format!("the NVIDIA driver {version}"),
                None => "an NVIDIA driver".to_owned(),
            };
            NoGpu {
                reason: format!(
                    "{driver} is loaded, but its library libcuda.so.1 is not found (a container needs it from the host)"
                ),
                is_broken: true,
            }
        }
        Err(_) => NoGpu {
            reason: llm_cuda::NoGpu::NoDriver.to_string(),
            is_broken: false,
        },
    }
}

/// The first number with a point: `NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan …`.
fn driver_version(text: &str) -> Option<&str> {
    let is_version =
        |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.lines().next()?.split_whitespace().find(is_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let check = |expected: &str, is_broken: bool| {
            let found = without_library(root.path());
            assert_eq!(
                (found.reason.as_str(), found.is_broken),
                (expected, is_broken)
            );
        };
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let none = "no CUDA driver is installed (libcuda.so.1 cannot be loaded)";
        check(none, false);
        let lacks = "is loaded, but its library libcuda.so.1 is not found (a container needs it from the host)";
        write("proc/driver/nvidia/version", "");
        check(&format!("an NVIDIA driver {lacks}"), true);
        write(
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 03:48:14 UTC 2025\nGCC version:  gcc 12.3.0\n",
        );
        check(&format!("the NVIDIA driver 570.86.15 {lacks}"), true);
    }
}
