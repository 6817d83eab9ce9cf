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
    /// Devices that compute: auto, cpu, or GPUs by number, as cuda:0 or cuda:0,cuda:1, the first filled first. With auto
    /// they are all GPUs that the driver shows, else the CPU. The CPU also computes with what GPUs have no room for
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

/// Devices that a user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeviceArg {
    /// GPUs where there are some, else the CPU.
    Auto,
    /// No GPU.
    Cpu,
    /// GPUs by number, each once, in the order in which they are filled.
    Gpus(Vec<u32>),
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(DeviceArg::Auto),
            "cpu" => Ok(DeviceArg::Cpu),
            gpus => {
                let numbers = gpus.split(',').map(gpu_number);
                let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
                for (i, number) in numbers.iter().enumerate() {
                    if numbers[..i].contains(number) {
                        return Err(format!("cuda:{number} is named twice"));
                    }
                }
                Ok(DeviceArg::Gpus(numbers))
            }
        }
    }
}

fn gpu_number(text: &str) -> Result<u32, String> {
    let text = text.trim();
    match text.parse() {
        Ok(Home::Gpu(number)) if text.starts_with("cuda") => Ok(number),
        Ok(Home::Gpu(_) | Home::Ram | Home::Disk) | Err(_) => {
            Err("expected auto, cpu, or a GPU as cuda:0, several as cuda:0,cuda:1".to_owned())
        }
    }
}

/// As it is given: `auto`, `cpu`, `cuda:0,cuda:1`.
impl fmt::Display for DeviceArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceArg::Auto => f.write_str("auto"),
            DeviceArg::Cpu => f.write_str("cpu"),
            DeviceArg::Gpus(numbers) => {
                for (i, number) in numbers.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    write!(f, "{comma}cuda:{number}")?;
                }
                Ok(())
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_as_they_are_written() {
        for (text, expected) in [
            ("auto", Ok(DeviceArg::Auto)),
            ("cpu", Ok(DeviceArg::Cpu)),
            ("cuda:3", Ok(DeviceArg::Gpus(vec![3]))),
            ("cuda:1,cuda:0", Ok(DeviceArg::Gpus(vec![1, 0]))),
            ("cuda:0,cuda:0", Err("cuda:0 is named twice")),
            ("cuda:0,cpu", Err("expected auto, cpu, or a GPU")),
            ("cuda:0,", Err("expected auto, cpu, or a GPU")),
            ("0", Err("expected auto, cpu, or a GPU")),
        ] {
            match (text.parse::<DeviceArg>(), expected) {
                (Ok(found), expected) => {
                    assert_eq!(found.to_string(), text);
                    assert_eq!(Ok(found), expected);
                }
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (Err(found), Ok(_)) => panic!("{text}: {found}"),
            }
        }
    }
}
