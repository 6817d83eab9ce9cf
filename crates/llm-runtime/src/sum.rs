//! Checksum of an offload file, which its name carries.
//!
//! The file is cut into chunks, counted from its first byte, the last of which may be short. Each has its XXH3 of 64
//! bits, and the XXH3 of these, one after the other, is the file's. Chunks can thus be summed in any order and by several
//! threads, each as it is read. The checksum finds what disks and people do to a file; nobody is kept from forging it.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Bytes of a chunk.
pub(crate) const CHUNK: usize = 8 << 20;

/// Checksum of a file that is in memory.
pub(crate) fn of(file: &[u8]) -> u64 {
    let chunks: Vec<u64> = file.chunks(CHUNK).map(chunk).collect();
    root(&chunks)
}

/// Checksum of a chunk.
fn chunk(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// Checksum of a file, from those of its chunks in order.
fn root(chunks: &[u64]) -> u64 {
    let mut hasher = Xxh3::new();
    for chunk in chunks {
        hasher.update(&chunk.to_le_bytes());
    }
    hasher.digest()
}

/// Checksum of a file, computed while it is written or read, piece by piece.
#[derive(Default)]
pub(crate) struct Summing {
    /// Of the chunk that is not full yet.
    hasher: Xxh3,
    n_bytes: usize,
    /// Of the full ones.
    chunks: Vec<u64>,
}

impl Summing {
    /// Takes the file's next bytes.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(CHUNK - self.n_bytes));
            self.hasher.update(head);
            self.n_bytes += head.len();
            if self.n_bytes == CHUNK {
                self.end_chunk();
            }
            bytes = rest;
        }
    }

    /// Checksum of all that came.
    pub(crate) fn finish(mut self) -> u64 {
        if self.n_bytes > 0 {
            self.end_chunk();
        }
        root(&self.chunks)
    }

    fn end_chunk(&mut self) {
        self.chunks.push(self.hasher.digest());
        self.hasher.reset();
        self.n_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_in_pieces_sums_to_what_reading_in_chunks_does() {
        let file: Vec<u8> = (0..2 * CHUNK + 4321).map(|i| (i % 251) as u8).collect();
        for (len, piece) in [
            (0, 1),
            (1, 1),
            (CHUNK - 1, 4096),
            (CHUNK, CHUNK),
            (CHUNK + 1, 1000),
            (file.len(), CHUNK + 7),
            (file.len(), file.len()),
        ] {
            let file = &file[..len];
            let mut summing = Summing::default();
            for piece in file.chunks(piece) {
                summing.update(piece);
            }
            let chunks: Vec<u64> = file.chunks(CHUNK).map(chunk).collect();
            assert_eq!(summing.finish(), root(&chunks), "{len} bytes by {piece}");
        }
        // As the algorithm's authors publish it of no bytes at all.
        assert_eq!(root(&[]), 0x2d06_8005_38d3_94c2);
    }

    #[test]
    fn bytes_that_change_places_change_the_sum() {
        let mut file = vec![0u8; CHUNK + 10];
        file[0] = 1;
        let sum = |file: &[u8]| {
            let chunks: Vec<u64> = file.chunks(CHUNK).map(chunk).collect();
            root(&chunks)
        };
        let before = sum(&file);
        file.swap(0, CHUNK);
        assert_ne!(sum(&file), before);
    }
}
