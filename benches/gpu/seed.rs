//! A model of 7 to 11 billion parameters in small, on as small a part of a GPU of 15 GB beside 12.7 GB of RAM: its tokens and
//! its memory, wherever its weights rest.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use llm_cpu::{Cpu, CpuOptions};
use llm_cuda::Cuda;
use llm_plan::{Budgets, GpuSpeed, Home, Limits, Plan, RunOn, Speeds, Term};
use llm_quant::QuantConfig;
use llm_runtime::{BoundModel, Device, Interrupt, LoadOptions, OffloadOptions, Session, load_on};
use llm_tensor::Bytes;
use serde_json::{Map, Value, json};

use crate::model::{self, DTYPE, Devices};
use crate::{Encoding, Extent};

/// Model in small, and what is known of the card.
pub(crate) struct Options<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) encoding: Encoding,
    pub(crate) extent: Extent,
    /// Copy bandwidth of the GPU's memory, and from pinned memory to it, in bytes a second.
    pub(crate) rates: [f64; 2],
}

/// Configurations in small: each with the real one's name, for an extent.
///
/// # Errors
/// When the list or a configuration is not as it was written.
pub(crate) fn configs(folder: &Path, extent: Extent) -> Result<Vec<(String, Value)>> {
    let read = |name: &str| -> Result<Value> {
        let path = folder.join(name);
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_slice(&text)?)
    };
    let seeds = read("seeds.json")?;
    let of_seed = |seed: &Value| {
        let real = seed["real"].as_str().context("a seed without a name")?;
        let mut config: Map<String, Value> =
            serde_json::from_value(read(&format!("{real}.json"))?)?;
        let small = seed[part(extent).to_string()].as_object();
        for (key, value) in small.context("a seed without its keys in small")? {
            ensure!(config.contains_key(key), "{real} has no {key}");
            config.insert(key.clone(), value.clone());
        }
        Ok((real.to_owned(), Value::Object(config)))
    };
    let seeds = seeds.as_array().context("no list of seeds")?;
    seeds.iter().map(of_seed).collect()
}

/// One of so many parts of the real one's weights, and of its budgets.
fn part(extent: Extent) -> u64 {
    match extent {
        Extent::Small => 256,
        Extent::Full => 20,
    }
}

/// Prints a line of JSON for each way to place the weights.
///
/// # Errors
/// When tokens differ from those of the model wholly on the GPU, or allocations from what was planned.
pub(crate) fn run(options: &Options<'_>) -> Result<()> {
    let seed = Seed {
        options,
        gpu: Arc::new(Cuda::new(0)?),
        cpu: Arc::new(Cpu::new(CpuOptions::default())?),
        model: BoundModel::open(options.folder)?,
        quant: model::quantization(options.encoding),
    };
    let plenty = Bytes::new(1 << 50);
    let (free, _) = seed.gpu.memory()?;
    let whole = Budgets {
        gpus: [(0, free)].into(),
        ram: plenty,
        disk: None,
    };
    let plan = seed.plan(whole)?;
    let tiers = plan.map.tiers();
    ensure!(
        !tiers.ram && !tiers.disk,
        "skipped: the GPU has {free} free, which do not hold all of it"
    );
    let needed = plan.estimate.memory(Home::Gpu(0));
    let needed = needed.context("the plan does not use the GPU")?.needed();
    let expected = seed.run("gpu", &plan)?;

    let part = part(options.extent);
    let of_gpu = Bytes::new((15_000_000_000 - CONTEXT) / part);
    let as_real = Budgets {
        gpus: [(0, of_gpu)].into(),
        ram: Bytes::new(12_700_000_000 / part),
        disk: Some(plenty),
    };
    let of_needed = |hundredths: u64| Bytes::new(needed.get() / 100 * hundredths);
    let everywhere = Budgets {
        gpus: [(0, of_needed(60))].into(),
        ram: of_needed(30),
        disk: Some(plenty),
    };
    for (name, budgets) in [("scaled", as_real), ("everywhere", everywhere)] {
        let plan = seed.plan(budgets)?;
        if name == "everywhere" {
            let tiers = plan.map.tiers();
            ensure!(tiers.ram && tiers.disk, "nothing rests in RAM, or on disk");
        }
        let found = seed.run(name, &plan)?;
        ensure!(
            found == expected,
            "{name}: tokens {found:?}, and wholly on the GPU {expected:?}"
        );
    }
    Ok(())
}

struct Seed<'o> {
    options: &'o Options<'o>,
    gpu: Arc<Cuda>,
    cpu: Arc<Cpu>,
    model: BoundModel,
    quant: Option<QuantConfig>,
}

impl Seed<'_> {
    fn limits(&self) -> Limits {
        let context = match self.options.extent {
            Extent::Small => 8,
            Extent::Full => 128,
        };
        Limits {
            n_sequences: 1,
            context,
            n_tokens: 8,
            n_logits: 1,
        }
    }

    /// A plan in which the GPU computes with everything: its tokens are the same wherever weights rest.
    fn plan(&self, budgets: Budgets) -> Result<Plan> {
        let devices = Devices {
            gpu: &self.gpu,
            cpu: &self.cpu,
        };
        let quant = self.quant.as_ref();
        model::planned(&self.model, devices, quant, self.limits(), budgets)
    }

    /// Tokens of a session that is loaded as planned.
    fn run(&self, placed: &str, plan: &Plan) -> Result<Vec<u32>> {
        let folder = tempfile::tempdir_in(self.options.folder)?;
        let options = LoadOptions {
            dtype: DTYPE,
            quant: self.quant.as_ref(),
            encoder: &*self.cpu,
            limits: self.limits(),
            offload: Some(OffloadOptions {
                map: &plan.map,
                folder: folder.path(),
            }),
        };
        let devices: [(RunOn, &dyn Device); 2] =
            [(RunOn::Gpu(0), &self.gpu), (RunOn::Cpu, &self.cpu)];
        let interrupt = Interrupt::default();
        let begin = Instant::now();
        let mut session = load_on(&self.model, &devices, &options, &interrupt, &mut |_| ())?;
        let load_seconds = begin.elapsed().as_secs_f64();
        let (ids, rate) = generate(&mut session, self.options.extent)?;

        let memories = memories(plan, &session);
        let [copy, pcie] = self.options.rates;
        // How fast the disk is nobody has measured.
        let on_disk = plan.map.tiers().disk;
        let [_, expected] = plan.step.tokens_per_second(&speeds(copy, pcie));
        println!(
            "{}",
            json!({
                "what": "seed",
                "name": self.options.folder.file_name().map(|name| name.to_string_lossy()),
                "encoding": self.options.encoding.name(),
                "placed": placed,
                "n_parameters": self.model.skeleton().n_parameters(),
                "load_seconds": load_seconds,
                "tokens_per_second": rate,
                "expected_tokens_per_second": (!on_disk).then_some(expected),
                "memories": memories,
                "ids": ids,
            })
        );
        for (home, [planned, counted]) in &memories {
            ensure!(
                planned == counted,
                "{placed}: planned {planned} in {home}, and the session counts {counted}"
            );
        }
        Ok(ids)
    }
}

/// Bytes of each memory but the disk, as planned and as the session counts them.
fn memories(plan: &Plan, session: &Session) -> BTreeMap<String, [u64; 2]> {
    let held = session.memory().memories;
    let memories = plan.estimate.memories().iter();
    let memories = memories.filter(|memory| memory.home != Home::Disk);
    let of_memory = |memory: &llm_plan::MemoryUse| {
        let counted = held.get(&memory.home).copied().unwrap_or_default();
        // What is there while it loads, and the program, no session counts.
        let terms = Term::ALL
            .into_iter()
            .filter(|term| !matches!(term, Term::LoadTransient | Term::Program | Term::GpuContext));
        let terms: Vec<Term> = terms.collect();
        let sum = |of: &dyn Fn(Term) -> Bytes| terms.iter().map(|&term| of(term).get()).sum();
        let both = [
            sum(&|term| memory.terms.get(term)),
            sum(&|term| counted.get(term)),
        ];
        (memory.home.to_string(), both)
    };
    memories.map(of_memory).collect()
}

/// The most probable tokens after a short prompt, and how many a second.
fn generate(session: &mut Session, extent: Extent) -> Result<(Vec<u32>, f64)> {
    let n_tokens = match extent {
        Extent::Small => 2,
        Extent::Full => 32,
    };
    let prompt = [5, 6];
    let mut ids = Vec::new();
    ids.push(match session.spec().encoder {
        Some(_) => {
            session.encode(0, &prompt)?;
            session.greedy(0, &[0])?
        }
        None => session.greedy(0, &prompt)?,
    });
    let begin = Instant::now();
    while ids.len() < n_tokens {
        ids.push(session.greedy(0, &ids[ids.len() - 1..])?);
    }
    let rate = (n_tokens - 1) as f64 / begin.elapsed().as_secs_f64();
    Ok((ids, rate))
}

/// Speeds of the card as measured, and of launches as they are planned with where nobody has measured them.
fn speeds(copy: f64, pcie: f64) -> Speeds {
    let gpu = GpuSpeed {
        memory: copy,
        pcie,
        products: 1e14,
        launch: 3e-6,
        hand_over: 30e-6,
    };
    Speeds {
        gpu,
        gpus: BTreeMap::new(),
        links: BTreeMap::new(),
        ram: f64::INFINITY,
        cpu_products: 1e11,
        disk: f64::INFINITY,
    }
}

/// Bytes of a process's own on a GPU, which the budget of 15 GB holds.
const CONTEXT: u64 = 600 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_in_small_are_the_part_of_the_real_ones_that_their_budgets_are() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let folder = tempfile::tempdir().expect("a folder");
        let n_parameters = |config: &Value| {
            let config = config.as_object().expect("an object");
            let skeleton = llm_arch::from_config(config).expect("a model");
            skeleton.n_parameters() as f64
        };
        let listed = root.join("benches/configs/seeds.json");
        fs::copy(&listed, folder.path().join("seeds.json")).expect("a list");
        let mut real = BTreeMap::new();
        let text = fs::read(listed).expect("a list");
        let seeds: Vec<Value> = serde_json::from_slice(&text).expect("a list");
        for seed in &seeds {
            let name = seed["real"].as_str().expect("a name");
            let config = root.join(format!("tests/fixtures/configs/{name}/config.json"));
            let config = fs::read(config).expect("a configuration");
            fs::write(folder.path().join(format!("{name}.json")), &config).expect("a copy");
            let config: Value = serde_json::from_slice(&config).expect("JSON");
            real.insert(name.to_owned(), n_parameters(&config));
        }
        assert_eq!(real.len(), 4);
        for extent in [Extent::Small, Extent::Full] {
            for (name, config) in configs(folder.path(), extent).expect("configurations") {
                let ratio = real[&name] / n_parameters(&config) / part(extent) as f64;
                assert!((0.9..1.1).contains(&ratio), "{name}: {ratio:.3}");
            }
        }
    }
}
