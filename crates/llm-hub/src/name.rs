//! Names of repositories, revisions and files, parsed into types that cannot leave their folder.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{HubError, NameFlaw};

/// A model on a hub: `org/name[@revision][:file]`.
///
/// ```
/// let name: llm_hub::RepoName = "HuggingFaceTB/SmolLM2-135M@v1:model.safetensors".parse()?;
/// assert_eq!(name.id.to_string(), "HuggingFaceTB/SmolLM2-135M");
/// assert_eq!(name.revision.as_str(), "v1");
/// assert_eq!(name.file.as_deref(), Some("model.safetensors"));
/// assert!("../secrets".parse::<llm_hub::RepoName>().is_err());
/// # Ok::<(), llm_hub::HubError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoName {
    /// Owner and name.
    pub id: RepoId,
    /// Branch, tag or commit; `main` if none was given.
    pub revision: Revision,
    /// A file, or the name of a quantization that is in one's name.
    pub file: Option<String>,
}

impl FromStr for RepoName {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let parse = || {
            let (front, file) = match text.split_once(':') {
                Some((front, file)) => (front, Some(FileName::parse(file)?.0)),
                None => (text, None),
            };
            let (id, revision) = match front.split_once('@') {
                Some((id, revision)) => (id, Revision::parse(revision)?),
                None => (front, Revision("main".to_owned())),
            };
            Ok(RepoName {
                id: RepoId::parse(id)?,
                revision,
                file,
            })
        };
        parse().map_err(|flaw| HubError::Name {
            text: text.to_owned(),
            flaw,
        })
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        if self.revision.as_str() != "main" {
            write!(f, "@{}", self.revision.as_str())?;
        }
        Ok(())
    }
}

/// Owner and name of a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepoId {
    owner: String,
    name: String,
}

impl RepoId {
    fn parse(text: &str) -> Result<Self, NameFlaw> {
        let (owner, name) = text.split_once('/').ok_or(NameFlaw::NotTwoParts)?;
        if name.contains('/') {
            return Err(NameFlaw::NotTwoParts);
        }
        for part in [owner, name] {
            let is_letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let is_edge = |c: char| "-.".contains(c);
            // `--` stands for the slash in a folder's name: with it two repositories could share a folder.
            let is_part = !part.is_empty()
                && part.len() <= MAX_PART
                && part.chars().all(is_letter)
                && !part.starts_with(is_edge)
                && !part.ends_with(is_edge)
                && !part.contains("--")
                && !part.contains("..")
                && !part.ends_with(".git");
            if !is_part {
                return Err(NameFlaw::Part(part.to_owned()));
            }
        }
        Ok(RepoId {
            owner: owner.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Name of its folder in the cache.
    pub(crate) fn folder(&self) -> String {
        format!("models--{}--{}", self.owner, self.name)
    }

    /// The repository that a folder of the cache is of.
    pub(crate) fn of_folder(folder: &str) -> Option<Self> {
        let (owner, name) = folder.strip_prefix("models--")?.split_once("--")?;
        RepoId::parse(&format!("{owner}/{name}")).ok()
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// Branch, tag or commit. As a path it stays inside the folder that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    fn parse(text: &str) -> Result<Self, NameFlaw> {
        let is_letter = |c: char| c.is_ascii_alphanumeric() || "-_./+".contains(c);
        match FileName::parse(text)? {
            FileName(name) if name.chars().all(is_letter) => Ok(Revision(name)),
            FileName(name) => Err(NameFlaw::Part(name)),
        }
    }

    /// The revision as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Commit, 40 hexadecimal digits in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit(String);

impl Commit {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        is_hex(text, 40).then(|| Commit(text.to_owned()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// True of `length` hexadecimal digits in lower case.
pub(crate) fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Path of a file in a repository, with `/` between its parts, that stays inside the folder that it is put in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName(String);

impl FileName {
    pub(crate) fn parse(text: &str) -> Result<Self, NameFlaw> {
        if text.len() > MAX_FILE {
            return Err(NameFlaw::TooLong);
        }
        for part in text.split('/') {
            if part.is_empty() || part == "." || part == ".." {
                return Err(NameFlaw::Leaves);
            }
            if part.chars().any(|c| c.is_control() || c == '\\') {
                return Err(NameFlaw::Control);
            }
            if part.len() > MAX_FILE_PART {
                return Err(NameFlaw::TooLong);
            }
        }
        Ok(FileName(text.to_owned()))
    }

    /// The name as the hub has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its place in a folder.
    pub(crate) fn in_folder(&self, folder: &Path) -> PathBuf {
        let mut path = folder.to_owned();
        path.extend(self.0.split('/'));
        path
    }

    /// Folders between the root of the repository and the file.
    pub(crate) fn depth(&self) -> usize {
        self.0.matches('/').count()
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Bytes of an owner or name, as the hub has it.
const MAX_PART: usize = 96;
/// Bytes of a path: less than systems allow, as it lies in a folder.
const MAX_FILE: usize = 1024;
/// Bytes of a file's name, as systems have it.
const MAX_FILE_PART: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_mean_another_place_are_refused() {
        for text in [
            "",
            "name",
            "/org/name",
            "org/name/more",
            "../name",
            "org/..",
            "org/.name",
            "-org/name",
            "org/na--me",
            "org/na me",
            "org/name@",
            "org/name@../main",
            "org/name@/main",
            "org/name@a//b",
            "org/name@a?b",
            "org/name:",
            "org/name:../x",
            "org/name:/x",
            "org/name:a\\b",
            "org/name:a\nb",
            "org/name:./a",
            "org/\u{e9}",
            &format!("org/{}", "n".repeat(97)),
            &format!("org/name:{}", "n".repeat(256)),
        ] {
            assert!(text.parse::<RepoName>().is_err(), "{text}");
        }
    }

    #[test]
    fn parts_of_names_are_found() {
        for (text, revision, file) in [
            ("org/name", "main", None),
            ("o/n_a.m-e1@refs/pr/1", "refs/pr/1", None),
            ("org/name:Q4_K_M", "main", Some("Q4_K_M")),
            ("org/name@v1.0:sub/a.gguf", "v1.0", Some("sub/a.gguf")),
        ] {
            let name: RepoName = text.parse().unwrap();
            assert_eq!(
                (name.revision.as_str(), name.file.as_deref()),
                (revision, file)
            );
            let id = name.id;
            assert_eq!(RepoId::of_folder(&id.folder()), Some(id));
        }
        assert_eq!(RepoId::of_folder("datasets--a--b"), None);
        assert_eq!(RepoId::of_folder("models--a"), None);
    }
}
