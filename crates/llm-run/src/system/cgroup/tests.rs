use super::*;

/// A machine's files, in a folder of their own.
struct Root(tempfile::TempDir);

impl Root {
    fn new(groups: &str, mounts: &str) -> Self {
        let root = Root(tempfile::tempdir().unwrap());
        root.write("proc/self/cgroup", groups);
        root.write("proc/self/mountinfo", mounts);
        root
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes the files of a v2 group; `limit` as the kernel writes it.
    fn group(&self, folder: &str, limit: &str, usage: u64, page_cache: u64) {
        self.write(&format!("{folder}/memory.max"), &format!("{limit}\n"));
        self.write(&format!("{folder}/memory.high"), "max\n");
        self.write(&format!("{folder}/memory.current"), &format!("{usage}\n"));
        let active = page_cache / 4;
        let inactive = page_cache - active;
        let statistics = format!("anon 7\ninactive_file {inactive}\nactive_file {active}\n");
        self.write(&format!("{folder}/memory.stat"), &statistics);
    }

    fn limits(&self) -> Vec<Limit> {
        limits(self.0.path())
    }
}

fn expected(version: Version, folder: &str, [limit, usage, page_cache]: [u64; 3]) -> Limit {
    Limit {
        version,
        folder: PathBuf::from(folder),
        limit: Bytes::new(limit),
        usage: Bytes::new(usage),
        page_cache: Bytes::new(page_cache),
    }
}

const V2_MOUNTS: &str = "23 1 254:0 / / rw - ext4 /dev/vda rw\n\
    28 24 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
const V1_MOUNTS: &str = "34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n\
    35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

#[test]
fn v2_groups_count_from_the_innermost_out() {
    let root = Root::new("0::/user.slice/session/job\n", V2_MOUNTS);
    root.group("sys/fs/cgroup/user.slice/session/job", "max", 300, 100);
    root.group("sys/fs/cgroup/user.slice/session", "4000", 500, 100);
    root.group("sys/fs/cgroup/user.slice", "2000", 1900, 400);
    // The outermost group has statistics, but no limit.
    root.write("sys/fs/cgroup/memory.stat", "inactive_file 5\n");
    let found = root.limits();
    let session = expected(
        Version::V2,
        "/sys/fs/cgroup/user.slice/session",
        [4000, 500, 100],
    );
    let slice = expected(Version::V2, "/sys/fs/cgroup/user.slice", [2000, 1900, 400]);
    assert_eq!(found, [session, slice]);
    assert_eq!(found[0].free(), Bytes::new(3600));
    assert_eq!(found[1].free(), Bytes::new(500));
}

#[test]
fn what_slows_a_v2_group_limits_it_too() {
    let root = Root::new("0::/job\n", V2_MOUNTS);
    root.group("sys/fs/cgroup/job", "4000", 500, 100);
    root.write("sys/fs/cgroup/job/memory.high", "3000\n");
    assert_eq!(root.limits()[0].limit, Bytes::new(3000));
    root.write("sys/fs/cgroup/job/memory.max", "max\n");
    assert_eq!(root.limits()[0].limit, Bytes::new(3000));
}

#[test]
fn a_container_sees_its_own_v2_group_as_the_outermost() {
    let root = Root::new("0::/\n", V2_MOUNTS);
    root.group("sys/fs/cgroup", "1000", 100, 0);
    assert_eq!(
        root.limits(),
        [expected(Version::V2, "/sys/fs/cgroup", [1000, 100, 0])]
    );
}

#[test]
fn v1_groups_are_found_beside_v2_ones() {
    let root = Root::new(
        "9:name=systemd:/\n4:cpu,memory:/api/job\n3:cpuset:/\n0::/\n",
        V1_MOUNTS,
    );
    let write = |folder: &str, limit: u64, statistics: &str| {
        root.write(
            &format!("{folder}/memory.limit_in_bytes"),
            &format!("{limit}\n"),
        );
        root.write(&format!("{folder}/memory.usage_in_bytes"), "600\n");
        root.write(&format!("{folder}/memory.stat"), statistics);
    };
    // What the innermost group's own pages are does not matter: the usage counts those of groups inside it.
    let statistics =
        "inactive_file 1\nactive_file 2\ntotal_inactive_file 300\ntotal_active_file 50\n";
    write("sys/fs/cgroup/memory/api/job", 2000, statistics);
    write("sys/fs/cgroup/memory/api", 1500, "");
    write("sys/fs/cgroup/memory", 9_223_372_036_854_771_712, "");
    let found = root.limits();
    let folders =
        ["memory/api/job", "memory/api", "memory"].map(|group| format!("/sys/fs/cgroup/{group}"));
    let numbers = [
        [2000, 600, 350],
        [1500, 600, 0],
        [9_223_372_036_854_771_712, 600, 0],
    ];
    let groups = folders.iter().zip(numbers);
    let expected: Vec<_> = groups
        .map(|(folder, numbers)| expected(Version::V1, folder, numbers))
        .collect();
    assert_eq!(found, expected);
}

/// What a container cannot see of the groups around it still limits it.
#[test]
fn v1_groups_that_cannot_be_seen_are_told_by_the_statistics() {
    let mounts = "35 31 0:32 /docker/4f2a /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let root = Root::new("4:memory:/docker/4f2a\n", mounts);
    let write = |file: &str, text: &str| root.write(&format!("sys/fs/cgroup/memory/{file}"), text);
    write("memory.limit_in_bytes", "9223372036854771712\n");
    write("memory.usage_in_bytes", "400\n");
    write(
        "memory.stat",
        "total_inactive_file 100\nhierarchical_memory_limit 1000\n",
    );
    let folder = "/sys/fs/cgroup/memory";
    let own = expected(Version::V1, folder, [9_223_372_036_854_771_712, 400, 100]);
    let around = expected(Version::V1, folder, [1000, 400, 100]);
    assert_eq!(root.limits(), [own, around]);
    write("memory.limit_in_bytes", "1000\n");
    assert_eq!(root.limits().len(), 1, "its own limit is as tight");
}

#[test]
fn memory_and_swap_together_are_limited_in_v1_groups() {
    let root = Root::new("4:memory:/job\n", V1_MOUNTS);
    let write = |file: &str, n: u64| {
        root.write(
            &format!("sys/fs/cgroup/memory/job/{file}"),
            &format!("{n}\n"),
        )
    };
    write("memory.limit_in_bytes", 1000);
    write("memory.usage_in_bytes", 400);
    write("memory.memsw.limit_in_bytes", 1200);
    write("memory.memsw.usage_in_bytes", 400);
    let folder = "/sys/fs/cgroup/memory/job";
    let memory = expected(Version::V1, folder, [1000, 400, 0]);
    assert_eq!(root.limits(), std::slice::from_ref(&memory));
    // Others have filled the swap.
    write("memory.memsw.usage_in_bytes", 1100);
    let both = expected(Version::V1, folder, [1200, 1100, 0]);
    assert_eq!(root.limits(), [memory, both.clone()]);
    assert_eq!(both.free(), Bytes::new(100));
}

#[test]
fn a_group_that_is_named_from_outside_its_mount_is_the_mount() {
    let mounts = "35 31 0:32 /docker/4f2a /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    for group in ["/docker/4f2a", "/elsewhere"] {
        let root = Root::new(&format!("4:memory:{group}\n"), mounts);
        root.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n");
        root.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "400\n");
        let limit = expected(Version::V1, "/sys/fs/cgroup/memory", [1000, 400, 0]);
        assert_eq!(root.limits(), [limit], "{group}");
    }
}

#[test]
fn what_cannot_be_read_is_no_limit() {
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(limits(empty.path()), []);
    for (groups, mounts) in [
        ("", V2_MOUNTS),
        ("0::/job\n", ""),
        ("0:/job\n\n::\n4:memory\n", "- \n1 2 3 / - cgroup2\n"),
    ] {
        let root = Root::new(groups, mounts);
        root.group("sys/fs/cgroup/job", "4000", 500, 100);
        assert_eq!(root.limits(), [], "{groups} {mounts}");
    }
    let root = Root::new("0::/job\n", V2_MOUNTS);
    root.group("sys/fs/cgroup/job", "lots", 500, 100);
    assert_eq!(root.limits(), []);
}

#[test]
fn nothing_is_free_of_a_limit_that_is_exceeded() {
    let limit = expected(Version::V2, "/", [1000, 1300, 100]);
    assert_eq!(limit.free(), Bytes::ZERO);
    // The kernel's counters are not all read at the same time.
    let limit = expected(Version::V2, "/", [1000, 100, 200]);
    assert_eq!(limit.free(), Bytes::new(1000));
}

#[test]
fn a_limit_says_what_it_is() {
    let limit = expected(Version::V2, "/", [12_700_000_000, 0, 0]);
    assert_eq!(
        limit.to_string(),
        "cgroup v2 limit 12.7 GB (11.8 GiB) less usage"
    );
}
