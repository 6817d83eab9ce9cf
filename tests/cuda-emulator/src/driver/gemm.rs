//! Products by cuBLAS: the host's arithmetic over the memory of a device.

use std::time::Instant;

use half::{bf16, f16};

use super::Driver;
use crate::device::Home;
use crate::fault::{Kind, Located};

/// cuBLAS on a device.
pub(crate) struct BlasHandle {
    pub(crate) device: usize,
    /// Memory of its own.
    pub(crate) pool: u64,
    pub(crate) stream: Option<usize>,
    /// Address and bytes of the memory that it was given since it was given a stream.
    pub(crate) workspace: Option<(u64, u64)>,
}

impl BlasHandle {
    pub(crate) fn new(device: usize, pool: u64) -> Self {
        Self {
            device,
            pool,
            stream: None,
            workspace: None,
        }
    }
}

/// A row-major matrix.
#[derive(Clone, Copy)]
pub(crate) struct Matrix {
    pub(crate) at: u64,
    pub(crate) rows: u64,
    pub(crate) cols: u64,
    /// Elements from one row to the next.
    pub(crate) stride: u64,
}

/// Type of the factors' elements.
#[derive(Clone, Copy)]
pub(crate) enum Element {
    F32,
    F16,
    BF16,
}

/// `out = x · weightᵀ`, and `out` before where it adds.
#[derive(Clone)]
pub(crate) struct GemmCall {
    pub(crate) element: Element,
    pub(crate) x: Matrix,
    pub(crate) weight: Matrix,
    /// f32.
    pub(crate) out: Matrix,
    pub(crate) adds: bool,
    pub(crate) workspace: (u64, u64),
}

impl Driver {
    pub(super) fn gemm(&mut self, device: usize, call: &GemmCall) -> Result<(), Located> {
        let begun = Instant::now();
        let (at, n_bytes) = call.workspace;
        // It may use all of it.
        self.fill(at, &[0xff], n_bytes)?;
        for matrix in [&call.x, &call.weight, &call.out] {
            self.check_home(device, matrix)?;
        }
        let x = self.matrix(&call.x, call.element)?;
        let weight = self.matrix(&call.weight, call.element)?;
        let mut out = match call.adds {
            true => self.matrix(&call.out, Element::F32)?,
            false => vec![0.0; (call.out.rows * call.out.cols) as usize],
        };
        let (k, m) = (call.x.cols as usize, call.out.cols as usize);
        let n_threads = self.settings.n_threads;
        let lines = out.chunks_mut(m.max(1)).zip(x.chunks(k.max(1)));
        let mut lines: Vec<_> = lines.collect();
        let share = lines.len().div_ceil(n_threads).max(1);
        std::thread::scope(|scope| {
            for lines in lines.chunks_mut(share) {
                scope.spawn(|| {
                    for (out, x) in lines {
                        for (out, weight) in out.iter_mut().zip(weight.chunks(k.max(1))) {
                            *out += dot(x, weight);
                        }
                    }
                });
            }
        });
        for (row, line) in out.chunks(m.max(1)).enumerate() {
            let bytes: Vec<u8> = line.iter().flat_map(|x| x.to_le_bytes()).collect();
            self.write_line(&call.out, row as u64, &bytes)?;
        }
        let kernel = self.report.kernels.entry(NAME.to_owned()).or_default();
        kernel.launches += 1;
        kernel.seconds += begun.elapsed().as_secs_f64();
        Ok(())
    }

    fn check_home(&self, device: usize, matrix: &Matrix) -> Result<(), Located> {
        let home = self.region(matrix.at, 1)?.home;
        if home == Home::Device(device) {
            return Ok(());
        }
        Err(Located {
            kind: Kind::Address,
            text: format!("{NAME}: {:#x} is not in memory of its device", matrix.at),
        })
    }

    #[expect(unsafe_code, reason = "memory of devices is reached by pointers")]
    fn matrix(&self, matrix: &Matrix, element: Element) -> Result<Vec<f32>, Located> {
        let size = match element {
            Element::F32 => 4,
            Element::F16 | Element::BF16 => 2,
        };
        let mut values = Vec::with_capacity((matrix.rows * matrix.cols) as usize);
        for row in 0..matrix.rows {
            let at = matrix.at + row * matrix.stride * size;
            let n = matrix.cols * size;
            let region = self.region(at, n)?;
            let unwritten = region.written.first_unwritten(at - region.base, n);
            if let Some(first) = unwritten.filter(|_| self.settings.unwritten) {
                let text = format!("{NAME} reads byte {first} of an allocation that nothing wrote");
                let kind = Kind::Uninitialized;
                return Err(Located { kind, text });
            }
            // SAFETY: the region holds all of the bytes; no kernel runs meanwhile.
            let bytes = unsafe { std::slice::from_raw_parts(region.pointer(at), n as usize) };
            match element {
                Element::F32 => values.extend(of(bytes, f32::from_le_bytes)),
                Element::F16 => values.extend(of(bytes, |b| f16::from_le_bytes(b).to_f32())),
                Element::BF16 => values.extend(of(bytes, |b| bf16::from_le_bytes(b).to_f32())),
            }
        }
        Ok(values)
    }

    #[expect(unsafe_code, reason = "memory of devices is reached by pointers")]
    fn write_line(&mut self, matrix: &Matrix, row: u64, bytes: &[u8]) -> Result<(), Located> {
        let at = matrix.at + row * matrix.stride * 4;
        let region = self.region(at, bytes.len() as u64)?;
        region.written.mark(at - region.base, bytes.len() as u64);
        // SAFETY: the region holds all of the bytes; no kernel runs meanwhile.
        unsafe { std::ptr::copy(bytes.as_ptr(), region.pointer(at), bytes.len()) };
        Ok(())
    }
}

fn of<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> impl Iterator<Item = f32> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.iter().map(move |&element| value(element))
}

/// In the order of sixteen sums side by side.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    let mut sums = [0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Name under which the report has these products.
const NAME: &str = "cublasGemmEx";
