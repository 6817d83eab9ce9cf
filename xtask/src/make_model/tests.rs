use llm_checkpoint::Checkpoint;
use rayon::ThreadPoolBuilder;
use tempfile::TempDir;

use super::*;

fn gpt2() -> Value {
    json!({
        "model_type": "gpt2", "n_embd": 32, "n_layer": 12, "n_head": 4, "n_positions": 16,
        "vocab_size": 100, "activation_function": "gelu_new",
    })
}

fn llama() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 300, "rms_norm_eps": 1e-5,
        "torch_dtype": "float16",
    })
}

/// A folder with a configuration, in which models are made.
struct Place(TempDir);

impl Place {
    fn new(config: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_json(&folder.path().join("given.json"), config).unwrap();
        Place(folder)
    }

    fn options(&self, out: &str) -> Options {
        Options {
            config: self.0.path().join("given.json"),
            out: self.0.path().join(out),
            layers: None,
            format: Format::Safetensors,
            max_shard_size: Bytes::new(4_000_000_000),
            dtype: None,
            seed: 0,
            force: false,
        }
    }
}

/// The names of a folder's files, and their contents.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

fn names(folder: &Path) -> Vec<String> {
    files(folder).into_keys().collect()
}

/// Opens a model as a user would, and holds it against its own configuration.
fn open(folder: &Path, dtype: DType) -> (Skeleton, Checkpoint) {
    let config = read_config(&folder.join("config.json")).unwrap();
    assert_eq!(config["dtype"], dtype.torch_name());
    let skeleton = llm_arch::from_config(&config).unwrap();
    let checkpoint = Checkpoint::open(folder).unwrap();
    assert_eq!(checkpoint.tensors().len(), skeleton.slots.len());
    for slot in &skeleton.slots {
        let tensor = checkpoint.get(&slot.name).unwrap();
        let shape: Vec<u64> = slot.stored_shape().iter().map(|&d| d as u64).collect();
        assert_eq!(tensor.shape.to_vec(), shape, "{}", slot.name);
        assert_eq!(tensor.stored_bytes(), tensor.shape.bytes(dtype).unwrap());
    }
    (skeleton, checkpoint)
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f64> {
    let n_elements = checkpoint.get(name).unwrap().shape.n_elements();
    let mut bytes = vec![0; n_elements as usize * 8];
    checkpoint
        .read_into(name, 0..n_elements, DType::F64, &mut bytes)
        .unwrap();
    let values = bytes.as_chunks().0.iter();
    values.map(|value| f64::from_le_bytes(*value)).collect()
}

fn mean_and_std(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

#[test]
fn a_small_model_is_one_file_that_fits_its_configuration() {
    let place = Place::new(&gpt2());
    let options = Options {
        layers: Some(2),
        ..place.options("out")
    };
    run(&options).unwrap();
    assert_eq!(names(&options.out), ["config.json", "model.safetensors"]);
    let (skeleton, _) = open(&options.out, DType::BF16);
    assert_eq!(skeleton.spec.decoder.n_layers(), 2);
}

#[test]
fn a_large_model_is_cut_into_shards_below_the_limit() {
    let place = Place::new(&llama());
    // A limit that the two largest tensors, [300, 64] in f32, exceed alone.
    let options = Options {
        dtype: Some(DType::F32),
        max_shard_size: Bytes::new(70_000),
        ..place.options("out")
    };
    run(&options).unwrap();
    let (skeleton, checkpoint) = open(&options.out, DType::F32);
    let config = read_config(&options.out.join("config.json")).unwrap();
    assert!(
        !config.contains_key("torch_dtype"),
        "the old spelling of dtype"
    );

    let n_shards = checkpoint.files().len();
    assert!(n_shards > 3);
    for (idx, file) in checkpoint.files().enumerate() {
        let name = format!("model-{:05}-of-{n_shards:05}.safetensors", idx + 1);
        assert_eq!(file, options.out.join(name));
        let held: Vec<Bytes> = checkpoint
            .tensors()
            .filter(|tensor| tensor.file_idx == idx)
            .map(|tensor| tensor.stored_bytes())
            .collect();
        let total: Bytes = held.iter().copied().sum();
        assert!(held.len() == 1 || total <= options.max_shard_size);
    }
    let index = read_config(&options.out.join(options.format.index())).unwrap();
    assert_eq!(
        index["metadata"]["total_size"],
        json!(skeleton.n_parameters() * 4)
    );
}

#[test]
fn pytorch_files_hold_the_same_model() {
    let place = Place::new(&llama());
    let make = |out, format, max| {
        let options = Options {
            format,
            max_shard_size: Bytes::new(max),
            ..place.options(out)
        };
        run(&options).unwrap();
        open(&options.out, DType::F16)
    };
    let (skeleton, expected) = make("safetensors", Format::Safetensors, 4_000_000_000);
    for (out, format, max, n_files) in [
        ("zip", Format::Bin, 4_000_000_000, 1),
        ("shards", Format::Bin, 100_000, 3),
        ("legacy", Format::LegacyBin, 4_000_000_000, 1),
        ("legacy-shards", Format::LegacyBin, 100_000, 3),
    ] {
        let (_, found) = make(out, format, max);
        assert_eq!(found.files().len(), n_files, "{out}");
        for slot in &skeleton.slots {
            let name = &slot.name;
            assert!(
                values(&found, name) == values(&expected, name),
                "{out}: {name}"
            );
        }
    }
    assert_eq!(
        names(&place.options("zip").out),
        ["config.json", "pytorch_model.bin"]
    );
    assert!(
        names(&place.options("shards").out)
            .contains(&"pytorch_model-00001-of-00003.bin".to_owned())
    );
}

#[test]
fn values_depend_on_the_seed_and_on_nothing_else() {
    let place = Place::new(&llama());
    let make = |out, seed, n_threads| {
        let options = Options {
            seed,
            ..place.options(out)
        };
        let pool = ThreadPoolBuilder::new().num_threads(n_threads).build();
        pool.unwrap().install(|| run(&options)).unwrap();
        files(&options.out)
    };
    let one = make("one", 7, 1);
    assert!(one == make("two", 7, 3), "three threads make other bytes");
    let other = make("three", 8, 1);
    assert!(
        one["config.json"] == other["config.json"]
            && one["model.safetensors"] != other["model.safetensors"]
    );
}

#[test]
fn values_have_the_spread_that_keeps_activations_sane() {
    let place = Place::new(&gpt2());
    let options = Options {
        dtype: Some(DType::F32),
        ..place.options("out")
    };
    run(&options).unwrap();
    let (_, checkpoint) = open(&options.out, DType::F32);
    let std_of_in = |n: f64| n.sqrt().recip();
    let cases = [
        ("transformer.wte.weight", 0.0, std_of_in(32.0)),
        ("transformer.h.5.attn.c_attn.weight", 0.0, std_of_in(32.0)),
        // Stored [in, out] with 128 inputs; 24 such matrices write into the residual stream.
        (
            "transformer.h.5.mlp.c_proj.weight",
            0.0,
            std_of_in(128.0 * 24.0),
        ),
        ("transformer.ln_f.weight", 1.0, 0.1),
        ("transformer.h.0.attn.c_attn.bias", 0.0, 0.02),
    ];
    for (name, mean, std) in cases {
        let values = values(&checkpoint, name);
        let (found_mean, found_std) = mean_and_std(&values);
        // Four standard errors of a mean, and of a standard deviation of normal values.
        let error = 4.0 * std / (values.len() as f64).sqrt();
        assert!(
            (found_mean - mean).abs() < error && (found_std - std).abs() < error,
            "{name}: mean {found_mean}, standard deviation {found_std}"
        );
    }
    let (a, b) = (
        values(&checkpoint, "transformer.h.0.mlp.c_fc.weight"),
        values(&checkpoint, "transformer.h.1.mlp.c_fc.weight"),
    );
    assert!(a.iter().zip(&b).all(|(a, b)| a != b), "layers differ");
}

#[test]
fn a_folder_with_files_is_left_alone_unless_forced() {
    let place = Place::new(&llama());
    let sharded = Options {
        max_shard_size: Bytes::new(70_000),
        ..place.options("out")
    };
    run(&sharded).unwrap();
    let note = sharded.out.join("notes.txt");
    fs::write(&note, "mine").unwrap();
    let before = names(&sharded.out);

    let again = place.options("out");
    let error = run(&again).unwrap_err().to_string();
    assert!(
        error.contains("holds files") && error.contains("--force"),
        "{error}"
    );
    assert_eq!(names(&again.out), before);

    run(&Options {
        force: true,
        ..again
    })
    .unwrap();
    assert_eq!(
        names(&sharded.out),
        ["config.json", "model.safetensors", "notes.txt"],
        "no shard of the first model is left"
    );
    open(&sharded.out, DType::F16);
}

#[test]
fn a_configuration_that_is_not_understood_writes_nothing() {
    let place = Place::new(&json!({"model_type": "mystery"}));
    let options = place.options("out");
    let error = format!("{:#}", run(&options).unwrap_err());
    assert!(
        error.contains("given.json") && error.contains("`mystery`"),
        "{error}"
    );
    assert!(!options.out.exists());

    let layers = Options {
        layers: Some(2),
        ..options
    };
    let error = run(&layers).unwrap_err().to_string();
    assert!(error.contains("`n_layer`"), "{error}");
}
