//! The driver's state behind its calls: contexts, modules, streams of queued work, events, and the report.

mod codes;
mod gemm;
mod graph;
mod launch;
mod module;
mod neighbours;
mod queue;
mod timeline;
mod work;

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};

pub(crate) use codes::Code;
pub(crate) use gemm::{BlasHandle, Element, GemmCall, Matrix};
pub(crate) use graph::Graph;
pub(crate) use module::{Function, LoadError, Module};
pub(crate) use neighbours::Neighbours;
pub(crate) use queue::{Capture, Event, Point, Stream};
pub(crate) use timeline::Timeline;
pub(crate) use work::{From, KernelCall, Task, To, Work};

use crate::device::Memory;
use crate::fault::Located;
use crate::report::{DeviceReport, Report};
use crate::settings::Settings;

/// Everything that the driver knows.
pub(crate) struct Driver {
    pub(crate) settings: Settings,
    pub(crate) memory: Memory,
    /// Error that a device's context is stuck with after a fault.
    faults: Vec<Option<Code>>,
    /// Devices that may reach another's memory, which comes second.
    pub(crate) peers: HashSet<(usize, usize)>,
    pub(crate) streams: HashMap<usize, Stream>,
    pub(crate) events: HashMap<usize, Event>,
    pub(crate) modules: HashMap<usize, Module>,
    pub(crate) functions: HashMap<usize, Function>,
    pub(crate) graphs: HashMap<usize, Graph>,
    /// Graphs made ready to launch.
    pub(crate) executables: HashMap<usize, Arc<Graph>>,
    /// cuBLAS, by handle.
    pub(crate) blas: HashMap<usize, BlasHandle>,
    pub(crate) report: Report,
    pub(crate) neighbours: Neighbours,
    pub(crate) timeline: Option<Timeline>,
    /// State of the generator that chooses among legal orders.
    random: u64,
    next_handle: usize,
}

impl Driver {
    pub(crate) fn new(settings: Settings) -> Self {
        let n_devices = settings.n_devices;
        let mut driver = Self {
            memory: Memory::new(
                (0..n_devices)
                    .map(|device| settings.memory(device))
                    .collect(),
            ),
            faults: vec![None; n_devices],
            peers: HashSet::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            blas: HashMap::new(),
            report: Report::default(),
            neighbours: Neighbours::new(settings.shared.clone(), settings.context),
            timeline: settings.pace.map(|pace| Timeline::new(pace, n_devices)),
            random: settings.seed,
            next_handle: FIRST_HANDLE,
            settings,
        };
        for device in 0..n_devices {
            driver
                .streams
                .insert(default_stream(device), Stream::new(device, true));
        }
        driver
    }

    /// A handle that no other thing has, and that is no address.
    pub(crate) fn handle(&mut self) -> usize {
        self.next_handle += 16;
        self.next_handle
    }

    /// Tells other processes what this one has on a device.
    pub(crate) fn tell_neighbours(&self, device: usize) {
        let allocated = self.settings.memory(device) - self.memory.free_bytes(device);
        self.neighbours.tell(device, allocated);
    }

    /// Error that the device's context is stuck with.
    pub(crate) fn check(&self, device: usize) -> Result<(), Code> {
        self.faults[device].map_or(Ok(()), Err)
    }

    pub(crate) fn fail(&mut self, device: usize, fault: &Located) {
        self.tell(&fault.text);
        self.faults[device].get_or_insert(Code(fault.kind.code()));
        // What is queued on the device is never run.
        for stream in self.streams.values_mut() {
            if stream.device == device {
                stream.drop_queue();
            }
        }
    }

    /// Puts a message into the report, and on the error output for whoever looks there.
    pub(crate) fn tell(&mut self, message: &str) {
        let _ = writeln!(std::io::stderr(), "cuda-emulator: {message}");
        self.report.faults.push(message.to_owned());
    }

    pub(crate) fn report(&self) -> Report {
        let mut devices: Vec<DeviceReport> = self
            .memory
            .in_use()
            .iter()
            .map(|memory| DeviceReport {
                allocated: memory.now,
                peak: memory.peak,
                asked: memory.asked,
            })
            .collect();
        Report {
            pinned: devices.pop().unwrap_or_default(),
            devices,
            timelines: self
                .timeline
                .as_ref()
                .map_or_else(Vec::new, Timeline::report),
            ..self.report.clone()
        }
    }

    /// A number below `n`, by the seed.
    pub(crate) fn choose(&mut self, n: usize) -> usize {
        // Splitmix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % n.max(1) as u64) as usize
    }
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

/// The driver, if it was initialized.
pub(crate) fn lock() -> MutexGuard<'static, Option<Driver>> {
    DRIVER.lock().unwrap_or_else(|lock| lock.into_inner())
}

/// Handle of the stream that calls without one use.
pub(crate) fn default_stream(device: usize) -> usize {
    0x100 + device
}

const FIRST_HANDLE: usize = 0x1_0000;
