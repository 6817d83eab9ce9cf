//! A repository's files at one commit, as the hub lists them.

use serde::Deserialize;

use crate::choose::{Chosen, choose};
use crate::error::{AnswerFlaw, HubError};
use crate::http::{Answer, Http, Method, flaw, number};
use crate::name::{Commit, FileName, RepoName};
use crate::sum::Sum;

/// Files of a repository at one commit.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The commit that all files are taken from.
    pub(crate) commit: Commit,
    /// The files.
    pub(crate) files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Debug, Clone)]
pub(crate) struct RemoteFile {
    /// Path in the repository.
    pub(crate) name: FileName,
    /// Bytes and sum, where the list has them.
    pub(crate) known: Option<Known>,
}

/// What the bytes of a file are held against.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) size: u64,
    pub(crate) sum: Sum,
}

impl Listing {
    /// The list of the files of a model.
    pub(crate) fn fetch(http: &Http<'_>, name: &RepoName) -> Result<Self, HubError> {
        let endpoint = &http.settings.endpoint;
        let revision = encoded(name.revision.as_str());
        let url = format!(
            "{endpoint}/api/models/{}/revision/{revision}?blobs=true",
            name.id
        );
        let text = http.text(&url)?;
        Listing::parse(&text).map_err(|found| flaw(&url, found))
    }

    fn parse(text: &[u8]) -> Result<Self, AnswerFlaw> {
        let answer: ModelAnswer =
            serde_json::from_slice(text).map_err(|error| AnswerFlaw::Json(error.to_string()))?;
        let commit = Commit::parse(&answer.sha).ok_or(AnswerFlaw::Commit(answer.sha))?;
        let files = answer.siblings.into_iter().map(|sibling| {
            let name = FileName::parse(&sibling.rfilename).map_err(|flaw| AnswerFlaw::File {
                file: sibling.rfilename.clone(),
                flaw,
            })?;
            let (size, sum) = match sibling.lfs {
                Some(lfs) => (lfs.size.or(sibling.size), lfs.sha256),
                None => (sibling.size, sibling.blob_id),
            };
            let sum = sum.and_then(|sum| Sum::parse(&sum));
            let known = size.zip(sum).map(|(size, sum)| Known { size, sum });
            Ok(RemoteFile { name, known })
        });
        Ok(Listing {
            commit,
            files: files.collect::<Result<_, _>>()?,
        })
    }

    /// Address of a file at the commit.
    pub(crate) fn url(&self, http: &Http<'_>, name: &RepoName, file: &FileName) -> String {
        let (endpoint, commit) = (&http.settings.endpoint, self.commit.as_str());
        let path: Vec<_> = file.as_str().split('/').map(encoded).collect();
        format!("{endpoint}/{}/resolve/{commit}/{}", name.id, path.join("/"))
    }

    /// What is needed of the model, or the file that its name asks for.
    pub(crate) fn choose(&self, name: &RepoName) -> Result<Chosen, HubError> {
        let names: Vec<FileName> = self.files.iter().map(|file| file.name.clone()).collect();
        choose(&names, name.file.as_deref()).map_err(|choice| HubError::Choice {
            name: name.to_string(),
            choice,
        })
    }

    /// Bytes and sum of a file of the list: by the list, else by asking for the file alone.
    ///
    /// # Panics
    /// When it is not in the list.
    pub(crate) fn describe(
        &self,
        http: &Http<'_>,
        name: &RepoName,
        file: &FileName,
    ) -> Result<Known, HubError> {
        let listed = self.files.iter().find(|listed| listed.name == *file);
        let listed = listed.expect("it was chosen among these");
        if let Some(known) = &listed.known {
            return Ok(known.clone());
        }
        let url = self.url(http, name, file);
        let answer = http.ask(Method::Head, &url, None)?;
        self.expect_commit(&answer, &url)?;
        let size = number(&answer.hub_headers, "x-linked-size").or_else(|| answer.length());
        let known = size
            .zip(sum_of(&answer))
            .map(|(size, sum)| Known { size, sum });
        let undescribed = || flaw(&url, AnswerFlaw::Undescribed(file.to_string()));
        known.ok_or_else(undescribed)
    }

    /// Holds an answer against the commit.
    pub(crate) fn expect_commit(&self, answer: &Answer, url: &str) -> Result<(), HubError> {
        let found = answer
            .hub_headers
            .get("x-repo-commit")
            .and_then(|found| found.to_str().ok());
        match found {
            Some(found) if found != self.commit.as_str() => {
                let (expected, found) = (self.commit.as_str().to_owned(), found.to_owned());
                Err(flaw(url, AnswerFlaw::Changed { expected, found }))
            }
            _ => Ok(()),
        }
    }
}

/// Sum that an answer says its file has.
pub(crate) fn sum_of(answer: &Answer) -> Option<Sum> {
    let headers = &answer.hub_headers;
    let tag = headers
        .get("x-linked-etag")
        .or_else(|| headers.get("etag"))?;
    let tag = tag.to_str().ok()?;
    Sum::parse(tag.trim_start_matches("W/").trim_matches('"'))
}

#[derive(Deserialize)]
struct ModelAnswer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

/// Text as a part of an address.
fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut url, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(url, "%{byte:02X}");
        }
        url
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_list_whose_files_would_lie_elsewhere_is_refused() {
        for name in [
            "../x",
            "/x",
            "a/../../x",
            "a//b",
            "",
            ".",
            "a\\b",
            "a\u{0}b",
        ] {
            let text = serde_json::json!({ "sha": SHA, "siblings": [{ "rfilename": name }] });
            let error = Listing::parse(text.to_string().as_bytes()).unwrap_err();
            assert!(matches!(error, AnswerFlaw::File { .. }), "{name}: {error}");
        }
        for text in [
            "",
            "[]",
            "{}",
            "<html>",
            r#"{"sha": "../../../x", "siblings": []}"#,
        ] {
            assert!(Listing::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_sum_that_is_none_is_no_name_of_a_blob() {
        let text = serde_json::json!({ "sha": SHA, "siblings": [
            { "rfilename": "a", "size": 1, "blobId": "../../x" },
            { "rfilename": "b", "size": 1, "blobId": SHA },
            { "rfilename": "c", "size": 1, "blobId": SHA, "lfs": { "sha256": "A".repeat(64), "size": 1 } },
        ]});
        let listing = Listing::parse(text.to_string().as_bytes()).unwrap();
        let known = |i: usize| listing.files[i].known.is_some();
        assert_eq!((known(0), known(1), known(2)), (false, true, false));
        assert_eq!(encoded("refs/pr/1 \u{e9}"), "refs%2Fpr%2F1%20%C3%A9");
    }
}
