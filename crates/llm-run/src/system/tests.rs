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

/// Memory of a GPU that nobody else uses and that is not free is this program's own context, which a plan counts.
#[test]
fn a_gpus_own_context_is_room_for_it() {
    let room = |total: u64, free: u64| {
        let gpu = Gpu {
            number: 0,
            name: "a card".to_owned(),
            uuid: "e0".to_owned(),
            compute_capability: (9, 0),
            cuda_version: "12.4".to_owned(),
            total: Bytes::new(total),
            free: Bytes::new(free),
            measured: None,
        };
        gpu_memory(&gpu)
    };
    let untouched = room(16 * GIB, 16 * GIB);
    assert_eq!(untouched.free, Bytes::new(16 * GIB));
    assert_eq!(untouched.margin, Bytes::new(GIB / 2));
    let said = "a card: 17.2 GB (16.0 GiB) of 17.2 GB (16.0 GiB) are free";
    assert_eq!(untouched.source, said);
    let with_context = room(16 * GIB, 16 * GIB - (400 << 20));
    assert_eq!(with_context.free, Bytes::new(16 * GIB));
    let used_by_others = room(16 * GIB, 2 * GIB);
    assert_eq!(used_by_others.free, Bytes::new(2 * GIB) + Bytes::mib(600));
    assert!(
        used_by_others
            .source
            .ends_with("629.1 MB (600.0 MiB) this program's own"),
        "{}",
        used_by_others.source
    );
}
