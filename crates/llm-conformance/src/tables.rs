use llm_tensor::DType;

use super::case::Case;
use super::data::{DTYPES, Random, WORKS, downloaded, uploaded, weight};
use crate::{Backend, HostWeight};

/// Rows of a table looked up, added and gathered; all exact, as a scale's product is rounded once anywhere.
#[derive(Debug)]
pub(super) struct TableCase {
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

pub(super) fn cases() -> Vec<TableCase> {
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
    fn table(&self) -> HostWeight {
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
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let n = self.ids.len() * self.width;
        let table = backend.load(self.table()).expect(WORKS);
        let mut embedded = backend.alloc(n).expect(WORKS);
        backend
            .embed(&table, &self.ids, self.scale, &mut embedded)
            .expect(WORKS);
        let mut results = downloaded(backend, &embedded, n);

        let mut x = uploaded(backend, &Random::new(2).values(n, 1.0));
        backend
            .add_positions(&table, &self.ids, &mut x)
            .expect(WORKS);
        results.extend(downloaded(backend, &x, n));

        let rows = [self.ids.len() - 1, 0, 2];
        let mut gathered = backend.alloc(rows.len() * self.width).expect(WORKS);
        backend
            .gather_rows(&x, &rows, self.width, &mut gathered)
            .expect(WORKS);
        results.extend(downloaded(backend, &gathered, rows.len() * self.width));
        results
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        vec![0.0; expected.len()]
    }
}
