#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests end where something is amiss, and say what they skip"
)]

mod contents;
mod faults;
mod look_after;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use llm_arch::Unit;
use llm_checkpoint::{Checkpoint, NewTensor};
use llm_plan::{Encodings, RunOn, WeightDType};
use llm_quant::{Code, LoadIn, QuantConfig, Scalar};
use llm_tensor::{Bytes, DType};
use llm_torch_file::{TorchFile, TorchLayout};

use super::*;
use crate::BoundModel;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(name)
}

/// A model, and how its weights are to be kept.
struct Kept {
    model: BoundModel,
    dtype: WeightDType,
    quant: Option<QuantConfig>,
    run_on: RunOn,
}

impl Kept {
    fn new(path: &Path, dtype: DType, quant: Option<QuantConfig>) -> Self {
        Kept {
            model: BoundModel::open(path).unwrap(),
            dtype: WeightDType::As(dtype),
            quant,
            run_on: RunOn::Cpu,
        }
    }

    fn llama_bf16() -> Self {
        Kept::new(&fixture("models/llama"), DType::BF16, None)
    }

    fn encodings(&self) -> Encodings<'_> {
        let encodings = self.model.encodings(self.dtype, self.quant.as_ref());
        encodings.unwrap()
    }

    fn units(&self) -> Vec<Unit> {
        self.model.tensors().map(|bound| bound.slot.unit).collect()
    }

    fn prepare(
        &self,
        root: &Path,
        events: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<Prepared> {
        let (model, encodings) = (&self.model, self.encodings());
        prepare(
            model,
            &encodings,
            &Scalar,
            self.run_on,
            root,
            &self.units(),
            events,
        )
    }

    /// Prepared files, and the bytes that were written for them.
    fn prepared(&self, root: &Path) -> (Prepared, Bytes) {
        let mut written = Bytes::ZERO;
        let prepared = self.prepare(root, &mut |event| {
            match event {
                Event::Offloading(Progress { done, .. }) => written = done,
                Event::Waiting => panic!("nobody is in the way"),
                Event::Loading(_) => panic!("nothing is loaded"),
            }
            Ok(())
        });
        (prepared.unwrap(), written)
    }
}

fn four_bit(code: Code, double: bool) -> Option<QuantConfig> {
    Some(QuantConfig {
        bnb_4bit_quant_type: code,
        bnb_4bit_use_double_quant: double,
        ..QuantConfig::new(LoadIn::FourBit)
    })
}

fn copy_of(model: &str, folder: &Path) -> PathBuf {
    let copy = folder.join("model");
    fs::create_dir(&copy).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("models").join(model).join(name), copy.join(name)).unwrap();
    }
    copy
}

/// Every file below a folder by its path in it; folders have no bytes.
fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            let inner = tree(&path).into_iter();
            files.extend(inner.map(|(inner, bytes)| (name.join(inner), bytes)));
        } else {
            files.insert(name, fs::read(&path).unwrap());
        }
    }
    files
}

/// The files of units alone.
fn weights(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = tree(root);
    files.retain(|path, _| {
        path.extension()
            .is_some_and(|suffix| suffix == "safetensors")
    });
    files
}
