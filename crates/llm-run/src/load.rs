//! Loading of a model: from its files to a session.

mod devices;
mod request;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use indicatif::ProgressBar;
use llm_backend::BackendError;
use llm_plan::{Home, MemoryUse, Plan};
use llm_runtime::{Event, Interrupt, LoadOptions, OffloadOptions, RuntimeError, Session, load_on};
use llm_tensor::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::devices::Devices;
use self::request::LoadRequest;
use crate::cli::LoadArgs;
use crate::open::OpenModel;
use crate::output::usage;
use crate::placement::gpus::MachineGpus;
use crate::placement::request::limits;
use crate::system::expect_offload_folder;
use crate::{checksum, output, signals};

/// A loaded model.
pub(crate) struct Loaded {
    pub(crate) session: Session,
    pub(crate) placed: Placed,
    /// Names of the devices that compute.
    pub(crate) device: String,
    /// Duration of loading.
    pub(crate) time: Duration,
}

/// Plan that a model was loaded by, and the GPUs that there were for it.
pub(crate) struct Placed {
    pub(crate) plan: Plan,
    pub(crate) gpus: MachineGpus,
}

impl OpenModel {
    /// Plans and loads the weights for `n_sequences` of `context` positions and `n_logits` rows of logits at a time,
    /// showing progress where someone can see it. A signal raises the session's interrupt, which ends loading, too.
    ///
    /// # Errors
    /// When the plan does not fit, or a weight cannot be read.
    pub(crate) fn load(
        &self,
        args: &LoadArgs,
        context: usize,
        n_sequences: usize,
        n_logits: usize,
    ) -> Result<Loaded> {
        if args.verify {
            checksum::check(self.bound.checkpoint())?;
        }
        let begin = Instant::now();
        let quant = args.quant.config()?;
        let cpu = Arc::new(args.cpu()?);
        let request = LoadRequest {
            model: &self.bound,
            args,
            quant: quant.as_ref(),
            limits: limits(self.bound.spec(), context, n_sequences, n_logits),
        };
        let (plan, gpus) = request.plan(&cpu)?;
        if let Some(broken) = gpus.none_because.as_ref().filter(|none| none.is_broken) {
            output::notes(&[format!("the CPU computes alone: {broken}")]);
        }
        let out_of_memory = |error: Error| with_plan(error, &plan, &gpus);
        let devices = Devices::open(cpu, &plan).map_err(out_of_memory)?;
        let given = args.place.offload_folder.as_deref();
        let offload_folder = match plan.map.tiers().disk {
            true => Some(expect_offload_folder(given)?),
            false => None,
        };
        let options = LoadOptions {
            dtype: args.dtype,
            quant: quant.as_ref(),
            encoder: devices.encoder(),
            limits: request.limits,
            offload: Some(OffloadOptions {
                map: &plan.map,
                // Nothing is written where nothing rests on disk.
                folder: offload_folder.as_deref().unwrap_or(Path::new("")),
            }),
        };
        if offload_folder.is_some() {
            raise_file_limit();
        }
        let mut bar = LoadProgress::new()?;
        let interrupt = Interrupt::default();
        let raised = interrupt.clone();
        signals::watch(move |_| raised.raise())?;
        let mut show = |event| bar.show(event);
        let session = load_on(
            &self.bound,
            &devices.list(),
            &options,
            &interrupt,
            &mut show,
        );
        let session = session.map_err(|error| out_of_memory(error.into()))?;
        bar.bar.finish_and_clear();
        if let Some(streamed) = usage::streamed(&plan) {
            eprintln!("{streamed}");
        }
        Ok(Loaded {
            session,
            device: devices.names(),
            placed: Placed { plan, gpus },
            time: begin.elapsed(),
        })
    }
}

/// An error of a GPU that is out of memory, with what was planned for it and what it had.
fn with_plan(error: Error, plan: &Plan, gpus: &MachineGpus) -> Error {
    let is_cause = |cause: &(dyn std::error::Error + 'static)| {
        matches!(
            cause.downcast_ref::<RuntimeError>(),
            Some(RuntimeError::Backend(BackendError::OutOfMemory { .. }))
        )
    };
    let of_gpu = |memory: &&MemoryUse| matches!(memory.home, Home::Gpu(_));
    let planned = plan.estimate.memories().iter().find(of_gpu);
    let (true, Some(planned)) = (error.chain().any(is_cause), planned) else {
        return error;
    };
    let terms = planned.terms.iter();
    let terms: Vec<_> = terms
        .map(|(term, bytes)| format!("{term} {bytes}"))
        .collect();
    let found = gpus
        .found
        .iter()
        .find(|gpu| Home::Gpu(gpu.number) == planned.home);
    let had = found.map(|gpu| format!("; its driver had {} of {} free", gpu.free, gpu.total));
    error.context(format!(
        "{} has less room than was planned with: {} ({}){}; where other programs take of it, give less with --max-memory, \
         or --device cpu",
        planned.home,
        planned.peak_in_generation().max(planned.peak_at_load()),
        terms.join(", "),
        had.unwrap_or_default(),
    ))
}

/// Lets the process have as many open files as it is allowed to: what is streamed may lie in thousands.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // A limit that stays is named by the error of the file that is one too many.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

/// Progress of loading, where someone can see it.
struct LoadProgress {
    bar: ProgressBar,
    has_waited: bool,
}

impl LoadProgress {
    fn new() -> Result<Self> {
        Ok(LoadProgress {
            bar: output::bar("loading", Bytes::ZERO)?,
            has_waited: false,
        })
    }

    fn show(&mut self, event: Event) {
        let (message, at) = match event {
            Event::Waiting => {
                let message = "waiting for another run that writes the same offload files";
                // It may take minutes, and who reads a log sees no bar.
                if self.bar.is_hidden() && !self.has_waited {
                    eprintln!("{message}");
                }
                self.has_waited = true;
                self.bar.set_message(message);
                return;
            }
            Event::Offloading(at) => ("writing offload files", at),
            Event::Loading(at) => ("loading", at),
        };
        self.bar.set_message(message);
        self.bar.set_length(at.total.get());
        self.bar.set_position(at.done.get());
    }
}
