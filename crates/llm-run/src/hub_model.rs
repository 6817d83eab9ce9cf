//! A model that was named as on a hub, and may be there still.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llm_checkpoint::{Elsewhere, RangeFile};
use llm_hub::{Looked, RangedFile};
use llm_tensor::Bytes;
use serde_json::{Value, json};

use crate::output::words::counted;

/// A model that was named as on a hub.
#[derive(Debug, Clone)]
pub(crate) struct HubModel {
    /// Owner and name.
    pub(crate) name: String,
    /// What is on the hub and not in the cache.
    pub(crate) looked: Option<Arc<Looked>>,
    /// Folder that downloads come to.
    pub(crate) cache: PathBuf,
}

/// A download that a model needs before it can be loaded.
#[derive(Debug, Clone)]
pub(crate) struct ToDownload {
    n_files: usize,
    /// Bytes of all files.
    bytes: Bytes,
    /// Bytes of those that are not in the cache.
    missing: Bytes,
    folder: PathBuf,
    /// Bytes that its disk has room for.
    free: Option<Bytes>,
}

impl HubModel {
    /// Where the bytes of its files are, if not in the cache.
    pub(crate) fn origin(this: Option<&HubModel>) -> Option<&dyn Elsewhere> {
        let this = this.filter(|this| this.looked.is_some());
        this.map(|this| this as &dyn Elsewhere)
    }

    /// What is to be downloaded, if anything is.
    pub(crate) fn to_download(&self) -> Option<ToDownload> {
        let looked = self.looked.as_ref()?;
        // The last one of a path that does not begin at the root is empty, and here.
        let here = |folder: &Path| match folder.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => folder.to_owned(),
        };
        let mut folders = self.cache.ancestors().map(here);
        let existing = folders.find(|folder| folder.exists());
        let disk = existing.and_then(|folder| rustix::fs::statvfs(&folder).ok());
        Some(ToDownload {
            n_files: looked.files().len(),
            bytes: looked.files().iter().map(|(_, n)| Bytes::new(*n)).sum(),
            missing: Bytes::new(looked.missing()),
            folder: self.cache.clone(),
            free: disk.map(|disk| Bytes::new(disk.f_bavail.saturating_mul(disk.f_frsize))),
        })
    }

    /// Files that weights would be read from: their folder, where they are still to come.
    pub(crate) fn read_from(&self) -> Option<Vec<PathBuf>> {
        self.looked.as_ref().map(|_| vec![self.cache.clone()])
    }
}

impl ToDownload {
    /// `to download: …`, a line.
    pub(crate) fn text(&self) -> String {
        let (files, bytes) = (counted(self.n_files, "file"), self.bytes);
        let missing = match self.missing == bytes {
            true => String::new(),
            false => format!(", {} of it not in the cache", self.missing),
        };
        let folder = self.folder.display();
        let free = match self.free {
            Some(free) if free < self.missing => format!("; {folder} has room for {free} only"),
            Some(free) => format!("; {folder} has room for {free}"),
            None => String::new(),
        };
        format!("to download: {bytes} in {files}{missing}{free}\n")
    }
}

impl ToDownload {
    /// The same as an object. Sizes are bytes.
    pub(crate) fn json(&self) -> Value {
        json!({
            "n_files": self.n_files,
            "bytes": self.bytes.get(),
            "missing": self.missing.get(),
            "folder": self.folder.display().to_string(),
            "free": self.free.map(Bytes::get),
        })
    }
}

impl Elsewhere for HubModel {
    fn file(&self, path: &Path) -> Option<Arc<dyn RangeFile>> {
        let file = self.looked.as_ref()?.file(path)?;
        Some(Arc::new(OnHub(Arc::clone(file))))
    }
}

/// A file on a hub.
struct OnHub(Arc<RangedFile>);

impl RangeFile for OnHub {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf).map_err(io::Error::other)
    }

    fn expect(&self, ranges: &[Range<u64>]) {
        self.0.expect(ranges);
    }
}
