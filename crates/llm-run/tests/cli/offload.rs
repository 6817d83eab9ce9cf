//! Weights that rest on disk: the tokens are those of a run in RAM, or there is an error that says what is wrong.

mod damage;
mod folders;
mod kills;
mod ram;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use llm_arch::{HeadMatrix, Skeleton, Unit};
use llm_checkpoint::{NewTensor, SafetensorsWriter};
use llm_runtime::BoundModel;
use llm_tensor::{DType, Shape};
use serde_json::{Map, Value, json};

use crate::support::{Output, asset, fixture, json, run, run_with_stdin};

/// Where weights may rest: device maps, and a folder for what is written, which is not there yet.
struct Place {
    temporary: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Place {
            temporary: tempfile::tempdir().unwrap(),
        };
        fs::write(place.path("disk"), r#"{"": "disk"}"#).unwrap();
        place
    }

    fn path(&self, name: &str) -> String {
        let path = self.temporary.path().join(name);
        path.to_str().unwrap().to_owned()
    }

    fn folder(&self) -> PathBuf {
        self.temporary.path().join("offload")
    }

    /// Writes a map that puts every other unit of a model on disk.
    fn add_half(&self, model: &Path) {
        let model = BoundModel::open(model).unwrap();
        let is_tied = model.spec().head.matrix == HeadMatrix::Tied;
        let map = half(model.skeleton(), is_tied);
        fs::write(self.path("half"), map.to_string()).unwrap();
    }

    /// `args` with what has weights rest as `map` says.
    fn args(&self, args: &[&str], map: &str) -> Vec<String> {
        let place = [
            "--device-map".to_owned(),
            self.path(map),
            "--offload-folder".to_owned(),
            self.folder().to_str().unwrap().to_owned(),
        ];
        let args = args.iter().map(|&arg| arg.to_owned());
        args.chain(place).collect()
    }

    fn run(&self, args: &[&str], map: &str) -> Output {
        let args = self.args(args, map);
        run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What a run gives that succeeds.
    fn result(&self, args: &[&str], map: &str) -> Value {
        let output = self.run(args, map);
        assert_eq!(output.code, 0, "{args:?} by {map}: {}", output.stderr);
        of_output(&output)
    }

    /// The names of the offload folder's files, with their entries'.
    fn names(&self) -> Vec<PathBuf> {
        let in_it = |folder: &Path| {
            let entries = fs::read_dir(folder).into_iter().flatten();
            entries
                .map(|entry| entry.unwrap().path())
                .collect::<Vec<_>>()
        };
        let entries = in_it(&self.folder());
        let files = entries.iter().flat_map(|entry| in_it(entry));
        files
            .map(|path| path.strip_prefix(self.folder()).unwrap().to_owned())
            .collect()
    }

    /// The same with what is in them, when nobody writes.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let names = self.names().into_iter();
        names
            .map(|name| (name.clone(), fs::read(self.folder().join(name)).unwrap()))
            .collect()
    }

    /// The only file of a unit.
    fn file_of(&self, unit: &str) -> PathBuf {
        let is_it = |path: &&PathBuf| stem(path) == unit;
        let names = self.names();
        let found: Vec<_> = names.iter().filter(is_it).collect();
        assert_eq!(found.len(), 1, "files of {unit}");
        self.folder().join(found[0])
    }

    /// Holds all that is there against its sums, with the program's own eyes.
    fn verify(&self) {
        let folder = self.folder();
        let args = ["cache", "verify", "--offload-folder"];
        let args = [&args[..], &[folder.to_str().unwrap(), "--json"]].concat();
        assert_eq!(json(&args)["damages"], json!([]));
    }

    /// Nothing is half-written, and no unit has two files.
    fn is_tidy(&self) {
        let names = self.names();
        assert!(!names.iter().any(|name| is_partial(name)), "{names:?}");
        let weights = names.iter().filter(|name| is_weights(name));
        let mut stems: Vec<&str> = weights.map(|name| stem(name)).collect();
        let n_files = stems.len();
        stems.sort_unstable();
        stems.dedup();
        assert!(n_files > 0 && stems.len() == n_files, "{names:?}");
    }
}

fn is_partial(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| suffix == "partial")
}

fn is_weights(path: &Path) -> bool {
    path.extension()
        .is_some_and(|suffix| suffix == "safetensors")
}

/// The unit that an offload file is named for.
fn stem(path: &Path) -> &str {
    let name = path.file_stem().unwrap().to_str().unwrap();
    name.rsplit_once('-').map_or(name, |(unit, _sum)| unit)
}

/// Tokens, or how probable each was: what must not depend on where weights rest.
fn computed(printed: &Value) -> Value {
    let keys = ["generated_ids", "log_probabilities"];
    let found = keys.iter().find_map(|key| printed.get(key));
    found.unwrap_or_else(|| panic!("{printed}")).clone()
}

fn of_output(output: &Output) -> Value {
    computed(&serde_json::from_str(&output.stdout).unwrap())
}

fn text(output: process::Output) -> Output {
    Output {
        code: output.status.code().expect("no signal"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A device map in accelerate's words.
fn half(skeleton: &Skeleton, is_tied: bool) -> Value {
    let mut units: Vec<Unit> = skeleton.slots.iter().map(|slot| slot.unit).collect();
    units.sort_unstable();
    units.dedup();
    let home = |unit| match units.binary_search(&unit) {
        Ok(at) if at % 2 == 1 => "cpu",
        _ => "disk",
    };
    let entry = |slot: &llm_arch::Slot| {
        let (module, _) = slot.name.rsplit_once('.').unwrap();
        (module.to_owned(), Value::from(home(slot.unit)))
    };
    let mut map: Map<String, Value> = skeleton.slots.iter().map(entry).collect();
    if is_tied {
        // A tied head rests where its table does.
        map.insert("lm_head".to_owned(), home(Unit::Embedding).into());
    }
    map.into()
}

/// A model of `n_layers` layers of 14 MB in f32, two tables of 2 MB each, and random weights.
fn write_model(folder: &Path, n_layers: usize) {
    let config = json!({
        "model_type": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": n_layers,
        "num_attention_heads": 8, "vocab_size": 1024, "tie_word_embeddings": false, "dtype": "float32",
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
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let path = folder.join("model.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &tensors, &BTreeMap::new()).unwrap();
    let mut random = Random(1);
    let mut left = 4 * skeleton.n_parameters();
    while left > 0 {
        let values =
            (0..1 << 14).flat_map(|_| (random.below(1 << 16) as f32 / 65536.0 - 0.5).to_le_bytes());
        let bytes: Vec<u8> = values.collect();
        let n_bytes = left.min(bytes.len() as u64);
        writer.write(&bytes[..n_bytes as usize]).unwrap();
        left -= n_bytes;
    }
    writer.finish().unwrap();
}

/// Numbers that look random and are the same each time: xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The low bits are the weak ones.
        (self.0 >> 16) % n
    }
}

const INT8: &[&str] = &["--load-in-8bit"];
const NF4_DOUBLE: &[&str] = &["--load-in-4bit", "--double-quant"];

/// Lines that say what went wrong, beside the one that says what is streamed.
fn errors(stderr: &str) -> usize {
    let others = stderr.lines().filter(|line| !line.contains("rest on disk"));
    others.count()
}

#[test]
fn tokens_and_probabilities_do_not_depend_on_where_weights_rest() {
    let t5: &[&str] = &["--decoder-token-ids", "0,7,9,21"];
    let dense: &[&str] = &["--dtype", "bf16"];
    let every = [dense, INT8, NF4_DOUBLE];
    for (model, kept, decoder) in [
        ("demo", &every[..], &[][..]),
        ("models/llama", &every, &[]),
        // Its matrices lie the other way round.
        ("models/gpt2", &every, &[]),
        ("models/mixtral", &every, &[]),
        ("models/t5-flan-style", &every, t5),
        ("gguf-models/qwen2.gguf", &every, &[]),
        ("quantized/llama-nf4-double", &[&[]], &[]),
        ("quantized/gpt2-int8", &[&[]], &[]),
    ] {
        // The demo model has no file of its own, but its weights are in one.
        let (path, weights) = match model {
            "demo" => (model.to_owned(), asset("")),
            model => (fixture(model), fixture(model).into()),
        };
        let place = Place::new();
        place.add_half(&weights);
        let ids = ["--token-ids", "5,17,3,99,42,8", "--json"];
        let generate = [
            &["generate", &path][..],
            &ids,
            &["--max-new-tokens", "6", "--ignore-eos"],
        ]
        .concat();
        let score = [&["score", &path][..], &ids, decoder].concat();
        for kept in kept {
            for command in [&generate, &score] {
                let args = [&command[..], kept].concat();
                let expected = computed(&json(&args));
                for map in ["half", "disk"] {
                    assert_eq!(place.result(&args, map), expected, "{args:?} by {map}");
                }
            }
        }
    }
}

/// What the checkpoint holds as it is computed with is read in place.
#[test]
fn nothing_is_written_that_is_there_already() {
    for model in [
        "models/llama",
        "quantized/llama-nf4-double",
        "quantized/gpt2-int8",
    ] {
        let (place, model) = (Place::new(), fixture(model));
        let args = [
            "generate",
            &model,
            "--token-ids",
            "5,17",
            "--max-new-tokens",
            "3",
            "--json",
        ];
        assert_eq!(place.result(&args, "disk"), computed(&json(&args)));
        assert_eq!(place.names(), Vec::<PathBuf>::new());
    }
}

#[test]
fn prompts_that_share_passes_are_answered_as_each_is_alone() {
    let place = Place::new();
    let prompts = [
        "Once upon a time",
        "The little dog was very",
        "One",
        "A bird",
        "Mia and Tom",
    ];
    let lines: Vec<String> = prompts
        .iter()
        .map(|prompt| json!(prompt).to_string())
        .collect();
    let args = [
        "generate",
        "--prompts",
        "-",
        "--batch",
        "3",
        "demo",
        "--max-new-tokens",
        "9",
    ];
    let args = place.args(&args, "disk");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = run_with_stdin(&args, &lines.join("\n"));
    assert_eq!(output.code, 0, "{}", output.stderr);
    let found = output
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let found: Vec<Value> = found.collect();
    assert_eq!(found.len(), prompts.len());
    for result in found {
        let prompt = prompts[result["line"].as_u64().unwrap() as usize - 1];
        let alone = json(&[
            "generate",
            "demo",
            prompt,
            "--max-new-tokens",
            "9",
            "--json",
        ]);
        for key in ["generated_ids", "text", "end"] {
            assert_eq!(result[key], alone[key], "{key} of `{prompt}`");
        }
    }
}
