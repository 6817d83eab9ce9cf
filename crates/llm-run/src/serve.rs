//! `llm-run serve`: answer many clients over HTTP.

mod told;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Error, Result};
use llm_engine::{Engine, Grammars, Settings};
use llm_plan::{Home, TermBytes, Workload};
use llm_runtime::{Event, Interrupt};
use llm_server::{About, Access, Loading, Options, Served, Stop};

use crate::cli::{SamplingArgs, ServeArgs};
use crate::failure::{UserError, refuse};
use crate::input::read_file;
use crate::load::Loaded;
use crate::open::OpenModel;
use crate::placement::request::limits;
use crate::speculate::Speculate;
use crate::{defaults, output, signals};

pub(crate) fn serve(args: ServeArgs) -> Result<ExitCode> {
    let options = Options {
        access: access(&args)?,
        max_requests: batch(&args).saturating_add(args.queue.into()),
    };
    let address = address(&args, &options.access)?;
    let model = OpenModel::open(&args.model, &args.load.keys)?;
    let settings = settings(&model)?;
    let listener = TcpListener::bind(address)
        .map_err(|error| UserError(format!("cannot listen at {address}: {error}")))?;
    eprintln!("listening at http://{}", listener.local_addr()?);

    let (stop, interrupt) = (Stop::default(), Interrupt::default());
    let is_loaded = Arc::new(AtomicBool::new(false));
    let watch = (stop.clone(), interrupt.clone(), Arc::clone(&is_loaded));
    signals::watch(move |_| {
        let (stop, interrupt, is_loaded) = &watch;
        // Answers come to their ends, loading does not.
        if !is_loaded.load(Ordering::SeqCst) {
            interrupt.raise();
        }
        stop.stop();
    })?;
    let max_requests = options.max_requests;
    let load = move |loading: &Loading| {
        let mut watch = |event| loading.report(told::progress(event));
        let under = (&interrupt, &mut watch as &mut dyn FnMut(Event));
        let served = load(&args, &model, settings, max_requests, under)?;
        is_loaded.store(true, Ordering::SeqCst);
        Ok::<_, Error>(served)
    };
    llm_server::serve(listener, options, &stop, load)?;
    Ok(ExitCode::SUCCESS)
}

/// Answers at a time.
fn batch(args: &ServeArgs) -> usize {
    args.batch.map_or(BATCH, usize::from)
}

/// Answers at a time unless told otherwise.
const BATCH: usize = 8;

/// Positions of each unless told otherwise: those of the largest models would take more memory than their weights.
const CONTEXT: usize = 8192;

fn access(args: &ServeArgs) -> Result<Access> {
    let Some(path) = &args.api_key_file else {
        return Ok(match args.allow_anyone {
            true => Access::Anyone,
            false => Access::Local,
        });
    };
    let text = read_file(path)?;
    let key = text.trim();
    if key.is_empty() || key.contains(char::is_whitespace) || !key.is_ascii() {
        let problem = "expected a key of ASCII characters without spaces, on one line";
        return refuse(format!("{}: {problem}", path.display()));
    }
    Ok(Access::Key(key.to_owned()))
}

/// The address to listen at.
fn address(args: &ServeArgs, access: &Access) -> Result<SocketAddr> {
    let unknown = |error: std::io::Error| UserError(format!("--host {}: {error}", args.host));
    let host = args.host.trim_start_matches('[').trim_end_matches(']');
    let mut found = (host, args.port).to_socket_addrs().map_err(unknown)?;
    let Some(address) = found.next() else {
        return refuse(format!("--host {}: it has no address", args.host));
    };
    match access {
        Access::Local if !address.ip().is_loopback() => refuse(format!(
            "--host {}: other machines reach it, and whoever does could use the model; give --api-key-file, or --allow-anyone",
            args.host
        )),
        Access::Local | Access::Key(_) | Access::Anyone => Ok(address),
    }
}

/// Settings of answers whose requests say nothing else: those of the model's makers.
fn settings(model: &OpenModel) -> Result<Settings> {
    let config = model.generation()?;
    let of_model = (model.bound.spec(), Some(model.tokenizer()?));
    // The context ends an answer that nothing else does.
    let settings = defaults::settings(&SamplingArgs::default(), &config, of_model, usize::MAX)?;
    output::notes(&config.notices);
    Ok(settings)
}

fn load(
    args: &ServeArgs,
    model: &OpenModel,
    settings: Settings,
    max_requests: usize,
    (interrupt, watch): (&Interrupt, &mut dyn FnMut(Event)),
) -> Result<Served> {
    let spec = model.bound.spec();
    let context = args.load.context(spec, CONTEXT)?;
    let n_sequences = batch(args).max(settings.n_sequences());
    let limits = limits(spec, context, n_sequences, n_sequences);
    let workload = (Workload::default(), Speculate::Off);
    let Loaded {
        session,
        placed,
        device,
        time,
        ..
    } = model.load_under(&args.load, limits, workload, interrupt, watch)?;
    let name = name(args);
    eprintln!(
        "{name} on {device}, loaded in {:.2} s; {n_sequences} answers at a time, each with {context} tokens of context",
        time.as_secs_f64()
    );
    let memory = told::memory(spec, &placed);
    let allocated = session.memory();
    let of_gpu = |(home, terms): (&Home, &TermBytes)| match home {
        Home::Gpu(_) => terms.iter().map(|(_, bytes)| bytes.get()).sum(),
        Home::Ram | Home::Disk => 0,
    };
    let about = about(model, allocated.memories.iter().map(of_gpu).sum());
    let (vocab, tokenizer) = (spec.vocab, model.shared_tokenizer()?);
    let engine = Engine::start(session, Some(Arc::clone(tokenizer)), max_requests);
    let created = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(Served {
        name,
        tokenizer: Arc::clone(tokenizer),
        engine: engine.context("cannot start a thread")?,
        grammars: Grammars::new(Arc::clone(tokenizer), vocab, &settings.rules.eos_ids),
        settings,
        vocab,
        context,
        created: created.unwrap_or_default().as_secs(),
        memory,
        about,
    })
}

/// What clients are told of a model of which GPUs hold so many bytes.
fn about(model: &OpenModel, gpu_bytes: u64) -> About {
    let bound = &model.bound;
    let mut n_bytes: BTreeMap<String, u64> = BTreeMap::new();
    for tensor in bound.tensors() {
        let name = tensor.scheme.to_string().to_uppercase();
        *n_bytes.entry(name).or_default() += tensor.tensor.stored_bytes().get();
    }
    let all = n_bytes.values().sum();
    let most = n_bytes.into_iter().max_by_key(|(_, n_bytes)| *n_bytes);
    let spec = bound.spec();
    About {
        family: spec.family,
        format: format!("{:?}", bound.checkpoint().format()).to_lowercase(),
        quantization: most.map(|(name, _)| name).unwrap_or_default(),
        n_parameters: bound.skeleton().n_parameters(),
        n_bytes: all,
        gpu_bytes,
        hidden: spec.hidden,
        n_layers: spec.decoder.n_layers(),
    }
}

/// The model's name: that of its folder or file, without what is at its end.
fn name(args: &ServeArgs) -> String {
    let of_path = |path: &Path| {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let is_file = path.is_file();
        let name = match is_file {
            true => path.file_stem(),
            false => path.file_name(),
        };
        name.map(|name| name.to_string_lossy().into_owned())
    };
    let given = args.name.clone();
    given
        .or_else(|| of_path(&args.model))
        .unwrap_or_else(|| "model".to_owned())
}
