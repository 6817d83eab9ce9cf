//! Cutting a checkpoint into shards is copying it: against `cp` of the same files, from the page cache.
//!
//! `cp` promises nothing about a crash; what it takes until its copy is on the disk, as ours is, stands beside it.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it finds")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use llm_checkpoint::{Checkpoint, CheckpointError, Existing, NewTensor, ShardPlan, ShardWriter};
use llm_tensor::{Bytes, DType, Shape};

fn main() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder to write to");
    let [input, output] = ["in", "out"].map(|name| folder.path().join(name));
    let bytes = make(&input);
    let mut runs: [(&str, Run, Vec<f64>); 4] = [
        ("cp", copy, Vec::new()),
        ("cp and sync", copy_and_sync, Vec::new()),
        ("shard", |from, to| shard(from, to, None), Vec::new()),
        (
            "shard --dtype f16",
            |from, to| shard(from, to, Some(DType::F16)),
            Vec::new(),
        ),
    ];
    for round in 0..=N_ROUNDS {
        for (_, run, seconds) in &mut runs {
            let start = Instant::now();
            run(&input, &output);
            // The first round warms the cache.
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
            fs::remove_dir_all(&output).expect("what was just written can be removed");
        }
    }
    let medians = runs.map(|(name, _, mut seconds)| {
        seconds.sort_by(f64::total_cmp);
        (name, seconds[seconds.len() / 2])
    });
    println!(
        "{} in {N_SHARDS} files, median of {N_ROUNDS} rounds",
        Bytes::new(bytes)
    );
    let [(_, cp), (_, cp_and_sync), ..] = medians;
    for (name, seconds) in medians {
        println!(
            "  {name:18} {:5.2} GB/s | {:5.2} x cp | {:5.2} x cp and sync",
            bytes as f64 / seconds / 1e9,
            cp / seconds,
            cp_and_sync / seconds
        );
    }
}

/// Makes a copy of one folder's files in another, which is not there yet.
type Run = fn(&Path, &Path);

const N_ROUNDS: usize = 5;
const N_SHARDS: u64 = 4;

/// Writes bf16 tensors as large as a 7B model's, about 2 GB; returns their bytes.
fn make(folder: &Path) -> u64 {
    let tensor = |i| NewTensor {
        name: format!("model.layers.{i}.mlp.up_proj.weight"),
        dtype: DType::BF16,
        shape: Shape::new(&[11008, 4096]).expect("a small product"),
    };
    let size = 11008 * 4096 * 2;
    let tensors: Vec<NewTensor> = (0..24).map(tensor).collect();
    let max = Bytes::new(size * 24 / N_SHARDS);
    let plan = ShardPlan::new(tensors, Some(max)).expect("names differ");
    // Small numbers that differ: nothing that a disk could squeeze.
    let piece: Vec<u8> = (0..size as u32 / 2)
        .flat_map(|i| (0x3C00 | (i.wrapping_mul(2_654_435_761) >> 20) as u16).to_le_bytes())
        .collect();
    let write = || {
        let mut writer = ShardWriter::create(folder, &plan, BTreeMap::new(), Existing::Keep)?;
        for _ in plan.tensors() {
            writer.write(&piece)?;
        }
        writer.finish()
    };
    write().expect("there is room for the input");
    plan.total().get()
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-r").args([from, to]).status();
    assert!(status.expect("cp is there").success());
}

fn copy_and_sync(from: &Path, to: &Path) {
    copy(from, to);
    for entry in fs::read_dir(to).expect("cp made it") {
        let sync = || File::open(entry?.path())?.sync_all();
        sync().expect("a file can be synced");
    }
}

fn shard(from: &Path, to: &Path, dtype: Option<DType>) {
    let run = || {
        let checkpoint = Checkpoint::open(from)?;
        let max = Bytes::new(300_000_000);
        let plan = ShardPlan::of_checkpoint(&checkpoint, dtype, Some(max))?;
        let mut writer = ShardWriter::create(to, &plan, BTreeMap::new(), Existing::Keep)?;
        writer.copy_from(&checkpoint, |_| Ok::<_, CheckpointError>(()))?;
        writer.finish()
    };
    run().expect("there is room for the output");
}
