use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use llm_checkpoint::{Checkpoint, Encoding, NewTensor, SafetensorsWriter, TensorInfo};
use llm_tensor::{DType, Shape};
use serde_json::{Map, Value};

/// A fixture's configuration and tensors, to be changed and written as another model.
#[derive(Debug, Clone)]
pub struct Variant {
    /// `config.json`.
    pub config: Map<String, Value>,
    /// Shapes and elements.
    pub tensors: BTreeMap<String, (Vec<u64>, Vec<f32>)>,
    /// Tensors that are written as whole numbers.
    whole: BTreeSet<String>,
}

impl Variant {
    /// Model in `folder`.
    ///
    /// # Panics
    /// When it is no model whose elements are numbers.
    pub fn of(folder: &Path) -> Self {
        let config = std::fs::read(folder.join("config.json")).expect("a configuration");
        let checkpoint = Checkpoint::open(&folder.join("model.safetensors")).expect("a model");
        let is_whole = |tensor: &TensorInfo| tensor.encoding == Encoding::Plain(DType::I64);
        let whole = checkpoint.tensors().filter(|tensor| is_whole(tensor));
        let whole = whole.map(|tensor| tensor.name.clone()).collect();
        let tensors = checkpoint.tensors().map(|tensor| {
            let elements = match is_whole(tensor) {
                false => crate::tensor(&checkpoint, &tensor.name, DType::F32),
                true => {
                    let mut numbers = vec![0i64; tensor.shape.n_elements() as usize];
                    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut numbers);
                    let n_bytes = bytes.len() as u64;
                    let read = checkpoint.read_stored_tensor(tensor, 0..n_bytes, bytes);
                    read.expect("whole numbers");
                    numbers.into_iter().map(|number| number as f32).collect()
                }
            };
            (tensor.name.clone(), (tensor.shape.to_vec(), elements))
        });
        Variant {
            config: serde_json::from_slice(&config).expect("an object"),
            tensors: tensors.collect(),
            whole,
        }
    }

    /// Gives a tensor another name.
    ///
    /// # Panics
    /// When there is none of the first.
    pub fn rename(&mut self, from: &str, to: &str) {
        let tensor = self.tensors.remove(from).expect("a tensor of that name");
        self.tensors.insert(to.to_owned(), tensor);
        if self.whole.remove(from) {
            self.whole.insert(to.to_owned());
        }
    }

    /// Sets a key of the configuration.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.config.insert(key.to_owned(), value.into());
    }

    /// With each layer's experts in two tensors, as transformers holds them since version 5.
    pub fn stacked(&self) -> Self {
        let mut stacked = self.clone();
        let mut stack = |role: &str, of: &[&str], layer: usize| {
            let is_mixtral = self.config["model_type"] == "mixtral";
            let module = if is_mixtral {
                "block_sparse_moe"
            } else {
                "mlp"
            };
            let (mut n, mut cols, mut all) = (0, 0, Vec::new());
            'experts: for expert in 0.. {
                for part in of {
                    let name =
                        format!("model.layers.{layer}.{module}.experts.{expert}.{part}.weight");
                    let Some((shape, elements)) = stacked.tensors.remove(&name) else {
                        break 'experts;
                    };
                    cols = shape[1];
                    all.extend(elements);
                }
                n = expert + 1;
            }
            if let Some(of_one) = (all.len() as u64).checked_div(n) {
                let name = format!("model.layers.{layer}.mlp.experts.{role}");
                let rows = of_one / cols;
                stacked.tensors.insert(name, (vec![n, rows, cols], all));
            }
            let router = format!("model.layers.{layer}.block_sparse_moe.gate.weight");
            if let Some(router_matrix) = stacked.tensors.remove(&router) {
                let name = format!("model.layers.{layer}.mlp.gate.weight");
                stacked.tensors.insert(name, router_matrix);
            }
        };
        for layer in 0..8 {
            stack("gate_up_proj", &["gate_proj", "up_proj"], layer);
            stack("gate_up_proj", &["w1", "w3"], layer);
            stack("down_proj", &["down_proj"], layer);
            stack("down_proj", &["w2"], layer);
        }
        stacked
    }

    /// Writes it to a folder of its own.
    ///
    /// # Panics
    /// When that cannot be.
    pub fn write(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let config = serde_json::to_vec(&self.config).expect("an object");
        std::fs::write(folder.path().join("config.json"), config).expect("a written file");
        let new = |(name, (shape, _)): (&String, &(Vec<u64>, Vec<f32>))| NewTensor {
            name: name.clone(),
            dtype: match self.whole.contains(name) {
                true => DType::I64,
                false => DType::F32,
            },
            shape: Shape::new(shape).expect("a shape"),
        };
        let tensors: Vec<_> = self.tensors.iter().map(new).collect();
        let path = folder.path().join("model.safetensors");
        let mut writer = SafetensorsWriter::create(&path, &tensors, &BTreeMap::new())
            .expect("a file to write to");
        for (name, (_, elements)) in &self.tensors {
            let numbers: Vec<i64> = match self.whole.contains(name) {
                true => elements.iter().map(|&number| number as i64).collect(),
                false => Vec::new(),
            };
            let bytes: &[u8] = match numbers.is_empty() {
                true => bytemuck::cast_slice(elements),
                false => bytemuck::cast_slice(&numbers),
            };
            writer.write(bytes).expect("written elements");
        }
        writer.finish().expect("a whole file");
        folder
    }
}
