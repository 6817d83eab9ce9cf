use std::sync::Arc;

use llm_tensor::DType;

use crate::case::Case;
use crate::data::{DTYPES, Device, Random, WORKS, weight};
use llm_backend::{Backend, Ops};
use llm_quant::StoredWeight;

/// Rows of a table looked up, added and gathered; all exact, as a scale's product is rounded once anywhere.
#[derive(Debug)]
pub(crate) struct TableCase {
    dtype: DType,
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
                dtype,
                width,
                ids: vec![0, 1023, 5, 5, 700],
                scale,
                content: Content::Random,
            });
        }
    }
    for dtype in [DType::F16, DType::BF16] {
        cases.push(TableCase {
            dtype,
            width: 64,
            ids: (0..N_ROWS as u32).collect(),
            scale: 1.0,
            content: Content::Patterns,
        });
    }
    cases
}

impl TableCase {
    fn table(&self) -> StoredWeight {
        let values = match self.content {
            Content::Random => Random::new(1).values(N_ROWS * self.width, 3.0),
            Content::Patterns => (0..=u16::MAX).map(|bits| self.pattern(bits)).collect(),
        };
        weight(self.dtype, N_ROWS, self.width, &values)
    }

    /// The number of this type that `bits` stand for, or zero.
    fn pattern(&self, bits: u16) -> f32 {
        let mut value = [0.0];
        llm_tensor::le_bytes_to_f32(self.dtype, &bits.to_le_bytes(), &mut value)
            .expect("patterns are f16 or bf16");
        if value[0].is_finite() { value[0] } else { 0.0 }
    }
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
