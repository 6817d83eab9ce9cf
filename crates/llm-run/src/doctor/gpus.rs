//! GPUs: what they are, and how fast their memory and the way to it are.

use llm_cuda::{Cuda, MeasureExtent};
use llm_tensor::Bytes;
use serde::Serialize;

use super::context;
use super::extent::Extent;
use crate::output::words::bandwidth;
use crate::system::{self, Gpu, LeftOut, MeasuredGpu, MeasuredLink, ShownGpus, capability};

/// All GPUs that can be computed on, or the reason why there is none.
#[derive(Serialize)]
pub(super) struct Gpus {
    /// Version of CUDA that the driver is for, as 12.4; null where there is no GPU.
    cuda_version: Option<String>,
    gpus: Vec<GpuReport>,
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

impl Gpus {
    /// Finds the GPUs, and measures each.
    pub(super) fn measure(extent: Extent) -> (Self, Vec<MeasuredGpu>, Vec<MeasuredLink>) {
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
            gpus_left_out: shown.left_out,
            no_gpu_reason: none,
        };
        let ways = found
            .iter()
            .flat_map(|from| found.iter().map(move |to| [from, to]));
        let ways = ways.filter(|[from, to]| from.number != to.number);
        let links = ways.filter_map(|gpus| link(gpus, extent)).collect();
        (gpus, measured, links)
    }

    pub(super) fn rows(
        &self,
        measured: &[MeasuredGpu],
        links: &[MeasuredLink],
    ) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        if let Some(version) = &self.cuda_version {
            rows.push(("GPU driver", format!("for CUDA {version}")));
            let products = match llm_cuda::Products::flaw() {
                None => "by cuBLAS where it is the faster one".to_owned(),
                Some(flaw) => format!("by own kernels: {flaw}"),
            };
            rows.push(("products of prompts", products));
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
        rows.extend(links.iter().map(|link| ("GPU to GPU", text(link))));
        let left_out = self.gpus_left_out.iter();
        rows.extend(
            left_out.map(|gpu| ("GPU", format!("{}: left out: {}", gpu.number, gpu.reason))),
        );
        let none = self.no_gpu_reason.iter();
        rows.extend(none.map(|reason| ("GPUs", format!("none: {reason}"))));
        rows
    }
}

/// `24.1 GB/s from GPU 0 to GPU 1, straight, 9.8 µs for handing rows over, measured`.
fn text(link: &MeasuredLink) -> String {
    let way = match link.is_straight {
        true => "straight",
        false => "through the host",
    };
    format!(
        "{} from GPU {} to GPU {}, {way}, {} for handing rows over, measured",
        bandwidth(link.rate),
        link.from,
        link.to,
        microseconds(link.hand_over)
    )
}

/// The way from one GPU to another; nothing where it cannot be measured, which nobody counts with.
fn link([from, to]: [&Gpu; 2], extent: Extent) -> Option<MeasuredLink> {
    let [a, b] = [from, to].map(|gpu| Cuda::new(gpu.number as usize).ok());
    let most = (from.free.min(to.free).get() / 4).max(1);
    let n_bytes = extent.pcie.get().min(most) as usize;
    let measured = a?.measure_link(&b?, n_bytes, extent.gpu_rounds).ok()?;
    Some(MeasuredLink {
        from: from.number,
        to: to.number,
        uuids: [from, to].map(|gpu| gpu.uuid.clone()),
        rate: measured.rate,
        hand_over: measured.hand_over,
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
    let taken = context::measure(&opened, gpu.number).ok();
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
        context_bytes: taken.as_ref().and_then(|of| of.context).map(Bytes::get),
        cublas_bytes: taken.and_then(|of| of.cublas).map(Bytes::get),
    })
}
