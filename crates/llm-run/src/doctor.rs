//! `llm-run doctor`: what this machine has for a model, and how fast it is.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use self::disk::Disk;
use self::extent::{Extent, QUICK, THOROUGH};
use self::gpus::Gpus;
use self::ram::Ram;
use crate::cli::DoctorArgs;
use crate::failure::refuse;
use crate::output;
use crate::output::words::{bandwidth, printable};
use crate::system::{self, Bandwidth, Machine, Measurement, USUAL};

mod context;
mod disk;
mod extent;
mod gpus;
mod products;
mod ram;

pub(crate) fn doctor(args: &DoctorArgs) -> Result<ExitCode> {
    if let Some(number) = args.hold_gpu {
        return context::hold(number);
    }
    let cache_folder = system::cache_folder();
    let folder = match &args.offload_folder {
        Some(folder) if !folder.is_dir() => {
            return refuse(format!(
                "{} is no folder; make it, or name another",
                folder.display()
            ));
        }
        Some(folder) => folder.clone(),
        None => cache_folder.clone().unwrap_or_else(env::temp_dir),
    };
    let report = DoctorReport::new(folder, if args.quick { QUICK } else { THOROUGH })?;
    let json = output::json(&report)?;
    let text = if args.json {
        json.clone()
    } else {
        report.text()
    };
    output::print(&text)?;
    eprintln!("{}", keep(cache_folder.as_deref(), &json));
    Ok(ExitCode::SUCCESS)
}

/// Keeps the report for plans and says where. What was found is worth printing even where that fails.
fn keep(folder: Option<&Path>, json: &str) -> String {
    let Some(folder) = folder else {
        return "not kept for plans: neither XDG_CACHE_HOME nor HOME says where".to_owned();
    };
    match system::keep(folder, json) {
        Ok(file) => format!("kept for plans in {}", file.display()),
        Err(error) => format!("not kept for plans: {}: {error}", folder.display()),
    }
}

/// Object that `--json` prints, and that is kept.
#[derive(Serialize)]
struct DoctorReport {
    #[serde(flatten)]
    measurement: Measurement,
    ram: Ram,
    disk: Disk,
    #[serde(flatten)]
    gpus: Gpus,
    /// Figures that plans count with although nobody measured them.
    assumed: Assumed,
    /// Changes that would make more of this machine.
    suggestions: Vec<String>,
}

/// Bytes a second that plans assume.
#[derive(Serialize)]
struct Assumed {
    /// Null where it was measured, as the others.
    #[serde(rename = "gpu_bytes_per_second")]
    gpu: Option<f64>,
    #[serde(rename = "pcie_bytes_per_second")]
    pcie: Option<f64>,
    #[serde(rename = "disk_bytes_per_second")]
    disk: Option<f64>,
}

impl DoctorReport {
    fn new(folder: PathBuf, extent: Extent) -> Result<Self> {
        let ram = Ram::now();
        let disk = Disk::measure(folder, extent);
        let (gpus, measured, links) = Gpus::measure(extent);
        let has_gpu = !measured.is_empty();
        let bandwidth = Bandwidth {
            ram: ram.bandwidth(extent)?,
            cpu_products: products::of_cpu(extent)?,
            disk: disk.bandwidth(),
            gpus: measured,
            gpu_links: links,
        };
        let machine = Machine::this();
        let mut suggestions: Vec<String> = ram.suggestions().into_iter().collect();
        suggestions.extend(disk.suggestions());
        if machine.n_usable < machine.n_online {
            suggestions.push(format!(
                "allow this process more than {} of {} processors (affinity, or the cgroup's CPU quota)",
                machine.n_usable, machine.n_online
            ));
        }
        Ok(DoctorReport {
            assumed: Assumed {
                gpu: (!has_gpu).then_some(USUAL.gpu.memory),
                pcie: (!has_gpu).then_some(USUAL.gpu.pcie),
                disk: disk.bandwidth().rate.is_none().then_some(USUAL.disk),
            },
            measurement: Measurement::new(machine, bandwidth),
            ram,
            disk,
            gpus,
            suggestions,
        })
    }

    fn text(&self) -> String {
        let machine = &self.measurement.machine;
        let ram = bandwidth(self.measurement.bandwidth.ram);
        let threads = format!("{ram}, measured, all threads together");
        let usable = format!("{} of {} may be used", machine.n_usable, machine.n_online);
        let mut rows = vec![
            ("processors", format!("{}, {usable}", machine.processor)),
            ("SIMD", machine.isa.clone()),
        ];
        rows.extend(self.ram.rows());
        rows.push(("RAM bandwidth", threads));
        let products = 2.0 * self.measurement.bandwidth.cpu_products / 1e9;
        let products = format!("{products:.0} GFLOP/s in bf16, measured, all threads together");
        rows.push(("CPU products", products));
        rows.extend(self.disk.rows());
        let Bandwidth {
            gpus, gpu_links, ..
        } = &self.measurement.bandwidth;
        rows.extend(self.gpus.rows(gpus, gpu_links));
        if let (Some(gpu), Some(pcie)) = (self.assumed.gpu, self.assumed.pcie) {
            let (gpu, pcie) = (bandwidth(gpu), bandwidth(pcie));
            let assumed = format!("{gpu} of their memory, {pcie} to it, assumed");
            rows.push(("plans for GPUs", assumed));
        }
        let suggestions = self.suggestions.iter();
        rows.extend(suggestions.map(|text| ("suggestion", text.clone())));
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let line =
            |(name, value): &(&str, String)| format!("{name:width$}  {}\n", printable(value));
        rows.iter().map(line).collect()
    }
}
