use std::path::PathBuf;

use super::cgroup::Version;
use super::*;

const GIB: u64 = 1 << 30;

fn limit(limit: u64, usage: u64) -> Limit {
    Limit {
        version: Version::V2,
        folder: PathBuf::from("/sys/fs/cgroup/job"),
        limit: Bytes::new(limit),
        usage: Bytes::new(usage),
        page_cache: Bytes::ZERO,
    }
}

#[test]
fn the_least_of_what_is_available_and_the_limits_is_free() {
    let memory = Some(MemInfo {
        total: Bytes::new(64 * GIB),
        available: Bytes::new(32 * GIB),
    });
    let (tight, wide) = (limit(20 * GIB, 10 * GIB), limit(63 * GIB, GIB));
    let address_space = ProcessLimit {
        name: "RLIMIT_AS",
        limit: Bytes::new(6 * GIB),
        usage: Bytes::new(GIB),
    };
    let cases = [
        (memory, vec![], vec![], 32, "MemAvailable"),
        (memory, vec![wide.clone()], vec![], 32, "MemAvailable"),
        (
            memory,
            vec![wide.clone(), tight.clone()],
            vec![],
            10,
            "cgroup v2 limit 21.5 GB (20.0 GiB) less usage",
        ),
        (
            memory,
            vec![wide.clone(), tight.clone()],
            vec![address_space],
            5,
            "RLIMIT_AS (ulimit -v) 6.4 GB (6.0 GiB) less usage",
        ),
        (
            None,
            vec![tight, wide],
            vec![],
            10,
            "cgroup v2 limit 21.5 GB (20.0 GiB) less usage",
        ),
        (
            None,
            vec![],
            vec![],
            0,
            "/proc/meminfo does not say; give --max-memory cpu=SIZE",
        ),
    ];
    for (memory, groups, process, free, source) in cases {
        let room = ram_of(memory, &RamLimits { groups, process });
        assert_eq!(
            (room.free.get() / GIB, room.source.as_str()),
            (free, source)
        );
        assert_eq!(room.bytes + room.margin, room.free);
    }
}

#[test]
fn the_margin_is_a_share_within_bounds() {
    let mib = |n: u64| Bytes::mib(n);
    let cases = [
        (mib(100), mib(64), mib(36)),
        (mib(6400), mib(200), mib(6200)),
        (mib(1 << 20), mib(1024), mib((1 << 20) - 1024)),
        (mib(10), mib(64), Bytes::ZERO),
    ];
    for (free, margin, bytes) in cases {
        let room = Room::new(free, String::new());
        assert_eq!((room.margin, room.bytes), (margin, bytes), "{free}");
    }
}

#[test]
fn a_folder_that_is_still_to_be_made_lies_where_it_will_be() {
    let folder = tempfile::tempdir().unwrap();
    let room = disk(&folder.path().join("not/there"));
    assert!(room.free > Bytes::ZERO, "{room:?}");
    assert!(room.source.ends_with("not/there"), "{room:?}");
    assert!(disk(Path::new("not/there")).free > Bytes::ZERO);
}
