//! A folder that checks and measures llm-run on a machine with a GPU and nothing else: no Rust, no network, no checkout.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use llm_tensor::Bytes;
use serde_json::Value;

use crate::cargo::cargo;

/// Bundle to write.
#[derive(Args)]
pub(crate) struct Options {
    /// The folder to write; an earlier bundle there is replaced
    out: PathBuf,
    /// The profile that programs are built in
    #[arg(long, value_name = "PROFILE", default_value = "release")]
    profile: String,
    /// Run it at once with this library in place of the driver's, the smaller set
    #[arg(long, value_name = "LIBCUDA")]
    check_with: Option<PathBuf>,
    /// And these parts of it alone, as `run.sh --only` has them
    #[arg(long, value_name = "PARTS", requires = "check_with")]
    only: Option<String>,
}

/// Parts of a bundle.
pub(crate) const ALL_BUT_CONFORMANCE: &str =
    "card,devices,operations,goldens,quantized,memory,program,kernels,models,seeds,sanitizer";

impl Options {
    /// A bundle of released programs, run on an emulated driver, or some parts of it.
    pub(crate) fn checked(out: PathBuf, driver: PathBuf, only: Option<&str>) -> Self {
        Options {
            out,
            profile: "release".to_owned(),
            check_with: Some(driver),
            only: only.map(str::to_owned),
        }
    }
}

/// Builds, strips and packs; says what the programs need.
///
/// # Errors
/// When something cannot be built or written, or the bundle is too large.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let out = &options.out;
    prepare(out)?;
    let files = out.join("files");
    let bin = files.join("bin");
    fs::create_dir_all(&bin)?;
    let mut newest = (0, 0);
    for (name, built) in build(root, &options.profile)? {
        let program = bin.join(&name);
        strip(&built, &program)?;
        newest = newest.max(newest_glibc(&fs::read(&program)?));
    }
    for models in ["models", "quantized"] {
        let from = root.join("tests/fixtures").join(models);
        copy(&from, &files.join("fixtures").join(models))?;
    }
    for name in LEFT_OUT.split_whitespace() {
        fs::remove_dir_all(files.join("fixtures/models").join(name))?;
    }
    let configs = files.join("configs");
    fs::create_dir_all(&configs)?;
    for name in CONFIGS {
        let name = format!("{name}.json");
        let from = root.join("benches/configs").join(&name);
        fs::copy(from, configs.join(&name))?;
    }
    let seeds = "seeds.json";
    fs::copy(
        root.join("benches/configs").join(seeds),
        configs.join(seeds),
    )?;
    for name in SEEDS {
        let config = format!("tests/fixtures/configs/{name}/config.json");
        fs::copy(root.join(config), configs.join(format!("{name}.json")))?;
    }
    pack(out)?;
    let glibc = format!("{}.{}", newest.0, newest.1);
    fs::write(out.join("README.txt"), README.replace("GLIBC", &glibc))?;
    fs::write(out.join("run.sh"), RUN)?;
    set_executable(&out.join("run.sh"))?;
    let size = size(out)?;
    println!(
        "{}: {size}, for x86-64 with glibc {glibc} or later",
        out.display()
    );
    let limit = match options.profile.as_str() {
        "release" => MOST,
        // What is checked while developing is not sent anywhere.
        _ => Bytes::new(10 * MOST.get()),
    };
    ensure!(size <= limit, "the bundle takes {size}, more than {limit}");
    match &options.check_with {
        Some(driver) => check(out, driver, options.only.as_deref()),
        None => Ok(()),
    }
}

/// Golden models that take no kernel which others do not take, for the bundle's size.
const LEFT_OUT: &str = "
    apertus-biases arcee bamba bloom-6heads-residual-post-ln cohere deepseek-v2 deepseek-v2-groups
    deepseek-v3-plain deepseek-v32 ernie4-5 ernie4-5-moe ernie4-5-moe-biases exaone4 exaone4-full
    falcon-11b-style falcon-7b-biases falcon-h1-biases falcon-h1-norm falcon-rw-sdpa gemma gemma-biases gemma3-rope-scaled gemma4 gemma4-per-layer
    gemma4-plain glm glm-moe-dsa glm-moe-dsa-sparse glm4-moe glm4-moe-lite gpt-bigcode-heads gpt-neox-sequential gpt-oss-tied
    gpt2-scaled-by-layer gpt2-unscaled granite granite4-dense granitemoe granitemoeshared hunyuan-dense
    hunyuan-dense-biases hunyuan-moe hunyuan-moe-biases kimi-linear-groups lfm2-biases lfm2-moe lfm2-moe-plain
    llama-biases llama-rope-linear llama-rope-yarn llama4 llama4-mixed mamba2 mamba2-tied minimax-m2 ministral3 mistral-head-dim
    mixtral-sliding mpt nemotron nemotron-biases nemotron-h-moe olmo2 olmo3 olmoe opt-no-biases phi phi-qk-norm
    phi3-gqa-sliding phi3-longrope-long phi3-longrope-short phi3-partial-rotary phimoe phimoe-plain qwen2-moe qwen2-moe-mixed
    qwen2-sliding qwen3 qwen3-5-moe qwen3-biases qwen3-5-tied qwen3-moe qwen3-next qwen3-next-mixed seed-oss smollm3-sliding
    stablelm stablelm-parallel starcoder2 t5-buckets t5-v1-style";

/// An empty folder; of what is there only a bundle is removed.
fn prepare(out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    for entry in fs::read_dir(out)? {
        let path = entry?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        ensure!(
            OWN.contains(&name),
            "{} holds {name}, which is no part of a bundle; name another folder",
            out.display()
        );
        match path.is_dir() {
            true => fs::remove_dir_all(&path)?,
            false => fs::remove_file(&path)?,
        }
    }
    Ok(())
}

/// Builds all programs: each with its name in the bundle.
fn build(root: &Path, profile: &str) -> Result<Vec<(String, PathBuf)>> {
    // Of the whole workspace: its packages are built once for all calls, and were for what CI does before.
    let calls = [
        "build --workspace --bins",
        "test --workspace --no-run --test conformance --test traffic --test cuda",
    ];
    let mut built = Vec::new();
    for call in calls {
        let mut command = cargo(root, call);
        command.args(["--locked", "--profile", profile]);
        command.arg("--message-format=json-render-diagnostics");
        eprintln!("{command:?}");
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "cargo {call}: {}", output.status);
        built.extend(executables(&String::from_utf8_lossy(&output.stdout)));
    }
    let names: Vec<_> = built.iter().map(|(name, _)| name.as_str()).collect();
    for name in PROGRAMS {
        ensure!(
            names.contains(&name),
            "cargo built {names:?}, and no {name}"
        );
    }
    built.retain(|(name, _)| PROGRAMS.contains(&name.as_str()));
    Ok(built)
}

/// Programs that cargo says it built.
fn executables(messages: &str) -> Vec<(String, PathBuf)> {
    let of_line = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let executable = message["executable"].as_str()?;
        let name = message["target"]["name"].as_str()?;
        Some((name.to_owned(), PathBuf::from(executable)))
    };
    messages.lines().filter_map(of_line).collect()
}

pub(crate) fn strip(program: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new("strip");
    strip.arg("--strip-all").arg("-o").arg(to).arg(program);
    let status = strip
        .status()
        .context("strip, of binutils, does not start")?;
    ensure!(status.success(), "{strip:?}: {status}");
    Ok(())
}

/// Newest version of glibc whose symbols a program names, as (2, 34).
fn newest_glibc(program: &[u8]) -> (u32, u32) {
    const PREFIX: &[u8] = b"GLIBC_";
    let starts = (0..program.len()).filter(|&at| program[at..].starts_with(PREFIX));
    let version = |at: usize| {
        let rest = &program[at + PREFIX.len()..];
        let n = rest
            .iter()
            .take_while(|byte| byte.is_ascii_digit() || **byte == b'.')
            .count();
        let text = std::str::from_utf8(&rest[..n]).ok()?;
        let mut numbers = text.split('.').map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    starts.filter_map(version).max().unwrap_or((0, 0))
}

/// Copies a folder of models: what their tests read, and no more.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (path, is_folder) = entry.and_then(|e| Ok((e.path(), e.file_type()?.is_dir())))?;
        let to = to.join(path.file_name().unwrap_or_default());
        match is_folder {
            true => copy(&path, &to)?,
            false => {
                fs::copy(&path, &to)?;
            }
        }
    }
    Ok(())
}

/// Packs the files into an archive, in whose place they then are.
fn pack(out: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    // Programs share the kernels' text and much code, which only a large window sees.
    tar.env("XZ_OPT", "-9");
    tar.args([
        "-cJf",
        "files.tar.xz",
        "-C",
        "files",
        "bin",
        "configs",
        "fixtures",
    ])
    .current_dir(out);
    let status = tar.status().context("tar does not start")?;
    ensure!(status.success(), "{tar:?}: {status}");
    fs::remove_dir_all(out.join("files"))?;
    Ok(())
}

fn size(folder: &Path) -> Result<Bytes> {
    let sizes = fs::read_dir(folder)?.map(|entry| anyhow::Ok(entry?.metadata()?.len()));
    let sizes = sizes.collect::<Result<Vec<_>>>()?;
    Ok(Bytes::new(sizes.iter().sum()))
}

fn set_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

/// Runs the bundle where nothing but a driver's library is found.
fn check(out: &Path, driver: &Path, only: Option<&str>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::copy(driver, folder.path().join("libcuda.so.1"))
        .with_context(|| format!("cannot copy {}", driver.display()))?;
    let mut run = Command::new(out.canonicalize()?.join("run.sh"));
    run.args(["--small", "--seconds", "1500"])
        .args(only.map(|parts| ["--only", parts]).into_iter().flatten())
        .env_clear()
        .env("PATH", "/usr/bin:/bin");
    run.env("LD_LIBRARY_PATH", folder.path())
        .current_dir(folder.path());
    let status = run.status()?;
    ensure!(status.success(), "{run:?}: {status}");
    let results: Value = serde_json::from_slice(&fs::read(out.join("results/results.json"))?)?;
    let parts = results["parts"]
        .as_array()
        .context("results.json has no parts")?;
    let skipped = parts.iter().filter(|part| part["outcome"] == "skipped");
    let skipped: Vec<_> = skipped.filter_map(|part| part["part"].as_str()).collect();
    ensure!(
        skipped
            .iter()
            .all(|part| *part == "devices" || part.starts_with("sanitizer")),
        "skipped on the emulated driver: {skipped:?}"
    );
    Ok(())
}

/// Programs of a bundle.
const PROGRAMS: [&str; 6] = [
    "llm-run",
    "gpu-report",
    "xtask",
    "conformance",
    "traffic",
    "cuda",
];
/// Configurations of the models that are made on the spot.
const CONFIGS: [&str; 3] = ["llama-1.1b", "llama-8b", "tiny"];
/// Real models that `seeds.json` has in small.
const SEEDS: [&str; 4] = [
    "tiiuae--falcon-7b-instruct",
    "bigscience--bloomz-7b1-mt",
    "google--flan-t5-xxl",
    "EleutherAI--gpt-j-6B",
];
/// Names of what lies in the folder of a bundle.
const OWN: [&str; 5] = ["README.txt", "run.sh", "files", "files.tar.xz", "results"];
const MOST: Bytes = Bytes::new(40_000_000);

const RUN: &str = r#"#!/bin/sh
# Checks and measures llm-run on this machine's GPU, in under 6 minutes, or TIME seconds; README.txt says more.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$here/files"
if [ ! -x "$here/files/bin/gpu-report" ]; then
    if command -v xz > /dev/null; then
        tar -xJf "$here/files.tar.xz" -C "$here/files"
    else
        python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$here/files.tar.xz" "$here/files"
    fi
fi
exec "$here/files/bin/gpu-report" all --bundle "$here/files" --out "$here/results" --seconds "${TIME:-345}" "$@"
"#;

const README: &str = "llm-run on a GPU: checks and measurements
==========================================

    ./run.sh                                     or, for 150 seconds at most, TIME=150 ./run.sh

needs x86-64 Linux with glibc GLIBC or later, an NVIDIA driver for CUDA 12.0 or later, a GPU of compute capability 7.5 or
later, tar, and xz or python3. No Rust, no network. It takes less than 6 minutes, each part has a limit of its own, and
what is missing is skipped with a word. Models of random weights are made on the spot: 20 GB of disk beside this folder let
the largest be measured.

results/results.json and results/table.txt have everything; results/logs what each part said. `./run.sh --only kernels,models`
runs some parts alone: card, conformance, devices, operations, goldens, quantized, memory, program, kernels, models, seeds, sanitizer.

conformance  every operation of the backend against a plain reference
devices      rows from each of two GPUs to the other, where there are two
operations   small ones that launch every kernel
goldens      45 small models against the logits and continuations of transformers
quantized    models that bitsandbytes quantized, as saved and quantized here
memory       bytes that the driver gave, as planned
program      llm-run doctor and llm-run generate --device cuda:0, as a user calls them
kernels      products in bf16, int8, nf4 and nf4 with double quantization: time, and bytes as a share of the copy bandwidth
models       1.1 and 8 billion parameters: tokens/s of decoding and prefill, memory planned beside memory allocated
seeds        four models of 7 to 11 billion parameters, a twentieth of their weights, on a twentieth of 15 GB of GPU and 12.7 of RAM,
             and on GPU, RAM and disk: the tokens of the GPU alone, memory as planned, tokens/s beside those expected
sanitizer    the operations under compute-sanitizer's memcheck, racecheck and initcheck, where it is installed
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_is_found() {
        let program = b"\x7fELF GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.4\0GLIBC_PRIVATE\0GLIBC_";
        assert_eq!(newest_glibc(program), (2, 34));
        assert_eq!(newest_glibc(b"static"), (0, 0));
    }

    #[test]
    fn programs_are_what_cargo_says() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"gpu\"},\"executable\":\"/t/gpu-1\"}\n\
             {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"serde\"},\"executable\":null}\nnoise\n";
        assert_eq!(
            executables(messages),
            [("gpu".to_owned(), PathBuf::from("/t/gpu-1"))]
        );
    }

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("run.sh"), "").unwrap();
        prepare(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        fs::write(folder.path().join("thesis.tex"), "").unwrap();
        let error = prepare(folder.path()).unwrap_err().to_string();
        assert!(error.contains("thesis.tex"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
