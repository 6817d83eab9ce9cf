//! The embedded kernels: what is known of each, and their loading for a card.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::driver::{Context, Failure, Function, Module};

/// A file of kernels as PTX, by the compute capability that it needs.
#[derive(Debug)]
struct File {
    name: &'static str,
    /// None where the kernels need 8.0.
    sm75: Option<&'static str>,
    sm80: &'static str,
    sm90: Option<&'static str>,
}

macro_rules! file {
    ($name:literal) => {
        File {
            name: $name,
            sm75: Some(include_str!(concat!("../ptx/", $name, "_sm75.ptx"))),
            sm80: include_str!(concat!("../ptx/", $name, "_sm80.ptx")),
            sm90: None,
        }
    };
    ($name:literal, needs sm80) => {
        File {
            name: $name,
            sm75: None,
            sm80: include_str!(concat!("../ptx/", $name, "_sm80.ptx")),
            sm90: None,
        }
    };
    ($name:literal, sm90) => {
        File {
            name: $name,
            sm75: Some(include_str!(concat!("../ptx/", $name, "_sm75.ptx"))),
            sm80: include_str!(concat!("../ptx/", $name, "_sm80.ptx")),
            sm90: Some(include_str!(concat!("../ptx/", $name, "_sm90.ptx"))),
        }
    };
}

/// All files; `ptx/kernels.txt` lists what is in them.
const FILES: [File; 23] = [
    file!("attention_bf16"),
    file!("attention_f16"),
    file!("attention_f32"),
    file!("attention_tile_bf16", needs sm80),
    file!("attention_tile_f16", needs sm80),
    file!("attention_wide"),
    file!("dense"),
    file!("elementwise"),
    file!("embed"),
    file!("experts"),
    file!("four_bit"),
    file!("four_bit_rows"),
    file!("gemm"),
    file!("gemm_dense", needs sm80),
    file!("gemm_four_bit", needs sm80),
    file!("gemm_int8", needs sm80),
    file!("general"),
    file!("int8"),
    file!("kv"),
    file!("norm"),
    file!("quantize"),
    file!("rotary"),
    file!("routing"),
];

/// What a launch of a kernel is held against: a line of `ptx/kernels.txt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelFacts {
    /// Number among all.
    line: usize,
    pub(crate) name: &'static str,
    /// The file that it is in.
    pub(crate) file: &'static str,
    /// Shared memory that it has of itself.
    pub(crate) static_shared: u32,
    /// Threads that a block may have.
    pub(crate) max_threads: u32,
    pub(crate) parameters: Vec<Parameter>,
}

/// The type of a kernel's parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parameter {
    /// An address, or 64 bits.
    Word,
    /// 32 bits of an integer.
    Int,
    Float,
    /// A structure of so many bytes.
    Structure(usize),
}

/// A kernel that was loaded.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) function: Function,
    /// Bytes that a launch may give it, its own among them.
    pub(crate) shared_allowed: Mutex<u32>,
}

/// All kernels of a card. The driver compiles a file at the first launch of one of its kernels: a model needs a few files, and
/// what was compiled once for a card the driver keeps on disk.
#[derive(Debug)]
pub(crate) struct Kernels {
    context: Arc<Context>,
    compute_capability: (u32, u32),
    /// By the number of the kernel's line.
    loaded: Vec<OnceLock<Kernel>>,
    /// What the functions are of.
    modules: Mutex<Vec<Module>>,
}

impl Kernels {
    pub(crate) fn new(context: &Arc<Context>, compute_capability: (u32, u32)) -> Self {
        Kernels {
            context: Arc::clone(context),
            compute_capability,
            loaded: table().lines.iter().map(|_| OnceLock::new()).collect(),
            modules: Mutex::default(),
        }
    }

    /// A kernel, loaded with its file where that is not yet.
    ///
    /// # Panics
    /// When the file is for newer cards.
    pub(crate) fn get(&self, facts: &'static KernelFacts) -> Result<&Kernel, Failure> {
        let loaded = &self.loaded[facts.line];
        if loaded.get().is_none() {
            self.load(facts.file)?;
        }
        Ok(loaded
            .get()
            .expect("a file was loaded with all of its kernels"))
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
        let module = Module::new(&self.context, name, ptx)?;
        for facts in table().lines.iter().filter(|facts| facts.file == name) {
            let function =
                module.function(&CString::new(facts.name).expect("names have no zero"))?;
            // Only this function sets it, and once.
            let _ = self.loaded[facts.line].set(Kernel {
                function,
                shared_allowed: Mutex::new(SHARED_WITHOUT_ASKING),
            });
        }
        modules.push(module);
        Ok(())
    }
}

/// What is known of a kernel.
///
/// # Panics
/// When there is no kernel of that name.
pub(crate) fn facts(name: &str) -> &'static KernelFacts {
    let line = table().by_name.get(name);
    let line = line.unwrap_or_else(|| panic!("no kernel is called {name}"));
    &table().lines[*line]
}

impl File {
    /// The newest PTX that the card runs, if any.
    fn ptx(&self, compute_capability: (u32, u32)) -> Option<&'static str> {
        match self.sm90 {
            Some(ptx) if compute_capability >= (9, 0) => Some(ptx),
            Some(_) | None if compute_capability >= (8, 0) => Some(self.sm80),
            Some(_) | None => self.sm75,
        }
    }
}

/// `ptx/kernels.txt`, which is written with the PTX.
struct Table {
    lines: Vec<KernelFacts>,
    by_name: HashMap<&'static str, usize>,
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let lines = include_str!("../ptx/kernels.txt").lines();
        let lines = lines.filter(|line| !line.starts_with('#')).enumerate();
        let parsed = lines.map(|(i, line)| {
            KernelFacts::parse(i, line).unwrap_or_else(|| panic!("kernels.txt: {line}"))
        });
        let lines: Vec<KernelFacts> = parsed.collect();
        let by_name = lines.iter().map(|facts| (facts.name, facts.line)).collect();
        Table { lines, by_name }
    })
}

impl KernelFacts {
    /// The first word of each argument, where each begins on a border of eight bytes.
    pub(crate) fn starts(&self) -> impl Iterator<Item = usize> {
        self.parameters.iter().scan(0, |end, parameter| {
            let start = *end;
            *end += parameter.n_words();
            Some(start)
        })
    }

    /// `name file shared threads parameter…`.
    fn parse(number: usize, line: &'static str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        Some(KernelFacts {
            line: number,
            name: words.next()?,
            file: words.next()?,
            static_shared: words.next()?.parse().ok()?,
            max_threads: words.next()?.parse().ok()?,
            parameters: words.map(Parameter::parse).collect::<Option<_>>()?,
        })
    }
}

impl Parameter {
    /// Words of eight bytes that hold one.
    fn n_words(self) -> usize {
        match self {
            Parameter::Word | Parameter::Int | Parameter::Float => 1,
            Parameter::Structure(n_bytes) => n_bytes.div_ceil(size_of::<u64>()),
        }
    }

    fn parse(word: &str) -> Option<Self> {
        match word {
            "u64" => Some(Parameter::Word),
            "u32" => Some(Parameter::Int),
            "f32" => Some(Parameter::Float),
            word => Some(Parameter::Structure(word.strip_prefix('b')?.parse().ok()?)),
        }
    }
}

/// Bytes of shared memory, the kernel's own among them, that a launch has without asking.
pub(crate) const SHARED_WITHOUT_ASKING: u32 = 48 * 1024;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cuda_emulator::harness::Machine;

    use crate::Cuda;

    use super::*;

    #[test]
    fn every_kernel_is_in_every_ptx_of_its_file_and_no_other_is() {
        let mut n = 0;
        for file in &FILES {
            let lines = table().lines.iter();
            let facts: Vec<_> = lines.filter(|facts| facts.file == file.name).collect();
            for ptx in [file.sm75, Some(file.sm80), file.sm90]
                .into_iter()
                .flatten()
            {
                let entries = ptx.split(".visible .entry ").skip(1);
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
            table().lines.len(),
            "kernels of files that are not embedded"
        );
    }

    #[test]
    fn a_card_gets_the_newest_that_it_runs() {
        let file = File {
            name: "a",
            sm75: Some("75"),
            sm80: "80",
            sm90: Some("90"),
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
            assert_eq!(file.ptx(capability), newest);
            assert_eq!(older.ptx(capability), of_older);
            assert_eq!(newer.ptx(capability), of_newer);
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
                for facts in table()
                    .lines
                    .iter()
                    .filter(|facts| names.contains(&facts.file))
                {
                    cuda.card.kernels.get(facts).unwrap();
                }
            });
        }
    }
}
