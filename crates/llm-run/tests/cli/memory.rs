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

/// Writes a llama in Q8_0, every block of it zero; what the file takes.
fn write_gguf(path: &Path) -> u64 {
    const Q8_0: u32 = 8;
    let (hidden, width, vocab, n_layers) = (1024, 4096, 4096, 9);
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let entry =
        |key: &str, ty: u32, value: &[u8]| [&string(key)[..], &ty.to_le_bytes(), value].concat();
    let int = |key: &str, value: u32| entry(&format!("llama.{key}"), 4, &value.to_le_bytes());
    let float = |key: &str, value: f32| entry(&format!("llama.{key}"), 6, &value.to_le_bytes());
    let metadata = [
        entry("general.architecture", 8, &string("llama")),
        int("context_length", 2048),
        int("embedding_length", hidden),
        int("block_count", n_layers),
        int("feed_forward_length", width),
        int("attention.head_count", 8),
        int("attention.head_count_kv", 8),
        float("attention.layer_norm_rms_epsilon", 1e-5),
    ];
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), [vocab, hidden]),
        ("output_norm.weight".to_owned(), [1, hidden]),
    ];
    for layer in 0..n_layers {
        let of_layer = |(name, shape)| (format!("blk.{layer}.{name}.weight"), shape);
        let attention = ["attn_q", "attn_k", "attn_v", "attn_output"];
        tensors.extend(attention.map(|name| of_layer((name, [hidden, hidden]))));
        tensors.extend(["ffn_gate", "ffn_up"].map(|name| of_layer((name, [width, hidden]))));
        tensors.push(of_layer(("ffn_down", [hidden, width])));
        tensors.extend(["attn_norm", "ffn_norm"].map(|name| of_layer((name, [1, hidden]))));
    }
    let mut file = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((metadata.len() as u64).to_le_bytes());
    file.extend(metadata.concat());
    let mut offset = 0u64;
    for (name, [rows, cols]) in &tensors {
        file.extend(string(name));
        // Vectors are of f32.
        let (dims, ty, bytes): (&[u32], _, _) = match rows {
            1 => (&[*cols], 0, u64::from(*cols) * 4),
            _ => (&[*cols, *rows], Q8_0, u64::from(cols / 32 * rows) * 34),
        };
        file.extend((dims.len() as u32).to_le_bytes());
        dims.iter()
            .for_each(|&dim| file.extend(u64::from(dim).to_le_bytes()));
        file.extend(ty.to_le_bytes());
        file.extend(offset.to_le_bytes());
        offset += bytes.next_multiple_of(32);
    }
    let begin = (file.len() as u64).next_multiple_of(32);
    fs::write(path, file).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(begin + offset).unwrap();
    begin + offset
}

/// What a GGUF's run has resident is its file, the keys and values, and what any run has.
#[test]
fn blocks_are_computed_with_where_they_lie_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let file = write_gguf(&path);
    let ids = "1,".repeat(99) + "1";
    let path = path.to_str().unwrap();
    let found = json(&[
        "generate",
        path,
        "--token-ids",
        &ids,
        "--max-new-tokens",
        "28",
        "--json",
    ]);
    let kv = 128 * 9 * 2 * 1024 * 2;
    let anonymous = found["memory"]["anonymous_bytes"].as_u64().unwrap();
    assert!(anonymous <= kv + (48 << 20), "{anonymous} are anonymous");
    let resident = found["memory"]["peak_resident_bytes"].as_u64().unwrap();
    assert!(
        file > 120_000_000 && (file..file + kv + 60_000_000).contains(&resident),
        "{resident} bytes are resident, of a file of {file}"
    );
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
