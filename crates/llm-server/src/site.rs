//! What all connections of a server have in common.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use llm_engine::{Engine, Grammars, Settings};
use llm_text::Tokenizer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;
use crate::loading::Loading;
use crate::memory::MemoryMap;
use crate::stop::Stop;

/// Options of a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Clients that are answered.
    pub access: Access,
    /// Requests that are answered or wait at a time; the next one is told to come again.
    pub max_requests: usize,
}

/// Clients that a server answers; exhaustive, as each way has its own check.
#[derive(Clone)]
pub enum Access {
    /// Those that have the key.
    Key(String),
    /// Those of this machine, but not web pages that somebody looks at there.
    Local,
    /// Whoever reaches it.
    Anyone,
}

/// Tells the key to nobody.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Access::Key(_) => "Key",
            Access::Local => "Local",
            Access::Anyone => "Anyone",
        })
    }
}

/// A model that is loaded.
pub struct Served {
    /// Name that clients know it by.
    pub name: String,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The engine that answers, which takes [`Options::max_requests`] at least.
    pub engine: Engine,
    /// Settings of answers whose requests say nothing else.
    pub settings: Settings,
    /// Grammars that answers may be held to.
    pub grammars: Grammars,
    /// Entries of the model's vocabulary.
    pub vocab: usize,
    /// Tokens of a prompt and its answer together.
    pub context: usize,
    /// Seconds since 1970 when it was loaded.
    pub created: u64,
    /// Memory that it was planned to take.
    pub memory: MemoryMap,
    /// What clients are told of it.
    pub about: About,
}

/// What a model is, for people who choose among models.
#[derive(Debug, Clone)]
pub struct About {
    /// Name of its family.
    pub family: &'static str,
    /// Name of its files' format.
    pub format: String,
    /// Name of the encoding that most of its files' bytes are in.
    pub quantization: String,
    /// Its parameters.
    pub n_parameters: u64,
    /// Bytes of its tensors in its files.
    pub n_bytes: u64,
    /// Bytes of what GPUs hold of it.
    pub gpu_bytes: u64,
    /// Elements of its residual stream.
    pub hidden: usize,
    /// Layers of its decoder.
    pub n_layers: usize,
}

/// A server's options and, once it is loaded, its model.
pub(crate) struct Site {
    options: Options,
    pub(crate) lock: Lock,
    /// Progress of loading, until it is over.
    pub(crate) loading: Loading,
    pub(crate) stop: Stop,
    /// The time when it began.
    pub(crate) since: Instant,
    served: OnceLock<Served>,
    places: Arc<Semaphore>,
    /// Bodies that are read at a time: each may be large.
    pub(crate) bodies: Semaphore,
}

/// What lets a client in.
pub(crate) enum Lock {
    /// The key of this hash: two of them are compared in constant time.
    Key(blake3::Hash),
    Local,
    Anyone,
}

/// Bodies that are read at a time.
const MOST_BODIES: usize = 16;

impl Site {
    pub(crate) fn new(options: Options, stop: Stop) -> Self {
        Site {
            lock: match &options.access {
                Access::Key(key) => Lock::Key(blake3::hash(key.as_bytes())),
                Access::Local => Lock::Local,
                Access::Anyone => Lock::Anyone,
            },
            bodies: Semaphore::new(MOST_BODIES),
            loading: Loading::default(),
            stop,
            since: Instant::now(),
            served: OnceLock::new(),
            places: Arc::new(Semaphore::new(options.max_requests)),
            options,
        }
    }

    /// Opens the site: its model is loaded.
    pub(crate) fn open(&self, served: Served) {
        // Only one is ever loaded.
        let _ = self.served.set(served);
    }

    /// True once the model is loaded, whatever became of it.
    pub(crate) fn is_open(&self) -> bool {
        self.served.get().is_some()
    }

    /// The model.
    ///
    /// # Errors
    /// While it loads, and when its engine has failed.
    pub(crate) fn served(&self) -> Result<&Served, ApiError> {
        let served = self.served.get();
        let served = served.ok_or_else(|| ApiError::unavailable(&self.loading.sentence()))?;
        match served.engine.is_alive() {
            true => Ok(served),
            false => Err(ApiError::unavailable(
                "the engine has failed; the server has to be started anew",
            )),
        }
    }

    /// Places of `n` answers, held until their reader is through with them: whoever reads slowly keeps others out, but takes
    /// no memory beyond that of so many answers.
    ///
    /// # Errors
    /// When there are not as many.
    pub(crate) fn places(&self, n: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let most = self.options.max_requests;
        if n > most {
            let problem = format!("{n} answers at a time are more than the {most} of this server");
            return Err(ApiError::invalid("n", problem));
        }
        let permit = Arc::clone(&self.places).try_acquire_many_owned(n as u32);
        permit.map_err(|_| ApiError::busy())
    }
}
