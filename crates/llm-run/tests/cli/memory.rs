//! What a loaded model takes of the machine's memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use llm_checkpoint::{NewTensor, SafetensorsWriter};
use llm_tensor::Shape;

use crate::support::json;

/// A model of the right shape whose weights are all zero.
const CONFIG: &str = r#"{
    "model_type": "llama", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8,
    "num_attention_heads": 8, "vocab_size": 4096, "tie_word_embeddings": true, "dtype": "bfloat16"
}"#;

/// Every position's keys and values, of 8 layers of 2 · 1024 bf16 elements.
const KV_BYTES_PER_TOKEN: u64 = 8 * 2 * 1024 * 2;

/// Writes that model; what its weights take.
fn write_model(folder: &Path) -> u64 {
    fs::write(folder.join("config.json"), CONFIG).unwrap();
    let skeleton = llm_arch::from_config(&serde_json::from_str(CONFIG).unwrap()).unwrap();
    let tensor = |slot: &llm_arch::Slot| {
        let dims: Vec<u64> = slot.stored_shape().iter().map(|&d| d as u64).collect();
        NewTensor {
            name: slot.name.clone(),
            dtype: skeleton.spec.dtype.unwrap(),
            shape: Shape::new(&dims).unwrap(),
        }
    };
    let tensors: Vec<_> = skeleton.slots.iter().map(tensor).collect();
    let path = folder.join("model.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &tensors, &BTreeMap::new()).unwrap();
    let weights = 2 * skeleton.n_parameters();
    let zeros = vec![0; 1 << 20];
    for at in (0..weights).step_by(zeros.len()) {
        writer
            .write(&zeros[..(weights - at).min(1 << 20) as usize])
            .unwrap();
    }
    writer.finish().unwrap();
    weights
}

#[test]
fn weights_that_lie_right_in_the_file_are_not_copied() {
    let folder = tempfile::tempdir().unwrap();
    let weights = write_model(folder.path());
    let ids = "1,".repeat(99) + "1";
    let path = folder.path().to_str().unwrap();
    let found = json(&[
        "generate",
        path,
        "--token-ids",
        &ids,
        "--max-new-tokens",
        "28",
        "--json",
    ]);
    let anonymous = found["memory"]["anonymous_bytes"].as_u64().unwrap();
    let limit = 128 * KV_BYTES_PER_TOKEN + (64 << 20);
    assert!(
        anonymous <= limit,
        "{anonymous} bytes are anonymous, of {limit} allowed, for {weights} of weights"
    );
    assert!(weights > 2 * limit, "a copy of the weights would show");
    let resident = found["memory"]["peak_resident_bytes"].as_u64().unwrap();
    assert!(resident > weights, "the weights were all used");
}

/// A memory cgroup of a version that this machine has, and that is gone with it.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Nothing where none can be made, as for a user who is not root.
    fn with_limit(n_bytes: u64) -> Option<Self> {
        let name = format!("llm-run-test-{}", std::process::id());
        let versions = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        versions.iter().find_map(|(root, limit)| {
            let root = Path::new(root);
            let group = Cgroup(root.join(&name));
            fs::create_dir(&group.0).ok()?;
            let limit = group.0.join(limit);
            // A file that is not there is a group that does not control memory.
            (limit.exists() && fs::write(&limit, n_bytes.to_string()).is_ok()).then_some(group)
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Whoever asks for more than a container has is told, and not killed.
#[test]
fn a_budget_beyond_the_cgroups_limit_is_not_believed() {
    let limit = 200_000_000;
    let Some(group) = Cgroup::with_limit(limit) else {
        println!("skipped: no memory cgroup can be made");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let weights = write_model(folder.path());
    assert!(weights > limit);
    let model = folder.path().to_str().unwrap();
    let run = |args: &[&str]| {
        let output = Command::new("sh")
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(group.0.join("cgroup.procs"))
            .arg(env!("CARGO_BIN_EXE_llm-run"))
            .args(args)
            .args(["--threads", "2", "--max-memory", "cpu=64GB"])
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let ids = ["--token-ids", "1,2,3", "--max-new-tokens", "2"];
    let (code, _, errors) = run(&[&["generate", model], &ids[..]].concat());
    assert_eq!(code, Some(0), "{errors}");
    assert!(
        errors.contains("note: --max-memory cpu: 64.0 GB"),
        "{errors}"
    );
    assert!(errors.contains("limit 200.0 MB"), "{errors}");
    assert!(errors.contains("of weights rest on disk"), "{errors}");
    let (code, plan, errors) = run(&["plan", model]);
    assert_eq!(code, Some(0), "{errors}");
    let says = "hypothetical: this machine has only ";
    assert!(
        plan.contains(says) && plan.contains("limit 200.0 MB"),
        "{plan}"
    );
}

/// The same of a limit that the process has by itself.
#[test]
fn a_budget_beyond_the_processs_own_limit_is_not_believed() {
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 4000000 && exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_llm-run"))
        .args([
            "generate",
            "demo",
            "Once",
            "--max-new-tokens",
            "2",
            "--threads",
            "2",
        ])
        .args(["--max-memory", "cpu=64TB"])
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let note = errors.lines().next().unwrap();
    assert!(
        note.starts_with("note: --max-memory cpu: 64.0 TB"),
        "{note}"
    );
    // Where less is free, that is what is said.
    assert!(
        note.contains("RLIMIT_AS (ulimit -v) 4.1 GB") || note.contains("are free"),
        "{note}"
    );
}
