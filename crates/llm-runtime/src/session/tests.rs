//! Passes that tokens are laid into, recorded by a stage that computes nothing.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use llm_backend::BackendError;
use llm_plan::{DeviceMap, RunOn};

use super::*;
use crate::device::{Elsewhere, Stages};
use crate::pipeline::Part;
use crate::port::{Crossing, Lane, Port};
use crate::read_config;

/// A pass: each sequence's rows, first row, count and start, and whether logits follow.
type Recorded = (Vec<(usize, [usize; 3])>, bool);

/// Tells of its passes; the logits after a token are that token's id everywhere.
struct Recorder {
    passes: Sender<Recorded>,
    ids: Vec<u32>,
    vocab: usize,
    /// Raised in the middle of the next pass.
    raised: Raised,
    /// What its work came to, for who asks.
    failed: Option<BackendError>,
}

type Raised = Arc<Mutex<Option<Interrupt>>>;

impl Recorder {
    fn stop_at(&self, interrupt: Interrupts<'_>) -> Result<()> {
        if let Some(interrupt) = self.raised.lock().unwrap().take() {
            interrupt.raise();
        }
        match interrupt.is_raised() {
            true => Err(RuntimeError::Interrupted),
            false => Ok(()),
        }
    }
}

impl Stages for Recorder {
    fn forward(&mut self, _: usize, pass: &Pass<'_>, _: &mut dyn Elsewhere) -> Result<()> {
        let rows =
            |&(sequence, rows): &(usize, Rows)| (sequence, [rows.first, rows.n_tokens, rows.start]);
        let sequences = pass.sequences.iter().map(rows).collect();
        self.passes.send((sequences, pass.logits)).unwrap();
        self.ids = pass.ids.to_vec();
        self.stop_at(pass.interrupt)
    }

    fn encode(
        &mut self,
        _: usize,
        _: &[u32],
        (interrupt, _): (Interrupts<'_>, Option<&Probe>),
    ) -> Result<()> {
        self.stop_at(interrupt)
    }

    fn attend_to(&mut self, _: usize, _: usize, _: Interrupts<'_>) -> Result<()> {
        Ok(())
    }

    fn expect_experts(&self, _: usize, _: &dyn Fn(usize) -> bool) {}

    fn expert(&mut self, _: Unit, _: usize) -> Result<()> {
        Ok(())
    }

    fn can_rewind(&self, _: usize, _: usize) -> bool {
        true
    }

    fn rewind(&mut self, _: usize, _: usize) {}

    fn fork(&mut self, _: usize, _: usize) -> Result<()> {
        Ok(())
    }

    fn logits(&mut self, rows: &[usize], out: &mut [f32]) -> Result<()> {
        for (&row, out) in rows.iter().zip(out.chunks_exact_mut(self.vocab)) {
            out.fill(self.ids[row] as f32);
        }
        Ok(())
    }

    fn ids(&mut self, rows: &[usize], ids: &mut [Option<u32>]) -> Result<()> {
        for (&row, id) in rows.iter().zip(ids) {
            *id = Some(self.ids[row]);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.failed
            .clone()
            .map_or(Ok(()), |error| Err(error.into()))
    }

    fn count(&self, _: &mut Allocated) {}
}

impl Port for Recorder {
    fn download(&mut self, _: Crossing, _: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn upload(&mut self, _: Crossing, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn lane(&mut self, _: Crossing) -> Lane<'_> {
        panic!("there is no other device")
    }

    fn take(&mut self, _: Crossing, _: usize, _: Lane<'_>) -> Result<bool> {
        Ok(false)
    }
}

const GPT2: &str = r#"{"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8, "vocab_size": 100}"#;
const T5: &str = r#"{"model_type": "t5", "d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "num_layers": 1, "n_positions": 8,
    "vocab_size": 100, "decoder_start_token_id": 0}"#;

/// Passes of up to 4 rows of up to 3 sequences of 8 positions.
fn session() -> (Session, Receiver<Recorded>) {
    let (session, seen, _) = interrupted_session(GPT2);
    (session, seen)
}

/// The same with what its next pass raises.
fn interrupted_session(config: &str) -> (Session, Receiver<Recorded>, Raised) {
    let (skeleton, _) = read_config(config.as_bytes(), Path::new("config.json")).unwrap();
    let limits = Limits {
        n_sequences: 3,
        context: 8,
        n_tokens: 4,
        n_logits: 3,
    };
    let (passes, seen) = channel();
    let vocab = skeleton.spec.vocab;
    let recorder = Recorder {
        passes,
        ids: Vec::new(),
        vocab,
        raised: Raised::default(),
        failed: None,
    };
    let raised = Arc::clone(&recorder.raised);
    let run_on = RunOn::Cpu;
    let plan = DeviceMap::on_one(&skeleton.spec, run_on).stages().unwrap();
    let part = Part {
        run_on,
        stages: Box::new(recorder),
    };
    let pipeline = Pipeline::new(&skeleton.spec, &limits, &plan, vec![part]);
    let loaded = (pipeline, Allocated::default());
    let session = Session::new(skeleton.spec, loaded, limits, DType::F32, None);
    (session, seen, raised)
}

/// A device whose rows have come to the next may have failed all the same: what follows is made of garbage.
#[test]
fn a_device_that_failed_is_told_of_with_the_logits() {
    let (mut session, seen) = session();
    session.step(&[(0, 1)]).unwrap();
    let failed = BackendError::Driver {
        device: "cuda:0".to_owned(),
        operation: "waiting for a stream".to_owned(),
        code: 700,
        name: "CUDA_ERROR_ILLEGAL_ADDRESS".to_owned(),
    };
    let (passes, _) = channel();
    session.pipeline.add(Part {
        run_on: RunOn::Gpu(0),
        stages: Box::new(Recorder {
            passes,
            ids: Vec::new(),
            vocab: 100,
            raised: Raised::default(),
            failed: Some(failed.clone()),
        }),
    });
    let stepped = session.step(&[(0, 2)]).map(<[f32]>::to_vec);
    let chosen = session.greedy(0, &[2]).map(|id| vec![id as f32]);
    for outcome in [stepped, chosen] {
        match outcome {
            Err(RuntimeError::Backend(error)) => assert_eq!(error, failed),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen.try_iter().count(), 3);
}

#[test]
fn as_few_passes_as_can_be_serve_all_sequences() {
    struct Case<'a> {
        what: &'a str,
        /// Each sequence and how many tokens it gets.
        items: &'a [(usize, usize)],
        passes: &'a [Recorded],
    }
    // The cases continue each other.
    let cases = [
        Case {
            what: "prompts share a pass",
            items: &[(2, 1), (0, 3)],
            passes: &[(vec![(2, [0, 1, 0]), (0, [1, 3, 0])], true)],
        },
        Case {
            what: "two decode while the third reads a prompt that is longer than a pass",
            items: &[(0, 1), (2, 1), (1, 7)],
            passes: &[
                (vec![(0, [0, 1, 3]), (2, [1, 1, 1]), (1, [2, 2, 0])], true),
                (vec![(1, [0, 4, 2])], false),
                (vec![(1, [0, 1, 6])], true),
            ],
        },
        Case {
            what: "an item that ends with its pass",
            items: &[(2, 4), (1, 1)],
            passes: &[(vec![(2, [0, 4, 2])], true), (vec![(1, [0, 1, 7])], true)],
        },
        Case {
            what: "nothing",
            items: &[],
            passes: &[],
        },
    ];
    let (mut session, seen) = session();
    for Case {
        what,
        items,
        passes,
    } in cases
    {
        let tokens: Vec<u32> = (0..100).collect();
        // Other ids for each, so that logits of a wrong row show.
        let ids = |i: usize, n: usize| &tokens[10 * i..][..n];
        let items_by_idx = items.iter().enumerate();
        let fed: Vec<_> = items_by_idx
            .map(|(i, &(sequence, n))| (sequence, ids(i, n)))
            .collect();
        let logits = session.advance(&fed).unwrap();
        let last: Vec<f32> = fed
            .iter()
            .map(|(_, ids)| ids[ids.len() - 1] as f32)
            .collect();
        assert_eq!(logits.len(), 100 * items.len(), "{what}");
        for (logits, last) in logits.chunks_exact(100).zip(last) {
            assert!(logits.iter().all(|&l| l == last), "{what}: {logits:?}");
        }
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), passes, "{what}");
    }
    assert_eq!([0, 1, 2].map(|sequence| session.len(sequence)), [4, 8, 6]);
}

/// Fits a sequence alone, and not one of two positions.
const LONG: [u32; 7] = [0, 1, 2, 3, 4, 5, 6];

/// Ids that cannot follow on two positions, and words of the error.
const WRONG_ITEMS: [(&[u32], &str); 3] = [
    (&[], "empty"),
    (&[3, 100], "token id 100"),
    (&LONG, "9 tokens do not fit the context of 8"),
];

#[test]
fn what_one_item_gets_wrong_is_said_before_any_is_fed() {
    let (mut session, seen) = session();
    session.advance(&[(1, &[5, 6])]).unwrap();
    seen.try_iter().for_each(drop);
    for (ids, expected) in WRONG_ITEMS {
        let error = session.advance(&[(0, &[1]), (1, ids)]).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!((session.len(0), session.len(1)), (0, 2), "{error}");
    }
    // Alone in its sequence it would fit.
    session.check_prompt(&LONG).unwrap();
    assert_eq!(seen.try_iter().count(), 0);
}

#[test]
fn a_fork_has_taken_what_its_origin_has() {
    let (mut session, seen) = session();
    session.advance(&[(0, &[5, 6, 7]), (2, &[8])]).unwrap();
    session.fork(0, 2).unwrap();
    session.truncate(0, 2);
    assert_eq!([0, 1, 2].map(|sequence| session.len(sequence)), [2, 0, 3]);
    seen.try_iter().for_each(drop);
    session.step(&[(2, 9), (0, 4)]).unwrap();
    let passes = [(vec![(2, [0, 1, 3]), (0, [1, 1, 2])], true)];
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), passes);
}

/// Outcome of each item: the token that its logits are of, or why there are none.
fn outcomes(
    session: &mut Session,
    items: &[(usize, &[u32])],
) -> Vec<std::result::Result<u32, String>> {
    let outcomes = session.advance_each(items).unwrap().into_iter();
    let told = |outcome: Result<&[f32]>| match outcome {
        Ok(logits) => Ok(logits[0] as u32),
        Err(error) => Err(error.to_string()),
    };
    outcomes.map(told).collect()
}

#[test]
fn what_one_item_gets_wrong_is_nothing_to_the_others() {
    let (mut session, seen) = session();
    session.advance(&[(1, &[5, 6])]).unwrap();
    seen.try_iter().for_each(drop);
    for (i, (ids, expected)) in WRONG_ITEMS.into_iter().enumerate() {
        let found = outcomes(&mut session, &[(0, &[11]), (1, ids), (2, &[7, 12])]);
        assert_eq!((&found[0], &found[2]), (&Ok(11), &Ok(12)));
        assert!(
            found[1].as_ref().unwrap_err().contains(expected),
            "{found:?}"
        );
        assert_eq!([0, 1, 2].map(|n| session.len(n)), [i + 1, 2, 2 * (i + 1)]);
        let (rows, _) = seen.try_recv().unwrap();
        assert_eq!(rows.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 2]);
    }
    assert_eq!(seen.try_iter().count(), 0);
}

#[test]
fn an_interrupted_sequence_is_nothing_to_the_others() {
    let (mut session, seen, raised) = interrupted_session(GPT2);
    // Before a pass.
    let interrupt = session.interrupt_of(1);
    interrupt.raise();
    let items: [(usize, &[u32]); 2] = [(1, &[1, 2]), (0, &[3, 4, 5, 6, 7])];
    let interrupted = || Err(RuntimeError::Interrupted.to_string());
    assert_eq!(outcomes(&mut session, &items), [interrupted(), Ok(7)]);
    assert_eq!([0, 1].map(|n| session.len(n)), [5, 0]);
    let stepped = session.step(&[(1, 1)]);
    assert!(matches!(stepped, Err(RuntimeError::Interrupted)));
    interrupt.clear();
    session.step(&[(1, 1)]).unwrap();

    // Between the passes of a long item, of which the first is another's too.
    session.truncate(0, 0);
    session.truncate(1, 0);
    seen.try_iter().for_each(drop);
    *raised.lock().unwrap() = Some(interrupt.clone());
    let items: [(usize, &[u32]); 3] = [(2, &[9]), (1, &[1, 2, 3, 4, 5]), (0, &[6, 7])];
    assert_eq!(
        outcomes(&mut session, &items),
        [Ok(9), interrupted(), Ok(7)]
    );
    assert_eq!([0, 1, 2].map(|n| session.len(n)), [2, 3, 1]);
    let expected = [
        (vec![(2, [0, 1, 0]), (1, [1, 3, 0])], true),
        (vec![(0, [0, 2, 0])], true),
    ];
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), expected);
    interrupt.clear();

    // In the middle of a pass of its own, which counts for nothing.
    *raised.lock().unwrap() = Some(interrupt.clone());
    let items: [(usize, &[u32]); 2] = [(1, &[1, 2, 3, 4]), (0, &[8])];
    assert_eq!(outcomes(&mut session, &items), [interrupted(), Ok(8)]);
    assert_eq!([0, 1].map(|n| session.len(n)), [3, 3]);

    // The session's own ends all.
    session.interrupt().raise();
    let error = session.advance_each(&[(0, &[1]), (2, &[2])]).unwrap_err();
    assert!(matches!(error, RuntimeError::Interrupted));
}

#[test]
fn ids_are_those_of_their_items() {
    let (mut session, seen) = session();
    let items: [(usize, &[u32]); 3] = [(0, &[11]), (1, &[]), (2, &[7, 12])];
    let ids = session.greedy_each(&items).unwrap();
    let ids: Vec<Option<u32>> = ids.into_iter().map(Result::ok).collect();
    assert_eq!(ids, [Some(11), None, Some(12)]);
    // In two passes, of which the last has what follows.
    assert_eq!(session.greedy(1, &[1, 2, 3, 4, 5, 6]).unwrap(), 6);
    assert_eq!(session.greedy(1, &[9]).unwrap(), 9);
    assert_eq!(seen.try_iter().count(), 4);
}

#[test]
fn an_interrupted_sequence_ends_its_prompt_at_the_encoder() {
    let (mut session, seen, raised) = interrupted_session(T5);
    let interrupt = session.interrupt_of(1);
    *raised.lock().unwrap() = Some(interrupt.clone());
    for _ in ["in the middle", "from then on"] {
        let outcome = session.prefill(1, &[1, 2]);
        assert!(matches!(outcome, Err(RuntimeError::Interrupted)));
    }
    assert_eq!(seen.try_iter().count(), 0);
    session.prefill(0, &[1, 2]).unwrap();
    interrupt.clear();
    session.prefill(1, &[1, 2]).unwrap();
}
