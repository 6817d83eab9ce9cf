//! Files that are no checkpoint of ours, told as what they are.

/// Kind of a file by its name, with a remedy, if it holds weights that other programs made.
pub(crate) fn by_name(name: &str) -> Option<String> {
    let of = |what: &str, hint: &str| Some(format!("`{name}` is {what}; {hint}"));
    let lower = name.to_ascii_lowercase();
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| lower.ends_with(suffix));
    if ends(&[".h5", ".keras"]) || lower.contains(".ckpt.index") || lower == "saved_model.pb" {
        of("a TensorFlow or Keras checkpoint", RESAVE)
    } else if ends(&[".msgpack"]) {
        of("a Flax checkpoint", RESAVE)
    } else if ends(&[".onnx"]) {
        of("an ONNX model", ORIGINAL)
    } else if ends(&[".nemo"]) {
        of("a NeMo archive", "convert it with NeMo's own scripts first")
    } else if ends(&[".npz"]) {
        of("an archive of NumPy's, as MLX has written", ORIGINAL)
    } else if ends(&[
        ".tflite",
        ".mlmodel",
        ".mlpackage",
        ".engine",
        ".pte",
        ".task",
    ]) {
        of("a model compiled for another program", ORIGINAL)
    } else if ends(&[".ckpt"]) {
        of(
            "a training checkpoint",
            "name the file, if it is one of PyTorch's, or save its state dict",
        )
    } else if ends(&[
        ".zip", ".tar", ".tar.gz", ".tgz", ".gz", ".xz", ".zst", ".7z", ".rar",
    ]) {
        of("an archive", "unpack it first")
    } else {
        None
    }
}

/// Bytes that tell what a file is: the magic of tar archives comes last.
pub(crate) const FRONT: usize = 512;

/// Kind of a file by its first bytes, if that is known and no checkpoint. `front` is that much of it.
pub(crate) fn by_content(front: &[u8]) -> Option<&'static str> {
    let begins = |magics: &[&[u8]]| magics.iter().any(|magic| front.starts_with(magic));
    if begins(&[b"\x1F\x8B"]) {
        return Some("a gzip archive; unpack it first");
    }
    if begins(&[
        b"\xFD7zXZ\0",
        b"BZh",
        b"\x28\xB5\x2F\xFD",
        b"7z\xBC\xAF\x27\x1C",
        b"Rar!",
    ]) {
        return Some("an archive; unpack it first");
    }
    if begins(&[b"\x89HDF\r\n\x1A\n"]) {
        return Some(
            "an HDF5 file, as Keras writes them; load it in Python and save it with `save_pretrained`",
        );
    }
    if begins(&[b"tjgg", b"lmgg", b"fmgg", b"algg"]) {
        return Some("a GGML file from before GGUF; convert the original checkpoint again");
    }
    if front.get(257..262) == Some(b"ustar") {
        return Some("a tar archive; unpack it first");
    }
    let text = front.trim_ascii_start().to_ascii_lowercase();
    let text_begins = |words: &[&[u8]]| words.iter().any(|word| text.starts_with(word));
    if text_begins(&[b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--"]) {
        return Some(
            "an HTML page, not weights; download the file itself, with the hub's own tool or from its `resolve` link",
        );
    }
    if text_begins(&[
        b"{\"error",
        b"{ \"error",
        b"{\"message",
        b"access to model",
        b"invalid username",
    ]) || text_begins(&[
        b"entry not found",
        b"repository not found",
        b"not found",
        b"unauthorized",
    ]) {
        return Some(
            "a server's error message, not weights; download the file again, logged in if that is asked for",
        );
    }
    if is_link(front) {
        return Some(
            "the text of a symbolic link, not the file that it leads to; copy the folder with its links followed (`cp -rL`), or check it out where links work",
        );
    }
    None
}

/// True if these bytes are all of a file, and a path: what Git or an archive leaves where links are not supported.
fn is_link(text: &[u8]) -> bool {
    let text = text.trim_ascii_end();
    let is_path = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-/".contains(byte);
    text.len() < 256
        && (text.starts_with(b"../") || text.starts_with(b"./") || text.starts_with(b"/"))
        && text.iter().all(is_path)
}

const RESAVE: &str = "load it in Python with transformers and save it with `save_pretrained`";
const ORIGINAL: &str = "get the original checkpoint";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_other_programs_are_told_by_name() {
        for (name, what) in [
            ("tf_model.h5", "TensorFlow"),
            ("flax_model.msgpack", "Flax"),
            ("model.onnx", "ONNX"),
            ("Llama.NEMO", "NeMo"),
            ("weights.npz", "MLX"),
            ("model.ckpt.index", "TensorFlow"),
            ("model.tar.gz", "unpack"),
        ] {
            let said = by_name(name).unwrap();
            assert!(said.contains(name) && said.contains(what), "{said}");
        }
        for name in ["config.json", "README.md", "tokenizer.model", "merges.txt"] {
            assert_eq!(by_name(name), None);
        }
    }

    #[test]
    fn what_came_in_the_place_of_weights_is_told_by_its_first_bytes() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (front, what) in [
            (&b"\n<!DOCTYPE html>\n<html class=\"\">"[..], "HTML"),
            (b"<html><head>", "HTML"),
            (b"{\"error\":\"Repository not found\"}", "error message"),
            (b"Access to model x/y is restricted.", "error message"),
            (b"Entry not found", "error message"),
            (b"../../blobs/0123456789abcdef", "symbolic link"),
            (b"\x1F\x8B\x08\0", "gzip"),
            (b"\x89HDF\r\n\x1A\n\0", "HDF5"),
            (b"tjgg\x03\0\0\0", "before GGUF"),
            (&tar, "tar"),
        ] {
            let said = by_content(front).unwrap_or_else(|| panic!("{what}"));
            assert!(said.contains(what), "{said}");
        }
        for front in [
            &b""[..],
            b"GGUF",
            b"PK\x03\x04",
            b"{}",
            b"{\"model_type\":",
            b"a/b",
        ] {
            assert_eq!(by_content(front), None);
        }
    }
}
