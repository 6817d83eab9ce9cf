//! PTX as it is embedded: compressed, and decompressed once, when the driver is to compile it.

use std::ffi::CString;
use std::iter;

use miniz_oxide::inflate::decompress_slice_iter_to_slice;

/// The text of a file of kernels, as the build script compressed it: its length, and a zlib stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ptx(pub(super) &'static [u8]);

impl Ptx {
    /// The text as the driver takes it. It is in memory for as long as the caller keeps it.
    pub(super) fn text(self) -> CString {
        let (len, stream) = self.0.split_first_chunk().expect("a length");
        let len = u32::from_le_bytes(*len) as usize;
        // With room for the zero that ends it.
        let mut text = Vec::with_capacity(len + 1);
        text.resize(len, 0);
        let filled = decompress_slice_iter_to_slice(&mut text, iter::once(stream), true, false);
        assert_eq!(filled, Ok(len), "what the build script compressed");
        CString::new(text).expect("the build script refuses zeros")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use crate::module::FILES;

    #[test]
    fn texts_are_those_of_the_files() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx");
        let (mut n_bytes, mut n_packed) = (0, 0);
        for file in FILES {
            let of = [
                (75, file.sm75),
                // Where older cards have the same.
                (
                    if file.sm75 == Some(file.sm80) { 75 } else { 80 },
                    Some(file.sm80),
                ),
                (90, file.sm90),
            ];
            for (capability, ptx) in of {
                let Some(ptx) = ptx else { continue };
                let name = format!("{}_sm{capability}.ptx", file.name);
                let text = ptx.text().into_bytes();
                assert!(text == fs::read(folder.join(&name)).unwrap(), "{name}");
                n_bytes += text.len();
                n_packed += ptx.0.len();
            }
        }
        assert!(4 * n_packed < n_bytes, "{n_packed} of {n_bytes} bytes");
    }
}
