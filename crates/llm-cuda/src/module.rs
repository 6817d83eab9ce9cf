//! The embedded kernels: what is known of each, and their loading for a card.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex};

use crate::driver::{Context, Failure, Function, Module};

/// A file of kernels as PTX, by the compute capability that it needs.
#[derive(Debug)]
struct File {
    name: &'static str,
    sm75: &'static str,
    sm80: &'static str,
    sm90: Option<&'static str>,
}

macro_rules! file {
    ($name:literal) => {
        File {
            name: $name,
            sm75: include_str!(concat!("../ptx/", $name, "_sm75.ptx")),
            sm80: include_str!(concat!("../ptx/", $name, "_sm80.ptx")),
            sm90: None,
        }
    };
    ($name:literal, sm90) => {
        File {
            name: $name,
            sm75: include_str!(concat!("../ptx/", $name, "_sm75.ptx")),
            sm80: include_str!(concat!("../ptx/", $name, "_sm80.ptx")),
            sm90: Some(include_str!(concat!("../ptx/", $name, "_sm90.ptx"))),
        }
    };
}

/// All files; `ptx/kernels.txt` lists what is in them.
const FILES: [File; 8] = [
    file!("elementwise"),
    file!("embed"),
    file!("general"),
    file!("kv"),
    file!("norm"),
    file!("plain"),
    file!("rotary"),
    file!("routing"),
];

/// What a launch of a kernel is held against: a line of `ptx/kernels.txt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelFacts {
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
    pub(crate) facts: KernelFacts,
    pub(crate) function: Function,
    /// Bytes that a launch may give it beyond its own.
    pub(crate) shared_allowed: Mutex<u32>,
}

/// All kernels of a card.
#[derive(Debug)]
pub(crate) struct Kernels {
    by_name: HashMap<&'static str, Kernel>,
    /// What the functions are of.
    _modules: Vec<Module>,
}

impl Kernels {
    /// Has the driver compile every file for its card.
    pub(crate) fn load(
        context: &Arc<Context>,
        compute_capability: (u32, u32),
    ) -> Result<Self, Failure> {
        let mut by_name = HashMap::new();
        let mut modules = Vec::new();
        for file in &FILES {
            let module = Module::new(context, file.name, file.ptx(compute_capability))?;
            for facts in all().filter(|facts| facts.file == file.name) {
                let name = CString::new(facts.name).expect("names have no zero");
                let kernel = Kernel {
                    function: module.function(&name)?,
                    facts,
                    shared_allowed: Mutex::new(SHARED_WITHOUT_ASKING),
                };
                by_name.insert(kernel.facts.name, kernel);
            }
            modules.push(module);
        }
        Ok(Kernels {
            by_name,
            _modules: modules,
        })
    }

    /// # Panics
    /// When there is no kernel of that name.
    pub(crate) fn get(&self, name: &str) -> &Kernel {
        let found = self.by_name.get(name);
        found.unwrap_or_else(|| panic!("no kernel is called {name}"))
    }
}

impl File {
    /// The newest PTX that the card runs.
    fn ptx(&self, compute_capability: (u32, u32)) -> &'static str {
        match self.sm90 {
            Some(ptx) if compute_capability >= (9, 0) => ptx,
            Some(_) | None if compute_capability >= (8, 0) => self.sm80,
            Some(_) | None => self.sm75,
        }
    }
}

/// The lines of `ptx/kernels.txt`, which is written with the PTX.
fn all() -> impl Iterator<Item = KernelFacts> {
    let lines = include_str!("../ptx/kernels.txt").lines();
    let lines = lines.filter(|line| !line.starts_with('#'));
    lines.map(|line| KernelFacts::parse(line).unwrap_or_else(|| panic!("kernels.txt: {line}")))
}

impl KernelFacts {
    /// `name file shared threads parameter…`.
    fn parse(line: &'static str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        Some(KernelFacts {
            name: words.next()?,
            file: words.next()?,
            static_shared: words.next()?.parse().ok()?,
            max_threads: words.next()?.parse().ok()?,
            parameters: words.map(Parameter::parse).collect::<Option<_>>()?,
        })
    }
}

impl Parameter {
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

    use super::*;

    #[test]
    fn every_kernel_is_in_every_ptx_of_its_file_and_no_other_is() {
        let mut n = 0;
        for file in &FILES {
            let facts: Vec<_> = all().filter(|facts| facts.file == file.name).collect();
            for ptx in [Some(file.sm75), Some(file.sm80), file.sm90]
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
        assert_eq!(n, all().count(), "kernels of files that are not embedded");
    }

    #[test]
    fn a_card_gets_the_newest_that_it_runs() {
        let file = File {
            name: "a",
            sm75: "75",
            sm80: "80",
            sm90: Some("90"),
        };
        let older = File { sm90: None, ..file };
        let cases = [
            ((7, 5), "75", "75"),
            ((8, 0), "80", "80"),
            ((8, 9), "80", "80"),
            ((9, 0), "90", "80"),
            ((12, 0), "90", "80"),
        ];
        for (capability, newest, of_older) in cases {
            assert_eq!(file.ptx(capability), newest);
            assert_eq!(older.ptx(capability), of_older);
        }
    }
}
