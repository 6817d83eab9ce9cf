//! Owners of blocks.

use super::*;

/// Three sequences with tables of four blocks of four positions.
fn allotment() -> Allotment {
    Allotment::new(3, 4)
}

fn n_blocks(allotment: &Allotment, sequence: usize) -> usize {
    allotment.sequences[sequence].table.iter().flatten().count()
}

/// Each block is free or held, by as many as the tables say.
fn check(allotment: &Allotment) {
    let mut n_holders = vec![0; allotment.n_holders.len()];
    for held in &allotment.sequences {
        for block in held.table.iter().flatten() {
            n_holders[*block as usize] += 1;
        }
    }
    assert_eq!(n_holders, allotment.n_holders);
    let mut free = allotment.free.clone();
    free.sort_unstable();
    let expected: Vec<u32> = (0..n_holders.len() as u32)
        .filter(|&block| n_holders[block as usize] == 0)
        .collect();
    assert_eq!(free, expected);
}

#[test]
fn a_fork_shares_blocks_until_either_writes_to_one() {
    let mut blocks = allotment();
    blocks.reserve(0, 0..10, 4);
    assert_eq!((n_blocks(&blocks, 0), blocks.copies.len()), (3, 0));
    blocks.fork(0, 1);
    assert_eq!(blocks.free.len(), 9);
    check(&blocks);
    // The third block is written to; the others stay shared.
    let shared = blocks.sequences[0].table.clone();
    blocks.reserve(1, 10..11, 4);
    let own = blocks.sequences[1].table[2].unwrap();
    assert_eq!(blocks.copies, [(shared[2].unwrap(), own)]);
    assert_eq!(blocks.sequences[1].table[..2], shared[..2]);
    assert_eq!(blocks.sequences[0].table, shared);
    check(&blocks);
    // Nobody shares it any more.
    blocks.copies.clear();
    blocks.reserve(0, 10..12, 4);
    assert!(blocks.copies.is_empty());
    assert_eq!(blocks.sequences[0].table, shared);
    check(&blocks);
}

#[test]
fn what_is_taken_back_is_free_unless_the_table_went_round() {
    let mut blocks = allotment();
    blocks.reserve(0, 0..16, 4);
    blocks.truncate(0, 5, 4);
    assert_eq!(n_blocks(&blocks, 0), 2);
    check(&blocks);
    // Round: the first block holds positions 16 and 17 beside 2 and 3.
    blocks.reserve(0, 5..18, 4);
    assert_eq!(n_blocks(&blocks, 0), 4);
    blocks.truncate(0, 15, 4);
    assert_eq!(n_blocks(&blocks, 0), 4);
    blocks.truncate(0, 0, 4);
    assert_eq!(blocks.free.len(), 12);
    check(&blocks);
    // A sequence that took nothing here goes back to where it is elsewhere.
    blocks.truncate(1, 30, 4);
    assert_eq!(blocks.sequences[1].reached, 0);
}

#[test]
fn every_sequence_can_fill_its_table_whatever_was_shared() {
    let mut blocks = allotment();
    blocks.reserve(0, 0..16, 4);
    blocks.fork(0, 1);
    blocks.fork(1, 2);
    for sequence in 0..3 {
        blocks.reserve(sequence, 16..32, 4);
        check(&blocks);
    }
    assert!(blocks.free.is_empty());
    // The last that shared a block keeps it.
    assert_eq!(blocks.copies.len(), 8);
}

#[test]
fn what_was_never_taken_is_not_taken_back() {
    let mut blocks = allotment();
    // Beyond the table, as on a device whose layers are elsewhere.
    blocks.truncate(0, 100, 4);
    blocks.reserve(1, 0..10, 4);
    blocks.truncate(1, 100, 4);
    blocks.truncate(1, 10, 4);
    let reached = |sequence: usize| blocks.sequences[sequence].reached;
    assert_eq!([0, 1].map(reached), [0, 10]);
    assert_eq!(n_blocks(&blocks, 1), 3);
    check(&blocks);
}
