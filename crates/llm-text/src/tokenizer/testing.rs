//! The fixtures, as tests of several modules use them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{GgufTokenizer, Tokenizer};

pub(crate) fn fixture(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/text");
    root.join(name)
}

/// Files as people have met them.
pub(crate) fn fault(name: &str) -> PathBuf {
    fixture("../faults/text").join(name)
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn tokenizer_of(name: &str) -> Tokenizer {
    Tokenizer::from_folder(&fixture(name)).unwrap()
}

/// Both kinds of tokenizers, from every kind of files.
pub(crate) fn fixture_tokenizers() -> &'static [(&'static str, Tokenizer)] {
    static ALL: OnceLock<Vec<(&str, Tokenizer)>> = OnceLock::new();
    ALL.get_or_init(|| {
        vec![
            ("byte-level", tokenizer_of("byte-level")),
            ("vocab-merges", tokenizer_of("vocab-merges")),
            ("sentencepiece", tokenizer_of("sentencepiece")),
            (
                "byte-level GGUF",
                Tokenizer::from_gguf(&gguf_of("byte-level")).unwrap(),
            ),
            (
                "sentencepiece GGUF",
                Tokenizer::from_gguf(&gguf_of("sentencepiece")).unwrap(),
            ),
        ]
    })
}

/// The SentencePiece fixture with decoders of other kinds, all of which look at a token's neighbours.
pub(crate) fn other_decoders() -> &'static [Tokenizer] {
    static ALL: OnceLock<Vec<Tokenizer>> = OnceLock::new();
    ALL.get_or_init(|| {
        let decoders = [
            json!(null),
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
            json!({"type": "WordPiece", "prefix": "e", "cleanup": true}),
            json!({"type": "BPEDecoder", "suffix": "</s>"}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Sequence", "decoders": [
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
            ]}),
        ];
        let mut json: Value = read_json(&fixture("sentencepiece/tokenizer.json"));
        let mut with_decoder = |decoder| {
            json["decoder"] = decoder;
            Tokenizer::from_json(&serde_json::to_vec(&json).unwrap(), None).unwrap()
        };
        decoders.into_iter().map(&mut with_decoder).collect()
    })
}

pub(crate) fn gguf_of(name: &str) -> GgufTokenizer {
    #[derive(Deserialize)]
    struct Fields {
        model: String,
        tokens: Vec<String>,
        token_types: Vec<i32>,
        scores: Option<Vec<f32>>,
        merges: Option<Vec<String>>,
    }
    let fields: Fields = read_json(&fixture(name).join("gguf.json"));
    let id = |text: &str| {
        let id = fields.tokens.iter().position(|token| token == text);
        id.map(|id| u32::try_from(id).unwrap())
    };
    GgufTokenizer {
        bos_id: id("<s>"),
        eos_id: id("</s>"),
        unk_id: id("<unk>"),
        pad_id: id("<pad>"),
        add_bos: Some(true),
        model: fields.model,
        tokens: fields.tokens,
        token_types: Some(fields.token_types),
        scores: fields.scores,
        merges: fields.merges,
        ..GgufTokenizer::default()
    }
}
