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
    /// Bytes that all processes of the group may take together.
    #[serde(rename = "limit_bytes", serialize_with = "super::number")]
    pub(crate) limit: Bytes,
    /// Bytes that they take, page cache included.
    #[serde(rename = "usage_bytes", serialize_with = "super::number")]
    pub(crate) usage: Bytes,
    /// Page cache of files in the usage: the kernel takes it back before it refuses memory.
    #[serde(rename = "page_cache_bytes", serialize_with = "super::number")]
    pub(crate) page_cache: Bytes,
}

impl Limit {
    /// Bytes that the group can still take.
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
        let folders: Vec<PathBuf> = folders.collect();
        limits.extend(folders.iter().filter_map(|f| limit(root, version, f)));
        if let (Version::V1, Some(outermost)) = (version, folders.last()) {
            limits.extend(limit_around(root, outermost));
        }
        if version == Version::V1 {
            limits.extend(folders.iter().filter_map(|f| limit_with_swap(root, f)));
        }
    }
    limits
}

/// The limit of v1 groups around the outermost that can be seen, as its statistics have it, where that is the tighter
/// one: what others of those groups take cannot be seen.
fn limit_around(root: &Path, outermost: &Path) -> Option<Limit> {
    let statistics = read(root, outermost, "memory.stat")?;
    let around = match statistic(&statistics, "hierarchical_memory_limit") {
        0 => return None,
        around => Bytes::new(around),
    };
    let own = bytes(root, outermost, "memory.limit_in_bytes");
    let is_tighter = own.is_none_or(|own| around < own);
    is_tighter.then(|| Limit {
        version: Version::V1,
        folder: outermost.components().collect(),
        limit: around,
        usage: bytes(root, outermost, "memory.usage_in_bytes").unwrap_or(Bytes::ZERO),
        page_cache: page_cache(Version::V1, &statistics),
    })
}

/// The limit of a v1 group for memory and swap together, where less is left of it than of the one for memory alone.
fn limit_with_swap(root: &Path, folder: &Path) -> Option<Limit> {
    let statistics = read(root, folder, "memory.stat").unwrap_or_default();
    let both = Limit {
        version: Version::V1,
        folder: folder.components().collect(),
        limit: bytes(root, folder, "memory.memsw.limit_in_bytes")?,
        usage: bytes(root, folder, "memory.memsw.usage_in_bytes")?,
        page_cache: page_cache(Version::V1, &statistics),
    };
    let memory = limit(root, Version::V1, folder);
    let is_tighter = memory.is_none_or(|memory| both.free() < memory.free());
    is_tighter.then_some(both)
}

/// The limit of the group whose folder this is.
fn limit(root: &Path, version: Version, folder: &Path) -> Option<Limit> {
    let (limits, usage, _) = version.files();
    let statistics = read(root, folder, "memory.stat").unwrap_or_default();
    Some(Limit {
        version,
        // Without the slash that joining nothing leaves at the end.
        folder: folder.components().collect(),
        // Where there is none, the file is missing or says `max`.
        limit: limits
            .iter()
            .filter_map(|file| bytes(root, folder, file))
            .min()?,
        usage: bytes(root, folder, usage)?,
        page_cache: page_cache(version, &statistics),
    })
}

/// A file of a group.
fn read(root: &Path, folder: &Path, file: &str) -> Option<String> {
    let inside = folder.strip_prefix("/").unwrap_or(folder);
    fs::read_to_string(root.join(inside).join(file)).ok()
}

/// A file of a group that holds a number.
fn bytes(root: &Path, folder: &Path, file: &str) -> Option<Bytes> {
    let text = read(root, folder, file)?;
    Some(Bytes::new(text.trim().parse().ok()?))
}

/// Page cache of files, as a group's statistics have it.
fn page_cache(version: Version, statistics: &str) -> Bytes {
    let (_, _, keys) = version.files();
    let numbers = keys.iter().map(|key| statistic(statistics, key));
    Bytes::new(numbers.fold(0, u64::saturating_add))
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

/// Mount at which the groups of a hierarchy are seen.
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
