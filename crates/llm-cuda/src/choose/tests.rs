use super::four_bit::{ROWS_OWN, TILES_OWN};
use super::*;
use crate::Compute;

const H100: CardShape = CardShape {
    compute_capability: (9, 0),
    n_multiprocessors: 132,
    shared_per_block: 227 << 10,
};

const CARDS: [CardShape; 4] = [
    CardShape {
        compute_capability: (7, 5),
        n_multiprocessors: 40,
        shared_per_block: 64 << 10,
    },
    CardShape {
        compute_capability: (8, 6),
        n_multiprocessors: 82,
        shared_per_block: 99 << 10,
    },
    CardShape {
        compute_capability: (8, 0),
        n_multiprocessors: 108,
        shared_per_block: 163 << 10,
    },
    H100,
];

const SHAPES: [(&[usize], usize); 9] = [
    (&[16], 64),
    (&[4096], 4096),
    (&[4096, 1024, 1024], 4096),
    (&[14336, 14336], 4096),
    (&[4096], 14336),
    (&[28672], 8192),
    (&[8192], 28672),
    (&[151_936], 2560),
    (&[17, 33, 70], 576),
];

const KINDS: [FourBitKind; 4] = [
    kind(false, 64),
    kind(true, 64),
    kind(false, 32),
    kind(true, 32),
];

const COMPUTE: [Compute; 2] = [Compute::F32, Compute::Half];

const fn kind(is_double: bool, block_size: usize) -> FourBitKind {
    FourBitKind {
        is_double,
        block_size,
    }
}

fn products() -> impl Iterator<Item = (CardShape, Product<'static>)> {
    let shapes = SHAPES
        .into_iter()
        .flat_map(|shape| (1..=MAX_ROWS).map(move |n| (shape, n)));
    shapes.flat_map(|((rows, cols), n)| CARDS.map(|card| (card, Product { rows, cols, n })))
}

#[test]
fn warps_take_several_tiles_of_packed_weights_where_many_keep_a_card_busy() {
    let cases = [
        (&[4096][..], 4096, 1, 8, (1, 8, [256, 1, 1])),
        (&[4096, 1024, 1024], 4096, 1, 8, (2, 8, [192, 1, 1])),
        (&[14336, 14336], 4096, 1, 8, (4, 8, [448, 1, 1])),
        (&[151_936], 2560, 1, 4, (4, 2, [1187, 1, 1])),
        // Several rows are split once for all.
        (&[14336, 14336], 4096, 8, 8, (1, 4, [896, 1, 1])),
        (&[17, 33, 70], 576, 3, 8, (1, 2, [3, 1, 1])),
    ];
    for (rows, cols, n, n_warps, expected) in cases {
        let product = Product { rows, cols, n };
        let (launch, n_tiles) = packed(H100, product, n_warps);
        assert_eq!(launch.threads, 32 * n_warps);
        let found = (n_tiles, launch.split, launch.grid);
        assert_eq!(found, expected, "{rows:?} {cols} {n}");
    }
}

#[test]
fn warps_cover_all_rows_once() {
    for (card, product) in products() {
        for launch in [
            dense(card, product, 2),
            dense(card, product, 4),
            int8(card, product),
        ] {
            let height = match (launch.by_tiles, launch.n_at_once) {
                (true, _) => 16,
                (false, 1) => 1,
                (false, 2) => 2,
                (false, _) => 4,
            };
            let tiles = product.tiles(height);
            let groups = WARPS / launch.split;
            assert!(launch.grid[0] * groups >= tiles, "{product:?} {launch:?}");
            assert!(
                (launch.grid[0] - 1) * groups < tiles,
                "{product:?} {launch:?}"
            );
            assert!(
                launch.grid[1] * launch.n_at_once >= product.n,
                "{product:?} {launch:?}"
            );
            assert!(WARPS.is_multiple_of(launch.split));
        }
    }
}

#[test]
fn slices_cover_all_columns_and_fit_the_card() {
    for (card, product) in products() {
        for (kind, compute) in KINDS
            .into_iter()
            .flat_map(|kind| COMPUTE.map(|of| (kind, of)))
        {
            let launch = four_bit(card, product, kind, compute);
            let launch = launch.unwrap_or_else(|| panic!("{card:?} {product:?} {kind:?}"));
            let (slices, len) = (launch.slices, launch.slice_len);
            assert!(slices * len >= product.cols, "{product:?} {launch:?}");
            assert!((slices - 1) * len < product.cols, "{product:?} {launch:?}");
            assert_eq!(launch.grid[0] % slices, 0, "{product:?} {launch:?}");
            assert!(launch.grid[1] * launch.n_at_once >= product.n);
            let own = match launch.sharing {
                Sharing::Rows(split) => {
                    assert!(WARPS.is_multiple_of(split));
                    ROWS_OWN
                }
                Sharing::Teams(teams) => {
                    assert!((launch.threads / 32).is_multiple_of(teams));
                    TILES_OWN
                }
            };
            assert!(
                launch.shared + own <= card.shared_per_block,
                "{card:?} {launch:?}"
            );
            let pieces = launch.n_pieces(product) * size_of::<f32>();
            let rows = product.rows.iter().sum();
            assert!(
                pieces <= piece_bytes(product.n, product.cols, rows),
                "{product:?} {launch:?}"
            );
        }
    }
}

#[test]
fn columns_that_are_not_whole_loads_have_no_fast_kernel() {
    let product = |cols| Product {
        rows: &[4096],
        cols,
        n: 1,
    };
    let choice = |card, cols| {
        four_bit(card, product(cols), KINDS[0], Compute::F32).map(|launch| launch.sharing)
    };
    assert_eq!(choice(H100, 100), None);
    assert!(matches!(choice(H100, 96), Some(Sharing::Rows(_))));
    assert!(matches!(choice(CARDS[0], 4096), Some(Sharing::Rows(_))));
}

/// What was found fastest on an H100, of each kind of shape.
#[test]
fn choices_are_those_that_were_measured() {
    let one = |rows, cols, n| Product { rows, cols, n };
    let split = |rows: &'static [usize], cols| dense(H100, one(rows, cols, 1), 2).split;
    assert_eq!(split(&[4096], 4096), 1);
    assert_eq!(split(&[1024], 4096), 4);
    assert_eq!(split(&[4096], 14336), 4);
    assert_eq!(split(&[8192], 28672), 8);

    let sharing = |cols, n| {
        four_bit(H100, one(&[4096], cols, n), KINDS[0], Compute::F32)
            .unwrap()
            .sharing
    };
    assert_eq!(sharing(4096, 1), Sharing::Rows(2));
    assert_eq!(sharing(14336, 1), Sharing::Rows(2));
    assert_eq!(sharing(4096, 2), Sharing::Teams(1));

    let long = four_bit(H100, one(&[8192], 28672, 1), KINDS[0], Compute::F32).unwrap();
    assert_eq!((long.slices, long.grid), (2, [264, 1, 1]));
}

/// In 16 bits one row is for tensor cores too, and more rows are the same kernel's; where there are none it is as in f32.
#[test]
fn half_takes_tensor_cores_where_there_are_some() {
    for (card, product) in products() {
        for kind in KINDS {
            let exact = four_bit(card, product, kind, Compute::F32).unwrap();
            let half = four_bit(card, product, kind, Compute::Half).unwrap();
            match card.has_tiles() && product.cols.is_multiple_of(64) {
                true => {
                    assert_eq!((half.compute, half.n_at_once), (Compute::Half, 8));
                    assert!(matches!(half.sharing, Sharing::Teams(_)));
                }
                false => assert_eq!(half, exact),
            }
        }
    }
}
