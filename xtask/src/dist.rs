//! The program as it is handed out: one archive, the same bytes whoever makes it.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cargo::cargo;
use crate::fetch_model::run_command;
use crate::gpu_bundle::strip;
use crate::sha256;

/// Options of `cargo xtask dist`.
#[derive(Args)]
pub(crate) struct Options {
    /// Folder for the archive
    #[arg(long, value_name = "DIR", default_value = "target/dist")]
    out: PathBuf,
    /// Build everything once more, in another folder, and fail where the two archives differ
    #[arg(long)]
    check: bool,
}

/// Makes the archive, and prints its checksum as `sha256sum` does.
///
/// # Errors
/// When it cannot be built, or two builds differ.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let out = root.join(&options.out);
    let archive = make(root, &out)?;
    let sum = sha256(&fs::read(&archive)?);
    if options.check {
        let again = sha256(&fs::read(make(root, &out.join("again"))?)?);
        ensure!(sum == again, "two builds differ: {sum} and {again}");
    }
    println!("{sum}  {}", archive.display());
    Ok(())
}

fn make(root: &Path, out: &Path) -> Result<PathBuf> {
    let target = out.join("build");
    let mut build = cargo(root, "build --release --locked -p llm-run");
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home =
        cargo_home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec![format!("--remap-path-prefix={}=llm-run", root.display())];
    // Panics say where; whose machine it was is nobody's business.
    flags.extend(cargo_home.map(|home| format!("--remap-path-prefix={}=cargo", home.display())));
    build
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    run_command(build)?;
    let program = target.join("release/llm-run");

    let name = format!(
        "llm-run-{}-{}",
        env!("CARGO_PKG_VERSION"),
        env::consts::ARCH
    );
    let folder = out.join(&name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let completions = folder.join("completions");
    fs::create_dir_all(&completions)?;
    strip(&program, &folder.join("llm-run"))?;
    for file in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        fs::copy(root.join(file), folder.join(file))?;
    }
    for (shell, file) in [
        ("bash", "llm-run"),
        ("zsh", "_llm-run"),
        ("fish", "llm-run.fish"),
    ] {
        let text = Command::new(&program)
            .args(["completions", shell])
            .output()?;
        ensure!(text.status.success(), "no completions for {shell}");
        fs::write(completions.join(file), text.stdout)?;
    }
    let mut pages = Command::new(&program);
    pages.args(["man", "--out"]).arg(folder.join("man/man1"));
    run_command(pages)?;
    let parts = serde_json::to_string_pretty(&parts(root)?)?;
    fs::write(folder.join("sbom.cdx.json"), parts + "\n")?;

    let archive = out.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    // Nothing of the day, the user or the folder's order.
    tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0"])
        .args(["--numeric-owner", "--mode=u+w,go-w"])
        .args(["--use-compress-program=gzip -9n", "-cf"])
        .arg(&archive)
        .arg("-C")
        .arg(out)
        .arg(&name);
    run_command(tar)?;
    Ok(archive)
}

/// What the program is made of, as CycloneDX lists it.
fn parts(root: &Path) -> Result<Value> {
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
        license: Option<String>,
    }
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let tree = [
        "--edges", "normal", "--prefix", "none", "--format", "{p}", "--target", &target,
    ];
    let tree = cargo(root, "tree --locked -p llm-run")
        .args(tree)
        .output()?;
    ensure!(
        tree.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&tree.stderr)
    );
    // `name vVERSION`, and where it lies if it is of this workspace.
    let used: BTreeSet<(String, String)> = String::from_utf8(tree.stdout)?
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((
                words.next()?.to_owned(),
                words.next()?.strip_prefix('v')?.to_owned(),
            ))
        })
        .collect();
    let metadata = cargo(root, "metadata --locked --format-version 1").output()?;
    let metadata: Metadata = serde_json::from_slice(&metadata.stdout)?;
    let packages = metadata.packages.into_iter();
    let packages = packages.filter(|p| used.contains(&(p.name.clone(), p.version.clone())));
    let component = |package: Package| {
        let licenses = package
            .license
            .map(|expression| json!([{ "expression": expression }]));
        let purl = format!("pkg:cargo/{}@{}", package.name, package.version);
        json!({
            "type": "library", "bom-ref": purl, "name": package.name, "version": package.version,
            "purl": purl, "licenses": licenses.unwrap_or_else(|| json!([])),
        })
    };
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application", "name": "llm-run", "version": env!("CARGO_PKG_VERSION"),
        }},
        "components": packages.map(component).collect::<Vec<_>>(),
    }))
}
