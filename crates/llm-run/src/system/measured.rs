//! What `llm-run doctor` found, kept in the user's cache folder.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Machine;

/// Bandwidths, and for which machine they hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// The program's version: another one may read in another way.
    version: String,
    measured_at: Timestamp,
    pub(crate) machine: Machine,
    pub(crate) bandwidth: Bandwidth,
}

/// Bytes a second, read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bandwidth {
    /// From RAM, all threads together.
    #[serde(rename = "ram_bytes_per_second")]
    pub(crate) ram: f64,
    /// From disk, one request after the other; nothing where it could not be measured.
    #[serde(rename = "disk_bytes_per_second")]
    pub(crate) disk: Option<f64>,
}

impl Measurement {
    /// What was measured just now.
    pub(crate) fn new(machine: Machine, bandwidth: Bandwidth) -> Self {
        let now = Timestamp::now();
        Measurement {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            // A fraction of a second says nothing here.
            measured_at: Timestamp::from_second(now.as_second()).unwrap_or(now),
            machine,
            bandwidth,
        }
    }

    /// What is kept in `folder`; nothing where there is no such file, or none that this version wrote on this machine.
    pub(crate) fn read(folder: &Path, machine: &Machine) -> Option<Self> {
        let text = fs::read_to_string(folder.join(FILE)).ok()?;
        let kept: Measurement = serde_json::from_str(&text).ok()?;
        let is_rate = |rate: f64| rate.is_finite() && rate > 0.0;
        let Bandwidth { ram, disk } = kept.bandwidth;
        (kept.version == env!("CARGO_PKG_VERSION")
            && kept.machine == *machine
            && is_rate(ram)
            && disk.is_none_or(is_rate))
        .then_some(kept)
    }

    /// The day of the measurement, UTC, as 2026-07-06.
    pub(crate) fn date(&self) -> String {
        self.measured_at.strftime("%Y-%m-%d").to_string()
    }
}

/// Keeps `json`, an object with the fields of a [`Measurement`], in `folder`, which is made where it is missing. A
/// reader finds the old file or the new one, whole.
///
/// Returns the file.
///
/// # Errors
/// What the system says where it cannot be written.
pub(crate) fn keep(folder: &Path, json: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(json.as_bytes())?;
    file.as_file().sync_all()?;
    let path = folder.join(FILE);
    file.persist(&path)?;
    Ok(path)
}

/// Where is kept what can be made again; nothing for a user without a home.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let caches = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    folder_in(caches, env::home_dir())
}

/// As the XDG base directory specification has it: a path that is not absolute counts as none.
fn folder_in(caches: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let caches = caches
        .filter(|path| path.is_absolute())
        .or_else(|| Some(home.filter(|path| path.is_absolute())?.join(".cache")))?;
    Some(caches.join("llm-run"))
}

const FILE: &str = "doctor.json";

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            processor: "Z80".to_owned(),
            n_online: 2,
            n_usable: 1,
            isa: "portable".to_owned(),
        }
    }

    fn measurement() -> Measurement {
        let bandwidth = Bandwidth {
            ram: 12.5e9,
            disk: Some(1.5e9),
        };
        Measurement::new(machine(), bandwidth)
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("not/there/before");
        assert_eq!(Measurement::read(&inner, &machine()), None);
        let measured = measurement();
        for _ in 0..2 {
            let path = keep(&inner, &serde_json::to_string(&measured).unwrap()).unwrap();
            assert_eq!(path, inner.join("doctor.json"));
        }
        assert_eq!(Measurement::read(&inner, &machine()), Some(measured));
        let n_files = fs::read_dir(&inner).unwrap().count();
        assert_eq!(n_files, 1, "temporary files were left");
    }

    #[test]
    fn what_does_not_hold_here_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let whole = serde_json::to_value(measurement()).unwrap();
        let changed = |path: &str, value: serde_json::Value| {
            let mut json = whole.clone();
            *json.pointer_mut(path).unwrap() = value;
            json.to_string()
        };
        let text = whole.to_string();
        let cases = [
            String::new(),
            text[..text.len() / 2].to_owned(),
            "[]".to_owned(),
            changed("/version", "0.0.0".into()),
            changed("/measured_at", "yesterday".into()),
            changed("/machine/processor", "6502".into()),
            changed("/machine/n_usable", 2.into()),
            changed("/machine/isa", "avx2".into()),
            changed("/bandwidth/ram_bytes_per_second", 0.into()),
            changed("/bandwidth/disk_bytes_per_second", (-1).into()),
        ];
        for case in cases {
            keep(folder.path(), &case).unwrap();
            assert_eq!(Measurement::read(folder.path(), &machine()), None, "{case}");
        }
        keep(
            folder.path(),
            &changed("/bandwidth/disk_bytes_per_second", ().into()),
        )
        .unwrap();
        let kept = Measurement::read(folder.path(), &machine()).unwrap();
        assert_eq!(kept.bandwidth.disk, None);
    }

    #[test]
    fn the_day_is_printed() {
        let mut measured = measurement();
        measured.measured_at = "2026-07-06T23:59:59Z".parse().unwrap();
        assert_eq!(measured.date(), "2026-07-06");
    }

    #[test]
    fn the_cache_folder_is_the_users() {
        let path = |text: &str| Some(PathBuf::from(text));
        let cases = [
            (path("/c"), path("/home/a"), path("/c/llm-run")),
            (None, path("/home/a"), path("/home/a/.cache/llm-run")),
            (path(""), path("/home/a"), path("/home/a/.cache/llm-run")),
            (path("c"), path("/home/a"), path("/home/a/.cache/llm-run")),
            (None, path(""), None),
            (None, None, None),
        ];
        for (caches, home, expected) in cases {
            assert_eq!(folder_in(caches, home), expected);
        }
    }
}
