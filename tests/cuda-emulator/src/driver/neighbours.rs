//! Processes on the same machine: what each takes of a device's memory is less for the others, contexts among it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Bytes that this process and others take, told in a folder that they share. Of a machine without one each process sees its own
/// memory alone, and contexts take nothing.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    folder: Option<PathBuf>,
    /// Bytes of a context.
    context: u64,
    /// Devices on which this process has one.
    devices: BTreeSet<usize>,
}

impl Neighbours {
    pub(crate) fn new(folder: Option<PathBuf>, context: u64) -> Self {
        Neighbours {
            folder,
            context,
            devices: BTreeSet::new(),
        }
    }

    /// This process has a context on the device from now on.
    pub(crate) fn retain(&mut self, device: usize) {
        self.devices.insert(device);
    }

    /// Tells what this process has allocated on a device.
    pub(crate) fn tell(&self, device: usize, allocated: u64) {
        if let Some(folder) = &self.folder {
            let file = folder.join(format!("{}-{device}", std::process::id()));
            let bytes = allocated + self.own(device);
            // A test sees what is missing.
            let _ = std::fs::write(file, bytes.to_string());
        }
    }

    /// Bytes that contexts take of a device, and all that other processes have.
    pub(crate) fn taken(&self, device: usize) -> u64 {
        let others = self.folder.iter().flat_map(|folder| others(folder, device));
        self.own(device) + others.sum::<u64>()
    }

    fn own(&self, device: usize) -> u64 {
        match self.devices.contains(&device) {
            true => self.context,
            false => 0,
        }
    }
}

/// Bytes of each other process that is there still.
fn others(folder: &Path, device: usize) -> Vec<u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let of_other = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let (process, of) = name.split_once('-')?;
        let is_other =
            process != std::process::id().to_string() && Path::new("/proc").join(process).exists();
        if !is_other || of != device.to_string() {
            return None;
        }
        std::fs::read_to_string(entry.path()).ok()?.parse().ok()
    });
    of_other.collect()
}
