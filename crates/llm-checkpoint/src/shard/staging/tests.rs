use llm_tensor::DType;

use super::*;
use crate::Checkpoint;
use crate::shard::ShardPlan;
use crate::shard::tests::{names, plan, write};
use crate::testing::{Folder, message, read_all};

/// State of a folder after a crash.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Old,
    Unopenable,
    New,
}

/// # Panics
/// When the folder opens and is neither all old nor all new.
fn state(folder: &Path, old: &ShardPlan, new: &ShardPlan) -> State {
    let Ok(checkpoint) = Checkpoint::open(folder) else {
        let text = message(Checkpoint::open(folder));
        assert!(
            text.contains("model.safetensors.index.json: writing a checkpoint"),
            "{text}"
        );
        return State::Unopenable;
    };
    let first = read_all(&checkpoint, "a", DType::U8)[0];
    let (plan, state) = if first == 1 {
        (old, State::Old)
    } else {
        (new, State::New)
    };
    assert_eq!(checkpoint.tensors().len(), plan.tensors().len());
    for tensor in checkpoint.tensors() {
        assert!(
            read_all(&checkpoint, &tensor.name, DType::U8)
                .iter()
                .all(|&b| b == first)
        );
    }
    let config = fs::read(folder.join("config.json")).unwrap();
    assert_eq!(config, [first], "the configuration is that of the weights");
    state
}

#[test]
fn a_crash_between_any_two_steps_leaves_the_old_the_new_or_nothing_that_opens() {
    let single = plan(&[4, 4, 4], 12);
    let three = plan(&[4, 4, 4], 4);
    let two = plan(&[4, 4, 4], 8);
    // Of the same names as `two`.
    let other_two = plan(&[4, 4], 4);
    for (old, new) in [(&single, &two), (&three, &single), (&two, &other_two)] {
        let made = Folder::new();
        write(made.path(), new, 2, Existing::Keep).unwrap();
        made.write("config.json", [2]);
        let mut states = Vec::new();
        for n_done in 0.. {
            let folder = Folder::new();
            write(folder.path(), old, 1, Existing::Keep).unwrap();
            folder.write("config.json", [1]);

            let mut staging = Staging::create(folder.path(), Existing::Replace).unwrap();
            for name in names(made.path()) {
                let contents = fs::read(made.path().join(&name)).unwrap();
                staging.write(&name, &*contents).unwrap();
            }
            let steps = staging.steps().unwrap();
            for step in &steps[..n_done] {
                step.run().unwrap();
            }
            // As if killed: nothing is cleaned up, only the lock is gone.
            staging.cleanup = Cleanup::Nothing;
            drop(staging);
            states.push(state(folder.path(), old, new));

            // Whatever was left, the next one succeeds.
            write(folder.path(), new, 2, Existing::Replace).unwrap();
            folder.write("config.json", [2]);
            assert_eq!(state(folder.path(), old, new), State::New);
            assert_eq!(names(folder.path()), names(made.path()));
            if n_done == steps.len() {
                break;
            }
        }
        states.dedup();
        assert_eq!(states, [State::Old, State::Unopenable, State::New]);
    }
}
