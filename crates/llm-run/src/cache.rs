//! `llm-run cache`: what lies in the offload folder, whether it is sound, and how it is got rid of.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use llm_runtime::RuntimeError;
use llm_runtime::{OffloadAbout, OffloadDamage, OffloadEntry, OffloadFolder, OffloadSource};
use llm_tensor::Bytes;
use serde::Serialize;

use crate::cli::{CacheClearArgs, CacheCommand, CacheFolderArgs, CacheListArgs, CacheVerifyArgs};
use crate::failure::UserError;
use crate::inspect::{Column, printable, table_of};
use crate::output;
use crate::rewrite::Stop;
use crate::system;

pub(crate) fn cache(command: &CacheCommand) -> Result<ExitCode> {
    match command {
        CacheCommand::List(args) => list(args),
        CacheCommand::Verify(args) => verify(args),
        CacheCommand::Clear(args) => clear(args),
    }
}

/// What is said where nobody knows of an offload folder.
pub(crate) fn no_folder() -> UserError {
    let reason = "neither XDG_CACHE_HOME nor HOME says where the cache folder is";
    UserError(format!("{reason}; give --offload-folder"))
}

fn list(args: &CacheListArgs) -> Result<ExitCode> {
    let (folder, entries) = entries(&args.folder, &[])?;
    let text = if args.folder.json {
        let entries = entries.iter().map(Listed::of).collect();
        serde_json::to_string(&List {
            folder: &folder.display().to_string(),
            entries,
        })? + "\n"
    } else {
        list_text(&folder, &entries)
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What `list --json` prints.
#[derive(Serialize)]
struct List<'e> {
    folder: &'e str,
    entries: Vec<Listed<'e>>,
}

/// Null is what an entry without a description that is understood does not say.
#[derive(Serialize)]
struct Listed<'e> {
    key: &'e str,
    model: Option<String>,
    weights: Option<&'e str>,
    created: Option<u64>,
    sources: Option<&'e [OffloadSource]>,
    n_files: usize,
    bytes: u64,
    n_unfinished: usize,
    is_stale: bool,
    is_in_use: bool,
}

impl<'e> Listed<'e> {
    fn of(entry: &'e OffloadEntry) -> Self {
        let about = entry.about.as_ref();
        Listed {
            key: &entry.key,
            model: about.map(|about| about.model.display().to_string()),
            weights: about.map(|about| about.weights.as_str()),
            created: about.map(|about| about.created),
            sources: about.map(|about| about.sources.as_slice()),
            n_files: entry.n_files,
            bytes: entry.bytes.get(),
            n_unfinished: entry.n_unfinished,
            is_stale: entry.is_stale(),
            is_in_use: entry.is_in_use,
        }
    }
}

fn list_text(folder: &Path, entries: &[OffloadEntry]) -> String {
    let folder = folder.display();
    if entries.is_empty() {
        return format!("{folder} holds no weights\n");
    }
    let head = [
        Column::Left("key"),
        Column::Right("bytes"),
        Column::Right("files"),
        Column::Left("weights"),
        Column::Left("created"),
        Column::Left("state"),
        Column::Left("model"),
    ];
    let rows = entries.iter().map(|entry| {
        let about = entry.about.as_ref();
        vec![
            entry.key.clone(),
            entry.bytes.to_string(),
            entry.n_files.to_string(),
            about.map_or_else(String::new, |about| about.weights.clone()),
            about.map_or_else(String::new, created),
            state(entry),
            about.map_or_else(String::new, |about| about.model.display().to_string()),
        ]
    });
    let total: Bytes = entries.iter().map(|entry| entry.bytes).sum();
    let table = table_of(&head, rows.collect());
    format!(
        "{folder}: {}, {total}\n{table}",
        counted(entries.len(), "entry", "entries")
    )
}

/// The day, where people are.
fn created(about: &OffloadAbout) -> String {
    let seconds = i64::try_from(about.created).ok();
    let created = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    created.map_or_else(String::new, |created| {
        let created = created.to_zoned(TimeZone::system());
        created.strftime("%Y-%m-%d").to_string()
    })
}

fn state(entry: &OffloadEntry) -> String {
    let states = [
        (entry.is_in_use, "in use"),
        (entry.about.is_none(), "not described"),
        (entry.is_stale(), "stale"),
        (entry.n_unfinished > 0, "unfinished files"),
    ];
    let states = states.into_iter().filter(|(holds, _)| *holds);
    states
        .map(|(_, state)| state)
        .collect::<Vec<_>>()
        .join(", ")
}

fn verify(args: &CacheVerifyArgs) -> Result<ExitCode> {
    let (folder, entries) = entries(&args.folder, &args.keys)?;
    let stop = Stop::on_signal()?;
    let bytes: Bytes = entries.iter().map(|entry| entry.bytes).sum();
    let bar = output::bar("verifying", bytes)?;
    let mut damages = Vec::new();
    for entry in &entries {
        damages.extend(entry.verify(|read| {
            bar.inc(read.get());
            stop.check()
        })?);
    }
    bar.finish_and_clear();
    let n_files = entries.iter().map(|entry| entry.n_files).sum();
    let text = if args.folder.json {
        serde_json::to_string(&Verified {
            folder: folder.display().to_string(),
            n_entries: entries.len(),
            n_files,
            bytes: bytes.get(),
            damages: damages.iter().map(Damaged::of).collect(),
        })? + "\n"
    } else if damages.is_empty() {
        let files = counted(n_files, "file", "files");
        let are = if n_files == 1 {
            "is what its name says"
        } else {
            "are what their names say"
        };
        format!("{}: {files}, {bytes}, {are}\n", folder.display())
    } else {
        let lines = damages.iter().map(|damage| {
            let OffloadDamage {
                path,
                expected,
                found,
            } = damage;
            let path = printable(&path.display().to_string());
            format!("{path}: its bytes sum to {found:016x}, its name says {expected:016x}\n")
        });
        lines.collect()
    };
    output::print(&text)?;
    if damages.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let are = if damages.len() == 1 { "is" } else { "are" };
    let files = counted(damages.len(), "file", "files");
    let mend = "what is deleted, a run that needs it writes anew";
    Err(UserError(format!("{files} {are} damaged; {mend}")).into())
}

/// What `verify --json` prints.
#[derive(Serialize)]
struct Verified {
    folder: String,
    n_entries: usize,
    n_files: usize,
    bytes: u64,
    damages: Vec<Damaged>,
}

/// Sums are in hexadecimal, as in names.
#[derive(Serialize)]
struct Damaged {
    path: String,
    expected: String,
    found: String,
}

impl Damaged {
    fn of(damage: &OffloadDamage) -> Self {
        Damaged {
            path: damage.path.display().to_string(),
            expected: format!("{:016x}", damage.expected),
            found: format!("{:016x}", damage.found),
        }
    }
}

fn clear(args: &CacheClearArgs) -> Result<ExitCode> {
    if args.keys.is_empty() && !args.stale && !args.all {
        let message = "say what to clear: KEY as `llm-run cache list` has it, --stale or --all";
        return Err(UserError(message.to_owned()).into());
    }
    let (folder, mut entries) = entries(&args.folder, &args.keys)?;
    entries.retain(|entry| !args.stale || entry.is_stale());
    let (mut cleared, mut in_use) = (Vec::new(), Vec::new());
    for entry in &entries {
        match entry.clear() {
            Ok(()) => cleared.push(entry),
            Err(RuntimeError::OffloadInUse { .. }) => in_use.push(entry),
            Err(error) => return Err(error.into()),
        }
    }
    let bytes: Bytes = cleared.iter().map(|entry| entry.bytes).sum();
    let keys = |entries: &[&OffloadEntry]| -> Vec<String> {
        entries.iter().map(|entry| entry.key.clone()).collect()
    };
    let text = if args.folder.json {
        serde_json::to_string(&Cleared {
            folder: folder.display().to_string(),
            cleared: keys(&cleared),
            bytes: bytes.get(),
            in_use: keys(&in_use),
        })? + "\n"
    } else {
        let entries = counted(cleared.len(), "entry", "entries");
        format!("{}: cleared {entries}, {bytes}\n", folder.display())
    };
    output::print(&text)?;
    if in_use.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let are = if in_use.len() == 1 { "is" } else { "are" };
    let keys = keys(&in_use).join(", ");
    let message = format!("{keys} {are} in use by a running process; end it first");
    Err(UserError(message).into())
}

/// What `clear --json` prints.
#[derive(Serialize)]
struct Cleared {
    folder: String,
    cleared: Vec<String>,
    bytes: u64,
    in_use: Vec<String>,
}

/// The folder, and the entries with `keys`; all, if there are none.
fn entries(args: &CacheFolderArgs, keys: &[String]) -> Result<(PathBuf, Vec<OffloadEntry>)> {
    let folder = system::offload_folder(args.offload_folder.as_deref()).ok_or_else(no_folder)?;
    let mut entries = OffloadFolder::new(folder.clone()).entries()?;
    for key in keys {
        let n_found = entries
            .iter()
            .filter(|entry| entry.key.starts_with(key))
            .count();
        if n_found != 1 {
            let found = match n_found {
                0 => "no entry has the key",
                _ => "more than one entry has a key that begins with",
            };
            let message = format!(
                "{}: {found} {key}; see `llm-run cache list`",
                folder.display()
            );
            return Err(UserError(message).into());
        }
    }
    entries.retain(|entry| keys.is_empty() || keys.iter().any(|key| entry.key.starts_with(key)));
    Ok((folder, entries))
}

fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
