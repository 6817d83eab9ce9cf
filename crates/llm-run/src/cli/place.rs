//! Flags of placement.

use std::path::{Path, PathBuf};

use clap::Args;
use llm_plan::{MaxMemory, PlanError, Strategy};

/// Memories that a model may use, and the placement of its parts in them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Placement")]
pub(crate) struct PlaceArgs {
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
