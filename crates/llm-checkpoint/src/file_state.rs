use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// By what it is seen that a file is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileState {
    /// Its length.
    pub bytes: u64,
    /// Time its contents last changed, in nanoseconds since 1970. Copying and unpacking put it back.
    pub mtime_ns: i64,
    /// Time anything of it last changed, its permissions and names included, in nanoseconds since 1970. Nobody puts it
    /// back.
    pub ctime_ns: i64,
}

impl FileState {
    /// State of the file that `metadata` is about.
    pub fn of(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, ns| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        FileState {
            bytes: metadata.len(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// True if the file has been written to since `then`. One that was renamed, linked or removed has not.
    pub(crate) fn is_written_since(self, then: FileState) -> bool {
        (self.bytes, self.mtime_ns) != (then.bytes, then.mtime_ns)
    }
}
