//! Weights that rest on disk: whatever rests where, the same bits come out.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::path::Path;
use std::sync::Arc;

use llm_arch::{HeadMatrix, Unit};
use llm_cpu::Cpu;
use llm_plan::{
    Budgets, Costs, Home, Offload, Plan, Request, StoredAs, Strategy, Term, Verdict, WeightDType,
    plan,
};
use llm_quant::{LoadIn, QuantConfig, Scalar};
use llm_runtime::{
    BoundModel, CostsOf, Limits, LoadOptions, OffloadOptions, RuntimeError, Session, load,
};
use llm_tensor::{Bytes, DType};
use llm_tests::{argmax, fixture, golden};
use serde_json::{Map, Value};

/// Where units rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Ram,
    /// Every other unit on disk, beginning with the first, or the second.
    Half(usize),
    Disk,
}

const RESTS: [Rest; 4] = [Rest::Ram, Rest::Half(0), Rest::Half(1), Rest::Disk];

/// How weights are kept.
type Kept<'a> = (WeightDType, Option<&'a QuantConfig>);

struct Case<'a> {
    model: &'a BoundModel,
    kept: Kept<'a>,
    limits: Limits,
    folder: &'a Path,
}

impl Case<'_> {
    fn plan(&self, cpu: &Cpu, rest: Rest) -> Plan {
        let stored: Vec<StoredAs> = self.model.tensors().map(|b| b.stored_as()).collect();
        let costs = CostsOf(cpu);
        let (dtype, quant) = self.kept;
        let request = Request {
            skeleton: self.model.skeleton(),
            stored: &stored,
            encodings: self.model.encodings(dtype, quant).unwrap(),
            kv_dtype: None,
            limits: self.limits,
            load_piece: Bytes::mib(1),
            budgets: Budgets {
                ram: Bytes::new(1 << 40),
                disk: Some(Bytes::new(1 << 40)),
                ..Budgets::default()
            },
            strategy: Strategy::Map(map(self.model, rest).parse().unwrap()),
            offload: Offload::Compute,
            costs: Costs {
                cpu: &costs,
                gpu: &costs,
                program: Bytes::ZERO,
            },
        };
        match plan(&request).unwrap() {
            Verdict::Fits(plan) => *plan,
            refused => panic!("{refused}"),
        }
    }

    fn load(&self, rest: Rest) -> Result<(Session, Plan), RuntimeError> {
        let cpu = Cpu::new(Default::default()).unwrap();
        let plan = self.plan(&cpu, rest);
        let (dtype, quant) = self.kept;
        let options = LoadOptions {
            dtype,
            quant,
            encoder: &Scalar,
            limits: self.limits,
            offload: Some(OffloadOptions {
                map: &plan.map,
                folder: self.folder,
            }),
        };
        let session = load(self.model, &Arc::new(cpu), &options, &mut |_| ())?;
        Ok((session, plan))
    }
}

/// A device map in accelerate's words.
fn map(model: &BoundModel, rest: Rest) -> String {
    let mut units: Vec<Unit> = model.tensors().map(|bound| bound.slot.unit).collect();
    units.sort_unstable();
    units.dedup();
    let home = |unit: Unit| {
        // A tied head rests where its table does.
        let unit = match unit {
            Unit::Head => Unit::Embedding,
            unit => unit,
        };
        let at = units.binary_search(&unit).unwrap_or(0);
        match rest {
            Rest::Ram => "cpu",
            Rest::Half(first) if at % 2 != first => "cpu",
            Rest::Half(_) | Rest::Disk => "disk",
        }
    };
    let entry = |slot: &llm_arch::Slot| {
        let (module, _) = slot.name.rsplit_once('.').unwrap();
        (module.to_owned(), Value::from(home(slot.unit)))
    };
    let mut entries: Map<String, Value> = model.skeleton().slots.iter().map(entry).collect();
    if let HeadMatrix::Tied = model.spec().head.matrix {
        entries.insert("lm_head".to_owned(), home(Unit::Head).into());
    }
    Value::Object(entries).to_string()
}

fn limits(model: &BoundModel, n_tokens: usize) -> Limits {
    Limits {
        n_sequences: 2,
        context: model.spec().context.min(64),
        n_tokens,
        n_logits: 2,
    }
}

/// Logits of a prompt that takes several passes, and what follows it.
fn run(session: &mut Session, prompt: &[u32]) -> Result<(Vec<u32>, Vec<u32>), RuntimeError> {
    let mut logits = session.prefill(0, prompt)?.to_vec();
    let mut bits: Vec<u32> = logits.iter().map(|x| x.to_bits()).collect();
    let mut ids = Vec::new();
    for _ in 0..4 {
        let id = argmax(&logits);
        ids.push(id);
        logits = session.step(&[(0, id)])?.to_vec();
        bits.extend(logits.iter().map(|x| x.to_bits()));
    }
    Ok((ids, bits))
}

fn models(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(fixture(folder)).unwrap();
    let folders = entries.map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = folders
        .filter(|path| path.join("config.json").is_file())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn every_family_computes_the_same_wherever_its_weights_rest() {
    let int8 = QuantConfig::new(LoadIn::EightBit);
    let nf4_double = QuantConfig {
        bnb_4bit_use_double_quant: true,
        ..QuantConfig::new(LoadIn::FourBit)
    };
    let kept: [(&str, Kept<'_>); 4] = [
        ("auto", (WeightDType::Auto, None)),
        ("bf16", (WeightDType::As(DType::BF16), None)),
        ("int8", (WeightDType::As(DType::BF16), Some(&int8))),
        (
            "nf4 double",
            (WeightDType::As(DType::BF16), Some(&nf4_double)),
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let names = models("models");
    assert!(names.len() >= 46, "{} models", names.len());
    for name in &names {
        let (path, expected) = golden(name);
        let model = BoundModel::open(&path).unwrap();
        // An encoder reads its prompt at once.
        let n_tokens = match model.spec().encoder {
            Some(_) => 32,
            None => 5,
        };
        for (how, kept) in kept {
            let case = Case {
                model: &model,
                kept,
                limits: limits(&model, n_tokens),
                folder: folder.path(),
            };
            let mut found = Vec::new();
            for rest in RESTS {
                let (mut session, plan) = case.load(rest).unwrap_or_else(|e| panic!("{name}: {e}"));
                held_as_planned(&session, &plan, &format!("{name} in {how}, {rest:?}"));
                found.push(run(&mut session, &expected.input_ids).unwrap());
            }
            for (rest, other) in RESTS.iter().zip(&found) {
                assert!(other == &found[0], "{name} in {how}, {rest:?}");
            }
        }
    }
}

/// What RAM holds is what was planned, to the byte.
fn held_as_planned(session: &Session, plan: &Plan, what: &str) {
    let allocated = session.memory().terms;
    let planned = plan.estimate.memory(Home::Ram).unwrap().terms;
    for term in Term::ALL {
        if !matches!(term, Term::LoadTransient | Term::Program) {
            assert_eq!(planned.get(term), allocated.get(term), "{what}: {term}");
        }
    }
}
