//! Facts of the embedded kernels: `ptx/kernels.txt`, which is written with the PTX and read when this crate is compiled.

/// A kernel: the number of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kernel(usize);

impl Kernel {
    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Kernel> {
        (0..N_KERNELS).map(Kernel)
    }

    /// The kernel of that name. Constants are made by it (`kernel!`), so that a name which no kernel has does not compile.
    pub(crate) const fn named(name: &str) -> Self {
        let mut i = 0;
        while i < N_KERNELS {
            if is_same(KERNELS[i].name, name) {
                return Kernel(i);
            }
            i += 1;
        }
        panic!("no kernel has this name")
    }

    /// Number among all.
    pub(crate) const fn number(self) -> usize {
        self.0
    }

    pub(crate) fn facts(self) -> &'static KernelFacts {
        &KERNELS[self.0]
    }

    /// Warps of the largest block.
    pub(crate) fn n_warps(self) -> usize {
        self.facts().max_threads as usize / 32
    }
}

/// A kernel, or an array of kernels, looked up by name when this crate is compiled.
macro_rules! kernel {
    ($name:expr) => {
        const { $crate::module::Kernel::named($name) }
    };
    ($($name:expr),+ $(,)?) => {
        const { [$($crate::module::Kernel::named($name)),+] }
    };
}
pub(crate) use kernel;

/// What a launch of a kernel is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KernelFacts {
    pub(crate) name: &'static str,
    /// The file that it is in.
    pub(crate) file: &'static str,
    /// Shared memory that it has of itself.
    pub(crate) static_shared: u32,
    /// A launch gives it more.
    pub(crate) takes_shared: bool,
    /// Threads that a block may have.
    pub(crate) max_threads: u32,
    parameters: [Parameter; MAX_PARAMETERS],
    /// The first word of each argument, where each begins on a border of eight bytes.
    starts: [u16; MAX_PARAMETERS],
    n_parameters: usize,
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
    Structure(u32),
}

/// Parameters that a kernel may have.
pub(crate) const MAX_PARAMETERS: usize = 25;

const TEXT: &str = include_str!("../../ptx/kernels.txt");
const N_KERNELS: usize = count(TEXT);
static KERNELS: [KernelFacts; N_KERNELS] = parse(TEXT);

impl KernelFacts {
    const NONE: Self = KernelFacts {
        name: "",
        file: "",
        static_shared: 0,
        takes_shared: false,
        max_threads: 0,
        parameters: [Parameter::Word; MAX_PARAMETERS],
        starts: [0; MAX_PARAMETERS],
        n_parameters: 0,
    };

    pub(crate) fn parameters(&self) -> &[Parameter] {
        &self.parameters[..self.n_parameters]
    }

    pub(crate) fn starts(&self) -> &[u16] {
        &self.starts[..self.n_parameters]
    }

    /// `name file shared threads parameter…`, a `+` behind the shared memory where a launch gives more.
    const fn parse(line: &'static [u8]) -> Self {
        let (name, rest) = cut(line, b' ');
        let (file, rest) = cut(rest, b' ');
        let (shared, rest) = cut(rest, b' ');
        let (threads, mut rest) = cut(rest, b' ');
        let takes_shared = shared[shared.len() - 1] == b'+';
        let mut facts = KernelFacts {
            name: text(name),
            file: text(file),
            static_shared: number(shared.split_at(shared.len() - takes_shared as usize).0),
            takes_shared,
            max_threads: number(threads),
            ..KernelFacts::NONE
        };
        let mut n_words = 0;
        while !rest.is_empty() {
            let (word, after) = cut(rest, b' ');
            let parameter = Parameter::parse(word);
            facts.parameters[facts.n_parameters] = parameter;
            facts.starts[facts.n_parameters] = n_words;
            facts.n_parameters += 1;
            n_words += parameter.n_words();
            rest = after;
        }
        facts
    }
}

impl Parameter {
    /// Words of eight bytes that hold one.
    const fn n_words(self) -> u16 {
        match self {
            Parameter::Word | Parameter::Int | Parameter::Float => 1,
            Parameter::Structure(n_bytes) => n_bytes.div_ceil(8) as u16,
        }
    }

    const fn parse(word: &[u8]) -> Self {
        match word {
            b"u64" => Parameter::Word,
            b"u32" => Parameter::Int,
            b"f32" => Parameter::Float,
            [b'b', n_bytes @ ..] => Parameter::Structure(number(n_bytes)),
            _ => panic!("a parameter of kernels.txt"),
        }
    }
}

const fn count(text: &str) -> usize {
    let (mut rest, mut n) = (text.as_bytes(), 0);
    while !rest.is_empty() {
        let (line, after) = cut(rest, b'\n');
        n += is_kernel(line) as usize;
        rest = after;
    }
    n
}

const fn parse(text: &'static str) -> [KernelFacts; N_KERNELS] {
    let mut kernels = [KernelFacts::NONE; N_KERNELS];
    let (mut rest, mut n) = (text.as_bytes(), 0);
    while !rest.is_empty() {
        let (line, after) = cut(rest, b'\n');
        if is_kernel(line) {
            kernels[n] = KernelFacts::parse(line);
            n += 1;
        }
        rest = after;
    }
    kernels
}

const fn is_kernel(line: &[u8]) -> bool {
    !line.is_empty() && line[0] != b'#'
}

/// What is before the first `at`, and what is behind it.
const fn cut(text: &[u8], at: u8) -> (&[u8], &[u8]) {
    let mut n = 0;
    while n < text.len() && text[n] != at {
        n += 1;
    }
    let (before, rest) = text.split_at(n);
    (before, rest.split_at((n < text.len()) as usize).1)
}

const fn text(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("kernels.txt is no text"),
    }
}

const fn number(digits: &[u8]) -> u32 {
    match u32::from_str_radix(text(digits), 10) {
        Ok(n) => n,
        Err(_) => panic!("a number of kernels.txt"),
    }
}

const fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was read at compile time is what the lines say.
    #[test]
    fn a_line_is_read_as_it_is_written() {
        let lines = TEXT.lines().filter(|line| !line.starts_with('#'));
        let lines: Vec<&str> = lines.collect();
        assert_eq!(lines.len(), N_KERNELS);
        for (kernel, line) in Kernel::all().zip(lines) {
            let facts = kernel.facts();
            let more = if facts.takes_shared { "+" } else { "" };
            let mut written = format!(
                "{} {} {}{more} {}",
                facts.name, facts.file, facts.static_shared, facts.max_threads
            );
            for parameter in facts.parameters() {
                written += &match parameter {
                    Parameter::Word => " u64".to_owned(),
                    Parameter::Int => " u32".to_owned(),
                    Parameter::Float => " f32".to_owned(),
                    Parameter::Structure(n_bytes) => format!(" b{n_bytes}"),
                };
            }
            assert_eq!(written, line);
            assert_eq!(Kernel::named(facts.name), kernel);
        }
    }

    #[test]
    fn arguments_begin_on_borders_of_eight_bytes() {
        let kernel = kernel!("four_bit_rows_1");
        assert_eq!(kernel.facts().starts(), [0, 37, 42, 43, 44, 45]);
    }
}
