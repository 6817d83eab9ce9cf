//! Planned memory beside that of a run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::gpus::GpuRow;
use self::models::{Folder, Model};
use self::program::{Gpus, Program};
use self::row::{Base, Row};
use self::tiers::row::TierRow;

mod cgroup;
mod chart;
mod gguf;
mod gpus;
mod models;
mod program;
mod published;
mod row;
mod tiers;

/// Models to measure, and the folder for results.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these: demo, smollm2 (where it was fetched), gguf (blocks of random bits, 120 MB), gptq, mxfp4-experts,
    /// compressed-mxfp4, folders of tests/fixtures/configs, bloom-700m-bin or bloomz-7b1-bin, a single file of 14.1 GB under a budget of 12.7 GB, which needs 15 GB of disk [default: all
    /// but the last]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    models: Vec<String>,
    /// Measure in under two minutes: fewer and smaller models
    #[arg(long)]
    quick: bool,
    /// Measure memory of GPUs instead, as cuda:0 or cuda:0,cuda:1: planned, allocated, and by the driver's count
    #[arg(long, value_name = "DEVICES")]
    device: Option<String>,
    /// A library in place of NVIDIA's driver, such as the emulated one
    #[arg(long, value_name = "FILE", requires = "device")]
    driver: Option<PathBuf>,
    /// The folder for bench-memory.json and bench-memory.svg [default: target/bench-memory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Options {
    /// All models, as without any flags.
    pub(crate) fn all() -> Self {
        Options {
            quick: false,
            ..Self::quick()
        }
    }

    /// Options of continuous integration.
    pub(crate) fn quick() -> Self {
        Options {
            models: Vec::new(),
            quick: true,
            device: None,
            driver: None,
            out: None,
        }
    }

    /// Options of continuous integration for two GPUs that `driver` emulates: the smallest model.
    pub(crate) fn emulated(driver: PathBuf, out: PathBuf) -> Self {
        Options {
            models: vec!["demo".to_owned()],
            device: Some("cuda:0,cuda:1".to_owned()),
            driver: Some(driver),
            out: Some(out),
            ..Self::quick()
        }
    }
}

/// Plans and runs every model in every precision, and prints a table; some also with less RAM than they take, the rest
/// of their weights on disk, and prints another.
///
/// # Errors
/// When something cannot be run or written, a byte of weights, keys and values or buffers is not as planned, a peak
/// is off by more than [`row::TOLERANCE`] or above its budget, a GGUF takes more than [`row::BESIDE_GGUF`] beside its file and
/// its keys and values, or tokens are others than from RAM alone.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let program = Program::build(root)?;
    let target = root.join("target");
    let out = (options.out.clone()).unwrap_or_else(|| target.join("bench-memory"));
    for folder in [&target, &out] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let models = models::chosen(root, &options.models, tiers::names(), options.quick)?;

    if let Some(device) = &options.device {
        return on_gpus(device, options, &models, &program, (root, &target), &out);
    }

    let demo = Folder::of(&models::demo(&[]), root, &target)?;
    let base = Base::of(&program.row(&demo, &PRECISIONS[0], Base::default())?);
    println!("{base} (found with the smallest model)");
    let mut rows = Vec::new();
    if !models.is_empty() {
        println!("{}", row::HEAD);
    }
    for model in &models {
        rows.extend(rows_of(model, &program, base, (root, &target))?);
    }
    let mut tier_rows = Vec::new();
    let tiered: Vec<_> = tiers::chosen(&options.models).collect();
    if !tiered.is_empty() {
        let tools = tiers::Tools::new(&program, base);
        println!("{}", tiers::row::HEAD);
        for model in tiered {
            tier_rows.extend(model.rows(&tools, (root, &target))?);
        }
    }
    let published = published::check(&program, root)?;

    let rows_json: Vec<Value> = rows.iter().map(Row::json).collect();
    let tiers_json: Vec<Value> = tier_rows.iter().map(TierRow::json).collect();
    let report = json!({
        "base": base.json(), "rows": rows_json, "tiers": tiers_json, "published": published,
    });
    let path = out.join("bench-memory.json");
    fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    if !rows.is_empty() {
        let picture = out.join("bench-memory.svg");
        chart::draw(&picture, &rows)?;
        println!("wrote {}", picture.display());
    }

    let problems = rows.iter().flat_map(Row::problems);
    let problems = problems.chain(tier_rows.iter().flat_map(TierRow::problems));
    let problems: Vec<String> = problems.collect();
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

/// The same of GPUs.
fn on_gpus(
    device: &str,
    options: &Options,
    models: &[Model],
    program: &Program,
    folders: (&Path, &Path),
    out: &Path,
) -> Result<()> {
    // The loader finds a driver by its name.
    let driver = options.driver.as_deref().map(linked).transpose()?;
    let gpus = Gpus {
        device,
        driver: driver.as_ref().map(TempDir::path),
    };
    let rows = gpus::rows(&gpus, models, program, folders)?;
    let rows_json: Vec<Value> = rows.iter().map(GpuRow::json).collect();
    let path = out.join("bench-memory-gpus.json");
    let report = json!({"device": device, "rows": rows_json});
    fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    let problems: Vec<String> = rows.iter().flat_map(GpuRow::problems).collect();
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

/// A folder in which a library has the name of NVIDIA's driver.
fn linked(library: &Path) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let library =
        fs::canonicalize(library).with_context(|| format!("cannot find {}", library.display()))?;
    std::os::unix::fs::symlink(library, folder.path().join("libcuda.so.1"))?;
    Ok(folder)
}

fn rows_of(
    model: &Model,
    program: &Program,
    base: Base,
    (root, target): (&Path, &Path),
) -> Result<Vec<Row>> {
    let folder = Folder::of(model, root, target)?;
    let base = if model.has_tokenizer() {
        let base = Base::of(&program.row(&folder, &PRECISIONS[1], Base::default())?);
        println!("{}: {base} (found in {})", folder.name, PRECISIONS[1].name);
        base
    } else {
        base
    };
    let precisions = PRECISIONS.iter().filter(|p| model.is_measured_in(p.name));
    let row = |precision| {
        let row = program.row(&folder, precision, base)?;
        println!("{row}");
        Ok(row)
    };
    precisions.map(row).collect()
}

/// Encoding of weights.
struct Precision {
    name: &'static str,
    flags: &'static [&'static str],
}

const PRECISIONS: [Precision; 7] = [
    Precision {
        name: "f32",
        flags: &["--dtype", "f32"],
    },
    Precision {
        name: "bf16",
        flags: &["--dtype", "bf16"],
    },
    Precision {
        name: "int8",
        flags: &["--dtype", "bf16", "--load-in-8bit"],
    },
    Precision {
        name: "nf4",
        flags: &["--dtype", "bf16", "--load-in-4bit"],
    },
    Precision {
        name: "nf4 double",
        flags: &["--dtype", "bf16", "--load-in-4bit", "--double-quant"],
    },
    Precision {
        name: "fp4",
        flags: &["--dtype", "bf16", "--load-in-4bit", "--quant-type", "fp4"],
    },
    Precision {
        name: models::AS_STORED,
        flags: &["--dtype", "auto"],
    },
];
