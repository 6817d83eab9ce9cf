//! Loading of a model: from its files to a session.

mod devices;
mod request;
mod rounding;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use indicatif::ProgressBar;
use llm_backend::BackendError;
use llm_engine::DraftLength;
use llm_plan::{Home, Limits, Plan, RunOn, Strategy, Workload};
use llm_quant::{LoadIn, QuantConfig};
use llm_runtime::{Event, Interrupt, LoadOptions, OffloadOptions, RuntimeError, Session, load_on};
use llm_tensor::{Bytes, DType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub(crate) use self::rounding::Rounding;

use self::devices::Devices;
use self::request::{LoadRequest, Planned};
use crate::cli::{ComputeDType, DeviceArg, LoadArgs};
use crate::open::OpenModel;
use crate::output::usage;
use crate::placement::gpus::MachineGpus;
use crate::placement::placed::Placed;
use crate::placement::request::limits;
use crate::speculate::Speculate;
use crate::system::{Gpu, expect_offload_folder};
use crate::{checksum, output, signals};

/// A loaded model.
pub(crate) struct Loaded {
    pub(crate) session: Session,
    pub(crate) placed: Placed,
    /// Drafts of an answer, where there are to be some.
    pub(crate) drafts: Option<DraftLength>,
    /// Names of the devices that compute.
    pub(crate) device: String,
    /// Duration of loading.
    pub(crate) time: Duration,
}

impl OpenModel {
    /// Plans and loads the weights for `n_sequences` of `context` positions and `n_logits` rows of logits at a time, so that
    /// `workload` is fast, showing progress where someone can see it. A signal raises the session's interrupt, which ends loading, too.
    ///
    /// # Errors
    /// When the plan does not fit, or a weight cannot be read.
    pub(crate) fn load(
        &self,
        args: &LoadArgs,
        context: usize,
        n_sequences: usize,
        n_logits: usize,
        workload: Workload,
        speculate: Speculate,
    ) -> Result<Loaded> {
        let interrupt = Interrupt::default();
        let raised = interrupt.clone();
        signals::watch(move |_| raised.raise())?;
        let limits = limits(self.bound.spec(), context, n_sequences, n_logits);
        self.load_under(args, limits, (workload, speculate), &interrupt, &mut |_| ())
    }

    /// The same for such `limits`, under an interrupt that others raise. Progress is told to `watch`, too.
    ///
    /// # Errors
    /// As [`OpenModel::load`].
    pub(crate) fn load_under(
        &self,
        args: &LoadArgs,
        limits: Limits,
        (workload, speculate): (Workload, Speculate),
        interrupt: &Interrupt,
        watch: &mut dyn FnMut(Event),
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
            limits,
            workload,
            speculate,
        };
        let Planned {
            plan,
            gpus,
            budgets,
            limits,
            drafts,
        } = request.plan(&cpu)?;
        let encodings = self.bound.encodings(args.dtype, quant.as_ref())?;
        let rounding = Rounding::of(args.activations, &self.bound, &encodings, &plan)?;
        output::notes(
            rounding
                .iter()
                .filter_map(Rounding::notice)
                .collect::<Vec<_>>()
                .as_slice(),
        );
        output::notes(why_alone(&plan, &gpus, &args.place.device_map).as_slice());
        if args.place.device == DeviceArg::Auto {
            let broken = gpus.left_out.iter().filter(|gpu| gpu.is_broken);
            output::notes(&broken.map(ToString::to_string).collect::<Vec<_>>());
        }
        let out_of_memory = |error: Error| with_plan(error, &plan, &gpus);
        let devices = Devices::open(cpu, &plan, args.compute_dtype.compute());
        let devices = devices.map_err(out_of_memory)?;
        if args.compute_dtype == ComputeDType::Auto {
            let exact = self
                .bound
                .quantization()
                .and_then(|quant| more_exact(&plan, quant));
            output::notes(exact.as_slice());
        }
        let given = args.place.offload_folder.as_deref();
        let offload_folder = match plan.map.tiers().disk {
            true => Some(expect_offload_folder(given)?),
            false => None,
        };
        let options = LoadOptions {
            dtype: args.dtype,
            quant: quant.as_ref(),
            encoder: devices.encoder(),
            limits,
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
        let mut show = |event| {
            bar.show(event);
            watch(event);
        };
        let session = load_on(&self.bound, &devices.list(), &options, interrupt, &mut show);
        let session = session.map_err(|error| out_of_memory(error.into()))?;
        bar.bar.finish_and_clear();
        for streamed in usage::streamed(&plan) {
            eprintln!("{streamed}");
        }
        output::notes(usage::pageable(&session).as_slice());
        Ok(Loaded {
            session,
            drafts,
            device: devices.names(),
            placed: Placed {
                plan,
                budgets,
                gpus,
                opened: devices.gpus(),
                rounding,
            },
            time: begin.elapsed(),
        })
    }
}

/// Notice that GPUs multiply more exactly than a checkpoint's configuration asks for.
fn more_exact(plan: &Plan, quant: &QuantConfig) -> Option<String> {
    let is_on_gpu = plan
        .map
        .devices()
        .iter()
        .any(|run_on| *run_on != RunOn::Cpu);
    let dtype = quant.bnb_4bit_compute_dtype;
    let is_narrow = quant.load_in == LoadIn::FourBit && dtype != DType::F32;
    (is_on_gpu && is_narrow).then(|| {
        format!(
            "products are f32's, more exact than the {} of bnb_4bit_compute_dtype; --compute-dtype {dtype} rounds them, for less work",
            dtype.torch_name()
        )
    })
}

/// Reason why no GPU computes, where it is one that its user would not expect.
fn why_alone(plan: &Plan, gpus: &MachineGpus, strategy: &Strategy) -> Option<String> {
    let broken = gpus.none_because.as_ref().filter(|none| none.is_broken);
    let broken = broken.map(ToString::to_string);
    let is_alone = plan.map.devices() == [RunOn::Cpu];
    let has_no_room = || match strategy {
        // As the user says.
        Strategy::Map(_) | Strategy::Cpu => None,
        Strategy::Auto | Strategy::Balanced | Strategy::BalancedLow0 | Strategy::Sequential => {
            let who = match gpus.used.as_slice() {
                [] => return None,
                [one] => format!("GPU {one} has no room"),
                [_, ..] => "no GPU has room".to_owned(),
            };
            is_alone.then(|| format!("{who} for any part of the model"))
        }
    };
    let why = broken.or_else(has_no_room)?;
    Some(format!("the CPU computes alone: {why}"))
}

/// An error of a GPU that is out of memory, with what was planned for it and what it had.
fn with_plan(error: Error, plan: &Plan, gpus: &MachineGpus) -> Error {
    let full = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(RuntimeError::Backend(BackendError::OutOfMemory { device, .. })) => Some(device),
        _ => None,
    });
    let is_full = |gpu: &&Gpu| full == Some(&gpu.device());
    let Some(gpu) = gpus.found.iter().find(is_full) else {
        return error;
    };
    let Some(planned) = plan.estimate.memory(Home::Gpu(gpu.number)) else {
        return error;
    };
    let terms = planned.terms.iter();
    let terms: Vec<_> = terms
        .map(|(term, bytes)| format!("{term} {bytes}"))
        .collect();
    error.context(format!(
        "{} has less room than was planned with: {} ({}); its driver had {} of {} free; where other programs take of it, give \
         less with --max-memory, or --device cpu",
        planned.home,
        planned.peak_in_generation().max(planned.peak_at_load()),
        terms.join(", "),
        gpu.free,
        gpu.total,
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

#[cfg(test)]
mod tests {
    use llm_cpu::{Cpu, CpuOptions};
    use llm_plan::{Term, Verdict, WeightDType};

    use super::*;
    use crate::cli::{KeyArgs, PlaceArgs};
    use crate::placement::request::PlanSetting;
    use crate::{demo, failure, open};

    #[test]
    fn a_gpu_that_is_full_is_told_of_with_the_plan() {
        let model = open::bind(Path::new(demo::NAME), &KeyArgs::default()).unwrap();
        let place = PlaceArgs {
            device: DeviceArg::Auto,
            max_memory: Some("0=2GB,1=2GB".parse().unwrap()),
            device_map: Strategy::Balanced,
            offload_folder: None,
        };
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        let encodings = model.encodings(WeightDType::Auto, None).unwrap();
        let setting = PlanSetting::new(&cpu, &place, None).unwrap();
        let stored: Vec<_> = model.tensors().map(|bound| bound.stored()).collect();
        let limits = limits(model.spec(), 64, 1, 1);
        let program = Bytes::mib(24);
        let request = setting.request(model.skeleton(), &stored, encodings, limits, program);
        let Verdict::Fits(plan) = llm_plan::plan(&request).unwrap() else {
            panic!("2 GB hold the demo")
        };
        let card = |number: u32| Gpu {
            number,
            name: "a card".to_owned(),
            uuid: "e0".to_owned(),
            compute_capability: (8, 0),
            cuda_version: "12.4".to_owned(),
            total: Bytes::new(8_000_000_000),
            free: Bytes::new(3_000_000_000 + 100_000_000 * u64::from(number)),
            measured: None,
        };
        let gpus = MachineGpus {
            found: vec![card(0), card(1)],
            ..MachineGpus::default()
        };
        let said = |error: Error| {
            let error = with_plan(error, &plan, &gpus);
            let code = format!("{:?}", failure::exit_code(&error));
            assert_eq!(code, format!("{:?}", std::process::ExitCode::FAILURE));
            failure::message(&error).unwrap()
        };
        let full = |device: &str| {
            said(
                RuntimeError::from(BackendError::OutOfMemory {
                    device: device.to_owned(),
                    purpose: "weights",
                    requested: Bytes::new(4_000_000),
                    free: Some(Bytes::new(1_000_000)),
                })
                .into(),
            )
        };
        for (device, gpu, had) in [
            ("cuda:0 (a card)", "GPU 0", "3.0 GB (2.8 GiB)"),
            ("cuda:1 (a card)", "GPU 1", "3.1 GB (2.9 GiB)"),
        ] {
            let message = full(device);
            let planned = plan
                .estimate
                .memory(gpu.replace("GPU ", "").parse().unwrap());
            let weights = planned.unwrap().terms.get(Term::Weights);
            for words in [
                format!("{gpu} has less room than was planned with: "),
                format!("(weights {weights}"),
                "KV cache ".to_owned(),
                "GPU context ".to_owned(),
                format!("; its driver had {had} of 8.0 GB (7.5 GiB) free; "),
                format!("--device cpu: {device} is out of memory: 4.0 MB"),
            ] {
                assert!(message.contains(&words), "{words} in {message}");
            }
        }
        // What no plan of GPUs is about.
        assert!(full("cpu").starts_with("cpu is out of memory"));
        assert_eq!(said(anyhow::anyhow!("another fault")), "another fault");
    }
}
