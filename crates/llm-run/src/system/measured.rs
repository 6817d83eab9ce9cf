//! Measurements of `llm-run doctor`, kept in the user's cache folder.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bandwidth {
    /// From RAM, all threads together.
    #[serde(rename = "ram_bytes_per_second")]
    pub(crate) ram: f64,
    /// Multiplications a second in products of many rows, all threads together.
    #[serde(rename = "cpu_products_per_second")]
    pub(crate) cpu_products: f64,
    /// From disk; nothing where it could not be measured.
    #[serde(flatten)]
    pub(crate) disk: MeasuredDisk,
    /// Of GPUs that could be measured.
    #[serde(default)]
    pub(crate) gpus: Vec<MeasuredGpu>,
    /// Of ways from one GPU to another.
    #[serde(default)]
    pub(crate) gpu_links: Vec<MeasuredLink>,
}

/// The way from one GPU to another: bytes a second, and what handing rows over takes beside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MeasuredLink {
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// Numbers that no other GPUs have.
    pub(crate) uuids: [String; 2],
    #[serde(rename = "bytes_per_second")]
    pub(crate) rate: f64,
    #[serde(rename = "hand_over_seconds")]
    pub(crate) hand_over: f64,
    /// False where copies go through the host's memory.
    pub(crate) is_straight: bool,
}

/// A GPU and its driver: bytes a second of its memory and of the way there and back, and what it takes beside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MeasuredGpu {
    pub(crate) number: u32,
    pub(crate) name: String,
    /// Number that no other GPU has.
    #[serde(default)]
    pub(crate) uuid: String,
    /// Version of CUDA that its driver is for.
    #[serde(default)]
    pub(crate) cuda_version: String,
    /// Inside its memory, what is read and what is written counted both.
    #[serde(rename = "copy_bytes_per_second")]
    pub(crate) copy: f64,
    /// From pinned memory of the host, which the GPU reads by itself.
    #[serde(rename = "to_gpu_pinned_bytes_per_second")]
    pub(crate) to_gpu: f64,
    #[serde(rename = "to_gpu_pageable_bytes_per_second")]
    pub(crate) to_gpu_pageable: f64,
    #[serde(rename = "from_gpu_pinned_bytes_per_second")]
    pub(crate) from_gpu: f64,
    #[serde(rename = "from_gpu_pageable_bytes_per_second")]
    pub(crate) from_gpu_pageable: f64,
    /// Seconds of a kernel that is started by itself.
    #[serde(rename = "launch_seconds")]
    pub(crate) launch: f64,
    /// Seconds of a kernel of a graph.
    #[serde(rename = "launch_in_graph_seconds")]
    pub(crate) launch_in_graph: f64,
    /// Seconds of handing a row over to the host, or of taking it from there.
    #[serde(rename = "hand_over_seconds")]
    pub(crate) hand_over: f64,
    /// Bytes that a process takes of it with all kernels loaded; nothing where the driver does not tell.
    pub(crate) context_bytes: Option<u64>,
    /// Bytes that cuBLAS takes of it beside; nothing where it was not there, or the driver does not tell.
    #[serde(default)]
    pub(crate) cublas_bytes: Option<u64>,
}

impl MeasuredGpu {
    fn is_sane(&self) -> bool {
        let rates = [
            self.copy,
            self.to_gpu,
            self.from_gpu,
            self.launch,
            self.launch_in_graph,
            self.hand_over,
        ];
        rates.into_iter().all(is_positive)
    }
}

/// True of a rate or a time.
fn is_positive(x: f64) -> bool {
    x.is_finite() && x > 0.0
}

/// Bytes a second from a disk, one request after the other, and from which: others are faster, or slower.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct MeasuredDisk {
    #[serde(rename = "disk_bytes_per_second")]
    pub(crate) rate: Option<f64>,
    /// Folder of the file that was read.
    #[serde(rename = "disk_folder", default)]
    pub(crate) folder: Option<PathBuf>,
    #[serde(rename = "disk_volume", default)]
    pub(crate) volume: Option<Volume>,
}

/// Identity of a file system among those of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Volume {
    /// The number of its device, which may be another one after a restart.
    device: u64,
    /// Its own identity; zero where it has none.
    file_system: u64,
}

impl Volume {
    /// Volume of a file or folder, or of where it would be made; nothing where the system does not tell.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let path = std::path::absolute(path).ok()?;
        let existing = path.ancestors().find(|path| path.exists())?;
        Some(Volume {
            device: fs::metadata(existing).ok()?.dev(),
            file_system: rustix::fs::statvfs(existing).ok()?.f_fsid,
        })
    }

    /// True where both are the same as far as can be told.
    pub(crate) fn is_same(self, other: Volume) -> bool {
        match self.file_system {
            0 => self == other,
            own => own == other.file_system,
        }
    }
}

/// Measurement that is kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kept {
    /// One that this version made on this machine.
    Here(Box<Measurement>),
    /// One that was made elsewhere, with other processors, or by another version, on this day.
    Elsewhere(String),
    /// None that can be read.
    Nothing,
}

impl Kept {
    /// GPUs that were measured here.
    pub(crate) fn gpus(&self) -> &[MeasuredGpu] {
        match self {
            Kept::Here(measurement) => &measurement.bandwidth.gpus,
            Kept::Elsewhere(_) | Kept::Nothing => &[],
        }
    }
}

impl Measurement {
    /// Measurement of this moment.
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

    /// Measurement that is kept of this machine.
    pub(crate) fn kept() -> Kept {
        let kept = cache_folder().map(|folder| Measurement::read(&folder, &Machine::this()));
        kept.unwrap_or(Kept::Nothing)
    }

    /// Measurement that is kept in `folder`.
    pub(crate) fn read(folder: &Path, machine: &Machine) -> Kept {
        let text = fs::read_to_string(folder.join(FILE)).ok();
        let kept: Option<Measurement> = text.and_then(|text| serde_json::from_str(&text).ok());
        let is_sane = |kept: &Measurement| {
            let Bandwidth {
                ram,
                cpu_products,
                disk,
                gpus,
                gpu_links,
            } = &kept.bandwidth;
            is_positive(*ram)
                && is_positive(*cpu_products)
                && disk.rate.is_none_or(is_positive)
                && gpus.iter().all(MeasuredGpu::is_sane)
                && gpu_links
                    .iter()
                    .all(|link| is_positive(link.rate) && is_positive(link.hand_over))
        };
        match kept.filter(is_sane) {
            None => Kept::Nothing,
            Some(kept) if kept.version == env!("CARGO_PKG_VERSION") && kept.machine == *machine => {
                Kept::Here(Box::new(kept))
            }
            Some(kept) => Kept::Elsewhere(kept.date()),
        }
    }

    /// Days since then.
    pub(crate) fn days_ago(&self) -> i64 {
        let seconds = Timestamp::now().as_second() - self.measured_at.as_second();
        seconds / (24 * 60 * 60)
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
/// When the file cannot be written.
pub(crate) fn keep(folder: &Path, json: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(json.as_bytes())?;
    file.as_file().sync_all()?;
    let path = folder.join(FILE);
    file.persist(&path)?;
    Ok(path)
}

/// Folder for what can be made again; none for a user without a home.
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
            identity: "0123456789abcdef".to_owned(),
        }
    }

    fn measurement() -> Measurement {
        let bandwidth = Bandwidth {
            ram: 12.5e9,
            cpu_products: 2e11,
            disk: MeasuredDisk {
                rate: Some(1.5e9),
                folder: Some(PathBuf::from("/offload")),
                volume: Some(Volume {
                    device: 1,
                    file_system: 2,
                }),
            },
            gpus: vec![MeasuredGpu {
                number: 0,
                name: "a card".to_owned(),
                copy: 3e12,
                to_gpu: 5e10,
                to_gpu_pageable: 1e10,
                from_gpu: 5e10,
                from_gpu_pageable: 1e10,
                uuid: "e0".to_owned(),
                cuda_version: "12.4".to_owned(),
                launch: 4e-6,
                launch_in_graph: 2e-6,
                hand_over: 2e-5,
                context_bytes: Some(400_000_000),
                cublas_bytes: None,
            }],
            gpu_links: vec![MeasuredLink {
                from: 0,
                to: 1,
                uuids: ["e0", "e1"].map(str::to_owned),
                rate: 2e11,
                hand_over: 1e-5,
                is_straight: true,
            }],
        };
        Measurement::new(machine(), bandwidth)
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("not/there/before");
        assert_eq!(Measurement::read(&inner, &machine()), Kept::Nothing);
        let measured = measurement();
        for _ in 0..2 {
            let path = keep(&inner, &serde_json::to_string(&measured).unwrap()).unwrap();
            assert_eq!(path, inner.join("doctor.json"));
        }
        assert_eq!(
            Measurement::read(&inner, &machine()),
            Kept::Here(Box::new(measured))
        );
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
        let nothing = [
            String::new(),
            text[..text.len() / 2].to_owned(),
            "[]".to_owned(),
            changed("/measured_at", "yesterday".into()),
            changed("/bandwidth/ram_bytes_per_second", 0.into()),
            changed("/bandwidth/disk_bytes_per_second", (-1).into()),
            changed("/bandwidth/gpus/0/copy_bytes_per_second", 0.into()),
            changed("/bandwidth/gpus/0/hand_over_seconds", (-1).into()),
            changed("/bandwidth/gpu_links/0/bytes_per_second", 0.into()),
            changed("/bandwidth/cpu_products_per_second", 0.into()),
        ];
        for case in nothing {
            keep(folder.path(), &case).unwrap();
            let found = Measurement::read(folder.path(), &machine());
            assert_eq!(found, Kept::Nothing, "{case}");
        }
        let elsewhere = [
            changed("/version", "0.0.0".into()),
            changed("/machine/processor", "6502".into()),
            changed("/machine/n_usable", 2.into()),
            changed("/machine/isa", "avx2".into()),
            changed("/machine/identity", "".into()),
        ];
        for case in elsewhere {
            keep(folder.path(), &case).unwrap();
            let found = Measurement::read(folder.path(), &machine());
            assert_eq!(found, Kept::Elsewhere(measurement().date()), "{case}");
        }
        keep(
            folder.path(),
            &changed("/bandwidth/disk_bytes_per_second", ().into()),
        )
        .unwrap();
        let Kept::Here(kept) = Measurement::read(folder.path(), &machine()) else {
            panic!("it is this machine's");
        };
        assert_eq!(kept.bandwidth.disk.rate, None);
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
    #[test]
    fn a_volume_is_told_by_its_identity_where_it_has_one() {
        let volume = |device, file_system| Volume {
            device,
            file_system,
        };
        assert!(volume(1, 2).is_same(volume(3, 2)), "after a restart");
        assert!(!volume(1, 2).is_same(volume(1, 3)));
        assert!(volume(1, 0).is_same(volume(1, 0)));
        assert!(!volume(1, 0).is_same(volume(2, 0)));
        let folder = tempfile::tempdir().unwrap();
        let found = Volume::of(folder.path()).unwrap();
        assert_eq!(Volume::of(&folder.path().join("not/there")), Some(found));
    }
}
