use llm_quant::{BlockSize, Code, FourBit, Int8, Scheme, StoredWeight};
use llm_tensor::DType;

use super::case::Case;
use super::data::{DTYPES, Random, WORKS, downloaded, uploaded, weight};
use super::{four_bit, int8};
use crate::Backend;

/// Rows of a table looked up, added and gathered; all exact, as a scale's product is rounded once anywhere.
#[derive(Debug)]
pub(super) struct TableCase {
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

pub(super) fn cases() -> Vec<TableCase> {
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
    for dtype in [DType::F16, DType::BF16] {
        cases.push(TableCase {
            scheme: Scheme::Dense(dtype),
            width: 64,
            ids: (0..N_ROWS as u32).collect(),
            scale: 1.0,
            content: Content::Patterns,
        });
    }
    // Rows that are whole blocks, rows that share blocks and bytes, and more than a piece of a row.
    for width in [7, 33, 64, 128, 900] {
        let formats = Code::ALL.into_iter().zip([false, true]);
        let four_bit = formats.map(|(code, double_quant)| {
            Scheme::FourBit(FourBit {
                code,
                block_size: BlockSize::DEFAULT,
                double_quant,
            })
        });
        for scheme in four_bit.chain([Scheme::Int8(Int8 { threshold: 6.0 })]) {
            for scale in [1.0, 39.19] {
                cases.push(TableCase {
                    scheme,
                    width,
                    ids: vec![0, 1023, 5, 5, 700],
                    scale,
                    content: Content::Random,
                });
            }
        }
    }
    cases
}

impl TableCase {
    fn table(&self) -> StoredWeight {
        let mut random = Random::new(1);
        match self.scheme {
            Scheme::FourBit(format) => four_bit::encoded(&mut random, N_ROWS, self.width, format),
            Scheme::Int8(format) => int8::int8_weight(&mut random, N_ROWS, self.width, format),
            Scheme::Dense(dtype) | Scheme::Int8PerUse(dtype, _) => {
                let values = match self.content {
                    Content::Random => random.values(N_ROWS * self.width, 3.0),
                    Content::Patterns => (0..=u16::MAX).map(|bits| pattern(dtype, bits)).collect(),
                };
                weight(dtype, N_ROWS, self.width, &values)
            }
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
