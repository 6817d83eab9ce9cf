use llm_tensor::{DType, KvValues};

use super::{AttentionCase, Bias, Blocks, CopiedBlocks, Fork, Keys, SEED, Together, Tokens};
use crate::data::DTYPES;

pub(crate) fn cases() -> Vec<AttentionCase> {
    let mut cases = causal();
    cases.extend(windowed());
    cases.extend(chunked());
    cases.extend(capped());
    cases.extend(biased());
    cases.extend(unmasked());
    cases.extend(sunk());
    cases.extend(of_keys());
    for case in cases.iter_mut().skip(1).step_by(2) {
        case.blocks = Blocks::Shuffled;
    }
    cases
}

/// Some of them, of each kind.
pub(crate) fn copies() -> Vec<CopiedBlocks> {
    let cases = cases().into_iter().step_by(3);
    cases.map(CopiedBlocks).collect()
}

/// Several sequences at once, of other lengths, some of which are not numbers.
pub(crate) fn together() -> Vec<Together> {
    let mut cases = Vec::new();
    let windows = [None, Some(5), Some(40), Some(600)];
    let calls: [&[&[usize]]; 5] = [
        &[&[1, 1, 1], &[1, 1, 1], &[1, 1, 1, 1, 1]],
        &[&[40, 1, 1, 1], &[3, 1, 1], &[17, 16, 1, 9], &[1, 64, 2]],
        &[&[1; 60], &[70, 3, 1], &[9; 12], &[1]],
        &[&[530, 1, 1], &[4, 1, 1], &[1, 700, 1]],
        &[&[2usize, 2, 2] as &[usize]; 40],
    ];
    for (i, (window, calls)) in windows
        .into_iter()
        .flat_map(|window| calls.map(|calls| (window, calls)))
        .enumerate()
    {
        let shape = AttentionCase {
            n_heads: [4, 6, 53][i % 3],
            n_kv_heads: [2, 3, 1][i % 3],
            head_dim: [16, 20, 12][i / 3 % 3],
            dtype: DTYPES[i % 3],
            keys: Keys::Past {
                window,
                spare: i % 4,
            },
            soft_cap: (i % 4 == 3).then_some(3.0),
            bias: (i % 5 == 2).then_some(Bias {
                row: 50,
                zero: 30,
                magnitude: 2.0,
            }),
            values: match i % 6 {
                5 => KvValues::OfKeys(9),
                _ => KvValues::Own,
            },
            sinks: (i % 3 == 1).then_some(2.0),
            blocks: [Blocks::Shuffled, Blocks::InOrder][i % 4 / 3],
            others: i % 2,
            ..PLAIN
        };
        for n_nan in [0, calls.len() / 2] {
            cases.push(Together(of_shape(&shape, calls, n_nan)));
        }
    }
    // Of whole sequences, each as long as it is.
    let crossed = [vec![33], vec![1], vec![100, 50], vec![700]].map(Keys::Cross);
    for (i, n_nan) in [0, 1, 2].into_iter().enumerate() {
        let shape = AttentionCase {
            dtype: DTYPES[i],
            blocks: Blocks::Shuffled,
            others: i,
            ..PLAIN
        };
        let encoder = AttentionCase {
            keys: Keys::Encoder,
            ..shape.clone()
        };
        let calls: &[&[usize]] = &[&[60], &[1], &[200], &[17]];
        cases.push(Together(of_shape(&encoder, calls, n_nan)));
        let calls: &[&[usize]] = &[&[3, 1, 1], &[1], &[60, 1, 9], &[2, 2]];
        let mut sequences = of_shape(&shape, calls, n_nan);
        for (sequence, keys) in sequences.iter_mut().zip(&crossed) {
            sequence.keys = keys.clone();
        }
        cases.push(Together(sequences));
    }
    cases
}

/// Sequences whose last rows come alone, and up to `n` in a call: with and without what is between them and the first.
pub(crate) fn few_rows(n: usize) -> Vec<[AttentionCase; 2]> {
    let past = |window| Keys::Past { window, spare: 2 };
    let keys = [
        past(None),
        past(Some(5)),
        past(Some(150)),
        past(Some(600)),
        Keys::Chunk(70),
        Keys::Cross(vec![33]),
        Keys::Cross(vec![700]),
    ];
    let mut pairs = Vec::new();
    for (i, (keys, first)) in keys
        .into_iter()
        .flat_map(|keys| [3, 137, 505, 1100].map(|first| (keys.clone(), first)))
        .enumerate()
    {
        let with = |calls: Vec<usize>| AttentionCase {
            n_heads: [4, 6, 53][i % 3],
            n_kv_heads: [2, 3, 1][i % 3],
            head_dim: [16, 20, 12][i / 3 % 3],
            dtype: DTYPES[i % 3],
            keys: keys.clone(),
            soft_cap: (i % 4 == 3).then_some(3.0),
            bias: (i % 5 == 2).then_some(Bias {
                row: 50,
                zero: 30,
                magnitude: 2.0,
            }),
            values: match i % 6 {
                5 => KvValues::OfKeys(9),
                _ => KvValues::Own,
            },
            sinks: (i % 3 == 1).then_some(2.0),
            others: i % 2,
            calls,
            ..PLAIN
        };
        let after = |calls: Vec<usize>| with([vec![first], calls].concat());
        let n_rows = 2 * n + 2;
        pairs.push([after(vec![1; n_rows]), after(vec![n, 2, n])]);
    }
    pairs
}

/// Sequences with these calls, of which every other one is not a number until there are `n_nan` of those.
fn of_shape(shape: &AttentionCase, calls: &[&[usize]], n_nan: usize) -> Vec<AttentionCase> {
    let sequence = |(i, calls): (usize, &&[usize])| AttentionCase {
        calls: calls.to_vec(),
        tokens: match i % 2 == 0 && i / 2 < n_nan {
            true => Tokens::Nan,
            false => Tokens::Seeded(SEED + i as u64),
        },
        ..shape.clone()
    };
    calls.iter().enumerate().map(sequence).collect()
}

/// Sequences that share the blocks of their past: with the last of them full, or begun, or written anew in a ring.
pub(crate) fn forks() -> Vec<Fork> {
    let mut forks = Vec::new();
    for (calls, n_shared) in [
        (vec![64, 1, 1, 1], 1),
        (vec![37, 5, 30, 1], 2),
        (vec![1; 40], 17),
        (vec![128, 128, 1], 1),
        (vec![3, 1, 1, 1, 1, 100], 2),
    ] {
        for window in [None, Some(20), Some(64)] {
            let i = forks.len();
            forks.push(Fork {
                case: AttentionCase {
                    dtype: DTYPES[i % 3],
                    keys: Keys::Past { window, spare: 0 },
                    calls: calls.clone(),
                    blocks: [Blocks::InOrder, Blocks::Shuffled][i % 2],
                    others: i % 2,
                    ..PLAIN
                },
                n_shared,
            });
        }
    }
    forks
}

fn causal() -> Vec<AttentionCase> {
    let mut cases = Vec::new();
    for head_dim in [12, 16, 24, 32, 64, 80, 96, 128, 256, 320] {
        for (n_heads, n_kv_heads) in [(1, 1), (3, 3), (4, 2), (9, 3), (8, 2)] {
            for (dtype, calls) in
                DTYPES
                    .into_iter()
                    .zip([vec![33], vec![17, 1, 15], vec![1, 1, 1, 2, 3, 5]])
            {
                cases.push(AttentionCase {
                    n_heads,
                    n_kv_heads,
                    head_dim,
                    dtype,
                    calls,
                    others: cases.len() % 3,
                    ..PLAIN
                });
            }
        }
    }
    for dtype in DTYPES {
        for calls in [vec![1; 100], vec![100], vec![64, 36], vec![130, 1, 130, 1]] {
            for magnitude in [1.0, 10.0, 1e4] {
                cases.push(AttentionCase {
                    n_heads: 6,
                    dtype,
                    calls: calls.clone(),
                    magnitude,
                    ..PLAIN
                });
            }
        }
        // Long enough to be divided among threads, and more queries a key head than any tile holds.
        for (n_heads, n_kv_heads, calls) in [
            (1, 1, vec![511, 1, 1, 1, 600, 1, 7]),
            (6, 3, vec![520, 1, 9, 1]),
            (53, 1, vec![9, 1, 3]),
        ] {
            cases.push(AttentionCase {
                n_heads,
                n_kv_heads,
                head_dim: 20,
                dtype,
                calls,
                others: 1,
                magnitude: 2.0,
                ..PLAIN
            });
        }
    }
    cases
}

/// At once, one by one, and in pieces; 150 tokens each.
fn passes() -> [Vec<usize>; 4] {
    let mut pieces = vec![13; 11];
    pieces.push(7);
    [vec![150], vec![1; 150], vec![70, 1, 1, 78], pieces]
}

fn windowed() -> Vec<AttentionCase> {
    let mut cases = Vec::new();
    let mut push = |window, spare, calls: Vec<usize>, case: AttentionCase| {
        let i = cases.len();
        cases.push(AttentionCase {
            dtype: DTYPES[i % 3],
            keys: Keys::Past {
                window: Some(window),
                spare,
            },
            calls,
            others: i % 2,
            ..case
        });
    };
    for window in [1, 2, 5, 16, 31, 63, 64, 65, 100, 149, 150, 1000] {
        for calls in passes() {
            push(window, 0, calls, PLAIN);
        }
    }
    // The place where the ring begins anew, at many offsets to the calls.
    for spare in [1, 3, 17, 40, 64] {
        for calls in passes() {
            push(30, spare, calls, PLAIN);
        }
    }
    // Many times around.
    push(30, 0, vec![1; 500], PLAIN);
    push(70, 0, [vec![9; 30], vec![1; 200]].concat(), PLAIN);
    // Windows that are divided among threads themselves, and more queries than a tile holds.
    let long = AttentionCase {
        n_heads: 6,
        n_kv_heads: 3,
        head_dim: 20,
        ..PLAIN
    };
    for (window, calls) in [
        (513, vec![520, 1, 1, 60, 1, 500, 1]),
        (600, vec![1, 650, 1, 1, 300, 1, 256, 1, 1]),
        (1100, vec![1090, 1, 1, 1, 300, 1]),
    ] {
        push(window, 0, calls, long.clone());
    }
    let options = AttentionCase {
        soft_cap: Some(3.0),
        bias: Some(Bias {
            row: 50,
            zero: 30,
            magnitude: 2.0,
        }),
        ..PLAIN
    };
    for calls in passes() {
        push(60, 0, calls, options.clone());
    }
    let long = AttentionCase {
        soft_cap: Some(3.0),
        bias: Some(Bias {
            row: 540,
            zero: 538,
            magnitude: 2.0,
        }),
        ..long
    };
    push(600, 0, vec![620, 1, 1, 40, 1], long);
    cases
}

/// Chunks that calls begin, end and span, and that blocks of the pool do not divide.
fn chunked() -> Vec<AttentionCase> {
    let mut cases = Vec::new();
    let mut push = |len, calls: Vec<usize>, case: AttentionCase| {
        let i = cases.len();
        cases.push(AttentionCase {
            dtype: DTYPES[i % 3],
            keys: Keys::Chunk(len),
            calls,
            others: i % 2,
            ..case
        });
    };
    for len in [1, 2, 5, 16, 31, 64, 100, 149, 150, 1000] {
        for calls in passes() {
            push(len, calls, PLAIN);
        }
    }
    // Many chunks, and those that are divided among threads themselves.
    push(30, vec![1; 200], PLAIN);
    let wide = AttentionCase {
        n_heads: 6,
        n_kv_heads: 3,
        head_dim: 64,
        ..PLAIN
    };
    for len in [512, 600, 610] {
        push(len, vec![1, 650, 1, 1, 300, 1, 256, 1, 1], wide.clone());
    }
    let options = AttentionCase {
        soft_cap: Some(3.0),
        sinks: Some(2.0),
        ..wide
    };
    for calls in passes() {
        push(60, calls, options.clone());
    }
    cases
}

fn capped() -> Vec<AttentionCase> {
    let mut cases = Vec::new();
    for soft_cap in [0.5, 5.0, 50.0] {
        for magnitude in [1.0, 10.0, 1e4] {
            for calls in passes() {
                cases.push(AttentionCase {
                    n_heads: 6,
                    dtype: DTYPES[cases.len() % 3],
                    calls,
                    magnitude,
                    soft_cap: Some(soft_cap),
                    ..PLAIN
                });
            }
        }
    }
    cases
}

fn biased() -> Vec<AttentionCase> {
    let mut cases = Vec::new();
    // The whole past, some of it, and distances beyond either end of the row, or beyond both.
    for (row, zero) in [
        (150, 149),
        (40, 39),
        (9, 4),
        (1, 0),
        (5, 0),
        (300, 299),
        (7, 30),
    ] {
        for calls in passes() {
            cases.push(AttentionCase {
                dtype: DTYPES[cases.len() % 3],
                calls,
                bias: Some(Bias {
                    row,
                    zero,
                    magnitude: 3.0,
                }),
                ..PLAIN
            });
        }
    }
    for row in [1200, 600, 3] {
        cases.push(AttentionCase {
            n_heads: 6,
            n_kv_heads: 3,
            head_dim: 20,
            calls: vec![600, 1, 1, 500, 1],
            bias: Some(Bias {
                row,
                zero: row - 1,
                magnitude: 3.0,
            }),
            ..PLAIN
        });
    }
    cases
}

/// Heads with sinks: small ones, ones that take nearly all weight, and ones that take none.
fn sunk() -> Vec<AttentionCase> {
    let mut cases = Vec::new();
    let heads = [(4, 2, 16), (8, 1, 64), (6, 3, 20)];
    for (i, magnitude) in [0.5, 3.0, 60.0].into_iter().enumerate() {
        for (j, window) in [None, Some(5), Some(40)].into_iter().enumerate() {
            let (n_heads, n_kv_heads, head_dim) = heads[(i + j) % 3];
            for calls in passes() {
                let n = cases.len();
                cases.push(AttentionCase {
                    n_heads,
                    n_kv_heads,
                    head_dim,
                    dtype: DTYPES[n % 3],
                    keys: Keys::Past {
                        window,
                        spare: n % 3,
                    },
                    calls,
                    others: n % 2,
                    soft_cap: (n % 4 == 3).then_some(3.0),
                    bias: (n % 5 == 4).then_some(Bias {
                        row: 50,
                        zero: 30,
                        magnitude: 2.0,
                    }),
                    sinks: Some(magnitude),
                    ..PLAIN
                });
            }
        }
    }
    // Many positions, which are divided; and heads wider than most kernels take.
    for (dtype, window) in DTYPES.into_iter().zip([None, Some(600), None]) {
        cases.push(AttentionCase {
            n_heads: 6,
            n_kv_heads: 3,
            head_dim: 20,
            dtype,
            keys: Keys::Past { window, spare: 0 },
            calls: vec![600, 1, 1, 500, 1],
            sinks: Some(3.0),
            ..PLAIN
        });
        cases.push(AttentionCase {
            head_dim: 264,
            dtype,
            calls: vec![5, 1, 3],
            sinks: Some(3.0),
            ..PLAIN
        });
    }
    cases
}

/// Values that are elements of keys, as latents are: of few elements and of many, of one key head and of several.
fn of_keys() -> Vec<AttentionCase> {
    let mut cases = Vec::new();
    for (n_heads, n_kv_heads, head_dim, n) in [
        (1, 1, 12, 8),
        (4, 1, 28, 20),
        (53, 1, 24, 24),
        (6, 3, 20, 1),
        (5, 1, 144, 128),
        (16, 1, 576, 512),
    ] {
        for calls in [vec![33], vec![17, 1, 15], vec![1, 1, 1, 2, 3, 5]] {
            cases.push(AttentionCase {
                n_heads,
                n_kv_heads,
                head_dim,
                values: KvValues::OfKeys(n),
                dtype: DTYPES[cases.len() % 3],
                calls,
                others: cases.len() % 2,
                ..PLAIN
            });
        }
    }
    // Many positions, which are divided, and a ring of them.
    for (dtype, window) in DTYPES.into_iter().zip([None, Some(600), Some(40)]) {
        cases.push(AttentionCase {
            n_heads: 6,
            n_kv_heads: 1,
            head_dim: 44,
            values: KvValues::OfKeys(36),
            dtype,
            keys: Keys::Past { window, spare: 3 },
            calls: vec![600, 1, 1, 500, 1],
            others: 1,
            ..PLAIN
        });
    }
    cases
}

fn unmasked() -> Vec<AttentionCase> {
    let mut cases = Vec::new();
    let biases = [None, Some((399, 199)), Some((33, 16)), Some((4, 1))];
    for (n_heads, n_kv_heads, head_dim) in [(1, 1, 12), (4, 4, 64), (6, 2, 20)] {
        for (keys, calls) in [
            (Keys::Encoder, vec![1]),
            (Keys::Encoder, vec![49]),
            (Keys::Encoder, vec![200]),
            (Keys::Cross(vec![1]), vec![3, 1]),
            (Keys::Cross(vec![150]), vec![1; 5]),
            (Keys::Cross(vec![100, 50]), vec![60, 1, 9]),
            (Keys::Cross(vec![700]), vec![4, 1, 1]),
        ] {
            for (i, bias) in biases.into_iter().enumerate() {
                cases.push(AttentionCase {
                    n_heads,
                    n_kv_heads,
                    head_dim,
                    dtype: DTYPES[cases.len() % 3],
                    keys: keys.clone(),
                    calls: calls.clone(),
                    others: i % 3,
                    soft_cap: (i % 2 == 1).then_some(2.0),
                    bias: bias.map(|(row, zero)| Bias {
                        row,
                        zero,
                        magnitude: 2.0,
                    }),
                    ..PLAIN
                });
            }
        }
    }
    cases
}

/// Shape and inputs of most cases.
const PLAIN: AttentionCase = AttentionCase {
    n_heads: 4,
    n_kv_heads: 2,
    head_dim: 16,
    values: KvValues::Own,
    dtype: DType::F32,
    keys: Keys::Past {
        window: None,
        spare: 0,
    },
    calls: Vec::new(),
    others: 0,
    magnitude: 1.0,
    soft_cap: None,
    bias: None,
    sinks: None,
    blocks: Blocks::InOrder,
    tokens: Tokens::Seeded(SEED),
};
