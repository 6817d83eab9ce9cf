//! `llm-run pull`, `list` and `remove`: models of a hub in the cache.

use std::process::ExitCode;

use anyhow::Result;
use llm_hub::CachedRepo;
use llm_tensor::Bytes;
use serde_json::json;

use crate::cli::{ListArgs, PullArgs, RemoveArgs};
use crate::failure::refuse;
use crate::output::table::{Column, table};
use crate::output::words::counted;
use crate::{named, output};

pub(crate) fn pull(args: &PullArgs) -> Result<ExitCode> {
    let pulled = named::fetch(&args.model)?;
    let path = pulled.path.display().to_string();
    output::print(&match args.json {
        true => output::json(&json!({
            "model": args.model.id.to_string(),
            "commit": pulled.commit.as_str(),
            "path": path,
            "files": pulled.files.iter().map(|file| file.as_str()).collect::<Vec<_>>(),
            "bytes": pulled.bytes,
        }))?,
        false => format!("{path}\n"),
    })?;
    if !args.json {
        let bytes = Bytes::new(pulled.bytes);
        output::closing_line([counted(pulled.files.len(), "file"), bytes.to_string()]);
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn list(args: &ListArgs) -> Result<ExitCode> {
    let cache = named::settings()?.cache;
    let repos = llm_hub::list(&cache)?;
    let folder = cache.display().to_string();
    output::print(&match args.json {
        true => output::json(&json!({
            "folder": folder,
            "models": repos.iter().map(|repo| json!({
                "model": repo.id.to_string(),
                "bytes": repo.bytes,
                "incomplete_bytes": repo.incomplete,
                "n_commits": repo.n_commits,
                "revisions": repo.revisions,
            })).collect::<Vec<_>>(),
        }))?,
        false if repos.is_empty() => format!("{folder} holds no models\n"),
        false => {
            let total: Bytes = repos.iter().map(|repo| Bytes::new(repo.bytes)).sum();
            let models = counted(repos.len(), "model");
            format!("{folder}: {models}, {total}\n{}", rows(&repos))
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn rows(repos: &[CachedRepo]) -> String {
    let head = [
        Column::Left("model"),
        Column::Right("bytes"),
        Column::Right("unfinished"),
        Column::Left("revisions"),
    ];
    let rows = repos.iter().map(|repo| {
        let unfinished = match repo.incomplete {
            0 => String::new(),
            bytes => Bytes::new(bytes).to_string(),
        };
        vec![
            repo.id.to_string(),
            Bytes::new(repo.bytes).to_string(),
            unfinished,
            repo.revisions.join(", "),
        ]
    });
    table(&head, rows)
}

pub(crate) fn remove(args: &RemoveArgs) -> Result<ExitCode> {
    let name = &args.model;
    if name.revision.as_str() != "main" || name.file.is_some() {
        return refuse("a model is removed with all its revisions and files; give org/name alone");
    }
    let cache = named::settings()?.cache;
    let Some(repo) = llm_hub::find(&cache, &name.id)? else {
        let cache = cache.display();
        return refuse(format!("{name} is not in {cache}; see `llm-run list`"));
    };
    llm_hub::remove(&cache, &repo)?;
    let bytes = Bytes::new(repo.bytes.saturating_add(repo.incomplete));
    output::print(&format!("{}: removed {name}, {bytes}\n", cache.display()))?;
    Ok(ExitCode::SUCCESS)
}
