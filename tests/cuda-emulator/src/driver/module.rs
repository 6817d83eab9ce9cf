//! Modules: text of PTX, checked against the driver and the device, with its kernels made ready.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Code, Driver};
use crate::program::{self, Program, Symbols};
use crate::ptx::{self, Space, Variable};

/// A loaded module.
pub(crate) struct Module {
    pub(crate) device: usize,
    /// Handles of its functions by name.
    pub(crate) functions: HashMap<String, usize>,
    /// Addresses and bytes of its global variables.
    pub(crate) globals: HashMap<String, (u64, u64)>,
}

/// A kernel of a module, with what may be set on it.
pub(crate) struct Function {
    pub(crate) device: usize,
    pub(crate) program: Arc<Program>,
    /// Most bytes of dynamic shared memory.
    pub(crate) most_dynamic: usize,
}

/// Why a module was not loaded.
pub(crate) struct LoadError {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl LoadError {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl Driver {
    /// Loads PTX for a device; returns the module's handle.
    pub(crate) fn load(&mut self, device: usize, text: &str) -> Result<usize, LoadError> {
        let parsed = ptx::parse(text).map_err(|what| LoadError::new(Code::INVALID_PTX, what))?;
        let compute = self.settings.compute(device);
        if parsed.target > compute {
            let message = format!("sm_{} on a device of sm_{compute}", parsed.target);
            return Err(LoadError::new(Code::NO_BINARY, message));
        }
        let newest = newest_ptx(self.settings.driver);
        if parsed.version > newest {
            let message = format!(
                "PTX {}.{}, the driver knows {}.{} at most",
                parsed.version / 10,
                parsed.version % 10,
                newest / 10,
                newest % 10
            );
            return Err(LoadError::new(Code::UNSUPPORTED_PTX_VERSION, message));
        }
        let mut symbols = Symbols {
            source: text.lines().map(Box::from).collect(),
            ..Symbols::default()
        };
        let mut bank = Vec::new();
        let mut globals = HashMap::new();
        for variable in &parsed.variables {
            match variable.space {
                Space::Const => {
                    let at = bank.len().next_multiple_of(variable.align);
                    bank.resize(at, 0);
                    bank.extend(initial(variable));
                    symbols.constants.insert(variable.name.clone(), at as u64);
                }
                Space::Global if variable.bytes > 0 => {
                    let address = self.memory.allocate_variable(device, variable.bytes as u64);
                    self.write_bytes(address, &initial(variable));
                    symbols.globals.insert(variable.name.clone(), address);
                    globals.insert(variable.name.clone(), (address, variable.bytes as u64));
                }
                Space::Global | Space::Shared | Space::Generic | Space::Local | Space::Param => {}
            }
        }
        symbols.bank = bank.into();
        let mut functions = HashMap::new();
        for kernel in &parsed.kernels {
            let program = program::build(&parsed, kernel, &symbols).map_err(|what| {
                LoadError::new(Code::INVALID_PTX, format!("kernel {}: {what}", kernel.name))
            })?;
            if program.shared_bytes > MOST_STATIC_SHARED {
                let message = format!(
                    "kernel {} has {} bytes of static shared memory",
                    kernel.name, program.shared_bytes
                );
                return Err(LoadError::new(Code::INVALID_PTX, message));
            }
            let handle = self.handle();
            functions.insert(kernel.name.clone(), handle);
            self.functions.insert(
                handle,
                Function {
                    device,
                    most_dynamic: MOST_STATIC_SHARED - program.shared_bytes,
                    program: Arc::new(program),
                },
            );
        }
        let handle = self.handle();
        self.modules.insert(
            handle,
            Module {
                device,
                functions,
                globals,
            },
        );
        Ok(handle)
    }

    pub(crate) fn unload(&mut self, module: usize) -> Result<(), Code> {
        let module = self.modules.remove(&module).ok_or(Code::INVALID_HANDLE)?;
        for handle in module.functions.values() {
            self.functions.remove(handle);
        }
        for (address, _) in module.globals.values() {
            self.memory.free(*address, false);
        }
        Ok(())
    }
}

fn initial(variable: &Variable) -> Vec<u8> {
    let mut out = Vec::with_capacity(variable.bytes);
    for value in &variable.init {
        out.extend(&value.to_le_bytes()[..variable.ty.bytes()]);
    }
    out.resize(variable.bytes, 0);
    out
}

/// Newest PTX that a driver knows, 80 for 8.0.
fn newest_ptx(driver: u32) -> u32 {
    NEWEST
        .iter()
        .rev()
        .find(|(version, _)| *version <= driver)
        .map_or(70, |(_, ptx)| *ptx)
}

/// Drivers with the newest PTX that they know.
const NEWEST: [(u32, u32); 18] = [
    (11000, 70),
    (11010, 71),
    (11020, 72),
    (11030, 73),
    (11040, 74),
    (11050, 75),
    (11060, 76),
    (11070, 77),
    (11080, 78),
    (12000, 80),
    (12010, 81),
    (12020, 82),
    (12030, 83),
    (12040, 84),
    (12050, 85),
    (12080, 87),
    (12090, 88),
    (13000, 90),
];

const MOST_STATIC_SHARED: usize = 48 << 10;
