//! Reason why there is no GPU to compute on.

use std::fs;
use std::path::Path;

/// Reason why [`gpus`](super::gpus) is empty, in a sentence without its full stop.
pub(crate) fn no_gpu_reason() -> String {
    reason(Path::new("/"))
}

/// `root` is where `proc` and `usr` are found.
fn reason(root: &Path) -> String {
    if let Ok(text) = fs::read_to_string(root.join("proc/driver/nvidia/version")) {
        let driver = match driver_version(&text) {
            Some(version) => format!("the NVIDIA driver {version}"),
            None => "an NVIDIA driver".to_owned(),
        };
        return format!("{driver} is loaded, but llm-run computes on processors alone");
    }
    let library = LIBRARIES.iter().find(|path| root.join(path).exists());
    match library {
        None => "no NVIDIA driver is loaded".to_owned(),
        Some(path) => format!("no NVIDIA driver is loaded, though /{path} is installed"),
    }
}

/// The first number with a point: `NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan …`.
fn driver_version(text: &str) -> Option<&str> {
    let is_version =
        |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.lines().next()?.split_whitespace().find(is_version)
}

/// Paths of the driver's library in the distributions.
const LIBRARIES: [&str; 4] = [
    "usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "usr/lib/aarch64-linux-gnu/libcuda.so.1",
    "usr/lib64/libcuda.so.1",
    "usr/lib/libcuda.so.1",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let check = |expected: &str| assert_eq!(reason(root.path()), expected);
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        check("no NVIDIA driver is loaded");
        write("usr/lib64/libcuda.so.1", "");
        check("no NVIDIA driver is loaded, though /usr/lib64/libcuda.so.1 is installed");
        write("proc/driver/nvidia/version", "");
        check("an NVIDIA driver is loaded, but llm-run computes on processors alone");
        write(
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 03:48:14 UTC 2025\nGCC version:  gcc 12.3.0\n",
        );
        check("the NVIDIA driver 570.86.15 is loaded, but llm-run computes on processors alone");
    }
}
