//! A model over HTTP, as clients of OpenAI's and Ollama's APIs know them.
//!
//! [`serve`] listens at once, answers 503 while the model loads, and then has an [`Engine`](llm_engine::Engine) answer many
//! clients at a time. A client that goes away takes its request along within one pass. What a request asks for and cannot
//! have is refused with a reason, never passed over where it would change the answer.

mod answer;
mod error;
mod fields;
mod format;
mod guard;
mod listen;
mod loading;
mod memory;
mod metrics;
mod ollama;
mod openai;
mod page;
mod prompt;
mod responses;
mod routes;
mod settings;
mod single;
mod site;
mod status;
mod stop;
mod stream;
mod work;

pub use listen::serve;
pub use loading::{Amount, Loading, Progress};
pub use memory::{MemoryMap, MemoryUse, ModelPart};
pub use site::{About, Access, Options, Served};
pub use stop::Stop;
