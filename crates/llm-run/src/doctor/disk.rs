//! The offload folder's disk: how much is free, and how fast it is read.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use llm_tensor::{Bytes, PageBuf};
use rustix::fs::{Advice, OFlags, fadvise, fcntl_setfl, fstatfs};
use serde::Serialize;

use super::extent::Extent;
use crate::output::words::bandwidth;
use crate::system::{self, MeasuredDisk, Room, USUAL, Volume};

#[derive(Serialize)]
pub(super) struct Disk {
    folder: PathBuf,
    #[serde(flatten)]
    room: Room,
    #[serde(flatten)]
    outcome: DiskOutcome,
}

#[derive(Serialize)]
#[serde(untagged)]
enum DiskOutcome {
    Measured(Reading),
    /// And why.
    NotMeasured {
        not_measured: String,
    },
}

/// A temporary file that was read once, from beginning to end.
#[derive(Debug, Serialize)]
struct Reading {
    bytes_read: u64,
    seconds: f64,
    read_path: ReadPath,
}

/// Path of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum ReadPath {
    /// From the device to the program (`O_DIRECT`).
    Direct,
    /// Through the page cache, which the kernel was asked to empty of the file before.
    PageCache,
    /// The file system has no disk.
    Memory,
}

impl Disk {
    /// Measures in `folder`, which is made where it is missing.
    pub(super) fn measure(folder: PathBuf, extent: Extent) -> Self {
        let room = system::disk(&folder);
        let size = extent.disk.min(room.bytes);
        let reading = fs::create_dir_all(&folder)
            .and_then(|()| Reading::measure(&folder, size, extent.disk_time));
        let outcome = match reading {
            Ok(reading) => DiskOutcome::Measured(reading),
            Err(error) => DiskOutcome::NotMeasured {
                not_measured: error.to_string(),
            },
        };
        Disk {
            folder,
            room,
            outcome,
        }
    }

    /// Bytes a second, and of which disk.
    pub(super) fn bandwidth(&self) -> MeasuredDisk {
        match &self.outcome {
            DiskOutcome::Measured(reading) => MeasuredDisk {
                rate: Some(reading.bandwidth()),
                folder: std::path::absolute(&self.folder).ok(),
                volume: Volume::of(&self.folder),
            },
            DiskOutcome::NotMeasured { .. } => MeasuredDisk::default(),
        }
    }

    pub(super) fn suggestions(&self) -> Option<String> {
        let folder = self.folder.display();
        match &self.outcome {
            DiskOutcome::NotMeasured { .. } => Some(format!(
                "name a folder with room for the disk to be measured: {folder} has none, --offload-folder DIR"
            )),
            DiskOutcome::Measured(reading) if reading.read_path == ReadPath::Memory => {
                Some(format!(
                    "name a folder on a disk: what is offloaded to {folder} stays in RAM, --offload-folder DIR"
                ))
            }
            DiskOutcome::Measured(_) => None,
        }
    }

    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let bandwidth = match &self.outcome {
            DiskOutcome::Measured(reading) => {
                format!("{reading}, measured in {}", self.folder.display())
            }
            DiskOutcome::NotMeasured { not_measured } => {
                let (folder, assumed) = (self.folder.display(), bandwidth(USUAL.disk));
                format!("not measured in {folder}: {not_measured}; plans assume {assumed}")
            }
        };
        vec![
            (
                "disk for offloading",
                format!("{}: {}", self.room.bytes, self.room),
            ),
            ("disk bandwidth", bandwidth),
        ]
    }
}

impl Reading {
    /// Writes a file of `size` in `folder` and reads it. Both end early when they take longer than `time`. The file has
    /// no name: whatever happens, nothing is left of it.
    fn measure(folder: &Path, size: Bytes, time: Duration) -> io::Result<Self> {
        let n_blocks = size.get() / BLOCK as u64;
        if n_blocks == 0 {
            return Err(io::Error::other("too little is free"));
        }
        let file = tempfile::tempfile_in(folder)?;
        // What streamed weights are read into, too: where the bytes go counts as much as where they come from.
        let mut block = PageBuf::zeroed(BLOCK)?;
        let read_path = open_path(&file, &block)?;
        let offsets = (0..n_blocks).map(|i| i * BLOCK as u64);

        let begin = Instant::now();
        let mut n_written = 0;
        let mut state = 1;
        for offset in offsets.clone() {
            fill(&mut block, &mut state);
            file.write_all_at(&block, offset)?;
            file.sync_data()?;
            n_written += 1;
            if begin.elapsed() > time {
                break;
            }
        }
        fadvise(&file, 0, None, Advice::DontNeed)?;

        let begin = Instant::now();
        let mut bytes_read = 0;
        for offset in offsets.take(n_written) {
            file.read_exact_at(&mut block, offset)?;
            bytes_read += BLOCK as u64;
            if begin.elapsed() > time {
                break;
            }
        }
        Ok(Reading {
            bytes_read,
            seconds: begin.elapsed().as_secs_f64(),
            read_path,
        })
    }

    fn bandwidth(&self) -> f64 {
        self.bytes_read as f64 / self.seconds.max(1e-9)
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self.read_path {
            ReadPath::Direct => "read directly (O_DIRECT)",
            ReadPath::PageCache => "read through the page cache, emptied before",
            ReadPath::Memory => "read from a file system in memory: no disk",
        };
        let (rate, bytes) = (bandwidth(self.bandwidth()), Bytes::new(self.bytes_read));
        write!(f, "{rate}, {bytes} {path}")
    }
}

/// Leaves the file open past the page cache where its file system takes that, which some only say when `block` is
/// written.
fn open_path(file: &File, block: &[u8]) -> io::Result<ReadPath> {
    if [TMPFS, RAMFS].contains(&fstatfs(file)?.f_type) {
        return Ok(ReadPath::Memory);
    }
    let is_direct =
        fcntl_setfl(file, OFlags::DIRECT).is_ok() && file.write_all_at(block, 0).is_ok();
    if !is_direct {
        fcntl_setfl(file, OFlags::empty())?;
        return Ok(ReadPath::PageCache);
    }
    Ok(ReadPath::Direct)
}

/// Bytes that no file system compresses or finds twice (xorshift).
fn fill(block: &mut [u8], state: &mut u64) {
    for word in block.chunks_exact_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

/// Bytes of a request: enough to keep a device busy, or several that are one.
const BLOCK: usize = 8 << 20;
/// Types of the file systems that live in RAM.
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(folder: &Path, size: Bytes) -> io::Result<Reading> {
        // As slow as a disk may be.
        Reading::measure(folder, size, Duration::from_secs(600))
    }

    #[test]
    fn a_file_is_read_whole_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let reading = measure(folder.path(), Bytes::mib(20)).unwrap();
        assert_eq!(reading.bytes_read, 2 * BLOCK as u64);
        assert!(reading.bandwidth() > 0.0, "{reading:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_slow_disk_is_read_as_far_as_time_allows() {
        let folder = tempfile::tempdir().unwrap();
        let reading = Reading::measure(folder.path(), Bytes::mib(64), Duration::ZERO).unwrap();
        assert_eq!(reading.bytes_read, BLOCK as u64);
    }

    #[test]
    fn memory_is_no_disk() {
        let shared_memory = Path::new("/dev/shm");
        match measure(shared_memory, Bytes::mib(8)) {
            Ok(reading) => assert_eq!(reading.read_path, ReadPath::Memory),
            Err(error) => println!("skipped: {}: {error}", shared_memory.display()),
        }
    }

    #[test]
    fn says_why_nothing_was_measured() {
        let folder = tempfile::tempdir().unwrap();
        let error = measure(folder.path(), Bytes::mib(1)).unwrap_err();
        assert_eq!(error.to_string(), "too little is free");
        let error = measure(&folder.path().join("missing"), Bytes::mib(8)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn no_block_is_like_another() {
        let (mut a, mut b, mut state) = ([0; 64], [0; 64], 1);
        fill(&mut a, &mut state);
        fill(&mut b, &mut state);
        assert_ne!(a, b);
        assert!(a.chunks(8).zip(a.chunks(8).skip(1)).all(|(x, y)| x != y));
    }
}
