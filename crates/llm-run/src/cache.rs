//! `llm-run cache`: what lies in the offload folder, whether it is sound, and how it is got rid of.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use llm_runtime::{OffloadAbout, OffloadDamage, OffloadEntry, OffloadFolder, RuntimeError};
use llm_tensor::Bytes;
use serde_json::{Value, json};

use crate::cli::{CacheClearArgs, CacheCommand, CacheFolderArgs, CacheListArgs, CacheVerifyArgs};
use crate::failure::refuse;
use crate::output;
use crate::output::table::{Column, table};
use crate::output::words::{counted, printable};
use crate::signals::Stop;
use crate::system::expect_offload_folder;

pub(crate) fn cache(command: &CacheCommand) -> Result<ExitCode> {
    match command {
        CacheCommand::List(args) => list(args),
        CacheCommand::Verify(args) => verify(args),
        CacheCommand::Clear(args) => clear(args),
    }
}

fn list(args: &CacheListArgs) -> Result<ExitCode> {
    let (folder, entries) = entries(&args.folder, &[])?;
    output::print(&match args.folder.json {
        true => output::json(&json!({
            "folder": folder.display().to_string(),
            "entries": entries.iter().map(listed).collect::<Vec<_>>(),
        }))?,
        false => list_text(&folder, &entries),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// An entry as JSON; null is what an entry without a description that is understood does not say.
fn listed(entry: &OffloadEntry) -> Value {
    let about = entry.about.as_ref();
    json!({
        "key": entry.key,
        "model": about.map(|about| about.model.display().to_string()),
        "weights": about.map(|about| &about.weights),
        "created": about.map(|about| about.created),
        "sources": about.map(|about| &about.sources),
        "n_files": entry.n_files,
        "bytes": entry.bytes.get(),
        "n_unfinished": entry.n_unfinished,
        "is_stale": entry.is_stale(),
        "is_in_use": entry.is_in_use,
    })
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
    let table = table(&head, rows);
    format!(
        "{folder}: {}, {total}\n{table}",
        counted(entries.len(), "entry")
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
        output::json(&json!({
            "folder": folder.display().to_string(),
            "n_entries": entries.len(),
            "n_files": n_files,
            "bytes": bytes.get(),
            "damages": damages.iter().map(damaged).collect::<Vec<_>>(),
        }))?
    } else if damages.is_empty() {
        let files = counted(n_files, "file");
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
    let files = counted(damages.len(), "file");
    let mend = "what is deleted, a run that needs it writes anew";
    refuse(format!("{files} {are} damaged; {mend}"))
}

/// A damaged file as JSON, its checksums in hexadecimal, as in names.
fn damaged(damage: &OffloadDamage) -> Value {
    json!({
        "path": damage.path.display().to_string(),
        "expected": format!("{:016x}", damage.expected),
        "found": format!("{:016x}", damage.found),
    })
}

fn clear(args: &CacheClearArgs) -> Result<ExitCode> {
    if args.keys.is_empty() && !args.stale && !args.all {
        return refuse("say what to clear: KEY as `llm-run cache list` has it, --stale or --all");
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
        output::json(&json!({
            "folder": folder.display().to_string(),
            "cleared": keys(&cleared),
            "bytes": bytes.get(),
            "in_use": keys(&in_use),
        }))?
    } else {
        let entries = counted(cleared.len(), "entry");
        format!("{}: cleared {entries}, {bytes}\n", folder.display())
    };
    output::print(&text)?;
    if in_use.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let are = if in_use.len() == 1 { "is" } else { "are" };
    let keys = keys(&in_use).join(", ");
    refuse(format!(
        "{keys} {are} in use by a running process; end it first"
    ))
}

/// The folder, and the entries with `keys`; all, if there are none.
fn entries(args: &CacheFolderArgs, keys: &[String]) -> Result<(PathBuf, Vec<OffloadEntry>)> {
    let folder = expect_offload_folder(args.offload_folder.as_deref())?;
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
            return refuse(format!(
                "{}: {found} {key}; see `llm-run cache list`",
                folder.display()
            ));
        }
    }
    entries.retain(|entry| keys.is_empty() || keys.iter().any(|key| entry.key.starts_with(key)));
    Ok((folder, entries))
}
