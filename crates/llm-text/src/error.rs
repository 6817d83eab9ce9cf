use std::path::PathBuf;

/// Errors of tokenizers, their files, texts, ids and chat templates.
///
/// `origin` says in words where the data came from: a file's path, or what stands for one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A model's folder without any tokenizer that we can read.
    #[error(
        "no tokenizer in {}: looked for tokenizer.json, vocab.json with merges.txt, tokenizer.model, spiece.model, \
         tiktoken.model and qwen.tiktoken; without one, pass ids with --token-ids",
        dir.display()
    )]
    NoTokenizer {
        /// The folder that was searched.
        dir: PathBuf,
    },
    /// A file that is there but cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A name that should be a file's and is something else's.
    #[error("{} is {found}, not a file", path.display())]
    NotAFile {
        /// Path to be read.
        path: PathBuf,
        /// Kind found.
        found: &'static str,
    },
    /// Content in the place of a file that was to be downloaded.
    #[error("{} is {found}", path.display())]
    Mistaken {
        /// Path to be read.
        path: PathBuf,
        /// Kind found, with what can be done.
        found: &'static str,
    },
    /// A file so large that it cannot be what its name says.
    #[error("{} has {found} bytes; at most {limit} are read of such a file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Size in bytes.
        found: u64,
        /// Limit in bytes.
        limit: u64,
    },
    /// A tokenizer whose description makes no sense.
    #[error("{origin}: not a usable tokenizer: {problem}")]
    BrokenTokenizer {
        /// Origin of the tokenizer.
        origin: String,
        /// Problem found in it.
        problem: String,
    },
    /// A configuration file that is not what it should be.
    #[error("{origin}: not a usable tokenizer configuration: {problem}")]
    BrokenConfig {
        /// Origin of the configuration.
        origin: String,
        /// Problem found in it.
        problem: String,
    },
    /// A GGUF tokenizer of a kind that we cannot build.
    #[error("tokenizer.ggml.model is `{model}`; known are gpt2, llama, gemma4, t5")]
    UnknownGgufModel {
        /// The kind as the file names it.
        model: String,
    },
    /// A GGUF byte-level tokenizer that splits text in a way we do not know.
    #[error("tokenizer.ggml.pre is `{pre}`; known are {known}")]
    UnknownPreTokenizer {
        /// The way as the file names it.
        pre: String,
        /// All that we know.
        known: String,
    },
    /// A GGUF key that this kind of tokenizer cannot do without.
    #[error("{key} is missing, which a tokenizer of model `{model}` needs")]
    MissingGgufKey {
        /// The key.
        key: &'static str,
        /// The kind of tokenizer.
        model: String,
    },
    /// A GGUF array that should have an entry for each token and has not.
    #[error("{key} has {found} entries, but there are {expected} tokens")]
    GgufLength {
        /// The array's key.
        key: &'static str,
        /// Number of tokens.
        expected: usize,
        /// Number of the array's entries.
        found: usize,
    },
    /// A GGUF special token whose id no token has.
    #[error("{key} is {id}, but there are {n_tokens} tokens")]
    GgufTokenId {
        /// The key.
        key: &'static str,
        /// The id that it holds.
        id: u32,
        /// Number of tokens.
        n_tokens: usize,
    },
    /// Files of a vocabulary without the way in which text is split, and a class that we do not know it from.
    #[error(
        "{origin} belong to a tokenizer of class {class}, whose way of splitting text is not known here; known are {known}; or save it as tokenizer.json, with save_pretrained of transformers"
    )]
    UnknownClass {
        /// The files.
        origin: String,
        /// The class that the configuration names.
        class: String,
        /// All that we know.
        known: String,
    },
    /// A token with two ids, or an id with two tokens.
    #[error("{origin}: added_tokens_decoder gives `{token}` the id {listed}, which {found}")]
    ContradictoryId {
        /// The configuration's file.
        origin: String,
        /// The token.
        token: String,
        /// The id that it is to have.
        listed: u32,
        /// The contradiction.
        found: String,
    },
    /// A text that the tokenizer cannot turn into ids.
    #[error("cannot encode the text with {origin}: {problem}")]
    NotEncodable {
        /// Origin of the tokenizer.
        origin: String,
        /// Error of the tokenizer.
        problem: String,
    },
    /// Ids that are all known, but that the tokenizer cannot turn into text.
    #[error("cannot decode the token ids with {origin}: {problem}")]
    NotDecodable {
        /// Origin of the tokenizer.
        origin: String,
        /// Error of the tokenizer.
        problem: String,
    },
    /// An id that is no token's.
    #[error(
        "token id {id} is not in the tokenizer's vocabulary, whose ids end before {vocab_size}"
    )]
    UnknownId {
        /// The id.
        id: u32,
        /// One more than the highest id that there is.
        vocab_size: usize,
    },
    /// A chat template that does not parse, or fails while it renders.
    #[error("{origin}: the chat template fails: {problem}")]
    BrokenChatTemplate {
        /// Origin of the template.
        origin: String,
        /// Error of the template engine, with the line.
        problem: String,
    },
    /// A message that is no message.
    #[error("a message of the conversation is not as expected: {problem}")]
    BrokenMessage {
        /// Problem found in it.
        problem: String,
    },
    /// Several chat templates by name, none of which is for plain conversations.
    #[error(
        "{origin}: none of the model's chat templates ({}) is called `default`; rename the one that is to be used",
        .names.join(", ")
    )]
    NoDefaultTemplate {
        /// Origin of the templates.
        origin: String,
        /// Their names.
        names: Vec<String>,
    },
    /// A conversation that the template itself turns down, by `raise_exception`.
    #[error("the model's chat template refuses this conversation: {message}")]
    ChatRefused {
        /// The template's own words.
        message: String,
    },
}

/// A foreign error's message on one line, or its beginning: some quote all of a file's text.
pub(crate) fn one_line(problem: impl std::fmt::Display) -> String {
    let text = problem.to_string();
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > LONGEST_MESSAGE {
        line.truncate(line.floor_char_boundary(LONGEST_MESSAGE));
        line.push('…');
    }
    line
}

/// Bytes of a foreign message that are shown.
const LONGEST_MESSAGE: usize = 500;
