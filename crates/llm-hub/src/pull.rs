//! A model by its name: what of it is needed, what is there, and the download of the rest.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::cache::{self, RepoFolder};
use crate::choose::choose;
use crate::download::{Download, is_whole};
use crate::error::{ChoiceFlaw, HubError};
use crate::event::Event;
use crate::http::Http;
use crate::listing::{Known, Listing};
use crate::name::{Commit, FileName, RepoName};
use crate::settings::Settings;

/// A model whose files are in the cache.
#[derive(Debug)]
pub struct Pulled {
    /// The folder of its files, or the one that was asked for.
    pub path: PathBuf,
    /// Folder of its files.
    pub folder: PathBuf,
    /// The commit that all of them are of.
    pub commit: Commit,
    /// The files.
    pub files: Vec<FileName>,
    /// Bytes of them.
    pub bytes: u64,
}

/// Brings what is needed of a model to the cache. Nothing is fetched that is there.
///
/// # Errors
/// When the hub has no such model or does not show it, the choice among its files is the user's, or a file does not come
/// whole and right. What came until then is kept for another try.
pub fn pull(
    settings: &Settings,
    name: &RepoName,
    events: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Pulled, HubError> {
    if settings.is_offline {
        let offline = || HubError::Offline {
            name: name.to_string(),
            folder: settings.cache.clone(),
        };
        return cached(settings, name)?.ok_or_else(offline);
    }
    let http = Http::new(settings, name, events);
    let listing = match Listing::fetch(&http, name) {
        Ok(listing) => listing,
        Err(error @ (HubError::Unreachable { .. } | HubError::Status { .. })) => {
            return match cached(settings, name)? {
                Some(pulled) => {
                    events(Event::FromCache { why: &error });
                    Ok(pulled)
                }
                None => Err(error),
            };
        }
        Err(error) => return Err(error),
    };
    bring(&http, name, &listing, events)
}

fn bring(
    http: &Http<'_>,
    name: &RepoName,
    listing: &Listing,
    events: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Pulled, HubError> {
    let cache = &http.settings.cache;
    let chosen = listing.choose(name)?;
    let folder = RepoFolder::new(cache, &name.id);
    let mut wanted: Vec<(&FileName, Known)> = Vec::new();
    for file in &chosen.files {
        wanted.push((file, listing.describe(http, name, file)?));
    }
    let total = wanted.iter().map(|(_, known)| known.size).sum();
    expect_room(&http.settings, &folder, &wanted)?;
    cache::tag(cache)?;
    for (file, known) in &wanted {
        events(Event::File {
            file,
            size: known.size,
            total,
        });
        let blob = folder.blob(&known.sum);
        if is_whole(&blob, known.size) {
            events(Event::Received {
                file,
                bytes: known.size,
            });
        } else {
            let download = Download {
                url: listing.url(http, name, file),
                http,
                listing,
                folder: &folder,
                file,
                known,
                events,
                location: &Mutex::default(),
            };
            download.bring()?;
        }
        folder.link(&listing.commit, file, &known.sum)?;
    }
    // Last: who finds the revision finds all files of it.
    folder.note(&name.revision, &listing.commit)?;
    let snapshot = folder.snapshot(&listing.commit);
    Ok(Pulled {
        path: chosen.path(&snapshot),
        folder: snapshot,
        commit: listing.commit.clone(),
        files: chosen.files,
        bytes: total,
    })
}

/// What the cache has of a model, without a question to the hub; `None` where that is no model.
///
/// # Errors
/// When the cache cannot be read, or the choice is the user's.
pub fn cached(settings: &Settings, name: &RepoName) -> Result<Option<Pulled>, HubError> {
    let folder = RepoFolder::new(&settings.cache, &name.id);
    let Some(commit) = folder.commit(&name.revision) else {
        return Ok(None);
    };
    let snapshot = folder.snapshot(&commit);
    let there = cache::files_of(&snapshot)?;
    let chosen = match choose(&there, name.file.as_deref()) {
        Ok(chosen) => chosen,
        Err(ChoiceFlaw::NoWeights | ChoiceFlaw::NoFile { .. }) => return Ok(None),
        Err(choice) => {
            let name = name.to_string();
            return Err(HubError::Choice { name, choice });
        }
    };
    let sizes = chosen
        .files
        .iter()
        .map(|file| fs::metadata(file.in_folder(&snapshot)));
    Ok(Some(Pulled {
        bytes: sizes.flatten().map(|metadata| metadata.len()).sum(),
        path: chosen.path(&snapshot),
        folder: snapshot,
        commit,
        files: chosen.files,
    }))
}

/// Holds what is still to come against what the disk has room for.
fn expect_room(
    settings: &Settings,
    folder: &RepoFolder,
    wanted: &[(&FileName, Known)],
) -> Result<(), HubError> {
    let left = |known: &Known| {
        if is_whole(&folder.blob(&known.sum), known.size) {
            return 0;
        }
        let begun = fs::metadata(folder.incomplete(&known.sum)).map_or(0, |begun| begun.len());
        known.size.saturating_sub(begun)
    };
    let needed = wanted
        .iter()
        .fold(0_u64, |sum, (_, known)| sum.saturating_add(left(known)));
    if needed == 0 {
        return Ok(());
    }
    fs::create_dir_all(&settings.cache).map_err(HubError::io(&settings.cache))?;
    let disk = rustix::fs::statvfs(&settings.cache);
    let disk = disk.map_err(|error| HubError::io(&settings.cache)(error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    match needed <= free {
        true => Ok(()),
        false => Err(HubError::NoRoom {
            folder: settings.cache.clone(),
            needed,
            free,
        }),
    }
}
