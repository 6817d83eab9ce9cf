//! All parts of a bundle, one after the other.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::part::{Outcome, Part};
use crate::{Encoding, Extent, seed, table};

/// Bundle, and extent of what is done with it.
#[derive(Args)]
pub(crate) struct Options {
    /// The folder of the bundle
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    /// The folder to write [default: results in the bundle]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seconds for all parts together
    #[arg(long, value_name = "N", default_value_t = 345)]
    seconds: u64,
    /// Smaller models and matrices, for an emulated GPU
    #[arg(long)]
    small: bool,
    /// These parts alone: card, conformance, devices, operations, goldens, quantized, memory, program, kernels, models, seeds, sanitizer
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    only: Vec<String>,
}

/// Runs the parts and writes `results.json` and `table.txt`, anew after each of them.
///
/// # Errors
/// When nothing can be written, or a part failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let bundle = options.bundle.canonicalize();
    let bundle = bundle.with_context(|| options.bundle.display().to_string())?;
    let out = options.out.clone().unwrap_or(bundle.join("results"));
    let logs = out.join("logs");
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let mut report = Report {
        deadline: Instant::now() + Duration::from_secs(options.seconds),
        parts: Vec::new(),
        options,
        bundle,
        out,
        logs,
    };
    report.card()?;
    report.checks()?;
    report.kernels()?;
    report.models()?;
    report.seeds()?;
    report.sanitizer()?;
    println!("{}", table::text(&report.json()));
    let failed = report
        .parts
        .iter()
        .filter(|part| matches!(part.outcome, Outcome::Failed(_)));
    let failed: Vec<_> = failed.map(|part| part.name.as_str()).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

struct Report<'o> {
    options: &'o Options,
    bundle: PathBuf,
    out: PathBuf,
    logs: PathBuf,
    deadline: Instant,
    parts: Vec<Part>,
}

impl Report<'_> {
    /// The GPU itself. Where there is none, all else says so too.
    fn card(&mut self) -> Result<()> {
        let mut command = self.own("card");
        self.add("card", &mut command, 30)
    }

    /// Tests, and the program as a user meets it.
    fn checks(&mut self) -> Result<()> {
        let mut conformance = self.program("conformance");
        conformance.args(["on_the_card", "--skip", DEVICES, "--nocapture"]);
        self.add("conformance", &mut conformance, 60)?;
        let mut devices = self.program("conformance");
        devices.args(["--exact", DEVICES, "--nocapture"]);
        self.add("devices", &mut devices, 20)?;
        for (name, tests) in OPERATIONS {
            let mut operations = operations(&self.bundle, None, tests);
            self.add(&format!("operations-{name}"), &mut operations, 20)?;
        }
        let test = |report: &Self, name: &str| {
            let mut test = report.program("cuda");
            test.args(["--exact", "--include-ignored", "--nocapture", name]);
            if report.options.small {
                test.env("LLM_RUN_GOLDENS", "llama,gpt2,qwen3-moe");
            }
            test
        };
        let mut goldens = test(self, "every_golden_on_the_card");
        self.add("goldens", &mut goldens, 75)?;
        let mut half = test(self, "half_on_the_card");
        self.add("goldens-half", &mut half, 20)?;
        let mut quantized = test(self, "on_the_card::quantized");
        self.add("quantized", &mut quantized, 45)?;
        let mut memory = test(self, "on_the_card::memory");
        self.add("memory", &mut memory, 30)?;
        let mut doctor = self.program("llm-run");
        let caches = self.out.join("cache");
        doctor
            .args(["doctor", "--quick", "--json"])
            .env("XDG_CACHE_HOME", caches);
        self.add("program-doctor", &mut doctor, 30)?;
        let mut generate = self.program("llm-run");
        generate.args(["generate", "--device", "cuda:0", "--json", "-v"]);
        generate.args([
            "--max-new-tokens",
            if self.options.small { "4" } else { "64" },
        ]);
        self.add("program-generate", &mut generate, 30)
    }

    fn kernels(&mut self) -> Result<()> {
        let copy = self.card_figure("copy_bytes_per_second");
        let mut kernels = self.own("kernels");
        kernels.args(["--copy", &copy.unwrap_or(f64::INFINITY).to_string()]);
        self.add("kernels", &mut kernels, 60)
    }

    /// Random models, made on the spot.
    fn models(&mut self) -> Result<()> {
        let models = match self.options.small {
            true => vec![("tiny", 0)],
            // What the largest encoding takes of the GPU, and the checkpoint of RAM or disk, in GB.
            false => vec![("llama-1.1b", 3), ("llama-8b", 18)],
        };
        for (name, gigabytes) in models {
            let part = format!("models-{name}");
            if !self.is_asked(&part) {
                continue;
            }
            if let Some(reason) = self.lacking(gigabytes) {
                self.put(Part::skipped(&part, reason))?;
                continue;
            }
            let folder = tempfile::Builder::new()
                .prefix("model-")
                .tempdir_in(&self.bundle)?;
            let folder = folder.path().join(name);
            let mut make = self.program("xtask");
            make.arg("make-model");
            make.arg(self.bundle.join(format!("configs/{name}.json")))
                .arg(&folder);
            self.add(&format!("{part}-made"), &mut make, 60)?;
            for encoding in [Encoding::Nf4Double, Encoding::Bf16, Encoding::Int8] {
                let mut model = self.own("model");
                model.arg(&folder).args(["--encoding", encoding.name()]);
                self.add(&format!("{part}-{}", encoding.name()), &mut model, 60)?;
            }
        }
        Ok(())
    }

    /// Models of 7 to 11 billion parameters in small, with weights on GPU, RAM and disk.
    fn seeds(&mut self) -> Result<()> {
        let extent = Extent::of(self.options.small);
        let rates = ["copy_bytes_per_second", "to_gpu_pinned_bytes_per_second"];
        let rates = rates.map(|name| self.card_figure(name).unwrap_or(f64::INFINITY));
        for (idx, (name, config)) in seed::configs(&self.bundle.join("configs"), extent)?
            .into_iter()
            .enumerate()
        {
            let part = format!("seeds-{name}");
            if !self.is_asked(&part) {
                continue;
            }
            if let Some(reason) = self.lacking(if self.options.small { 0 } else { OF_SEED }) {
                self.put(Part::skipped(&part, reason))?;
                continue;
            }
            let folder = tempfile::Builder::new()
                .prefix("model-")
                .tempdir_in(&self.bundle)?;
            let path = folder.path().join("config.json");
            fs::write(&path, config.to_string())?;
            let folder = folder.path().join(&name);
            let mut make = self.program("xtask");
            make.arg("make-model").arg(&path).arg(&folder);
            self.add(&format!("{part}-made"), &mut make, 10)?;
            let encodings = match extent {
                // One of them shows the way of quantized weights.
                Extent::Small if idx > 0 => &[Encoding::Bf16][..],
                Extent::Small => &[Encoding::Bf16, Encoding::Nf4Double],
                Extent::Full => &[Encoding::Bf16, Encoding::Int8, Encoding::Nf4Double],
            };
            for encoding in encodings {
                let mut run = self.own("seed");
                run.arg(&folder).args(["--encoding", encoding.name()]);
                for (name, rate) in ["--copy", "--pcie"].into_iter().zip(rates) {
                    run.arg(name).arg(rate.to_string());
                }
                self.add(&format!("{part}-{}", encoding.name()), &mut run, 15)?;
            }
        }
        Ok(())
    }

    /// What there is too little of for so many gigabytes, in words.
    fn lacking(&self, gigabytes: u32) -> Option<String> {
        let free = [
            (
                self.card_figure("free_bytes").unwrap_or(0.0),
                "of the GPU's memory",
            ),
            (free_disk(&self.bundle).unwrap_or(0.0), "of disk"),
            (available_ram().unwrap_or(0.0), "of RAM"),
        ];
        let least = f64::from(gigabytes) * 1e9;
        let (free, what) = free.into_iter().find(|(free, _)| *free < least)?;
        Some(format!(
            "{:.1} GB {what} are free, and it takes {gigabytes}",
            free / 1e9
        ))
    }

    /// Small operations that launch every kernel, under NVIDIA's checkers, where they are installed.
    fn sanitizer(&mut self) -> Result<()> {
        if !self.is_asked("sanitizer") {
            return Ok(());
        }
        let Some(sanitizer) = sanitizer() else {
            let part = Part::skipped("sanitizer", "compute-sanitizer is not installed");
            return self.put(part);
        };
        for tool in ["memcheck", "racecheck", "initcheck"] {
            for (name, tests) in OPERATIONS {
                let mut check = operations(&self.bundle, Some((&sanitizer, tool)), tests);
                self.add(&format!("sanitizer-{tool}-{name}"), &mut check, 20)?;
            }
        }
        Ok(())
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bundle.join("bin").join(name));
        command.env("LLM_RUN_FIXTURES", self.bundle.join("fixtures"));
        command
    }

    /// A part of this program.
    fn own(&self, part: &str) -> Command {
        let mut command = self.program("gpu-report");
        command.arg(part);
        if self.options.small {
            command.arg("--small");
        }
        command
    }

    /// True if a part is among those that were asked for.
    fn is_asked(&self, name: &str) -> bool {
        let only = &self.options.only;
        only.is_empty() || name == "card" || only.iter().any(|of| name.starts_with(of.as_str()))
    }

    fn add(&mut self, name: &str, command: &mut Command, seconds: u64) -> Result<()> {
        if !self.is_asked(name) {
            return Ok(());
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let no_gpu = self
            .parts
            .iter()
            .find(|part| part.name == "card" && part.results.is_empty());
        let part = match no_gpu {
            Some(_) => Part::skipped(name, "there is no GPU that computes"),
            None if left < LEAST => Part::skipped(name, "no time is left"),
            None => {
                // Kernels are interpreted there.
                let slower = if self.options.small { 10 } else { 1 };
                let limit = Duration::from_secs(seconds * slower).min(left);
                let mut part = Part::run(name, command, limit, &self.logs)?;
                // It slows kernels down a hundredfold: no fault of theirs, unless it has found one by then.
                let log = fs::read_to_string(self.logs.join(format!("{name}.txt")));
                let found = log.is_ok_and(|log| FAULTS.iter().any(|fault| log.contains(fault)));
                if name.starts_with("sanitizer") && part.is_too_long() && !found {
                    part.outcome = Outcome::Skipped(format!("more than {} s", limit.as_secs()));
                }
                part
            }
        };
        self.put(part)
    }

    fn put(&mut self, part: Part) -> Result<()> {
        eprintln!("{:28} {:6.1} s  {}", part.name, part.seconds, part.outcome);
        self.parts.push(part);
        let json = self.json();
        fs::write(
            self.out.join("results.json"),
            serde_json::to_string_pretty(&json)? + "\n",
        )?;
        fs::write(self.out.join("table.txt"), table::text(&json))?;
        Ok(())
    }

    fn json(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "is_small": self.options.small,
            "parts": self.parts.iter().map(Part::json).collect::<Vec<_>>(),
        })
    }

    fn card_figure(&self, name: &str) -> Option<f64> {
        let card = self.parts.iter().find(|part| part.name == "card")?;
        card.results.first()?.get(name)?.as_f64()
    }
}

/// Tests of small operations, by themselves or under a tool of compute-sanitizer.
fn operations(bundle: &Path, checked: Option<(&Path, &str)>, tests: &[&str]) -> Command {
    let program = bundle.join("bin/traffic");
    let mut command = match checked {
        None => Command::new(program),
        Some((sanitizer, tool)) => {
            let mut command = Command::new(sanitizer);
            command.args(["--error-exitcode", "9", "--tool", tool]);
            command.arg(program);
            command
        }
    };
    command.args(tests);
    command.args(["--test-threads", "1", "--nocapture"]);
    command.env("LLM_RUN_ON_CARD", "1");
    command
}

fn sanitizer() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/local/cuda/bin")]);
    let mut programs = folders.map(|folder| folder.join("compute-sanitizer"));
    programs.find(|program| program.is_file())
}

fn free_disk(folder: &Path) -> Option<f64> {
    let statistics = rustix::fs::statvfs(folder).ok()?;
    Some(statistics.f_bavail as f64 * statistics.f_frsize as f64)
}

fn available_ram() -> Option<f64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}

/// Small operations that together launch every kernel, by a name and the tests that have them.
const OPERATIONS: [(&str, &[&str]); 5] = [
    ("small", &["small::", "experts::"]),
    ("few-rows", &["products::few"]),
    ("many-rows", &["products::many"]),
    ("attention", &["attention::"]),
    ("seldom", &["seldom::"]),
];

/// Gigabytes that a seed takes of each memory: 1.1 as bf16, on disk with a file of what is offloaded beside.
const OF_SEED: u32 = 2;

/// Test of the conformance suite that takes two GPUs.
const DEVICES: &str = "devices_on_the_card";

/// Beginnings of what compute-sanitizer says of a fault.
const FAULTS: [&str; 3] = ["========= Invalid", "========= Error", "Race reported"];
/// Time that is worth beginning a part for.
const LEAST: Duration = Duration::from_secs(3);
