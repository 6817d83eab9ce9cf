//! Settings that the environment has, by the names that the Python library reads.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::HubError;

/// Where a hub and its cache are, and how patient to be.
#[derive(Clone)]
pub struct Settings {
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// Token that the hub's own host is sent, and no other.
    pub token: Option<String>,
    /// Folder of the cache.
    pub cache: PathBuf,
    /// True where nothing is fetched.
    pub is_offline: bool,
    /// Requests that may fail, one after the other, before one that got nothing is given up.
    pub tries: u32,
    /// Pause after the first failed request; each further one waits twice as long.
    pub pause: Duration,
    /// Time in which an answer begins, and in which more of it comes.
    pub patience: Duration,
    /// Bytes of a range.
    pub piece: u64,
    /// Ranges that are fetched at a time.
    pub connections: usize,
}

impl Settings {
    /// Settings of an environment, whose variables `variable` reads.
    ///
    /// # Errors
    /// When the address is none, or no folder is known.
    pub fn of_environment(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let text = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = text.trim().trim_end_matches('/').to_owned();
        let has_scheme = ["https://", "http://"]
            .iter()
            .any(|s| endpoint.starts_with(s));
        let address = endpoint.parse::<ureq::http::Uri>().ok();
        if !has_scheme || address.and_then(|a| a.host().map(str::is_empty)) != Some(false) {
            return Err(HubError::Endpoint { text });
        }
        let home = || {
            let user_cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let user_cache = user_cache
                .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache")));
            let home = variable("HF_HOME").map(PathBuf::from);
            home.or_else(|| user_cache.map(|cache| cache.join("huggingface")))
        };
        let cache = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.map(PathBuf::from);
        let cache = cache
            .or_else(|| home().map(|home| home.join("hub")))
            .ok_or(HubError::NoHome)?;
        let token = variable("HF_TOKEN").or_else(|| {
            let path = variable("HF_TOKEN_PATH").map(PathBuf::from);
            let path = path.or_else(|| home().map(|home| home.join("token")))?;
            fs::read_to_string(path).ok()
        });
        // What cannot be in a header is none.
        let token = token.map(|token| token.trim().to_owned());
        let token =
            token.filter(|token| !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic()));
        let is_offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
            .iter()
            .any(|name| {
                variable(name)
                    .is_some_and(|value| TRUE.contains(&value.to_ascii_uppercase().as_str()))
            });
        Ok(Settings {
            endpoint,
            token,
            cache,
            is_offline,
            tries: 5,
            pause: Duration::from_millis(500),
            patience: Duration::from_secs(30),
            piece: 8 << 20,
            connections: 8,
        })
    }
}

/// The hub, unless HF_ENDPOINT says another.
const ENDPOINT: &str = "https://huggingface.co";
/// Values that the Python library takes for yes.
const TRUE: [&str; 4] = ["1", "ON", "YES", "TRUE"];

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        Settings::of_environment(&|name| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn folders_and_flags_are_those_of_the_python_library() {
        for (variables, cache, is_offline) in [
            (&[("HOME", "/h")][..], "/h/.cache/huggingface/hub", false),
            (
                &[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")],
                "/x/huggingface/hub",
                false,
            ),
            (
                &[("HF_HOME", "/f"), ("HOME", "/h"), ("HF_HUB_OFFLINE", "yes")],
                "/f/hub",
                true,
            ),
            (
                &[("HF_HUB_CACHE", "/c"), ("HF_HUB_OFFLINE", "0")],
                "/c",
                false,
            ),
            (
                &[("HUGGINGFACE_HUB_CACHE", "/o"), ("HF_HOME", "/f")],
                "/o",
                false,
            ),
        ] {
            let settings = of(variables).unwrap();
            assert_eq!(settings.cache, PathBuf::from(cache));
            assert_eq!(settings.is_offline, is_offline, "{cache}");
            assert_eq!(settings.endpoint, ENDPOINT);
        }
        assert!(matches!(of(&[]), Err(HubError::NoHome)));
        for endpoint in ["hub.example", "ftp://hub", "https://", "http:///x"] {
            let settings = of(&[("HF_ENDPOINT", endpoint), ("HOME", "/h")]);
            assert!(
                matches!(settings, Err(HubError::Endpoint { .. })),
                "{endpoint}"
            );
        }
    }

    #[test]
    fn the_token_is_the_variable_or_the_file() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().to_str().unwrap();
        assert_eq!(of(&[("HF_HOME", folder)]).unwrap().token, None);
        fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let token = |variables: &[_]| of(variables).unwrap().token.unwrap();
        assert_eq!(token(&[("HF_HOME", folder)]), "hf_file");
        assert_eq!(
            token(&[("HF_HOME", folder), ("HF_TOKEN", " hf_variable ")]),
            "hf_variable"
        );
        assert_eq!(
            of(&[("HF_HOME", "/f"), ("HF_TOKEN", "a\nb")])
                .unwrap()
                .token,
            None
        );
    }
}
