//! Layering of the crates.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::Problem;
use crate::cargo::cargo;

/// Crates, lowest first, and those that each may use, apart from what only its tests use: `*` for all. ARCHITECTURE.md explains it.
const LAYERS: [(&str, &str); 21] = [
    ("llm-hub", ""),
    ("llm-json", ""),
    ("llm-tensor", ""),
    ("llm-text", "llm-json"),
    ("llm-quant", "llm-tensor"),
    ("llm-checkpoint", "llm-tensor llm-quant"),
    ("llm-torch-file", "llm-tensor llm-checkpoint"),
    ("llm-arch", "llm-tensor"),
    ("llm-plan", "llm-tensor llm-quant llm-arch"),
    ("llm-backend", "llm-tensor llm-quant"),
    ("llm-conformance", "llm-backend llm-quant llm-tensor"),
    ("llm-cpu", "llm-backend llm-quant llm-tensor"),
    ("llm-cuda", "llm-backend llm-quant llm-tensor"),
    (
        "llm-runtime",
        "llm-tensor llm-json llm-checkpoint llm-quant llm-arch llm-plan llm-backend",
    ),
    ("llm-engine", "llm-arch llm-runtime llm-text"),
    ("llm-server", "llm-engine llm-text"),
    ("cuda-emulator", ""),
    ("llm-run", "*"),
    ("llm-tests", "*"),
    ("llm-benches", "*"),
    ("xtask", "*"),
];

/// Layer of the crate in a folder, counted from the lowest.
pub(super) fn rank(folder: &Path) -> Option<usize> {
    LAYERS.iter().position(|(name, _)| folder.ends_with(name))
}

pub(super) fn check(root: &Path) -> Result<Vec<Problem>> {
    let output = cargo(root, "metadata --format-version 1 --no-deps --locked").output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let crates = serde_json::from_slice::<Metadata>(&output.stdout)?.packages;
    let mut problems = Vec::new();
    for package in &crates {
        problems.extend(check_crate(root, package, &crates)?);
    }
    problems.extend(check_architecture(root, &crates));
    Ok(problems)
}

/// What cargo says of the workspace.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// None where it is a dependency of the crate itself.
    kind: Option<String>,
}

fn check_crate(root: &Path, package: &Package, crates: &[Package]) -> Result<Vec<Problem>> {
    let path = &package.manifest_path;
    // Cargo resolves symbolic links, so what it says may begin differently.
    let manifest = path.strip_prefix(root.canonicalize()?)?;
    let Some((_, may)) = LAYERS.iter().find(|(name, _)| package.name == *name) else {
        let message = format!(
            "crate `{}` has no place in the table of layers",
            package.name
        );
        return Ok(vec![Problem::new(manifest, 1, message)]);
    };
    let text = fs::read_to_string(path)?;
    let line_of = |name: &str| {
        let found = text.lines().position(|line| line.starts_with(name));
        found.map_or(1, |idx| idx + 1)
    };
    let forbidden = package.dependencies.iter().filter(|dependency| {
        dependency.kind.as_deref() != Some("dev")
            && crates.iter().any(|other| other.name == dependency.name)
            && !may
                .split(' ')
                .any(|name| name == dependency.name || name == "*")
    });
    Ok(forbidden
        .map(|dependency| {
            let message = format!("`{}` may not use `{}`", package.name, dependency.name);
            Problem::new(manifest, line_of(&dependency.name), message)
        })
        .collect())
}

/// The document for people names every crate, too.
fn check_architecture(root: &Path, crates: &[Package]) -> Vec<Problem> {
    let text = fs::read_to_string(root.join(ARCHITECTURE)).unwrap_or_default();
    crates
        .iter()
        .filter(|package| !text.contains(&format!("`{}`", package.name)))
        .map(|package| {
            let message = format!("crate `{}` is not mentioned", package.name);
            Problem::new(ARCHITECTURE, 1, message)
        })
        .collect()
}

const ARCHITECTURE: &str = "ARCHITECTURE.md";
