//! The embedded kernels: what is known of each, and their loading for a card.

mod facts;
mod ptx;

pub(crate) use facts::{Kernel, KernelFacts, MAX_PARAMETERS, Parameter, kernel};

use std::ffi::CString;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use self::ptx::Ptx;
use crate::driver::{Context, Failure, Function, Module};
use crate::probe::GpuFacts;

/// A file of kernels as PTX, by the compute capability that it needs.
#[derive(Debug)]
struct File {
    name: &'static str,
    /// None where the kernels need 8.0.
    sm75: Option<Ptx>,
    sm80: Ptx,
    sm90: Option<Ptx>,
}

/// What the build script made of a file of `ptx/`.
macro_rules! embedded {
    ($name:literal, $capability:literal) => {
        Ptx(include_bytes!(concat!(
            env!("OUT_DIR"),
            "/",
            $name,
            "_sm",
            $capability,
            ".ptx"
        )))
    };
}

macro_rules! file {
    ($name:literal, and sm80) => {
        File {
            name: $name,
            sm75: Some(embedded!($name, "75")),
            sm80: embedded!($name, "80"),
            sm90: None,
        }
    };
    ($name:literal, needs sm80) => {
        File {
            name: $name,
            sm75: None,
            sm80: embedded!($name, "80"),
            sm90: None,
        }
    };
    ($name:literal) => {{
        const PTX: Ptx = embedded!($name, "75");
        File {
            name: $name,
            sm75: Some(PTX),
            sm80: PTX,
            sm90: None,
        }
    }};
    ($name:literal, sm90) => {
        File {
            name: $name,
            sm75: Some(embedded!($name, "75")),
            sm80: embedded!($name, "80"),
            sm90: Some(embedded!($name, "90")),
        }
    };
}

/// All files; `ptx/kernels.txt` lists what is in them.
const FILES: &[File] = &[
    file!("attention_bf16"),
    file!("attention_f16"),
    file!("attention_f32"),
    file!("attention_tile_bf16", needs sm80),
    file!("attention_tile_f16", needs sm80),
    file!("attention_wide"),
    file!("compress"),
    file!("conv", and sm80),
    file!("delta"),
    file!("dense", and sm80),
    file!("elementwise"),
    file!("embed"),
    file!("experts"),
    file!("experts_gate"),
    file!("experts_int8"),
    file!("four_bit", and sm80),
    file!("four_bit_half", needs sm80),
    file!("four_bit_rows"),
    file!("gates"),
    file!("gemm", and sm80),
    file!("gemm_blas", and sm80),
    file!("gemm_dense", needs sm80),
    file!("gemm_dense_half", needs sm80),
    file!("gemm_four_bit", and sm80),
    file!("gemm_four_bit_half", needs sm80),
    file!("gemm_int8", needs sm80),
    file!("general"),
    file!("heads"),
    file!("int8", and sm80),
    file!("int8_quantize"),
    file!("kv", and sm80),
    file!("norm"),
    file!("packed_e2m1"),
    file!("packed_e4m3"),
    file!("packed_e5m2"),
    file!("packed_int4"),
    file!("packed_int8"),
    file!("packed_iq4_nl"),
    file!("packed_iq4_xs"),
    file!("packed_mxfp4"),
    file!("packed_nvfp4"),
    file!("packed_q2_k"),
    file!("packed_q3_k"),
    file!("packed_q4_0"),
    file!("packed_q4_1"),
    file!("packed_q4_k"),
    file!("packed_q5_0"),
    file!("packed_q5_1"),
    file!("packed_q5_k"),
    file!("packed_q6_k"),
    file!("packed_q8_0"),
    file!("packed_split"),
    file!("packed_tq1_0"),
    file!("packed_tq2_0"),
    file!("quantize", and sm80),
    file!("rotary"),
    file!("routing"),
    file!("select"),
    file!("state_space"),
    file!("streams"),
    file!("xielu"),
];

/// All kernels of a card. The driver compiles a file at the first launch of one of its kernels: a model needs a few files, and
/// what was compiled once for a card the driver keeps on disk.
#[derive(Debug)]
pub(crate) struct Kernels {
    context: Arc<Context>,
    compute_capability: (u32, u32),
    /// Shared memory that a block may have.
    most_shared: u32,
    /// By the number of the kernel.
    functions: Vec<OnceLock<Function>>,
    /// What the functions are of.
    modules: Mutex<Vec<Module>>,
}

impl Kernels {
    pub(crate) fn new(context: &Arc<Context>, card: &GpuFacts) -> Self {
        let most_shared = u32::try_from(card.shared_per_block.get()).unwrap_or(u32::MAX);
        Kernels {
            context: Arc::clone(context),
            compute_capability: card.compute_capability,
            most_shared: most_shared.max(SHARED_WITHOUT_ASKING),
            functions: Kernel::all().map(|_| OnceLock::new()).collect(),
            modules: Mutex::default(),
        }
    }

    /// A kernel's function, loaded with its file where that is not yet.
    ///
    /// # Panics
    /// When the file is for newer cards.
    pub(crate) fn get(&self, kernel: Kernel) -> Result<Function, Failure> {
        let function = &self.functions[kernel.number()];
        if let Some(function) = function.get() {
            return Ok(*function);
        }
        self.load(kernel.facts().file)?;
        let function = function.get();
        Ok(*function.expect("a file was loaded with all of its kernels"))
    }

    /// Bytes of shared memory that a launch may give a kernel.
    pub(crate) fn shared_for(&self, facts: &KernelFacts) -> u32 {
        match facts.takes_shared {
            true => self.most_shared.saturating_sub(facts.static_shared),
            false => 0,
        }
    }

    /// Loads all that the card runs: what a model needs of it takes no more memory.
    pub(crate) fn load_all(&self) -> Result<(), Failure> {
        let mut of_card = FILES
            .iter()
            .filter(|file| file.ptx(self.compute_capability).is_some());
        of_card.try_for_each(|file| self.load(file.name))
    }

    fn load(&self, name: &'static str) -> Result<(), Failure> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if modules.iter().any(|module| module.file() == name) {
            return Ok(());
        }
        let file = FILES.iter().find(|file| file.name == name);
        let ptx = file.and_then(|file| file.ptx(self.compute_capability));
        let ptx = ptx.unwrap_or_else(|| panic!("{name} is not for {:?}", self.compute_capability));
        let module = Module::new(&self.context, name, &ptx.text())?;
        for kernel in Kernel::all().filter(|kernel| kernel.facts().file == name) {
            let facts = kernel.facts();
            let function =
                module.function(&CString::new(facts.name).expect("names have no zero"))?;
            // Once for all launches: a launch that asked would need a lock.
            if facts.takes_shared {
                function.allow_shared(&self.context, self.shared_for(facts))?;
            }
            // Only this function sets it, and once.
            let _ = self.functions[kernel.number()].set(function);
        }
        modules.push(module);
        Ok(())
    }
}

impl File {
    /// The newest PTX that the card runs, if any.
    fn ptx(&self, compute_capability: (u32, u32)) -> Option<Ptx> {
        match self.sm90 {
            Some(ptx) if compute_capability >= (9, 0) => Some(ptx),
            Some(_) | None if compute_capability >= (8, 0) => Some(self.sm80),
            Some(_) | None => self.sm75,
        }
    }
}

/// Bytes of shared memory, the kernel's own among them, that a launch has without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 * 1024;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cuda_emulator::harness::Machine;

    use crate::Cuda;

    use super::*;

    #[test]
    fn every_kernel_is_in_every_ptx_of_its_file_and_no_other_is() {
        let mut n = 0;
        for file in FILES {
            let facts = Kernel::all().map(Kernel::facts);
            let facts: Vec<_> = facts.filter(|facts| facts.file == file.name).collect();
            for ptx in [file.sm75, Some(file.sm80), file.sm90]
                .into_iter()
                .flatten()
            {
                let text = ptx.text().into_string().unwrap();
                let entries = text.split(".visible .entry ").skip(1);
                let entries: BTreeSet<&str> = entries
                    .filter_map(|entry| entry.split('(').next())
                    .collect();
                let told: BTreeSet<&str> = facts.iter().map(|facts| facts.name).collect();
                assert_eq!(entries, told, "{}", file.name);
            }
            n += facts.len();
        }
        assert_eq!(
            n,
            Kernel::all().count(),
            "kernels of files that are not embedded"
        );
    }

    #[test]
    fn a_card_gets_the_newest_that_it_runs() {
        let file = File {
            name: "a",
            sm75: Some(Ptx(b"75")),
            sm80: Ptx(b"80"),
            sm90: Some(Ptx(b"90")),
        };
        let older = File { sm90: None, ..file };
        let newer = File { sm75: None, ..file };
        let cases = [
            ((7, 5), Some("75"), Some("75"), None),
            ((8, 0), Some("80"), Some("80"), Some("80")),
            ((8, 9), Some("80"), Some("80"), Some("80")),
            ((9, 0), Some("90"), Some("80"), Some("90")),
            ((12, 0), Some("90"), Some("80"), Some("90")),
        ];
        for (capability, newest, of_older, of_newer) in cases {
            let ptx = |text: Option<&'static str>| text.map(|text| Ptx(text.as_bytes()));
            assert_eq!(file.ptx(capability), ptx(newest));
            assert_eq!(older.ptx(capability), ptx(of_older));
            assert_eq!(newer.ptx(capability), ptx(of_newer));
        }
    }

    /// The driver knows every instruction of what a card loads.
    #[test]
    fn every_file_loads_on_a_card_of_each_target() {
        for capability in [75, 80, 90] {
            Machine::new().compute(capability).inside(|| {
                let cuda = Cuda::new(0).unwrap();
                let capability = cuda.facts().compute_capability;
                let files = FILES.iter().filter(|file| file.ptx(capability).is_some());
                let names: Vec<_> = files.map(|file| file.name).collect();
                for kernel in Kernel::all() {
                    if names.contains(&kernel.facts().file) {
                        cuda.card.kernels.get(kernel).unwrap();
                    }
                }
            });
        }
    }
}
