//! An engine that many ask at a time, against each of them alone.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::path::Path;
use std::sync::Arc;

use llm_cpu::{Cpu, CpuOptions};
use llm_engine::{
    Busy, Completion, EndReason, Engine, EngineError, Event, Generation, Handle, Length, Request,
    Settings, complete,
};
use llm_plan::WeightDType;
use llm_quant::Scalar;
use llm_runtime::{
    Beams, BoundModel, EarlyStopping, Limits, LoadOptions, Rules, RuntimeError, Sampling, Session,
    load,
};
use llm_tensor::DType;
use llm_tests::{golden, session};
use llm_text::{SpecialTokens, Tokenizer};

/// The bundled model, for `n_sequences` with so many positions and passes of so many rows.
fn demo(n_sequences: usize, context: usize, n_tokens: usize) -> (Session, Arc<Tokenizer>) {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    let folder = Path::new(&package).join("../crates/llm-run/assets/demo");
    let model = BoundModel::open(&folder).unwrap();
    let limits = Limits {
        n_sequences,
        context,
        n_tokens,
        n_logits: n_sequences,
    };
    let options = LoadOptions {
        dtype: WeightDType::Auto,
        quant: None,
        encoder: &Scalar,
        limits,
        offload: None,
    };
    let session = load(&model, &Arc::new(cpu()), &options, &mut |_| ()).unwrap();
    (session, Arc::new(Tokenizer::from_folder(&folder).unwrap()))
}

fn cpu() -> Cpu {
    Cpu::new(CpuOptions::default()).unwrap()
}

fn settings(n_new: usize) -> Settings {
    Settings {
        sampling: Sampling::GREEDY,
        rules: Rules::default(),
        beams: None,
        seed: 0,
        length: Length::New(n_new),
        max_time: None,
        stop: Vec::new(),
        logprobs: None,
        constraint: None,
        start_token: None,
    }
}

/// All events of an answer.
fn all(mut handle: Handle) -> (Vec<llm_engine::Token>, Result<Completion, EngineError>) {
    let mut tokens = Vec::new();
    loop {
        match handle.wait().unwrap() {
            Event::Token(token) => tokens.push(token),
            Event::Ended(completion) => return (tokens, Ok(completion)),
            Event::Failed(error) => return (tokens, Err(error)),
        }
    }
}

fn completion(handle: Handle) -> Completion {
    all(handle).1.unwrap()
}

/// Requests of several kinds and lengths, some of which have their beginnings in common.
fn requests(tokenizer: &Tokenizer) -> Vec<Request> {
    let drawn = |seed, n_new| Settings {
        sampling: Sampling {
            temperature: 1.1,
            top_k: 40,
            ..Sampling::GREEDY
        },
        seed,
        ..settings(n_new)
    };
    let penalized = Settings {
        rules: Rules {
            repetition_penalty: 1.3,
            ..Rules::default()
        },
        ..settings(15)
    };
    let stopped = Settings {
        stop: vec![". ".to_owned()],
        ..settings(60)
    };
    let beams = Settings {
        beams: Some(Beams {
            n_beams: 3,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
            renormalize: false,
        }),
        ..settings(8)
    };
    let logprobs = Settings {
        logprobs: Some(2),
        ..settings(10)
    };
    let long = "Once upon a time there was a fox. The fox lived in a deep forest and had no friends. One day";
    let cases = [
        ("Once upon a time", settings(24)),
        ("The little dog was very", drawn(1, 9)),
        (long, settings(12)),
        ("One", drawn(2, 30)),
        (long, penalized),
        ("A bird", beams),
        (long, drawn(3, 12)),
        ("The old man went to the", stopped),
        ("Once upon a time there was", logprobs),
        ("Mia and Tom", settings(1)),
    ];
    let request = |(text, settings): (&str, Settings)| Request {
        prompt: tokenizer.encode(text, SpecialTokens::Add).unwrap(),
        settings,
    };
    cases.into_iter().map(request).collect()
}

/// Answer to a request that has a session to itself.
fn alone(session: &mut Session, tokenizer: &Tokenizer, request: Request) -> Completion {
    let Request { prompt, settings } = request;
    session.truncate(0, 0);
    let spec = session.spec();
    let generation = Generation::new(spec, Some(tokenizer), settings, &prompt).unwrap();
    let print = &mut |_: &str| Ok::<_, EngineError>(());
    complete(session, generation, &prompt, print).unwrap().0
}

#[test]
fn many_are_answered_as_each_is_alone() {
    let (mut session, tokenizer) = demo(3, 128, 64);
    let requests = requests(&tokenizer);
    let expected: Vec<_> = requests
        .iter()
        .map(|request| alone(&mut session, &tokenizer, request.clone()))
        .collect();
    // Passes of few rows: prompts are read in pieces, beside those who write.
    for n_tokens in [5, 64] {
        let (session, tokenizer) = demo(3, 128, n_tokens);
        let engine = Engine::start(session, Some(tokenizer), 64).unwrap();
        // The second time sequences hold what others left.
        for _ in 0..2 {
            let handles = engine.submit_all(requests.clone()).unwrap();
            for (handle, expected) in handles.into_iter().zip(&expected) {
                let (tokens, found) = all(handle);
                let found = found.unwrap();
                assert_eq!(found.ids, expected.ids);
                assert_eq!((&found.text, found.end), (&expected.text, expected.end));
                let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
                assert_eq!(text + &found.rest, found.text);
            }
        }
        let stats = engine.stats();
        assert!(stats.n_shared_tokens > 0, "{stats:?}");
        assert_eq!((stats.n_waiting, stats.n_failed), (0, 0));
    }
}

/// Plain, sliding, scaled by length, recurrent beside attention and alone, latent, and with an encoder.
#[test]
fn sequences_that_share_a_prompt_continue_as_the_reference_does() {
    for name in [
        "llama",
        "mistral-sliding",
        "phi3-longrope-long",
        "falcon-h1",
        "mamba2",
        "deepseek-v3",
        "t5-flan-style",
    ] {
        let (folder, golden) = golden(name);
        let model = BoundModel::open(&folder).unwrap();
        let n_tokens = match model.spec().encoder {
            Some(_) => model.spec().context,
            None => 4,
        };
        let start_token = model.spec().encoder.as_ref().map(|of| of.start_token);
        let engine = session(cpu(), &model, DType::F32, 3, n_tokens);
        let engine = Engine::start(engine, None, 16).unwrap();
        let ask = |prompt: &[u32], n_new| Request {
            prompt: prompt.to_vec(),
            settings: Settings {
                start_token,
                ..settings(n_new)
            },
        };
        let n_new = golden.generated.len();
        let first = engine.submit(ask(&golden.input_ids, n_new)).unwrap();
        let more = engine.submit_all(vec![ask(&golden.input_ids, n_new); 4]);
        for handle in std::iter::once(first).chain(more.unwrap()) {
            assert_eq!(completion(handle).ids, golden.generated, "{name}");
        }
        if start_token.is_some() {
            continue;
        }
        // A dialogue goes on from its answer.
        let (told, rest) = golden.generated.split_at(n_new / 2);
        let prompt = [&golden.input_ids, told].concat();
        let next = completion(engine.submit(ask(&prompt, rest.len())).unwrap());
        assert_eq!(next.ids, rest, "{name}");
    }
}

#[test]
fn whoever_is_gone_makes_room_within_a_pass() {
    let (session, tokenizer) = demo(1, 512, 8);
    let engine = Engine::start(session, Some(tokenizer), 8).unwrap();
    let ask = |prompt: Vec<u32>, n_new| Request {
        prompt,
        settings: settings(n_new),
    };
    let endless = Settings {
        rules: Rules {
            suppress: vec![2],
            ..Rules::default()
        },
        ..settings(500)
    };
    let endless = Request {
        prompt: vec![1, 456],
        settings: endless,
    };
    // One who writes, and one who reads a prompt of 63 passes.
    for first in [endless, ask((0..500).map(|i| 300 + i % 200).collect(), 9)] {
        let is_writer = first.prompt.len() < 10;
        let mut first = engine.submit(first).unwrap();
        if is_writer {
            first.wait().unwrap();
        }
        let unheard = engine.submit(ask(vec![1, 7], 5)).unwrap();
        let second = engine.submit(ask(vec![1, 455], 3)).unwrap();
        let n_cancelled = engine.stats().n_cancelled;
        drop(unheard);
        drop(first);
        let n_passes = engine.stats().n_passes;
        assert_eq!(completion(second).ids.len(), 3);
        // The pass in which it was dropped, and three of the other.
        let n_passes = engine.stats().n_passes - n_passes;
        assert!(n_passes <= 5, "{n_passes} passes");
        assert_eq!(engine.stats().n_cancelled, n_cancelled + 2);
    }
}

#[test]
fn what_is_wrong_with_a_request_is_its_own() {
    let (session, tokenizer) = demo(2, 32, 8);
    let engine = Engine::start(session, Some(tokenizer), 16).unwrap();
    let ask = |prompt: Vec<u32>, settings| Request { prompt, settings };
    let good = || ask(vec![1, 456, 455], settings(6));
    let no_stop = Settings {
        stop: vec![String::new()],
        ..settings(5)
    };
    let silent = Settings {
        rules: Rules {
            suppress: (0..1024).collect(),
            ..Rules::default()
        },
        ..settings(5)
    };
    let searched = Settings {
        beams: Some(Beams {
            n_beams: 3,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
            renormalize: false,
        }),
        ..settings(5)
    };
    let requests = vec![
        good(),
        ask(vec![1; 33], settings(5)),
        ask(vec![1, 1024], settings(5)),
        ask(Vec::new(), settings(5)),
        ask(vec![1], no_stop),
        ask(vec![1], silent),
        ask(vec![1], searched),
        good(),
    ];
    let handles = engine.submit_all(requests).unwrap();
    let outcomes: Vec<_> = handles.into_iter().map(|handle| all(handle).1).collect();
    let is_runtime = |i: usize| outcomes[i].as_ref().unwrap_err().of_runtime().unwrap();
    assert!(matches!(
        is_runtime(1),
        RuntimeError::ContextFull { n_tokens: 33, .. }
    ));
    assert!(matches!(
        is_runtime(2),
        RuntimeError::IdOutOfRange { id: 1024, .. }
    ));
    assert!(matches!(is_runtime(3), RuntimeError::EmptyPrompt));
    assert!(matches!(outcomes[4], Err(EngineError::EmptyStop)));
    assert!(matches!(is_runtime(5), RuntimeError::NoTokenLeft));
    assert!(matches!(
        outcomes[6],
        Err(EngineError::TooManyBeams {
            n_beams: 3,
            n_sequences: 2
        })
    ));
    let [first, .., last] = &outcomes[..] else {
        panic!("as many outcomes as requests")
    };
    let (first, last) = (first.as_ref().unwrap(), last.as_ref().unwrap());
    assert_eq!((first.ids.len(), &first.ids), (6, &last.ids));
    assert_eq!(engine.stats().n_failed, 6);
    // The context ends an answer that nothing else does.
    let full = completion(engine.submit(ask(vec![1; 32], settings(5))).unwrap());
    assert_eq!((full.ids.len(), full.end), (1, EndReason::Context));
}

#[test]
fn requests_take_turns_and_no_search_is_passed_over() {
    let (session, tokenizer) = demo(2, 64, 8);
    let all_of = requests(&tokenizer);
    let engine = Engine::start(session, Some(tokenizer), 64).unwrap();
    let search = Request {
        settings: Settings {
            beams: all_of[5].settings.beams.map(|beams| Beams {
                n_beams: 2,
                ..beams
            }),
            ..settings(4)
        },
        ..all_of[5].clone()
    };
    let short = |n_new| Request {
        prompt: vec![1, 456],
        settings: settings(n_new),
    };
    let mut queue = vec![short(20), search];
    queue.extend((0..6).map(|_| short(3)));
    let mut handles = engine.submit_all(queue).unwrap();
    // Those behind the search wait for it, though a sequence is free; then all end.
    let last = handles.pop().unwrap();
    assert_eq!(completion(last).ids.len(), 3);
    let mut search = handles.remove(1);
    let end = search.wait();
    assert!(
        matches!(&end, Some(Event::Ended(found)) if found.rest == found.text),
        "{end:?}"
    );
    assert!(search.wait().is_none(), "nothing follows on the end");
    assert_eq!(engine.stats().n_ended[EndReason::Length as usize].1, 8);
}

#[test]
fn stop_strings_are_found_across_tokens() {
    let (session, tokenizer) = demo(2, 64, 16);
    let prompt = tokenizer
        .encode("Once upon a time", SpecialTokens::Add)
        .unwrap();
    let engine = Engine::start(session, Some(tokenizer), 8).unwrap();
    let ask = |stop: Vec<String>| {
        let settings = Settings {
            stop,
            ..settings(24)
        };
        let prompt = prompt.clone();
        all(engine.submit(Request { prompt, settings }).unwrap())
    };
    let (tokens, whole) = ask(Vec::new());
    let text = whole.unwrap().text;
    // The end of one token and the beginning of the next, for each pair of them.
    for i in 0..tokens.len() - 1 {
        let (first, second) = (&tokens[i].text, &tokens[i + 1].text);
        let (Some(last), Some(next)) = (first.chars().last(), second.chars().next()) else {
            continue;
        };
        let stop = format!("{last}{next}");
        let (pieces, found) = ask(vec!["never seen".to_owned(), stop.clone()]);
        let found = found.unwrap();
        assert_eq!(found.end, EndReason::Stop);
        assert_eq!(found.text, text[..text.find(&stop).unwrap()], "{stop:?}");
        let said: String = pieces.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(said + &found.rest, found.text);
    }
}

#[test]
fn what_others_have_read_is_not_read_again() {
    let (session, tokenizer) = demo(3, 256, 32);
    let engine = Engine::start(session, Some(tokenizer), 8).unwrap();
    let common: Vec<u32> = (0..100).map(|i| 300 + i * 7 % 400).collect();
    let ask = |end: &[u32], n_new| {
        let request = Request {
            prompt: [&common, end].concat(),
            settings: settings(n_new),
        };
        engine.submit(request).unwrap()
    };
    let mut running = ask(&[456], 100);
    // It has read its prompt by then.
    running.wait().unwrap();
    let beside = completion(ask(&[455, 261], 4));
    assert_eq!(beside.n_shared, 100);
    let after = completion(ask(&[455, 261], 4));
    assert_eq!((after.n_shared, &after.ids), (101, &beside.ids));
    drop(running);
    let stats = engine.stats();
    assert_eq!((stats.n_shared_tokens, stats.n_prompt_tokens), (201, 204));
    let (fresh, tokenizer) = demo(1, 256, 32);
    let engine = Engine::start(fresh, Some(tokenizer), 8).unwrap();
    let request = Request {
        prompt: [&common[..], &[455, 261]].concat(),
        settings: settings(4),
    };
    let fresh = completion(engine.submit(request).unwrap());
    assert_eq!((fresh.n_shared, fresh.ids), (0, beside.ids));
}

#[test]
fn a_full_queue_takes_nothing_and_an_end_is_told_to_all() {
    let (session, tokenizer) = demo(1, 512, 8);
    let engine = Engine::start(session, Some(tokenizer), 3).unwrap();
    let request = Request {
        prompt: vec![1, 456],
        settings: Settings {
            rules: Rules {
                suppress: vec![2],
                ..Rules::default()
            },
            ..settings(500)
        },
    };
    let mut running = engine.submit(request.clone()).unwrap();
    running.wait().unwrap();
    let waiting = engine.submit_all(vec![request.clone(); 2]).unwrap();
    let refused = engine.submit_all(vec![request.clone(); 2]);
    assert_eq!(refused.unwrap_err(), Busy::Full { n_waiting: 2 });
    assert_eq!(engine.stats().n_waiting, 2);
    assert!(engine.is_alive());
    let mut session = engine.end();
    assert_eq!(completion(running).end, EndReason::Interrupted);
    for handle in waiting {
        let error = all(handle).1.unwrap_err();
        assert!(matches!(
            error.of_runtime(),
            Some(RuntimeError::Interrupted)
        ));
    }
    session.interrupt().clear();
    assert!(session.prefill(0, &request.prompt).is_ok());
}
