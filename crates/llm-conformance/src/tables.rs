use std::sync::Arc;

use llm_tensor::DType;

use crate::case::Case;
use crate::data::{DTYPES, Device, Random, WORKS, weight};
use crate::schemes::{block_len, schemes, weight_in};
use llm_backend::{Backend, Ops};
use llm_quant::{Scheme, StoredWeight};

/// Rows of a table looked up, added and gathered; all exact, as a scale's product is rounded once anywhere.
#[derive(Debug)]
pub(crate) struct TableCase {
    scheme: Scheme,
    width: usize,
    ids: Vec<u32>,
    scale: f32,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Random,
    /// As many of the finite 16-bit patterns as fit, subnormals included.
    Patterns,
}

const N_ROWS: usize = 1024;

pub(crate) fn cases() -> Vec<TableCase> {
    let mut cases = Vec::new();
    for dtype in DTYPES {
        for (width, scale) in [(1, 1.0), (7, 39.19), (16, 0.5), (33, 1.0), (64, 8.0)] {
            cases.push(TableCase {
                scheme: Scheme::Dense(dtype),
                width,
                ids: vec![0, 1023, 5, 5, 700],
                scale,
                content: Content::Random,
            });
        }
    }
    for scheme in schemes() {
        for (width, scale) in [(7, 1.0), (33, 39.19), (64, 1.0), (100, 39.19)] {
            cases.push(TableCase {
                scheme,
                width,
                ids: vec![0, 1023, 5, 5, 700],
                scale,
                content: Content::Random,
            });
        }
    }
    for dtype in [DType::F16, DType::BF16] {
        cases.push(TableCase {
            scheme: Scheme::Dense(dtype),
            width: 64,
            ids: (0..N_ROWS as u32).collect(),
            scale: 1.0,
            content: Content::Patterns,
        });
    }
    cases
}

/// Tables in the formats of published files.
pub(crate) fn packed_cases(schemes: &[Scheme]) -> Vec<TableCase> {
    let mut cases = Vec::new();
    for &scheme in schemes {
        for (n_blocks, scale) in [(1, 1.0), (3, 39.19)] {
            cases.push(TableCase {
                scheme,
                width: n_blocks * block_len(scheme),
                ids: vec![0, 1023, 5, 5, 700],
                scale,
                content: Content::Random,
            });
        }
    }
    cases
}

impl TableCase {
    fn table(&self) -> StoredWeight {
        let mut random = Random::new(1);
        match (self.scheme, &self.content) {
            (Scheme::Dense(dtype), Content::Patterns) => {
                let values: Vec<f32> = (0..=u16::MAX).map(|bits| pattern(dtype, bits)).collect();
                weight(dtype, N_ROWS, self.width, &values)
            }
            (Scheme::Dense(dtype), Content::Random) => {
                let values = random.values(N_ROWS * self.width, 3.0);
                weight(dtype, N_ROWS, self.width, &values)
            }
            (scheme, _) => weight_in(&mut random, scheme, (N_ROWS, self.width)),
        }
    }
}

/// The number of this type that `bits` stand for, or zero.
fn pattern(dtype: DType, bits: u16) -> f32 {
    let mut value = [0.0];
    llm_tensor::le_bytes_to_f32(dtype, &bits.to_le_bytes(), &mut value)
        .expect("patterns are f16 or bf16");
    if value[0].is_finite() { value[0] } else { 0.0 }
}

impl Case for TableCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let n = self.ids.len() * self.width;
        let table = device.load(self.table());
        // Operations take as many of a list as they are told.
        let ids = device.index(&[&self.ids[..], &[u32::MAX]].concat());
        let mut embedded = device.zeros(n);
        device
            .queue
            .embed(&table, &ids, self.ids.len(), self.scale, &mut embedded)
            .expect(WORKS);
        let mut results = device.read(&embedded, n);

        let mut x = device.buffer(&Random::new(2).values(n, 1.0));
        device
            .queue
            .add_positions(&table, &ids, self.ids.len(), &mut x)
            .expect(WORKS);
        results.extend(device.read(&x, n));

        let rows = [self.ids.len() as u32 - 1, 0, 2];
        let rows_index = device.index(&rows);
        let mut gathered = device.zeros(rows.len() * self.width);
        device
            .queue
            .gather_rows(&x, &rows_index, rows.len(), self.width, &mut gathered)
            .expect(WORKS);
        results.extend(device.read(&gathered, rows.len() * self.width));
        results
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        vec![0.0; expected.len()]
    }
}
