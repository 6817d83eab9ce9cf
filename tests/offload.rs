//! Offloaded weights: whatever the placement, the same bits come out.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]
#![allow(
    clippy::result_large_err,
    reason = "nothing here is called so often that the size of its errors matters"
)]

#[path = "offload/packed.rs"]
mod packed;
#[path = "offload/tables.rs"]
mod tables;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use llm_arch::{HeadMatrix, Unit};
use llm_checkpoint::{Checkpoint, Encoding, NewTensor, SafetensorsWriter};
use llm_cpu::Cpu;
use llm_plan::{
    Budgets, Costs, DEFAULT_SLICE, Home, Offload, Plan, Request, StoredTensor, Strategy, Term,
    Verdict, WeightDType, plan,
};
use llm_quant::{LoadIn, QuantConfig, Scalar};
use llm_runtime::{
    BoundModel, CostsOf, Limits, LoadOptions, OffloadOptions, RuntimeError, Session, load,
};
use llm_tensor::{Bytes, DType, Shape};
use llm_tests::{argmax, fixture, golden, outermost};
use llm_torch_file::{TorchFile, TorchLayout};
use serde_json::{Value, json};

/// Placement of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Ram,
    /// Every other unit on disk, beginning with the first, or the second.
    Half(usize),
    Disk,
}

const RESTS: [Rest; 4] = [Rest::Ram, Rest::Half(0), Rest::Half(1), Rest::Disk];

/// Encoding of weights.
type Kept<'a> = (WeightDType, Option<&'a QuantConfig>);

impl Rest {
    /// Size of slices: for some so small that every matrix is cut, where its encoding lets that be.
    fn slice(self) -> Bytes {
        match self {
            Rest::Ram | Rest::Half(0) => DEFAULT_SLICE,
            Rest::Half(_) => Bytes::new(2048),
            Rest::Disk => Bytes::new(10_000),
        }
    }
}

struct Case<'a> {
    model: &'a BoundModel,
    kept: Kept<'a>,
    limits: Limits,
    folder: &'a Path,
}

impl Case<'_> {
    fn plan(&self, cpu: &Cpu, rest: Rest) -> Plan {
        let stored: Vec<StoredTensor> = self.model.tensors().map(|b| b.stored()).collect();
        let costs = CostsOf(cpu);
        let (dtype, quant) = self.kept;
        let request = Request {
            skeleton: self.model.skeleton(),
            stored: &stored,
            encodings: self.model.encodings(dtype, quant).unwrap(),
            kv_dtype: None,
            limits: self.limits,
            load_piece: Bytes::mib(1),
            slice: rest.slice(),
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
    let mut entries = outermost(model.skeleton().slots.iter().map(entry));
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

/// Tokens after a prompt that takes several passes, and the bits of all logits.
type Found = (Vec<u32>, Vec<u32>);

fn run(session: &mut Session, prompt: &[u32]) -> Result<Found, RuntimeError> {
    run_with(session, prompt, || ()).map_err(|(error, _)| error)
}

/// The same with something between the prompt and what follows; an error comes with the bits of the logits before it.
fn run_with(
    session: &mut Session,
    prompt: &[u32],
    between: impl FnOnce(),
) -> Result<Found, (RuntimeError, Vec<u32>)> {
    let (mut ids, mut bits) = (Vec::new(), Vec::new());
    let mut outcome = session.prefill(0, prompt).map(<[f32]>::to_vec);
    between();
    loop {
        let logits = match outcome {
            Ok(logits) => logits,
            Err(error) => return Err((error, bits)),
        };
        bits.extend(logits.iter().map(|x| x.to_bits()));
        if ids.len() == 4 {
            return Ok((ids, bits));
        }
        let id = argmax(&logits);
        ids.push(id);
        outcome = session.step(&[(0, id)]).map(<[f32]>::to_vec);
    }
}

fn models(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(fixture(folder)).unwrap();
    let folders = entries.map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = folders
        .filter(|path| path.join("config.json").is_file())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn experts_in_one_tensor_compute_the_same_wherever_they_rest() {
    let nf4 = QuantConfig::new(LoadIn::FourBit);
    let int8 = QuantConfig::new(LoadIn::EightBit);
    let kept: [Kept<'_>; 4] = [
        (WeightDType::As(DType::F32), None),
        (WeightDType::As(DType::BF16), None),
        (WeightDType::As(DType::BF16), Some(&int8)),
        (WeightDType::As(DType::BF16), Some(&nf4)),
    ];
    for name in ["qwen3-moe-mixed", "mixtral", "nemotron-h-moe-latent"] {
        let many = fixture("models").join(name);
        let stacked = llm_tests::Variant::of(&many).stacked().write();
        let prompt = &golden(name).1.input_ids;
        for kept in kept {
            let found = |path: &Path, rest: Rest| {
                let folder = tempfile::tempdir().unwrap();
                let model = BoundModel::open(path).unwrap();
                let case = Case {
                    model: &model,
                    kept,
                    limits: limits(&model, 5),
                    folder: folder.path(),
                };
                let (mut session, plan) = case.load(rest).unwrap();
                let allocated = session.memory().terms;
                (run(&mut session, prompt).unwrap(), allocated, plan.map)
            };
            for rest in RESTS {
                let (expected, of_many, _) = found(&many, rest);
                let (bits, of_stacked, _) = found(stacked.path(), rest);
                assert_eq!(bits, expected, "{name} {kept:?} {rest:?}");
                assert_eq!(of_stacked, of_many, "{name} {kept:?} {rest:?}");
            }
        }
    }
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

/// RAM holds what was planned, to the byte.
fn held_as_planned(session: &Session, plan: &Plan, what: &str) {
    let allocated = session.memory().terms;
    let planned = plan.estimate.memory(Home::Ram).unwrap().terms;
    for term in Term::ALL {
        if !matches!(term, Term::LoadTransient | Term::Program) {
            assert_eq!(planned.get(term), allocated.get(term), "{what}: {term}");
        }
    }
}

/// Change to a file while a session reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The byte at this part of the file, in percent, is another.
    Altered(u64),
    /// It ends at this part of what it was.
    Truncated(u64),
    Deleted,
    /// Another file takes its name.
    Replaced,
}

const FAULTS: [Fault; 7] = [
    Fault::Altered(1),
    Fault::Altered(60),
    Fault::Altered(99),
    Fault::Truncated(0),
    Fault::Truncated(70),
    Fault::Deleted,
    Fault::Replaced,
];

impl Fault {
    fn happen(self, path: &Path) {
        // The clock that stamps files ticks every few milliseconds.
        sleep(Duration::from_millis(15));
        let file = File::options().read(true).write(true).open(path).unwrap();
        let len = file.metadata().unwrap().len();
        match self {
            Fault::Altered(percent) => {
                let (at, mut byte) = (len * percent / 100, [0]);
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
            }
            Fault::Truncated(percent) => file.set_len(len * percent / 100).unwrap(),
            Fault::Deleted => fs::remove_file(path).unwrap(),
            Fault::Replaced => {
                let other = path.with_extension("other");
                fs::write(&other, vec![7; len as usize]).unwrap();
                fs::rename(other, path).unwrap();
            }
        }
    }

    /// True if what was opened stays what it was.
    fn is_harmless(self) -> bool {
        matches!(self, Fault::Deleted | Fault::Replaced)
    }
}

/// Every logit that comes is right, whatever happens; what does harm ends it.
fn check_fault(case: &Case<'_>, path: &Path, fault: Fault, expected: &Found) {
    let what = format!("{} {fault:?}", path.display());
    let (mut session, _) = case.load(Rest::Disk).unwrap();
    match run_with(&mut session, &PROMPT, || fault.happen(path)) {
        Ok(found) => {
            assert!(fault.is_harmless(), "{what}, and nobody says so");
            assert!(found == *expected, "{what}");
        }
        Err((error, bits)) => {
            assert!(!fault.is_harmless(), "{what}: {error}");
            assert!(expected.1.starts_with(&bits), "{what}");
            let message = error.to_string();
            assert!(
                message.contains(path.to_str().unwrap()),
                "{what}: {message}"
            );
        }
    }
}

fn offload_files(root: &Path) -> Vec<PathBuf> {
    let in_it = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .collect::<Vec<_>>()
    };
    let mut files: Vec<PathBuf> = in_it(root).iter().flat_map(|entry| in_it(entry)).collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|suffix| suffix == "safetensors")
    });
    files.sort();
    files
}

const PROMPT: [u32; 6] = [5, 17, 3, 99, 42, 8];

#[test]
fn an_offload_file_that_changes_during_a_run_ends_it_or_does_no_harm() {
    let model = BoundModel::open(&fixture("models/llama")).unwrap();
    let nf4 = QuantConfig::new(LoadIn::FourBit);
    for quant in [None, Some(&nf4)] {
        let folder = tempfile::tempdir().unwrap();
        let case = Case {
            model: &model,
            kept: (WeightDType::As(DType::BF16), quant),
            limits: limits(&model, 5),
            folder: folder.path(),
        };
        let expected = run(&mut case.load(Rest::Ram).unwrap().0, &PROMPT).unwrap();
        drop(case.load(Rest::Disk).unwrap());
        let files = offload_files(folder.path());
        assert_eq!(files.len(), 6);
        for path in &files {
            for fault in FAULTS {
                check_fault(&case, path, fault, &expected);
                // What is not whole is written anew; of what has other bytes, the first run to sum it up says so.
                let again = case.load(Rest::Disk);
                let again = again.and_then(|(mut session, _)| run(&mut session, &PROMPT));
                match again {
                    Ok(found) => assert!(found == expected, "{} {fault:?}", path.display()),
                    Err(error) => {
                        let is_damaged = matches!(&error, RuntimeError::OffloadDamaged { path: p, .. } if p == path);
                        assert!(is_damaged, "{} {fault:?}: {error}", path.display());
                        let (mut session, _) = case.load(Rest::Disk).unwrap();
                        assert!(run(&mut session, &PROMPT).unwrap() == expected);
                    }
                }
                assert_eq!(offload_files(folder.path()), files);
            }
        }
    }
}

#[test]
fn a_checkpoint_that_changes_while_it_is_read_in_place_ends_the_run_or_does_no_harm() {
    let [folder, offload] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let copy = |name: &str| {
        let from = fixture("models/llama").join(name);
        fs::copy(from, folder.path().join(name)).unwrap();
    };
    copy("config.json");
    let path = folder.path().join("model.safetensors");
    for fault in FAULTS {
        copy("model.safetensors");
        let model = BoundModel::open(folder.path()).unwrap();
        let case = Case {
            model: &model,
            kept: (WeightDType::Auto, None),
            limits: limits(&model, 5),
            folder: offload.path(),
        };
        let (mut session, _) = case.load(Rest::Disk).unwrap();
        let expected = run(&mut session, &PROMPT).unwrap();
        check_fault(&case, &path, fault, &expected);
    }
    assert!(fs::read_dir(offload.path()).unwrap().next().is_none());
}

/// The pickle of a PyTorch file says of the scales of one matrix that they are every other number of their storage. From
/// RAM they are read so; what is streamed lies in the file as it is computed with.
#[test]
fn scales_with_gaps_between_them_are_read_as_meant_or_refused() {
    const SCALES: &str = "model.layers.1.self_attn.o_proj.SCB";
    let [folder, offload] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let source = fixture("quantized/llama-int8");
    fs::copy(
        source.join("config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    let checkpoint = Checkpoint::open(&source.join("model.safetensors")).unwrap();
    let tensors = checkpoint.tensors().map(|tensor| {
        let Encoding::Plain(dtype) = tensor.encoding else {
            unreachable!("safetensors has no blocks")
        };
        let bytes = checkpoint.view(&tensor.name).unwrap().unwrap().to_vec();
        let (bytes, shape) = match tensor.name == SCALES {
            true => (
                bytes.as_chunks().0.iter().flat_map(with_a_gap).collect(),
                Shape::new(&[2 * tensor.shape[0]]).unwrap(),
            ),
            false => (bytes, tensor.shape.clone()),
        };
        let name = tensor.name.clone();
        (NewTensor { name, dtype, shape }, bytes)
    });
    let (new, bytes): (Vec<_>, Vec<_>) = tensors.unzip();
    let path = folder.path().join("pytorch_model.bin");
    let mut file = TorchFile::create(&path, TorchLayout::Zip, &new).unwrap();
    bytes.iter().for_each(|bytes| file.write(bytes).unwrap());
    file.finish().unwrap();

    // A shape of 256 and strides of 1 become a shape of 128 and strides of 2.
    let mut bytes = fs::read(&path).unwrap();
    let long = |n: u64| [&b"\x8A\x09"[..], &n.to_le_bytes(), &[0]].concat();
    let tuples = |n, stride| [b"(", &long(n)[..], b"t(K", &[stride], b"t"].concat();
    let (whole, half) = (tuples(256, 1), tuples(128, 2));
    let at = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|w| w == what);
    let name = at(&bytes, SCALES.as_bytes()).unwrap();
    let shape = name + at(&bytes[name..], &whole).unwrap();
    bytes[shape..][..half.len()].copy_from_slice(&half);
    fs::write(&path, bytes).unwrap();

    let gapless = BoundModel::open(&source).unwrap();
    let model = BoundModel::open(folder.path()).unwrap();
    let case = |model| Case {
        model,
        kept: (WeightDType::As(DType::F32), None),
        limits: limits(model, 5),
        folder: offload.path(),
    };
    let [mut expected, mut found] =
        [&gapless, &model].map(|model| case(model).load(Rest::Ram).unwrap().0);
    let expected = run(&mut expected, &PROMPT).unwrap();
    assert!(run(&mut found, &PROMPT).unwrap() == expected);
    match case(&model).load(Rest::Disk).map(drop) {
        Err(RuntimeError::QuantizedPart { tensor, found, .. }) => {
            assert_eq!((&tensor[..], &found[..]), (SCALES, "gaps between them"));
        }
        other => panic!("{other:?}"),
    }
}

/// A number, and one that is none of the tensor's.
fn with_a_gap(number: &[u8; 4]) -> [u8; 8] {
    let [a, b, c, d] = *number;
    [a, b, c, d, 0xAA, 0xAA, 0xAA, 0xAA]
}

/// A row of it is not summed up when it is looked up: that has been done before.
#[test]
fn a_table_that_is_looked_up_is_held_to_its_sum_when_it_is_opened() {
    for (name, table) in [
        ("llama", "model.embed_tokens.weight"),
        ("llama3-rope-tied", "model.embed_tokens.weight"),
        ("gpt2", "transformer.wpe.weight"),
    ] {
        let model = BoundModel::open(&fixture("models").join(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let case = Case {
            model: &model,
            kept: (WeightDType::As(DType::BF16), None),
            limits: limits(&model, 5),
            folder: folder.path(),
        };
        let (mut session, _) = case.load(Rest::Disk).unwrap();
        let expected = run(&mut session, &PROMPT).unwrap();
        drop(session);
        let files = offload_files(folder.path());
        let holding = files.iter().find_map(|path| {
            let file = Checkpoint::open(path).unwrap();
            let tensor = file
                .tensors()
                .find(|tensor| table.ends_with(&tensor.name))?;
            Some((path, tensor.bytes.clone()))
        });
        let (path, bytes) = holding.unwrap_or_else(|| panic!("{name}: no {table}"));
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, bytes.end - 1).unwrap();
        file.write_all_at(&[byte[0] ^ 1], bytes.end - 1).unwrap();
        match case.load(Rest::Disk).map(drop) {
            Err(RuntimeError::OffloadDamaged {
                path: found,
                is_removed,
                ..
            }) => assert!(found == *path && is_removed, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        let (mut session, _) = case.load(Rest::Disk).unwrap();
        assert!(run(&mut session, &PROMPT).unwrap() == expected, "{name}");
        assert_eq!(offload_files(folder.path()), files, "{name}");
    }
}

/// A table of positions that is larger than all else, and lies in one file with a table of tokens that is staged.
#[test]
fn a_large_table_that_is_looked_up_needs_no_room_beside_what_is_staged() {
    let [folder, offload] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let config = json!({
        "model_type": "gpt2", "n_embd": 32, "n_head": 2, "n_layer": 2, "n_positions": 16384, "vocab_size": 128,
        "bos_token_id": 1, "eos_token_id": 2,
    });
    let skeleton = llm_arch::from_config(config.as_object().unwrap()).unwrap();
    let tensor = |slot: &llm_arch::Slot| {
        let dims: Vec<u64> = slot.stored_shape().iter().map(|&d| d as u64).collect();
        NewTensor {
            name: slot.name.clone(),
            dtype: DType::F32,
            shape: Shape::new(&dims).unwrap(),
        }
    };
    let tensors: Vec<_> = skeleton.slots.iter().map(tensor).collect();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let path = folder.path().join("model.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &tensors, &BTreeMap::new()).unwrap();
    for i in 0..skeleton.n_parameters() {
        // Of no period that a row could have.
        let value = (i * 2_654_435_761 % 65_521) as f32 / 65_521.0 - 0.5;
        writer.write(&value.to_le_bytes()).unwrap();
    }
    writer.finish().unwrap();

    let model = BoundModel::open(folder.path()).unwrap();
    let case = Case {
        model: &model,
        kept: (WeightDType::As(DType::BF16), None),
        limits: limits(&model, 5),
        folder: offload.path(),
    };
    let runs = RESTS.map(|rest| {
        let (mut session, plan) = case.load(rest).unwrap();
        held_as_planned(&session, &plan, &format!("{rest:?}"));
        run(&mut session, &PROMPT).unwrap()
    });
    assert!(runs.iter().all(|found| *found == runs[0]));
}
