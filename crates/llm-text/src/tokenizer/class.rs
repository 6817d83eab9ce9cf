//! The class of a tokenizer, which says what its files leave out: how text is split, and which special tokens there are.

/// The classes of the reference whose way of splitting we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Class {
    /// None in particular: the files say it all.
    Plain,
    /// GPT2Tokenizer, CodeGenTokenizer.
    Gpt2,
    /// RobertaTokenizer, BartTokenizer: as GPT-2's, with tokens around the text.
    Roberta,
    GptNeoX,
    Cohere,
    Qwen2,
    Qwen35,
    Llama,
    CodeLlama,
    Gemma,
    T5,
    /// The first Qwen's, whose code is its own.
    Qwen1,
    /// Kimi's, whose code is its own.
    Kimi,
    /// One that we do not know, by its name.
    Other(String),
}

impl Class {
    /// The class that `AutoTokenizer` takes: that of the configuration, unless the model's type knows better.
    pub(super) fn resolve(hub: Option<&str>, model_type: Option<&str>, files: JsonKind) -> Self {
        let hub = hub.map(|name| name.strip_suffix("Fast").unwrap_or(name));
        let of_model = MODELS.iter().find(|model| Some(model.name) == model_type);
        let trusts_hub = of_model.is_none_or(|model| !model.hub_is_wrong);
        // Llama 3 calls itself LlamaTokenizer, whose pipeline is that of Llama 2.
        if hub == Some("LlamaTokenizer") && trusts_hub && files == JsonKind::ByteLevel {
            return Class::Plain;
        }
        match (hub, of_model) {
            (Some(hub), Some(model)) if model.class != hub => match (model.class, trusts_hub) {
                (PLAIN, _) => Class::Plain,
                (_, true) => Class::by_name(hub),
                (class, false) => Class::by_name(class),
            },
            (Some(hub), _) => Class::by_name(hub),
            (None, Some(model)) => Class::by_name(model.class),
            (None, None) => Class::Plain,
        }
    }

    fn by_name(name: &str) -> Self {
        match name {
            PLAIN | "TokenizersBackend" | "PythonBackend" | "BloomTokenizer" => Class::Plain,
            "GPT2Tokenizer" | "CodeGenTokenizer" => Class::Gpt2,
            "RobertaTokenizer" | "BartTokenizer" | "LongformerTokenizer" | "LEDTokenizer" => {
                Class::Roberta
            }
            "GPTNeoXTokenizer" => Class::GptNeoX,
            "CohereTokenizer" => Class::Cohere,
            "Qwen2Tokenizer" => Class::Qwen2,
            "Qwen3_5Tokenizer" => Class::Qwen35,
            "LlamaTokenizer" | "Phi3Tokenizer" => Class::Llama,
            "CodeLlamaTokenizer" => Class::CodeLlama,
            "GemmaTokenizer" => Class::Gemma,
            "T5Tokenizer" => Class::T5,
            "QWenTokenizer" => Class::Qwen1,
            "TikTokenTokenizer" => Class::Kimi,
            other => Class::Other(other.to_owned()),
        }
    }

    /// Classes that can be made of a vocabulary and merges, as messages list them.
    pub(super) const BYTE_LEVEL: &str = "GPT2Tokenizer, CodeGenTokenizer, RobertaTokenizer, BartTokenizer, \
        GPTNeoXTokenizer, CohereTokenizer, Qwen2Tokenizer, Qwen3_5Tokenizer";

    /// The tokens that the class names where the configuration does not.
    pub(super) fn default_tokens(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Class::Plain | Class::Qwen1 | Class::Kimi | Class::Other(_) => &[],
            Class::Gpt2 => &[
                ("unk_token", TEXT_END),
                ("bos_token", TEXT_END),
                ("eos_token", TEXT_END),
            ],
            Class::Qwen2 | Class::Qwen35 => &[
                ("unk_token", TEXT_END),
                ("eos_token", TEXT_END),
                ("pad_token", TEXT_END),
            ],
            Class::GptNeoX => &[
                ("unk_token", TEXT_END),
                ("bos_token", TEXT_END),
                ("eos_token", TEXT_END),
                ("pad_token", "<|padding|>"),
            ],
            Class::Roberta => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("sep_token", "</s>"),
                ("cls_token", "<s>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Class::Cohere => &[
                ("unk_token", "<UNK>"),
                ("bos_token", "<BOS_TOKEN>"),
                ("eos_token", "<|END_OF_TURN_TOKEN|>"),
                ("pad_token", "<PAD>"),
                ("cls_token", "<CLS>"),
                ("sep_token", "<SEP>"),
                ("mask_token", "<MASK_TOKEN>"),
            ],
            Class::Llama => &LLAMA_TOKENS,
            Class::CodeLlama => &[
                LLAMA_TOKENS[0],
                LLAMA_TOKENS[1],
                LLAMA_TOKENS[2],
                ("prefix_token", "▁<PRE>"),
                ("middle_token", "▁<MID>"),
                ("suffix_token", "▁<SUF>"),
                ("eot_token", "▁<EOT>"),
            ],
            Class::Gemma => &[
                ("unk_token", "<unk>"),
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Class::T5 => &[
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
            ],
        }
    }
}

/// Kind of `tokenizer.json`, as far as the choice of a class goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JsonKind {
    /// It is not there.
    Absent,
    ByteLevel,
    Other,
}

impl JsonKind {
    /// The reference looks for the word and nothing else.
    pub(super) fn of(json: &[u8]) -> Self {
        let json = std::str::from_utf8(json).unwrap_or_default();
        match json.contains("\"ByteLevel\"") {
            true => JsonKind::ByteLevel,
            false => JsonKind::Other,
        }
    }
}

/// A type of model whose tokenizer's class the reference knows.
struct Model {
    name: &'static str,
    class: &'static str,
    /// True if configurations of such models name a wrong class, so that they are not asked.
    hub_is_wrong: bool,
}

const fn model(name: &'static str, class: &'static str) -> Model {
    Model {
        name,
        class,
        hub_is_wrong: false,
    }
}

const fn corrected(name: &'static str, class: &'static str) -> Model {
    Model {
        name,
        class,
        hub_is_wrong: true,
    }
}

const PLAIN: &str = "PreTrainedTokenizer";
/// The token that GPT-2's tokenizer ends texts with.
pub(super) const TEXT_END: &str = "<|endoftext|>";
const LLAMA_TOKENS: [(&str, &str); 3] = [
    ("unk_token", "<unk>"),
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
];

/// The models of transformers 5.24 that generate text. Those that are missing go by what their configuration names.
const MODELS: &[Model] = &[
    corrected("arctic", PLAIN),
    model("code_llama", "CodeLlamaTokenizer"),
    model("codegen", "GPT2Tokenizer"),
    model("cohere", "CohereTokenizer"),
    model("cohere2", "CohereTokenizer"),
    model("dbrx", "GPT2Tokenizer"),
    corrected("ernie4_5", PLAIN),
    corrected("ernie4_5_moe", PLAIN),
    model("falcon_mamba", "GPTNeoXTokenizer"),
    model("flex_olmo", PLAIN),
    model("gemma", "GemmaTokenizer"),
    model("gemma2", "GemmaTokenizer"),
    model("gemma3", "GemmaTokenizer"),
    model("gemma3_text", "GemmaTokenizer"),
    model("gemma3n", "GemmaTokenizer"),
    model("gemma3n_text", "GemmaTokenizer"),
    model("glm", PLAIN),
    model("glm4", PLAIN),
    model("glm4_moe", PLAIN),
    model("gpt2", "GPT2Tokenizer"),
    model("gpt_bigcode", PLAIN),
    model("gpt_neo", "GPT2Tokenizer"),
    model("gpt_neox", "GPTNeoXTokenizer"),
    model("gptj", "GPT2Tokenizer"),
    model("granite", PLAIN),
    model("granitemoe", PLAIN),
    corrected("hyperclovax", PLAIN),
    corrected("internlm2", PLAIN),
    corrected("internlm3", PLAIN),
    model("jais2", "GPT2Tokenizer"),
    corrected("jamba", PLAIN),
    model("kimi_k25", PLAIN),
    model("kimi_linear", PLAIN),
    model("mamba", "GPTNeoXTokenizer"),
    model("mamba2", "GPTNeoXTokenizer"),
    corrected("minicpm3", PLAIN),
    corrected("minimax_m2", PLAIN),
    model("ministral", PLAIN),
    model("ministral3", PLAIN),
    model("mistral", PLAIN),
    model("mistral3", PLAIN),
    model("mixtral", PLAIN),
    model("mpt", "GPTNeoXTokenizer"),
    model("mt5", "T5Tokenizer"),
    corrected("nemotron", PLAIN),
    model("olmo", "GPTNeoXTokenizer"),
    model("olmo2", PLAIN),
    model("olmo3", PLAIN),
    model("olmoe", "GPTNeoXTokenizer"),
    model("opt", "GPT2Tokenizer"),
    model("persimmon", PLAIN),
    model("phi", "GPT2Tokenizer"),
    corrected("phi3", PLAIN),
    corrected("phimoe", PLAIN),
    corrected("qwen2", "Qwen2Tokenizer"),
    model("qwen2_moe", "Qwen2Tokenizer"),
    model("qwen3", "Qwen2Tokenizer"),
    corrected("qwen3_5", "Qwen3_5Tokenizer"),
    corrected("qwen3_5_moe", "Qwen3_5Tokenizer"),
    corrected("qwen3_5_moe_text", "Qwen3_5Tokenizer"),
    model("qwen3_5_text", "Qwen3_5Tokenizer"),
    model("qwen3_moe", "Qwen2Tokenizer"),
    model("qwen3_next", "Qwen2Tokenizer"),
    model("recurrent_gemma", "GemmaTokenizer"),
    model("rwkv", "GPTNeoXTokenizer"),
    model("stablelm", PLAIN),
    model("starcoder2", "GPT2Tokenizer"),
    model("switch_transformers", "T5Tokenizer"),
    model("t5", "T5Tokenizer"),
    model("t5gemma", "GemmaTokenizer"),
    model("umt5", PLAIN),
    model("xglm", "XGLMTokenizer"),
    model("xlstm", "GPTNeoXTokenizer"),
];
