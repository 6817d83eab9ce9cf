//! Limits that control groups put on this process's memory.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use llm_tensor::Bytes;
use serde::{Serialize, Serializer};

/// A group that this process is in, or one around that, and its limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Limit {
    #[serde(rename = "cgroup_version")]
    pub(crate) version: Version,
    /// The group's folder.
    pub(crate) folder: PathBuf,
    /// What all processes of the group may take together.
    #[serde(rename = "limit_bytes", serialize_with = "super::number")]
    pub(crate) limit: Bytes,
    /// What they take, page cache included.
    #[serde(rename = "usage_bytes", serialize_with = "super::number")]
    pub(crate) usage: Bytes,
    /// Page cache of files in the usage: the kernel takes it back before it refuses memory.
    #[serde(rename = "page_cache_bytes", serialize_with = "super::number")]
    pub(crate) page_cache: Bytes,
}

impl Limit {
    /// What the group can still take.
    pub(crate) fn free(&self) -> Bytes {
        let held = self.usage.saturating_sub(self.page_cache);
        self.limit.saturating_sub(held)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.version.number();
        write!(f, "cgroup v{number} limit {} less usage", self.limit)
    }
}

/// The two interfaces that the kernel has; a machine may have groups of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One hierarchy.
    V2,
}

impl Version {
    /// 1 or 2.
    pub(crate) fn number(self) -> u8 {
        match self {
            Version::V1 => 1,
            Version::V2 => 2,
        }
    }

    /// Files with a limit in bytes, the file with the usage, and the keys of `memory.stat` that are page cache of files,
    /// that of the groups inside included.
    fn files(self) -> (&'static [&'static str], &'static str, [&'static str; 2]) {
        match self {
            Version::V1 => (
                &["memory.limit_in_bytes"],
                "memory.usage_in_bytes",
                ["total_inactive_file", "total_active_file"],
            ),
            // Above `high` the group is not killed but slowed until it is of no use.
            Version::V2 => (
                &["memory.max", "memory.high"],
                "memory.current",
                ["inactive_file", "active_file"],
            ),
        }
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}

/// Limits of all groups that this process is in, the innermost of a hierarchy first; a group without one is left out.
/// `root` is where `proc` and `sys` are found.
pub(super) fn limits(root: &Path) -> Vec<Limit> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let mut limits = Vec::new();
    for (version, group) in groups.lines().filter_map(memory_group) {
        let mut mounts = mounts.lines().filter_map(memory_mount);
        let Some(mount) = mounts.find(|mount| mount.version == version) else {
            continue;
        };
        // Inside a container the group may be named from outside: then the mount is all that can be seen.
        let inner = group.strip_prefix(mount.root).unwrap_or(Path::new(""));
        let folders = inner.ancestors().map(|inner| mount.point.join(inner));
        limits.extend(folders.filter_map(|folder| limit(root, version, &folder)));
    }
    limits
}

/// The limit of the group whose folder this is.
fn limit(root: &Path, version: Version, folder: &Path) -> Option<Limit> {
    let read = |file: &str| {
        let inside = folder.strip_prefix("/").unwrap_or(folder);
        fs::read_to_string(root.join(inside).join(file)).ok()
    };
    let (limits, usage, page_cache) = version.files();
    let bytes = |file: &str| Some(Bytes::new(read(file)?.trim().parse().ok()?));
    let statistics = read("memory.stat").unwrap_or_default();
    Some(Limit {
        version,
        // Without the slash that joining nothing leaves at the end.
        folder: folder.components().collect(),
        // Where there is none, the file is missing or says `max`.
        limit: limits.iter().filter_map(|file| bytes(file)).min()?,
        usage: bytes(usage)?,
        page_cache: page_cache
            .iter()
            .map(|key| statistic(&statistics, key))
            .fold(Bytes::ZERO, |sum, bytes| {
                Bytes::new(sum.get().saturating_add(bytes))
            }),
    })
}

/// A line of `/proc/self/cgroup`: number, controllers, group; a hierarchy that does not control memory is none.
fn memory_group(line: &str) -> Option<(Version, &Path)> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
    let version = if controllers.split(',').any(|name| name == "memory") {
        Version::V1
    } else if number == "0" && controllers.is_empty() {
        Version::V2
    } else {
        return None;
    };
    Some((version, Path::new(group)))
}

/// Where the groups of a hierarchy are seen.
struct Mount<'a> {
    version: Version,
    /// The group that the mount shows; those around it cannot be seen.
    root: &'a Path,
    point: &'a Path,
}

/// A line of `/proc/self/mountinfo`: three numbers, root, mount point, options, then after a dash type, source and the
/// file system's options.
fn memory_mount(line: &str) -> Option<Mount<'_>> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (mount.next()?, mount.next()?);
    let mut file_system = file_system.split(' ');
    let (kind, options) = (file_system.next()?, file_system.nth(1)?);
    let version = match kind {
        "cgroup2" => Version::V2,
        "cgroup" if options.split(',').any(|name| name == "memory") => Version::V1,
        _ => return None,
    };
    Some(Mount {
        version,
        root: Path::new(root),
        point: Path::new(point),
    })
}

/// A number of `memory.stat`; zero where it is missing.
fn statistic(statistics: &str, key: &str) -> u64 {
    statistics
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
