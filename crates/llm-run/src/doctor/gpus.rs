//! GPUs: what they are, and how fast their memory and the way to it are.

use llm_cuda::{Cuda, MeasureExtent};
use llm_tensor::Bytes;
use serde::Serialize;

use super::context;
use super::extent::Extent;
use crate::output::words::bandwidth;
use crate::system::{self, Gpu, LeftOut, MeasuredGpu, ShownGpus, capability};

/// All GPUs that can be computed on, or the reason why there is none.
#[derive(Serialize)]
pub(super) struct Gpus {
    /// Version of CUDA that the driver is for, as 12.4; null where there is no GPU.
    cuda_version: Option<String>,
    gpus: Vec<GpuReport>,
    /// Ways from each GPU to the next, as a model that is cut takes them.
    gpu_links: Vec<LinkReport>,
    /// Those that cannot be computed on.
    gpus_left_out: Vec<LeftOut>,
    /// Reason why there is no GPU to compute on; null where there is one.
    no_gpu_reason: Option<String>,
}

#[derive(Serialize)]
struct GpuReport {
    number: u32,
    name: String,
    compute_capability: String,
    total_bytes: u64,
    free_bytes: u64,
    /// Reason why nothing was measured; null where it was.
    not_measured_reason: Option<String>,
}

#[derive(Serialize)]
struct LinkReport {
    from: u32,
    to: u32,
    bytes_per_second: f64,
    /// False where copies go through the host's memory.
    is_straight: bool,
}

impl Gpus {
    /// Finds the GPUs, and measures each.
    pub(super) fn measure(extent: Extent) -> (Self, Vec<MeasuredGpu>) {
        let (shown, none) = match system::gpus() {
            Ok(shown) => (shown, None),
            Err(none) => (ShownGpus::default(), Some(none.reason)),
        };
        let found = &shown.gpus;
        let mut measured = Vec::new();
        let report = |gpu: &Gpu| {
            let flaw = match measure(gpu, extent) {
                Ok(rates) => {
                    measured.push(rates);
                    None
                }
                Err(flaw) => Some(flaw),
            };
            GpuReport {
                number: gpu.number,
                name: gpu.name.clone(),
                compute_capability: capability(gpu.compute_capability),
                total_bytes: gpu.total.get(),
                free_bytes: gpu.free.get(),
                not_measured_reason: flaw,
            }
        };
        let gpus = Gpus {
            gpus: found.iter().map(report).collect(),
            cuda_version: found.first().map(|gpu| gpu.cuda_version.clone()),
            gpu_links: found
                .windows(2)
                .filter_map(|gpus| link([&gpus[0], &gpus[1]], extent))
                .collect(),
            gpus_left_out: shown.left_out,
            no_gpu_reason: none,
        };
        (gpus, measured)
    }

    pub(super) fn rows(&self, measured: &[MeasuredGpu]) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        if let Some(version) = &self.cuda_version {
            rows.push(("GPU driver", format!("for CUDA {version}")));
        }
        for gpu in &self.gpus {
            let (free, total) = (Bytes::new(gpu.free_bytes), Bytes::new(gpu.total_bytes));
            rows.push((
                "GPU",
                format!(
                    "{}: {}, compute capability {}, {total}, free {free}",
                    gpu.number, gpu.name, gpu.compute_capability
                ),
            ));
            let flaw = gpu.not_measured_reason.iter();
            rows.extend(flaw.map(|flaw| ("GPU bandwidth", format!("not measured: {flaw}"))));
            let of_it = measured.iter().filter(|of| of.number == gpu.number);
            rows.extend(of_it.flat_map(measured_rows));
        }
        let links = self.gpu_links.iter();
        rows.extend(links.map(|link| ("GPU to GPU", link.text())));
        let left_out = self.gpus_left_out.iter();
        rows.extend(
            left_out.map(|gpu| ("GPU", format!("{}: left out: {}", gpu.number, gpu.reason))),
        );
        let none = self.no_gpu_reason.iter();
        rows.extend(none.map(|reason| ("GPUs", format!("none: {reason}"))));
        rows
    }
}

impl LinkReport {
    /// `24.1 GB/s from GPU 0 to GPU 1, straight, measured`.
    fn text(&self) -> String {
        let way = if self.is_straight {
            "straight"
        } else {
            "through the host"
        };
        format!(
            "{} from GPU {} to GPU {}, {way}, measured",
            bandwidth(self.bytes_per_second),
            self.from,
            self.to
        )
    }
}

/// The way from one GPU to another; nothing where it cannot be measured, which nobody counts with.
fn link([from, to]: [&Gpu; 2], extent: Extent) -> Option<LinkReport> {
    let [a, b] = [from, to].map(|gpu| Cuda::new(gpu.number as usize).ok());
    let most = (from.free.min(to.free).get() / 4).max(1);
    let n_bytes = extent.pcie.get().min(most) as usize;
    let measured = a?.measure_link(&b?, n_bytes, extent.gpu_rounds).ok()?;
    Some(LinkReport {
        from: from.number,
        to: to.number,
        bytes_per_second: measured.rate,
        is_straight: measured.is_straight,
    })
}

fn measured_rows(gpu: &MeasuredGpu) -> [(&'static str, String); 4] {
    let [copy, to, from] = [gpu.copy, gpu.to_gpu, gpu.from_gpu].map(bandwidth);
    let [to_pageable, from_pageable] = [gpu.to_gpu_pageable, gpu.from_gpu_pageable].map(bandwidth);
    [
        (
            "GPU bandwidth",
            format!("{copy} of its memory, read and written, measured"),
        ),
        (
            "PCIe bandwidth",
            format!(
                "{to} to GPU {}, {from} from it (of pageable memory {to_pageable} and {from_pageable}), measured",
                gpu.number
            ),
        ),
        (
            "GPU launches",
            format!(
                "{} each in a graph, {} by itself; {} for handing rows over; measured",
                microseconds(gpu.launch_in_graph),
                microseconds(gpu.launch),
                microseconds(gpu.hand_over)
            ),
        ),
        (
            "GPU context",
            match gpu.context_bytes {
                Some(bytes) => format!("{} a process, measured", Bytes::new(bytes)),
                None => format!(
                    "{} a process, assumed: the driver does not tell",
                    llm_cuda::costs::CONTEXT
                ),
            },
        ),
    ]
}

/// `2.4 µs`.
fn microseconds(seconds: f64) -> String {
    format!("{:.1} µs", seconds * 1e6)
}

fn measure(gpu: &Gpu, extent: Extent) -> Result<MeasuredGpu, String> {
    let opened = Cuda::new(gpu.number as usize).map_err(|none| none.to_string())?;
    // A quarter of what is free is left to others who allocate meanwhile.
    let most = (gpu.free.get() / 4).max(1);
    let extent = MeasureExtent {
        on_gpu: extent.gpu.get().min(most) as usize,
        on_host: extent.pcie.get().min(most) as usize,
        n_rounds: extent.gpu_rounds,
        n_launches: extent.launches,
    };
    let rates = opened.measure(extent).map_err(|flaw| flaw.to_string())?;
    let times = opened.measure_launches(extent);
    let times = times.map_err(|flaw| flaw.to_string())?;
    // What cannot be measured is assumed.
    let context = context::measure(&opened, gpu.number).unwrap_or(None);
    Ok(MeasuredGpu {
        number: gpu.number,
        name: gpu.name.clone(),
        uuid: gpu.uuid.clone(),
        cuda_version: gpu.cuda_version.clone(),
        copy: rates.copy,
        to_gpu: rates.to_gpu.pinned,
        to_gpu_pageable: rates.to_gpu.pageable,
        from_gpu: rates.from_gpu.pinned,
        from_gpu_pageable: rates.from_gpu.pageable,
        launch: times.launch,
        launch_in_graph: times.launch_in_graph,
        hand_over: times.hand_over,
        context_bytes: context.map(Bytes::get),
    })
}
