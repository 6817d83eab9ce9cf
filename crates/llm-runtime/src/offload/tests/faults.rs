//! Killed and concurrent runs, files that are not what they should be, disks that are full.

use std::fs::{File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::sync::Barrier;
use std::{env, thread};

use super::*;

/// A complete entry of [`Kept::llama_bf16`]: its folder, and its files.
fn complete(root: &Path) -> (PathBuf, BTreeMap<PathBuf, Vec<u8>>) {
    let (prepared, _) = Kept::llama_bf16().prepared(root);
    let path = prepared.files[&Unit::Head].checkpoint.path();
    (path.parent().unwrap().to_owned(), weights(root))
}

fn file_of(entry: &Path, stem: &str) -> PathBuf {
    let mut files = fs::read_dir(entry)
        .unwrap()
        .map(|file| file.unwrap().path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        names::parse_file_name(name).is_some_and(|(unit, _)| names::stem(unit) == stem)
    };
    files.find(is_it).unwrap()
}

#[test]
fn what_is_not_whole_is_written_anew() {
    type Fault = fn(&Path, &Path);
    let faults: [(&str, Fault); 10] = [
        ("deleted", |file, _| fs::remove_file(file).unwrap()),
        ("truncated", |file, _| {
            let file = File::options().write(true).open(file).unwrap();
            let len = file.metadata().unwrap().len();
            file.set_len(len - 1).unwrap();
        }),
        ("longer", |file, _| {
            let bytes = [fs::read(file).unwrap(), vec![0]].concat();
            fs::write(file, bytes).unwrap();
        }),
        ("empty", |file, _| fs::write(file, "").unwrap()),
        ("garbage", |file, _| fs::write(file, [0xa5; 999]).unwrap()),
        ("another unit's", |file, entry| {
            fs::copy(file_of(entry, "decoder-1"), file).unwrap();
        }),
        ("another checkpoint", |file, _| {
            fs::copy(fixture("models/llama/model.safetensors"), file).unwrap();
        }),
        ("another key's", |file, _| {
            let mut bytes = fs::read(file).unwrap();
            let at = bytes.windows(5).position(|w| w == b"\"key\"").unwrap();
            bytes[at + 7] ^= 1;
            fs::write(file, bytes).unwrap();
        }),
        ("there twice", |file, _| {
            let twin = file.with_file_name("decoder-0-0123456789abcdef.safetensors");
            fs::copy(file, twin).unwrap();
        }),
        ("a link", |file, _| {
            let elsewhere = file.with_file_name("elsewhere");
            fs::rename(file, &elsewhere).unwrap();
            symlink(elsewhere, file).unwrap();
        }),
    ];
    for (what, fault) in faults {
        let root = tempfile::tempdir().unwrap();
        let (entry, before) = complete(root.path());
        let file = file_of(&entry, "decoder-0");
        let bytes = fs::metadata(&file).unwrap().len();
        fault(&file, &entry);
        let (prepared, written) = Kept::llama_bf16().prepared(root.path());
        assert!(weights(root.path()) == before, "{what}");
        assert!(
            written > Bytes::ZERO && written.get() < bytes,
            "{what}: one file"
        );
        assert_eq!(prepared.files.len(), before.len());
    }
}

#[test]
fn a_matrix_whose_description_was_altered_is_written_anew() {
    let root = tempfile::tempdir().unwrap();
    let nf4 = Kept::new(
        &fixture("models/llama"),
        DType::F32,
        four_bit(Code::Nf4, false),
    );
    let (prepared, _) = nf4.prepared(root.path());
    let before = weights(root.path());
    let path = prepared.files[&Unit::Layer(llm_arch::Side::Decoder, 0)]
        .checkpoint
        .path();
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(9).position(|w| w == b"blocksize").unwrap();
    bytes[at] = b'B';
    fs::write(path, bytes).unwrap();
    assert!(nf4.prepared(root.path()).1 > Bytes::ZERO);
    assert!(weights(root.path()) == before);
}

#[test]
fn a_run_that_was_ended_is_taken_up_where_it_was() {
    let whole = tempfile::tempdir().unwrap();
    let (_, total) = Kept::llama_bf16().prepared(whole.path());
    for share in 1..4 {
        let root = tempfile::tempdir().unwrap();
        let limit = total.get() * share / 4;
        let mut reached = Bytes::ZERO;
        let error = Kept::llama_bf16().prepare(root.path(), &mut |event| match event {
            Event::Offloading(Progress { done, .. }) if done.get() >= limit => {
                Err(RuntimeError::Interrupted)
            }
            Event::Offloading(at) => {
                assert_eq!(at.total, total);
                assert!((1..=at.total_units).contains(&at.n_units));
                reached = at.done;
                Ok(())
            }
            Event::Waiting => panic!("nobody is in the way"),
            Event::Loading(_) => panic!("nothing is loaded"),
        });
        assert!(matches!(error, Err(RuntimeError::Interrupted)));
        let kept = weights(root.path());
        assert!(
            tree(root.path())
                .keys()
                .all(|path| path.extension().unwrap() != "partial")
        );

        // What a kill leaves: it removes nothing, and its locks are gone.
        let entry = fs::read_dir(root.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        fs::write(entry.join(".decoder-1.aB3dE5.partial"), "half").unwrap();
        fs::write(entry.join(".offload.json.aB3dE5.partial"), "{").unwrap();
        fs::write(entry.join("offload.json"), "{").unwrap();
        fs::write(entry.join("notes.txt"), "not ours").unwrap();
        let (_, written) = Kept::llama_bf16().prepared(root.path());
        assert!(written.get() <= total.get() && written.get() >= total.get() - reached.get());
        assert!(
            kept.iter()
                .all(|(path, bytes)| weights(root.path())[path] == *bytes)
        );
        let mut files = tree(root.path());
        assert_eq!(
            files
                .remove(
                    &entry
                        .file_name()
                        .map(PathBuf::from)
                        .unwrap()
                        .join("notes.txt")
                )
                .as_deref(),
            Some(&b"not ours"[..])
        );
        let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&files), names(&tree(whole.path())));
        assert!(weights(root.path()) == weights(whole.path()));
        assert!(OffloadAbout::read(&entry.join("offload.json")).is_some());
    }
}

#[test]
fn two_runs_at_once_write_one_set_of_files() {
    let whole = tempfile::tempdir().unwrap();
    let (_, total) = Kept::llama_bf16().prepared(whole.path());
    for _ in 0..4 {
        let root = tempfile::tempdir().unwrap();
        let barrier = Barrier::new(2);
        let run = || {
            let (kept, mut written) = (Kept::llama_bf16(), Bytes::ZERO);
            barrier.wait();
            let prepared = kept.prepare(root.path(), &mut |event| {
                if let Event::Offloading(Progress { done, .. }) = event {
                    written = done;
                }
                Ok(())
            });
            (prepared.unwrap().files.len(), written)
        };
        let (first, second) = thread::scope(|scope| {
            let (first, second) = (scope.spawn(run), scope.spawn(run));
            (first.join().unwrap(), second.join().unwrap())
        });
        assert_eq!(first.0, second.0);
        assert_eq!(first.1 + second.1, total);
        assert!(weights(root.path()) == weights(whole.path()));
    }
}

#[test]
fn a_run_waits_for_another_that_writes_and_can_be_interrupted_meanwhile() {
    let root = tempfile::tempdir().unwrap();
    let (entry, _) = complete(root.path());
    let lock = Lock::try_new(&entry.join(names::WRITE_LOCK), Mode::Exclusive);
    let lock = lock.unwrap().unwrap();
    // Nothing is to be written: nobody waits.
    assert_eq!(Kept::llama_bf16().prepared(root.path()).1, Bytes::ZERO);
    fs::remove_file(file_of(&entry, "head")).unwrap();
    let (mut lock, mut n_waits) = (Some(lock), 0);
    let prepared = Kept::llama_bf16().prepare(root.path(), &mut |event| {
        if event == Event::Waiting {
            n_waits += 1;
            lock = None;
        }
        Ok(())
    });
    assert_eq!(
        (prepared.unwrap().files.contains_key(&Unit::Head), n_waits),
        (true, 1)
    );

    let _lock = Lock::try_new(&entry.join(names::USE_LOCK), Mode::Exclusive)
        .unwrap()
        .unwrap();
    let stopped = Kept::llama_bf16().prepare(root.path(), &mut |_| Err(RuntimeError::Interrupted));
    assert!(matches!(stopped, Err(RuntimeError::Interrupted)));
}

#[test]
fn a_source_that_changes_while_it_is_read_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (model, root) = (
        copy_of("llama", folder.path()),
        folder.path().join("offload"),
    );
    let source = model.join("model.safetensors");
    let kept = Kept::new(&model, DType::BF16, None);
    let found = kept.prepare(&root, &mut |_| {
        let file = File::options().write(true).open(&source).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        Ok(())
    });
    let error = found.unwrap_err();
    assert!(matches!(&error, RuntimeError::SourceChanged { path } if *path == source));
    assert!(weights(&root).is_empty());
}

/// A folder and those below it.
fn folders_of(folder: &Path) -> Vec<PathBuf> {
    let inner = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let inner = inner.filter(|path| path.is_dir());
    let below = inner.flat_map(|folder| folders_of(&folder));
    [folder.to_owned()].into_iter().chain(below).collect()
}

/// Runs `work` as a user who may read the temporary folder but not write to it.
fn as_a_reader<T: Send>(folder: &Path, work: impl FnOnce() -> T + Send) -> T {
    let all = folders_of(folder);
    let folders = |mode| {
        for folder in &all {
            fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
        }
    };
    folders(0o555);
    let found = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                // Of this thread alone.
                rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
            }
            work()
        });
        thread.join().unwrap()
    });
    folders(0o755);
    found
}

#[test]
fn a_folder_that_cannot_be_written_does_if_all_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (model, root) = (
        copy_of("llama", folder.path()),
        folder.path().join("offload"),
    );
    let kept = || Kept::new(&model, DType::BF16, None);
    let (prepared, _) = kept().prepared(&root);
    let entry = prepared.files[&Unit::Head]
        .checkpoint
        .path()
        .parent()
        .unwrap()
        .to_owned();
    drop(prepared);

    let found = as_a_reader(folder.path(), || kept().prepare(&root, &mut |_| Ok(())));
    assert!(found.is_ok());
    for name in [names::USE_LOCK, names::WRITE_LOCK] {
        fs::remove_file(entry.join(name)).unwrap();
    }
    let found = as_a_reader(folder.path(), || kept().prepare(&root, &mut |_| Ok(())));
    assert!(found.is_ok(), "nor are there locks: {found:?}");

    fs::remove_file(file_of(&entry, "head")).unwrap();
    let before = tree(&root);
    let found = as_a_reader(folder.path(), || kept().prepare(&root, &mut |_| Ok(())));
    let error = found.unwrap_err();
    assert!(matches!(&error, RuntimeError::OffloadFolder { folder, .. } if *folder == entry));
    let message = error.to_string();
    assert!(message.contains("--offload-folder"), "{message}");
    assert!(tree(&root) == before);

    let elsewhere = root.join("new");
    let other = Kept::new(&model, DType::F16, None);
    let found = as_a_reader(folder.path(), || other.prepare(&elsewhere, &mut |_| Ok(())));
    assert!(matches!(found, Err(RuntimeError::OffloadFolder { .. })));
}

#[test]
fn a_link_to_nowhere_in_the_place_of_a_lock_is_not_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let (entry, _) = complete(root.path());
    let lock = entry.join(names::USE_LOCK);
    fs::remove_file(&lock).unwrap();
    symlink("no such folder/lock", &lock).unwrap();
    let outcome = Kept::llama_bf16().prepare(root.path(), &mut |event| panic!("{event:?}"));
    match outcome.map(drop) {
        Err(RuntimeError::OffloadFolder { folder, .. }) => assert_eq!(folder, entry),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_in_the_place_of_the_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("offload");
    fs::write(&root, "").unwrap();
    let error = Kept::llama_bf16()
        .prepare(&root, &mut |_| Ok(()))
        .unwrap_err();
    let message = error.to_string();
    assert!(
        error.is_users() && message.contains(root.to_str().unwrap()),
        "{message}"
    );
}

/// `/dev/full` has no room, ever: what comes is the system's own answer.
#[test]
fn a_file_that_has_no_room_says_how_much_was_to_come() {
    let kept = Kept::llama_bf16();
    let encodings = kept.encodings();
    let encode = Encode {
        model: &kept.model,
        encodings: &encodings,
        encoder: &Scalar,
        run_on: kept.run_on,
    };
    let place = Place {
        folder: Path::new("/offload"),
        key: "0",
        missing: Bytes::new(4321),
    };
    let full = File::options().write(true).open("/dev/full").unwrap();
    let units = encode.units().unwrap();
    let filled = place.fill(full, &encode, &units[&Unit::Embedding], &mut |_| Ok(()));
    let error = filled.unwrap_err();
    let RuntimeError::OffloadWrite { source, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(source.kind(), ErrorKind::StorageFull);
    let message = error.to_string();
    for word in ["embedding", "/offload", "4.3 KB", "--offload-folder"] {
        assert!(message.contains(word), "{message}");
    }
}

/// On a small file system of its own, in a process that may have one.
#[test]
fn a_disk_that_fills_up_keeps_what_is_complete_and_nothing_else() {
    const FOLDER: &str = "LLM_RUN_TEST_SMALL_DISK";
    const NAME: &str =
        "offload::tests::faults::a_disk_that_fills_up_keeps_what_is_complete_and_nothing_else";
    if let Some(folder) = env::var_os(FOLDER) {
        return fill_up(Path::new(&folder));
    }
    let whole = tempfile::tempdir().unwrap();
    let (_, total) = Kept::llama_bf16().prepared(whole.path());
    let folder = tempfile::tempdir().unwrap();
    let mount = format!(
        "mount -t tmpfs -o size={} none \"${FOLDER}\" || exit 77; exec \"$0\" --exact {NAME}",
        total.get() / 2
    );
    let child = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &mount])
        .arg(env::current_exe().unwrap())
        .env(FOLDER, folder.path())
        .output();
    let code = child.as_ref().ok().and_then(|output| output.status.code());
    let has_run = child
        .as_ref()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    match code {
        Some(0) => assert!(has_run, "{child:?}"),
        Some(101) => panic!("{}", String::from_utf8_lossy(&child.unwrap().stdout)),
        _ => println!("skipped: no file system can be mounted here: {child:?}"),
    }
}

fn fill_up(root: &Path) {
    for _ in 0..2 {
        let error = Kept::llama_bf16()
            .prepare(root, &mut |_| Ok(()))
            .unwrap_err();
        assert!(
            matches!(&error, RuntimeError::OffloadWrite { source, .. } if source.kind() == ErrorKind::StorageFull),
            "{error:?}"
        );
        let kept = weights(root);
        assert!(!kept.is_empty());
        assert!(
            tree(root)
                .keys()
                .all(|path| path.extension().unwrap() != "partial")
        );
        let entries = OffloadFolder::new(root.to_owned()).entries().unwrap();
        let damages = entries[0].verify(|_| Ok::<_, RuntimeError>(())).unwrap();
        assert_eq!((entries[0].n_files, damages), (kept.len(), vec![]));
    }
}

/// Whatever the reason, a sound file must not be removed because it could not be opened.
#[test]
fn a_file_that_may_not_be_read_is_no_file_to_replace() {
    let folder = tempfile::tempdir().unwrap();
    let (model, root) = (
        copy_of("llama", folder.path()),
        folder.path().join("offload"),
    );
    let kept = || Kept::new(&model, DType::BF16, None);
    let (prepared, _) = kept().prepared(&root);
    let path = prepared.files[&Unit::Head].checkpoint.path().to_owned();
    drop(prepared);
    fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    let found = as_a_reader(folder.path(), || kept().prepare(&root, &mut |_| Ok(())));
    let error = found.unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
}
