//! Models by name: a MODEL that is no path here may be one on a hub, whose files come to the cache first.

use std::path::Path;

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar};
use llm_hub::{Event, HubError, Pulled, RepoName, Settings};
use llm_tensor::Bytes;

use crate::cli::Command;
use crate::failure::refuse;
use crate::open::is_hub_name;
use crate::output;
use crate::output::words::printable;

/// Puts the path of its files in the place of a model's name. Plans download nothing.
///
/// # Errors
/// When the model cannot be brought, or is not in the cache where nothing is downloaded.
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
        Command::Plan(args) => (Some(&mut args.model), expect_cached),
        Command::Inspect(args) => (args.model.as_mut(), expect_cached),
        Command::Cache(_)
        | Command::Doctor(_)
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

fn expect_cached(name: &RepoName) -> Result<Pulled> {
    let settings = settings()?;
    match llm_hub::cached(&settings, name)? {
        Some(pulled) => Ok(pulled),
        None => refuse(format!(
            "there is no model at {name}, nor is one of this name in {}; `llm-run pull {name}` downloads it from a hub",
            settings.cache.display()
        )),
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
