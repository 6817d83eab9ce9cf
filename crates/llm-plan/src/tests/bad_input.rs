//! Requests that make no sense.

use super::*;

#[test]
fn limits_say_what_to_give_instead() {
    let skeleton = llama(1, false);
    let stored = all_as(&skeleton, DType::BF16);
    let one = ONE_SEQUENCE;
    let cases = [
        (
            Limits { context: 65, ..one },
            "65 positions is more than the model was made for; ask for 64",
        ),
        (
            Limits { context: 0, ..one },
            "0 positions; give a number from 1",
        ),
        (
            Limits {
                n_sequences: 0,
                ..one
            },
            "0 sequences; give",
        ),
        (
            Limits {
                n_tokens: usize::MAX,
                ..one
            },
            "rows of a pass; give a number from 1 to 16777216",
        ),
        (Limits { n_logits: 0, ..one }, "0 rows of logits"),
    ];
    for (limits, expected) in cases {
        let request = Request {
            limits,
            ..request(&skeleton, &stored)
        };
        let message = plan(&request).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn sizes_that_no_machine_has_are_refused_and_do_not_overflow() {
    struct Huge;
    impl DeviceCosts for Huge {
        fn kv_pool_bytes(&self, _: &KvShape) -> Bytes {
            Bytes::new(u64::MAX)
        }
        fn kv_block_len(&self, _: &KvShape) -> usize {
            1
        }
        fn routes_bytes(&self, _: &ExpertsSpec, _: usize) -> Bytes {
            Bytes::new(u64::MAX)
        }
        fn workspace_bytes(&self, _: &WorkspaceShape) -> Bytes {
            Bytes::new(u64::MAX)
        }
        fn fixed_bytes(&self) -> Bytes {
            Bytes::new(u64::MAX)
        }
    }
    let skeleton = llama(2, false);
    let stored = all_as(&skeleton, DType::BF16);
    let request = Request {
        costs: Costs {
            cpu: &Huge,
            gpu: &Huge,
            program: Bytes::ZERO,
        },
        ..request(&skeleton, &stored)
    };
    let message = plan(&request).unwrap_err().to_string();
    assert!(message.contains("ask for a shorter context"), "{message}");
}

#[test]
fn strategies_have_names() {
    let cases = [
        ("auto", Strategy::Auto),
        ("balanced", Strategy::Balanced),
        ("balanced_low_0", Strategy::BalancedLow0),
        ("sequential", Strategy::Sequential),
        ("cpu", Strategy::Cpu),
    ];
    for (name, strategy) in cases {
        assert_eq!(name.parse(), Ok(strategy));
    }
    let message = |text: &str| text.parse::<Strategy>().unwrap_err().to_string();
    assert!(message("gpu").contains("`gpu` is no device map; write auto, balanced"));
    assert!(message("{\"\": 0").contains("not JSON from modules to devices"));
}
