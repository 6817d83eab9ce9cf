//! An offloaded model: decoding beside one reader that goes through the same bytes past the page cache.
//!
//! `cargo bench -p llm-benches --bench offload -- FOLDER [SCHEME…]` wants a model whose files are on the disk to be
//! measured, as `cargo xtask make-model benches/configs/llama-1.1b.json FOLDER` writes one. What is not in its final form
//! there is written to `FOLDER/offload`, which may be deleted afterwards.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it finds")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use llm_benches::cpu;
use llm_checkpoint::{Checkpoint, DirectFile};
use llm_cpu::Cpu;
use llm_plan::{
    Budgets, Costs, Home, Offload, Plan, Request, StoredTensor, Strategy, Verdict, WeightDType,
    plan,
};
use llm_quant::{LoadIn, QuantConfig};
use llm_runtime::{BoundModel, CostsOf, Limits, LoadOptions, OffloadOptions, Session, load};
use llm_tensor::{Bytes, PageBuf};

/// Sequences of a batch.
const BATCH: usize = 8;
const N_HELD: usize = 8;
const ROUNDS: usize = 3;
const STEPS: usize = 4;

fn main() -> Result<()> {
    // Cargo adds `--bench` to what it passes on.
    let mut given = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"));
    let folder = given.next().context("give a model's folder")?;
    let wanted: Vec<String> = given.collect();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder);
    let model = BoundModel::open(&folder).with_context(|| folder.display().to_string())?;
    let bench = Bench {
        model: &model,
        offload_folder: &folder.join("offload"),
        cpu: cpu(None),
    };
    println!("{}", folder.display());
    for (name, quant) in schemes() {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            bench.scheme(name, quant.as_ref())?;
        }
    }
    Ok(())
}

struct Bench<'a> {
    model: &'a BoundModel,
    offload_folder: &'a Path,
    cpu: Arc<Cpu>,
}

impl Bench<'_> {
    fn scheme(&self, name: &str, quant: Option<&QuantConfig>) -> Result<()> {
        let all = self.plan(
            quant,
            1,
            Strategy::Map(r#"{"": "disk"}"#.parse()?),
            u64::MAX,
        )?;
        let streamed = streamed_by(&all);
        let ram = |plan: &Plan| {
            let memory = plan.estimate.memory(Home::Ram);
            memory.map_or(Bytes::ZERO, |memory| memory.needed())
        };
        // Room for half of that beside what it takes on disk.
        let budget = ram(&all) + Bytes::new(streamed.get() / 2);
        let half = self.plan(quant, 1, Strategy::Cpu, budget.get())?;
        let streamed_of_half = streamed_by(&half);
        let batch = self.plan(
            quant,
            BATCH,
            Strategy::Map(r#"{"": "disk"}"#.parse()?),
            u64::MAX,
        )?;

        let begin = Instant::now();
        let mut on_disk = self.load(quant, &all, 1)?;
        let opened = begin.elapsed().as_secs_f64();
        let mut half_on_disk = self.load(quant, &half, 1)?;
        let mut eight = self.load(quant, &batch, BATCH)?;
        for session in [&mut on_disk, &mut half_on_disk] {
            session.prefill(0, &prompt())?;
        }
        for sequence in 0..BATCH {
            eight.prefill(sequence, &prompt())?;
        }
        let files = self.files(quant.is_some())?;
        let mut block = PageBuf::zeroed(8 << 20)?;
        let mut seconds = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            // As many bytes, since disks are faster for a moment than for long.
            read(&files, streamed, &mut block);
            let begin = Instant::now();
            (0..STEPS).for_each(|_| read(&files, streamed, &mut block));
            seconds[0].push(begin.elapsed().as_secs_f64() / STEPS as f64);
            seconds[1].push(step_seconds(&mut on_disk, 1)?);
            seconds[2].push(step_seconds(&mut half_on_disk, 1)?);
            seconds[3].push(step_seconds(&mut eight, BATCH)?);
        }
        let [plain, one, half_time, eight_time] = seconds.map(|mut seconds| {
            seconds.sort_by(f64::total_cmp);
            seconds[seconds.len() / 2]
        });
        let rate = |seconds: f64| streamed.get() as f64 / seconds / 1e9;
        println!(
            "  {name:10} {streamed} a token, opened in {opened:.1} s | plain read {:.2} GB/s | all on disk {:.2} tokens/s, \
             {:.2} GB/s, {:.0}% of plain | half in RAM {} a token, {:.2} tokens/s, x {:.2} | {BATCH} sequences {:.2} tokens/s, x {:.2}",
            rate(plain),
            1.0 / one,
            rate(one),
            100.0 * plain / one,
            streamed_of_half,
            1.0 / half_time,
            one / half_time,
            BATCH as f64 / eight_time,
            BATCH as f64 * one / eight_time,
        );
        Ok(())
    }

    fn plan(
        &self,
        quant: Option<&QuantConfig>,
        n_sequences: usize,
        strategy: Strategy,
        ram: u64,
    ) -> Result<Plan> {
        let stored: Vec<StoredTensor> = self.model.tensors().map(|b| b.stored()).collect();
        let costs = CostsOf(&*self.cpu);
        let request = Request {
            skeleton: self.model.skeleton(),
            stored: &stored,
            encodings: self.model.encodings(WeightDType::Auto, quant)?,
            kv_dtype: None,
            limits: limits(n_sequences),
            load_piece: Bytes::mib(2),
            slice: llm_plan::DEFAULT_SLICE,
            budgets: Budgets {
                ram: Bytes::new(ram),
                disk: Some(Bytes::new(u64::MAX)),
                ..Budgets::default()
            },
            strategy,
            offload: Offload::Compute,
            costs: Costs {
                cpu: &costs,
                gpu: &costs,
                program: Bytes::ZERO,
            },
        };
        match plan(&request)? {
            Verdict::Fits(plan) => Ok(*plan),
            refused => bail!("{refused}"),
        }
    }

    fn load(
        &self,
        quant: Option<&QuantConfig>,
        plan: &Plan,
        n_sequences: usize,
    ) -> Result<Session> {
        let options = LoadOptions {
            dtype: WeightDType::Auto,
            quant,
            encoder: &*self.cpu,
            limits: limits(n_sequences),
            offload: Some(OffloadOptions {
                map: &plan.map,
                folder: self.offload_folder,
            }),
        };
        Ok(load(self.model, &self.cpu, &options, &mut |_| ())?)
    }

    /// The files that hold what is streamed: of a quantized model those that were written, of another the checkpoint's.
    fn files(&self, written: bool) -> Result<Vec<DirectFile>> {
        if !written {
            let checkpoint = self.model.checkpoint();
            let n_files = checkpoint.files().len();
            let files = (0..n_files).map(|idx| checkpoint.direct_file(idx));
            return Ok(files.collect::<Result<_, _>>()?);
        }
        let mut paths = BTreeSet::new();
        for entry in fs::read_dir(self.offload_folder)? {
            for file in fs::read_dir(entry?.path())? {
                let path = file?.path();
                if path.extension().is_some_and(|e| e == "safetensors") {
                    paths.insert(path);
                }
            }
        }
        ensure!(!paths.is_empty(), "nothing was written");
        let open = |path: &PathBuf| Ok(Checkpoint::open(path)?.direct_file(0)?);
        paths.iter().map(open).collect()
    }
}

/// Bytes read from disk per token.
fn streamed_by(plan: &Plan) -> Bytes {
    let weights = plan.step.weights.iter();
    let on_disk = weights.filter(|(path, _)| path.home == Home::Disk);
    on_disk.map(|&(_, bytes)| bytes).sum()
}

/// Mean seconds of a step of `n` sequences, after an untimed one that leaves reading ahead where each step does.
fn step_seconds(session: &mut Session, n: usize) -> Result<f64> {
    let tokens: Vec<_> = (0..n).map(|sequence| (sequence, 5)).collect();
    let mut step = || -> Result<()> {
        session.step(&tokens)?;
        (0..n).for_each(|sequence| {
            session.truncate(sequence, N_HELD);
        });
        Ok(())
    };
    step()?;
    let begin = Instant::now();
    for _ in 0..STEPS {
        step()?;
    }
    Ok(begin.elapsed().as_secs_f64() / STEPS as f64)
}

/// Reads as many bytes as a token needs, one block after the other.
fn read(files: &[DirectFile], n_bytes: Bytes, block: &mut [u8]) {
    let mut rest = n_bytes.get();
    for file in files.iter().cycle() {
        for offset in (0..file.len()).step_by(block.len()) {
            let n = (file.len() - offset).min(block.len() as u64).min(rest);
            let pages = (n as usize).next_multiple_of(DirectFile::PAGE);
            file.read_pages(offset, &mut block[..pages])
                .expect("a readable file");
            rest -= n;
            if rest == 0 {
                return;
            }
        }
    }
}

fn prompt() -> Vec<u32> {
    (3..3 + N_HELD as u32).collect()
}

fn limits(n_sequences: usize) -> Limits {
    Limits {
        n_sequences,
        context: 2 * N_HELD,
        n_tokens: N_HELD,
        n_logits: n_sequences,
    }
}

fn schemes() -> Vec<(&'static str, Option<QuantConfig>)> {
    let nf4 = QuantConfig::new(LoadIn::FourBit);
    let double = QuantConfig {
        bnb_4bit_use_double_quant: true,
        ..nf4.clone()
    };
    vec![
        ("dense", None),
        ("int8", Some(QuantConfig::new(LoadIn::EightBit))),
        ("nf4", Some(nf4)),
        ("nf4 double", Some(double)),
    ]
}
