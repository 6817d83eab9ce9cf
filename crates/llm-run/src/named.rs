//! Models by name: a MODEL that is no path here may be one on a hub, whose files come to the cache first.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar};
use llm_hub::{Event, HubError, Pulled, RepoName, Settings};
use llm_tensor::Bytes;

use crate::cli::Command;
use crate::hub_model::HubModel;
use crate::open::is_hub_name;
use crate::output;
use crate::output::words::printable;

/// Puts the path of its files in the place of a model's name. For plans only headers are fetched.
///
/// # Errors
/// When the model cannot be brought, or is not in the cache where nothing is fetched.
pub(crate) fn resolve(command: &mut Command) -> Result<()> {
    if let Command::Serve(args) = command
        && args.name.is_none()
    {
        // Its folder in the cache is called by a commit.
        args.name = name_of(&args.model)?.map(|name| name.id.to_string());
    }
    let (model, find): (_, fn(&RepoName) -> Result<Pulled>) = match command {
        Command::Generate(args) => (args.model.as_mut(), fetch),
        Command::Chat(args) => (Some(&mut args.model), fetch),
        Command::Serve(args) => (Some(&mut args.model), fetch),
        Command::Score(args) => (Some(&mut args.model), fetch),
        Command::Shard(args) => (Some(&mut args.input), fetch),
        Command::Quantize(args) => (Some(&mut args.input), fetch),
        Command::Verify(args) => (Some(&mut args.model), fetch),
        Command::Plan(args) => return look(Some(&mut args.model), &mut args.hub),
        Command::Inspect(args) => return look(args.model.as_mut(), &mut args.hub),
        Command::Cache(_)
        | Command::Doctor(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Pull(_)
        | Command::List(_)
        | Command::Remove(_) => return Ok(()),
    };
    let Some(path) = model else {
        return Ok(());
    };
    if let Some(name) = name_of(path)? {
        *path = find(&name)?.path;
    }
    Ok(())
}

/// The name that a path is, where it leads nowhere and could be one.
fn name_of(path: &Path) -> Result<Option<RepoName>> {
    let Some(text) = path.to_str().filter(|_| !path.exists()) else {
        return Ok(None);
    };
    let id = text.split(['@', ':']).next().unwrap_or_default();
    match is_hub_name(id) {
        true => Ok(Some(text.parse()?)),
        false => Ok(None),
    }
}

pub(crate) fn settings() -> Result<Settings> {
    Ok(Settings::of_environment(&|name| std::env::var(name).ok())?)
}

/// Finds a model in the cache, or has a look at it on the hub.
fn look(path: Option<&mut PathBuf>, hub: &mut Option<HubModel>) -> Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    let Some(name) = name_of(path)? else {
        return Ok(());
    };
    let settings = settings()?;
    let (cached, looked) = match llm_hub::cached(&settings, &name)? {
        Some(pulled) => (pulled.path, None),
        None if settings.is_offline => {
            let folder = settings.cache;
            let name = name.to_string();
            return Err(no_model(HubError::Offline { name, folder }));
        }
        None => {
            let looked = llm_hub::look(&settings, &name, &note_event).map_err(no_model)?;
            (looked.path().to_owned(), Some(Arc::new(looked)))
        }
    };
    *path = cached;
    *hub = Some(HubModel {
        name: name.id.to_string(),
        looked,
        cache: settings.cache,
    });
    Ok(())
}

/// The error of a name that no model has. Whoever meant a path is told, too.
fn no_model(error: HubError) -> anyhow::Error {
    match &error {
        HubError::Offline { name, .. } | HubError::NoRepo { name, .. } => {
            let context = format!("there is no model at {name}");
            anyhow::Error::from(error).context(context)
        }
        _ => error.into(),
    }
}

/// Says what is not as it should be.
fn note_event(event: Event<'_>) {
    // What is brought is little, and its progress is not worth a bar.
    if let Event::Retry { why, wait } = event {
        let seconds = wait.as_secs_f32();
        output::notes(&[format!("{why}; trying again in {seconds:.1} s")]);
    }
}

/// Brings a model's files, showing progress where someone can see it.
pub(crate) fn fetch(name: &RepoName) -> Result<Pulled> {
    let settings = settings()?;
    let bars = Bars::new()?;
    let pulled = llm_hub::pull(&settings, name, &|event| bars.show(event));
    bars.clear();
    pulled.map_err(|error| match error {
        // Whoever meant a path is told, too.
        error @ (HubError::Offline { .. }
        | HubError::NoRepo { .. }
        | HubError::Unreachable { .. }) => {
            anyhow::Error::from(error).context(format!("there is no model at {name}"))
        }
        error => error.into(),
    })
}

/// Progress of a file and of all files.
struct Bars {
    all: MultiProgress,
    file: ProgressBar,
    total: ProgressBar,
}

impl Bars {
    fn new() -> Result<Self> {
        let all = MultiProgress::new();
        Ok(Bars {
            file: all.add(output::bar("", Bytes::ZERO)?),
            total: all.add(output::bar("all files", Bytes::ZERO)?),
            all,
        })
    }

    fn show(&self, event: Event<'_>) {
        match event {
            Event::File { file, size, total } => {
                self.total.set_length(total);
                self.file.set_message(printable(file.as_str()));
                self.file.set_length(size);
                self.file.set_position(0);
            }
            Event::Received { bytes, .. } => {
                self.file.inc(bytes);
                self.total.inc(bytes);
            }
            Event::Lost { bytes, .. } => {
                self.file.dec(bytes);
                self.total.dec(bytes);
            }
            Event::Waiting { file } => {
                self.note(&format!(
                    "{file}: waiting for another run that downloads it"
                ));
            }
            Event::Retry { why, wait } => {
                let seconds = wait.as_secs_f32();
                self.note(&format!("{why}; trying again in {seconds:.1} s"));
            }
            Event::FromCache { why } => {
                self.note(&format!("{why}; what the cache has is taken"));
            }
            // Of a later version.
            event => self.note(&format!("{event:?}")),
        }
    }

    fn note(&self, text: &str) {
        self.all.suspend(|| output::notes(&[text]));
    }

    fn clear(&self) {
        self.file.finish_and_clear();
        self.total.finish_and_clear();
    }
}
