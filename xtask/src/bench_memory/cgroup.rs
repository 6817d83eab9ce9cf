//! A control group around a single run: the kernel ends what takes more memory than the group may.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, ensure};
use llm_tensor::Bytes;

/// A memory control group, until it is dropped.
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes a group whose processes may take `limit` together, page cache included.
    ///
    /// # Errors
    /// Where the machine has no such groups, or leaves making them to others.
    pub(super) fn new(limit: Bytes) -> Result<Self> {
        let (parent, limit_file, swap_file) = parent()?;
        let folder = parent.join(format!("llm-run-bench-memory-{}", process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let group = Cgroup(folder);
        let limit_file = group.0.join(limit_file);
        // A group without the memory controller lacks the file, and the kernel lets nobody make it.
        fs::write(&limit_file, limit.get().to_string())
            .with_context(|| format!("cannot write {}", limit_file.display()))?;
        // What is swapped out would not count. The file is missing where the kernel does not swap.
        let _ = fs::write(group.0.join(swap_file), "0");
        Ok(group)
    }

    /// Runs a program in the group from its first instruction on.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        command.arg(self.0.join("cgroup.procs")).arg(program);
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It is empty once its only process has ended; a folder that stays does no harm.
        let _ = fs::remove_dir(&self.0);
    }
}

/// The group in which one can be made, and the names of two files of that: its limit, and how much of it is swapped out.
/// Of the first interface it is this process's own, of the second the root, as a group that has processes lends its
/// children no controllers.
fn parent() -> Result<(PathBuf, &'static str, &'static str)> {
    let root = Path::new("/sys/fs/cgroup");
    let groups = fs::read_to_string("/proc/self/cgroup").context("there are no control groups")?;
    let own = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let is_memory = fields.next()?.split(',').any(|name| name == "memory");
        is_memory.then(|| fields.next())?
    });
    if let Some(own) = own {
        let mount = root.join("memory");
        let inner = mount.join(own.trim_start_matches('/'));
        // Inside a container the group may be named from outside.
        let folder = if inner.is_dir() { inner } else { mount };
        return Ok((folder, "memory.limit_in_bytes", "memory.swappiness"));
    }
    let controllers = root.join("cgroup.subtree_control");
    let lent = fs::read_to_string(&controllers)
        .with_context(|| format!("cannot read {}", controllers.display()))?;
    ensure!(
        lent.split_whitespace().any(|name| name == "memory"),
        "{} does not have `memory`",
        controllers.display()
    );
    Ok((root.to_owned(), "memory.max", "memory.swap.max"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_in_its_group_while_that_is_there() {
        let group = match Cgroup::new(Bytes::mib(64)) {
            Ok(group) => group,
            Err(error) => return println!("skipped: {error:#}"),
        };
        let folder = group.0.clone();
        let mut command = group.command(Path::new("cat"));
        let output = command.arg("/proc/self/cgroup").output().unwrap();
        let groups = String::from_utf8(output.stdout).unwrap();
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(groups.lines().any(|line| line.ends_with(name)), "{groups}");
        drop(group);
        assert!(!folder.exists(), "{} is left", folder.display());
    }
}
