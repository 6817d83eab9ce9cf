//! Downloads from a hub that misbehaves: what comes is whole and right, or an error that says what to do.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

mod hub;

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use llm_hub::{AnswerFlaw, ChoiceFlaw, Event, HubError, Pulled, RepoName, Settings};

use self::hub::{COMMIT, Fault, Hub, HubFile, Rule};

/// Bytes of a piece: many of them in few bytes.
const PIECE: u64 = 1000;

fn settings(hub: &Hub, cache: &Path) -> Settings {
    Settings {
        endpoint: hub.url(),
        token: None,
        cache: cache.to_owned(),
        is_offline: false,
        tries: 3,
        pause: Duration::from_millis(1),
        patience: Duration::from_secs(5),
        piece: PIECE,
        connections: 4,
    }
}

/// Bytes without a period, so that no part is like another.
fn weights(n: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..n).map(|_| next()).collect()
}

fn files() -> Vec<HubFile> {
    vec![
        HubFile::small("config.json", b"{}"),
        HubFile::large("model.safetensors", &weights(10_500)),
        HubFile::small("README.md", b"# Not needed"),
    ]
}

fn pull(settings: &Settings) -> Result<Pulled, HubError> {
    llm_hub::pull(settings, &"org/name".parse().unwrap(), &|_| {})
}

/// Holds a cache against the files of a hub.
#[track_caller]
fn expect_whole(cache: &Path, files: &[HubFile]) {
    let root = cache.join("models--org--name");
    for file in files.iter().filter(|file| file.name != "README.md") {
        let path = root.join("snapshots").join(COMMIT).join(&file.name);
        assert_eq!(fs::read(&path).unwrap(), file.bytes, "{}", file.name);
        let link = fs::read_link(&path).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(file.sum()));
    }
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    for blob in fs::read_dir(root.join("blobs")).unwrap() {
        let name = blob.unwrap().file_name().into_string().unwrap();
        assert!(!name.contains('.'), "{name} is left over");
    }
}

#[test]
fn a_model_comes_whole_and_once() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::start(files(), Vec::new());
    let settings = settings(&hub, cache.path());
    let (sum, totals) = (Mutex::new(0), Mutex::new(Vec::new()));
    let name: RepoName = "org/name".parse().unwrap();
    let pulled = llm_hub::pull(&settings, &name, &|event| match event {
        Event::Received { bytes, .. } => *sum.lock().unwrap() += bytes,
        Event::File { total, .. } => totals.lock().unwrap().push(total),
        other => panic!("{other:?}"),
    });
    let pulled = pulled.unwrap();
    expect_whole(cache.path(), &files());
    assert_eq!(pulled.path, pulled.folder);
    assert_eq!((pulled.bytes, *sum.lock().unwrap()), (10_502, 10_502));
    assert_eq!(*totals.lock().unwrap(), [10_502, 10_502]);
    // A piece for the configuration, eleven for the weights, over no more connections than are allowed.
    assert_eq!(hub.n_fetches(), 12);
    let connections = hub
        .requests()
        .iter()
        .map(|request| request.connection)
        .max();
    assert!(connections.unwrap() < 8, "{connections:?}");

    pull(&settings).unwrap();
    assert_eq!(hub.n_fetches(), 12, "nothing comes twice");
    let offline = Settings {
        is_offline: true,
        ..settings
    };
    assert_eq!(pull(&offline).unwrap().path, pulled.path);
    let other = llm_hub::pull(&offline, &"org/other".parse().unwrap(), &|_| {});
    assert!(matches!(other, Err(HubError::Offline { .. })));
}

#[test]
fn faults_that_pass_are_outlived() {
    let busy = "Retry-After: 0\r\n";
    for (i, rules) in [
        vec![Rule {
            times: 2,
            ..Rule::once("/api/", Fault::Status(429, busy, ""))
        }],
        vec![Rule {
            times: 2,
            ..Rule::once("/model.", Fault::Status(503, "", ""))
        }],
        vec![Rule::once("/api/", Fault::Status(500, busy, ""))],
        vec![Rule {
            times: 2,
            ..Rule::once("/model.", Fault::Cut(0))
        }],
        vec![Rule::always("/resolve/", Fault::NoRanges)],
        // Nothing is told beforehand: each file is asked for.
        vec![Rule::once("/api/", Fault::Bare)],
        vec![
            Rule::once("/model.", Fault::NoRanges),
            Rule::once("/model.", Fault::Cut(700)),
            Rule {
                times: 2,
                ..Rule::once("/model.", Fault::NoRanges)
            },
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub::start(files(), rules);
        pull(&settings(&hub, cache.path())).unwrap_or_else(|error| panic!("case {i}: {error}"));
        expect_whole(cache.path(), &files());
    }
}

#[test]
fn connections_may_be_cut_anywhere() {
    // At each boundary of a piece, beside it, and inside, with and without ranges.
    for at in [0, 1, 499, 999] {
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub::start(
            files(),
            vec![Rule {
                times: 2,
                ..Rule::once("/model.", Fault::Cut(at))
            }],
        );
        pull(&settings(&hub, cache.path())).unwrap();
        expect_whole(cache.path(), &files());
        let ranges: Vec<_> = hub
            .requests()
            .iter()
            .filter_map(|request| request.range)
            .collect();
        assert!(at == 0 || ranges.contains(&(at, 1000)), "{at}: {ranges:?}");
    }
    // Each answer brings a little, and that is enough.
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::start(
        files(),
        vec![Rule {
            times: 30,
            ..Rule::once("/model.", Fault::Cut(300))
        }],
    );
    pull(&settings(&hub, cache.path())).unwrap();
    expect_whole(cache.path(), &files());
}

#[test]
fn a_run_goes_on_where_another_ended() {
    let model = &files()[1];
    let begun = |bytes: &[u8]| {
        let cache = tempfile::tempdir().unwrap();
        let blobs = cache.path().join("models--org--name/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(model.sum() + ".incomplete"), bytes).unwrap();
        let hub = Hub::start(files(), Vec::new());
        pull(&settings(&hub, cache.path())).unwrap();
        expect_whole(cache.path(), &files());
        let requests = hub.requests();
        let of_model = requests
            .iter()
            .filter(|request| request.path.contains("/model."));
        let begins: Vec<_> = of_model
            .filter_map(|request| Some(request.range?.0))
            .collect();
        (begins.iter().min().copied(), begins.len())
    };
    // Wherever it was killed.
    for length in [1, 999, 1000, 1001, 10_499] {
        let n_left = (model.bytes.len() - length).div_ceil(1000);
        assert_eq!(begun(&model.bytes[..length]), (Some(length), n_left));
    }
    assert_eq!(begun(&model.bytes), (None, 0));
    // What is no beginning of the file is found out and comes again.
    let mut wrong = model.bytes[..3000].to_vec();
    wrong[1] ^= 1;
    assert_eq!(begun(&wrong).0, Some(0));
    let longer = [model.bytes.as_slice(), b"x"].concat();
    assert_eq!(begun(&longer).0, Some(0));
}

#[test]
fn a_download_that_fails_leaves_its_beginning_and_no_name() {
    let cache = tempfile::tempdir().unwrap();
    let gone = Rule::always(
        "/model.",
        Fault::Status(404, "X-Error-Code: EntryNotFound\r\n", ""),
    );
    let rules = vec![Rule {
        times: 3,
        ..Rule::once("/model.", Fault::OtherRange)
    }];
    let hub = Hub::start(files(), rules);
    assert!(pull(&settings(&hub, cache.path())).is_err());
    let root = cache.path().join("models--org--name");
    assert!(
        !root.join("refs").exists(),
        "a revision is there when its files are"
    );
    assert!(
        !root
            .join("snapshots")
            .join(COMMIT)
            .join("model.safetensors")
            .exists()
    );
    let offline = Settings {
        is_offline: true,
        ..settings(&hub, cache.path())
    };
    assert!(matches!(pull(&offline), Err(HubError::Offline { .. })));
    let hub = Hub::start(files(), vec![gone]);
    assert!(matches!(
        pull(&settings(&hub, cache.path())),
        Err(HubError::Status { status: 404, .. })
    ));
    let hub = Hub::start(files(), Vec::new());
    pull(&settings(&hub, cache.path())).unwrap();
    expect_whole(cache.path(), &files());
}

#[test]
fn wrong_bytes_get_no_name() {
    for (rule, is_expected) in [
        (
            Rule::once("/model.", Fault::Corrupt),
            (|error| matches!(error, HubError::Sum { .. })) as fn(&HubError) -> bool,
        ),
        (Rule::once("config", Fault::Corrupt), |error| {
            matches!(error, HubError::Sum { .. })
        }),
        (Rule::once("/model.", Fault::OtherRange), |error| {
            matches!(
                error,
                HubError::Answer {
                    flaw: AnswerFlaw::Range(_),
                    ..
                }
            )
        }),
        (Rule::always("/model.", Fault::Commit("f00")), |error| {
            matches!(
                error,
                HubError::Answer {
                    flaw: AnswerFlaw::Changed { .. },
                    ..
                }
            )
        }),
        (
            Rule::always("/api/", Fault::Commit("../../../../x")),
            |error| {
                matches!(
                    error,
                    HubError::Answer {
                        flaw: AnswerFlaw::Commit(_),
                        ..
                    }
                )
            },
        ),
        (
            Rule::always("/api/", Fault::Status(200, "", "<html>")),
            |error| {
                matches!(
                    error,
                    HubError::Answer {
                        flaw: AnswerFlaw::Json(_),
                        ..
                    }
                )
            },
        ),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub::start(files(), vec![rule]);
        let error = pull(&settings(&hub, cache.path())).unwrap_err();
        assert!(is_expected(&error), "{error}");
        let blobs = cache.path().join("models--org--name/blobs");
        assert!(!blobs.join(files()[1].sum()).exists());
    }
    let cache = tempfile::tempdir().unwrap();
    // Another file by the same name, of the same commit.
    let mut other = files();
    other[1].bytes[7] ^= 1;
    let changed = Hub::start(other, Vec::new());
    let rules = vec![Rule::always("/model.", Fault::Redirect(changed.url()))];
    let hub = Hub::start(files(), rules);
    let error = pull(&settings(&hub, cache.path())).unwrap_err();
    assert!(matches!(error, HubError::Sum { .. }), "{error}");
    // Lengths that do not come.
    let of_fault = |fault| {
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub::start(files(), vec![Rule::always("/model.", fault)]);
        pull(&settings(&hub, cache.path())).map(|_| expect_whole(cache.path(), &files()))
    };
    let error = of_fault(Fault::Cut(0)).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    let error = of_fault(Fault::WholeLonger(5)).unwrap_err();
    let is_length = |flaw: &AnswerFlaw| {
        matches!(
            flaw,
            AnswerFlaw::Length {
                expected: 10_500,
                found: 10_505
            }
        )
    };
    assert!(
        matches!(&error, HubError::Answer { flaw, .. } if is_length(flaw)),
        "{error}"
    );
    // All that was asked for is there.
    of_fault(Fault::Longer(5)).unwrap();
}

#[test]
fn refusals_say_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let gated = "X-Error-Code: GatedRepo\r\n";
    for (rule, has_token, words, is_users) in [
        (
            Rule::always("/model.", Fault::Status(401, gated, "")),
            false,
            "set HF_TOKEN to a token",
            true,
        ),
        (
            Rule::always("/model.", Fault::Status(403, gated, "")),
            true,
            "use a token of that account",
            true,
        ),
        (
            Rule::always(
                "/api/",
                Fault::Status(401, "X-Error-Code: RepoNotFound\r\n", ""),
            ),
            false,
            "the hub has no org/name, or does not show it",
            true,
        ),
        (
            Rule::always(
                "/api/",
                Fault::Status(404, "X-Error-Code: RevisionNotFound\r\n", ""),
            ),
            false,
            "no such branch",
            true,
        ),
        (
            Rule::always("/api/", Fault::Status(404, "", "")),
            true,
            "the hub has no org/name",
            true,
        ),
        (
            Rule::always("/api/", Fault::Status(403, "", "")),
            true,
            "may lack the right",
            true,
        ),
        (
            Rule::always("/api/", Fault::Status(503, "", "")),
            false,
            "answers 503",
            false,
        ),
        (
            Rule::always("/api/", Fault::Status(429, "Retry-After: 9999\r\n", "")),
            false,
            "answers 429",
            false,
        ),
    ] {
        let hub = Hub::start(files(), vec![rule]);
        let token = has_token.then(|| "hf_secret".to_owned());
        let settings = Settings {
            token,
            ..settings(&hub, cache.path())
        };
        let error = pull(&settings).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.is_users(), is_users, "{error}");
        assert!(!error.to_string().contains("hf_secret"));
    }
    let hub = Hub::start(vec![HubFile::small("README.md", b"")], Vec::new());
    let error = pull(&settings(&hub, cache.path())).unwrap_err();
    assert!(matches!(
        error,
        HubError::Choice {
            choice: ChoiceFlaw::NoWeights,
            ..
        }
    ));
}

#[test]
fn a_token_stays_with_its_host() {
    let cache = tempfile::tempdir().unwrap();
    let other = Hub::start(files(), Vec::new());
    let rules = vec![Rule::always("/model.", Fault::Redirect(other.url()))];
    let hub = Hub::start(files(), rules);
    let token = Some("hf_secret".to_owned());
    let with_token = Settings {
        token,
        ..settings(&hub, cache.path())
    };
    pull(&with_token).unwrap();
    expect_whole(cache.path(), &files());
    let has_token = |hub: &Hub| {
        let requests = hub.requests();
        requests
            .iter()
            .map(|request| request.token.is_some())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        has_token(&hub),
        [true; 3],
        "the list, the configuration, and once the weights"
    );
    assert_eq!(has_token(&other), [false; 11]);

    // Nor does it come back by way of another host.
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::start(files(), Vec::new());
    let back = Hub::start(
        Vec::new(),
        vec![Rule::always("", Fault::Redirect(hub.url()))],
    );
    let way = Hub::start(
        files(),
        vec![Rule::always("/resolve/", Fault::Redirect(back.url()))],
    );
    let token = Some("hf_secret".to_owned());
    pull(&Settings {
        token,
        ..settings(&way, cache.path())
    })
    .unwrap();
    assert!(hub.requests().iter().all(|request| request.token.is_none()));
    // A circle ends.
    let cache = tempfile::tempdir().unwrap();
    let circle = Hub::start(
        files(),
        vec![Rule::always("/resolve/", Fault::Redirect(String::new()))],
    );
    let error = pull(&settings(&circle, cache.path())).unwrap_err();
    assert!(
        matches!(
            error,
            HubError::Answer {
                flaw: AnswerFlaw::Redirect(_),
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn an_address_that_expires_is_asked_for_anew() {
    let cache = tempfile::tempdir().unwrap();
    let rules = vec![
        Rule {
            times: 4,
            ..Rule::once("/model.", Fault::Slow(Duration::ZERO))
        },
        Rule {
            times: 2,
            ..Rule::once("/model.", Fault::Status(403, "", "expired"))
        },
    ];
    let other = Hub::start(files(), rules);
    let hub = Hub::start(
        files(),
        vec![Rule::always("/model.", Fault::Redirect(other.url()))],
    );
    // One at a time, so that each refusal is of the address that is known.
    let settings = Settings {
        connections: 1,
        ..settings(&hub, cache.path())
    };
    let error = pull(&settings).unwrap_err();
    assert!(
        matches!(error, HubError::Status { status: 403, .. }),
        "twice is too often: {error}"
    );
    pull(&settings).unwrap();
    expect_whole(cache.path(), &files());
}

#[test]
fn a_hub_that_says_nothing_is_not_waited_for_long() {
    let cache = tempfile::tempdir().unwrap();
    let slow = |times, pause| Rule {
        times,
        ..Rule::once("/model.", Fault::Slow(pause))
    };
    let hub = Hub::start(files(), vec![slow(1, Duration::from_secs(20))]);
    let patience = Duration::from_millis(100);
    let begin = Instant::now();
    pull(&Settings {
        patience,
        ..settings(&hub, cache.path())
    })
    .unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10));
    expect_whole(cache.path(), &files());

    // A hub that is gone: what the cache has is taken, and that is said.
    let gone = Settings {
        endpoint: "http://127.0.0.1:9".to_owned(),
        ..settings(&hub, cache.path())
    };
    let name: RepoName = "org/name".parse().unwrap();
    let is_said = Mutex::new(false);
    llm_hub::pull(&gone, &name, &|event| {
        *is_said.lock().unwrap() |= matches!(event, Event::FromCache { .. });
    })
    .unwrap();
    assert!(*is_said.lock().unwrap());
    let empty = tempfile::tempdir().unwrap();
    let error = pull(&Settings {
        cache: empty.path().to_owned(),
        ..gone
    })
    .unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
}

#[test]
fn two_at_a_time_download_once() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::start(
        files(),
        vec![Rule::once(
            "/model.",
            Fault::Slow(Duration::from_millis(300)),
        )],
    );
    let settings = settings(&hub, cache.path());
    std::thread::scope(|scope| {
        let both = [
            scope.spawn(|| pull(&settings)),
            scope.spawn(|| pull(&settings)),
        ];
        for one in both {
            one.join().unwrap().unwrap();
        }
    });
    expect_whole(cache.path(), &files());
    assert_eq!(hub.n_fetches(), 12);
}

#[test]
fn what_is_cached_is_listed_and_removed() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::start(files(), Vec::new());
    pull(&settings(&hub, cache.path())).unwrap();
    let listed = llm_hub::list(cache.path()).unwrap();
    let [repo] = listed.as_slice() else {
        panic!("{listed:?}")
    };
    assert_eq!(repo.id.to_string(), "org/name");
    assert_eq!(
        (repo.bytes, repo.incomplete, repo.n_commits),
        (10_502, 0, 1)
    );
    assert_eq!(repo.revisions, ["main"]);
    llm_hub::remove(cache.path(), repo).unwrap();
    assert!(llm_hub::list(cache.path()).unwrap().is_empty());
    assert!(llm_hub::find(cache.path(), &repo.id).unwrap().is_none());
}

#[test]
fn a_disk_that_is_too_small_is_told_of_before() {
    let cache = tempfile::tempdir().unwrap();
    let huge = format!(
        r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"model.safetensors","size":{},"blobId":"{COMMIT}"}}]}}"#,
        1_u64 << 60
    );
    let huge: &'static str = huge.leak();
    let hub = Hub::start(
        files(),
        vec![Rule::always("/api/", Fault::Status(200, "", huge))],
    );
    let error = pull(&settings(&hub, cache.path())).unwrap_err();
    assert!(
        matches!(error, HubError::NoRoom { needed, .. } if needed == 1 << 60),
        "{error}"
    );
    assert_eq!(hub.n_fetches(), 0);
}
