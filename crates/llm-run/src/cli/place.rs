//! Flags of placement.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use llm_plan::{Home, MaxMemory, PlanError, Strategy};

/// Memories that a model may use, and the placement of its parts in them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Placement")]
pub(crate) struct PlaceArgs {
    /// Device that computes: auto, cpu, or a GPU by its number, as cuda:0. With auto it is the first GPU that the driver
    /// shows, else the CPU. The CPU also computes with what a GPU has no room for
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: DeviceArg,
    /// What may be used of each memory, as 0=15GB,cpu=12.7GB,disk=100GB: GPUs by number, of RAM what the whole process
    /// takes, of the disk what is written [default: what is free]
    #[arg(long, value_name = "BUDGETS")]
    pub(crate) max_memory: Option<MaxMemory>,
    /// Where weights rest: auto, balanced, balanced_low_0, sequential, cpu, or a JSON file from modules to GPUs'
    /// numbers, "cpu" and "disk", as accelerate writes it
    #[arg(long, value_name = "MAP", default_value = "auto", value_parser = device_map)]
    pub(crate) device_map: Strategy,
    /// A folder for weights that neither GPU nor RAM has room for, unless the checkpoint itself holds them as they are
    /// computed with [default: `offload` in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) offload_folder: Option<PathBuf>,
}

/// Device that a user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceArg {
    /// A GPU where there is one, else the CPU.
    Auto,
    /// No GPU.
    Cpu,
    /// A GPU by its number.
    Gpu(u32),
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |home: Home| match home {
            Home::Gpu(number) if text.starts_with("cuda") => Some(number),
            Home::Gpu(_) | Home::Ram | Home::Disk => None,
        };
        match text {
            "auto" => Ok(DeviceArg::Auto),
            "cpu" => Ok(DeviceArg::Cpu),
            _ => {
                let number = text.parse().ok().and_then(number);
                let expected = || "expected auto, cpu, or a GPU as cuda:0".to_owned();
                number.map(DeviceArg::Gpu).ok_or_else(expected)
            }
        }
    }
}

/// As it is given: `auto`, `cpu`, `cuda:0`.
impl fmt::Display for DeviceArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceArg::Auto => f.write_str("auto"),
            DeviceArg::Cpu => f.write_str("cpu"),
            DeviceArg::Gpu(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// A strategy by its name, or a map in a file.
fn device_map(text: &str) -> Result<Strategy, String> {
    let path = Path::new(text);
    let is_file = path
        .extension()
        .is_some_and(|extension| extension == "json")
        || path.is_file();
    if !is_file {
        return text.parse().map_err(|flaw: PlanError| flaw.to_string());
    }
    let json = std::fs::read_to_string(path).map_err(|error| format!("cannot read it: {error}"))?;
    let map = json.parse().map(Strategy::Map);
    map.map_err(|flaw: PlanError| flaw.to_string())
}
