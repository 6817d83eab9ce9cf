//! Requests to a hub: redirects by hand, so that its token stays with it, and another try where one may help.

use std::io::Read;
use std::thread;
use std::time::Duration;

use ureq::Agent;
use ureq::http::header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION, RANGE, RETRY_AFTER};
use ureq::http::{HeaderMap, Request, Uri};

use crate::error::{AnswerFlaw, HubError};
use crate::event::Event;
use crate::name::RepoName;
use crate::settings::Settings;

/// A hub that is asked.
pub(crate) struct Http<'a> {
    agent: Agent,
    pub(crate) settings: Settings,
    /// The model that it is asked for, for messages.
    name: RepoName,
    events: &'a (dyn Fn(Event<'_>) + Sync),
}

/// Method of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Method {
    Get,
    Head,
}

/// An answer that is a success.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Headers of the last answer of the hub's own host, which may have led elsewhere.
    pub(crate) hub_headers: HeaderMap,
    /// Address that gave it.
    pub(crate) url: String,
    pub(crate) body: ureq::Body,
}

impl Answer {
    pub(crate) fn length(&self) -> Option<u64> {
        number(&self.headers, CONTENT_LENGTH.as_str())
    }
}

impl<'a> Http<'a> {
    pub(crate) fn new(
        settings: &Settings,
        name: &RepoName,
        events: &'a (dyn Fn(Event<'_>) + Sync),
    ) -> Self {
        let config = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_resolve(Some(settings.patience))
            .timeout_connect(Some(settings.patience))
            .timeout_recv_response(Some(settings.patience))
            .timeout_per_read(Some(settings.patience))
            .timeout_per_write(Some(settings.patience))
            .max_idle_connections_per_host(settings.connections)
            .max_idle_connections(2 * settings.connections)
            .user_agent(concat!("llm-run/", env!("CARGO_PKG_VERSION")));
        // A hub on this machine is not behind a proxy.
        let config = match is_loopback(&settings.endpoint) {
            true => config.proxy(None),
            false => config,
        };
        Http {
            agent: config.build().new_agent(),
            settings: settings.clone(),
            name: name.clone(),
            events,
        }
    }

    /// The answer to a request, tried again while the hub is busy or not there.
    pub(crate) fn ask(
        &self,
        method: Method,
        url: &str,
        range: Option<(u64, u64)>,
    ) -> Result<Answer, HubError> {
        let mut n_failed = 0;
        loop {
            n_failed += 1;
            let error = match self.follow(method, url, range) {
                Ok((answer, _)) if matches!(answer.status, 200 | 206) => return Ok(answer),
                Ok((answer, is_hub)) => {
                    let error = self.refusal(&answer, url, is_hub);
                    let after = number(&answer.headers, RETRY_AFTER.as_str());
                    let is_busy = matches!(answer.status, 408 | 429 | 500 | 502 | 503 | 504);
                    let wait = after.map_or_else(|| self.pause(n_failed), Duration::from_secs);
                    if !is_busy || n_failed >= self.settings.tries || wait > LONGEST_WAIT {
                        return Err(error);
                    }
                    self.wait(&error, wait);
                    continue;
                }
                Err(Failure::Hub(error)) => return Err(error),
                Err(Failure::Transport(error)) => error,
            };
            // A name that leads nowhere will not lead somewhere in a second.
            let is_final = matches!(error, ureq::Error::HostNotFound | ureq::Error::BadUri(_));
            let error = unreachable(url, &error);
            if is_final || n_failed >= self.settings.tries {
                return Err(error);
            }
            self.wait(&error, self.pause(n_failed));
        }
    }

    /// Pause before the try that follows some that failed.
    pub(crate) fn pause(&self, n_failed: u32) -> Duration {
        let doubled = 1_u32.checked_shl(n_failed.saturating_sub(1));
        let pause = self
            .settings
            .pause
            .saturating_mul(doubled.unwrap_or(u32::MAX));
        pause.min(LONGEST_PAUSE)
    }

    fn wait(&self, error: &HubError, wait: Duration) {
        (self.events)(Event::Retry {
            why: &error.to_string(),
            wait,
        });
        thread::sleep(wait);
    }

    /// Text of an answer, of bounded length.
    ///
    /// # Errors
    /// As of [`Http::ask`], and when the answer does not come whole.
    pub(crate) fn text(&self, url: &str) -> Result<Vec<u8>, HubError> {
        let mut n_failed = 0;
        loop {
            n_failed += 1;
            let answer = self.ask(Method::Get, url, None)?;
            let expected = answer.length();
            let mut text = Vec::new();
            let read = answer
                .body
                .into_reader()
                .take(LONGEST_TEXT + 1)
                .read_to_end(&mut text);
            if text.len() as u64 > LONGEST_TEXT {
                return Err(flaw(url, AnswerFlaw::TooLong(LONGEST_TEXT)));
            }
            let found = text.len() as u64;
            let error = match read {
                Ok(_) if expected.is_none_or(|expected| expected == found) => return Ok(text),
                Ok(_) => flaw(
                    url,
                    AnswerFlaw::Length {
                        expected: expected.unwrap_or(0),
                        found,
                    },
                ),
                Err(error) => HubError::Unreachable {
                    url: url.to_owned(),
                    reason: error.to_string(),
                },
            };
            if n_failed >= self.settings.tries {
                return Err(error);
            }
            self.wait(&error, self.pause(n_failed));
        }
    }

    /// The answer behind all redirects, and true where it is of the hub's own host.
    fn follow(
        &self,
        method: Method,
        url: &str,
        range: Option<(u64, u64)>,
    ) -> Result<(Answer, bool), Failure> {
        let mut at = url.to_owned();
        // Once another host had its say, nothing that it says brings the token back.
        let mut is_hub = true;
        let mut hub_headers = HeaderMap::new();
        for _ in 0..MAX_REDIRECTS {
            is_hub =
                is_hub && origin(&at).is_some_and(|o| Some(o) == origin(&self.settings.endpoint));
            let request = match method {
                Method::Get => Request::get(&at),
                Method::Head => Request::head(&at),
            };
            let mut request = request.header("accept-encoding", "identity");
            if let (true, Some(token)) = (is_hub, &self.settings.token) {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some((begin, end)) = range {
                request = request.header(RANGE, format!("bytes={begin}-{}", end - 1));
            }
            let request = request
                .body(())
                .map_err(|error| Failure::Transport(error.into()))?;
            let response = self.agent.run(request).map_err(Failure::Transport)?;
            let (parts, body) = response.into_parts();
            if is_hub {
                hub_headers = parts.headers.clone();
            }
            let location = parts.headers.get(LOCATION).and_then(|to| to.to_str().ok());
            match location {
                Some(to) if matches!(parts.status.as_u16(), 301 | 302 | 303 | 307 | 308) => {
                    let next = redirected(&at, to);
                    at = next.ok_or_else(|| {
                        Failure::Hub(flaw(&at, AnswerFlaw::Redirect(to.to_owned())))
                    })?;
                }
                _ => {
                    let answer = Answer {
                        status: parts.status.as_u16(),
                        headers: parts.headers,
                        hub_headers,
                        url: at,
                        body,
                    };
                    return Ok((answer, is_hub));
                }
            }
        }
        Err(Failure::Hub(flaw(url, AnswerFlaw::Redirect(at))))
    }

    /// What an answer that is no success says.
    fn refusal(&self, answer: &Answer, url: &str, is_hub: bool) -> HubError {
        let (status, name) = (answer.status, self.name.to_string());
        let has_token = self.settings.token.is_some();
        let code = answer
            .headers
            .get("x-error-code")
            .and_then(|code| code.to_str().ok());
        match (code, status) {
            // Another host knows nothing of the user's rights.
            _ if !is_hub => HubError::Status {
                url: answer.url.clone(),
                status,
            },
            (Some("GatedRepo"), _) => HubError::Gated {
                page: format!("{}/{}", self.settings.endpoint, self.name.id),
                name,
                has_token,
            },
            (Some("RevisionNotFound"), _) => HubError::NoRevision { name },
            (Some("RepoNotFound"), _) => HubError::NoRepo { name, has_token },
            (_, 401 | 403) => HubError::Refused {
                url: url.to_owned(),
                status,
                has_token,
            },
            (None, 404) => HubError::NoRepo { name, has_token },
            _ => HubError::Status {
                url: url.to_owned(),
                status,
            },
        }
    }
}

enum Failure {
    Hub(HubError),
    Transport(ureq::Error),
}

fn unreachable(url: &str, error: &ureq::Error) -> HubError {
    HubError::Unreachable {
        url: url.to_owned(),
        reason: error.to_string(),
    }
}

/// The error of an answer.
pub(crate) fn flaw(url: &str, flaw: AnswerFlaw) -> HubError {
    HubError::Answer {
        url: url.to_owned(),
        flaw,
    }
}

/// Number in a header.
pub(crate) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let url: Uri = url.parse().ok()?;
    let scheme = url.scheme_str()?.to_ascii_lowercase();
    let usual = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let host = url.host().filter(|host| !host.is_empty())?;
    Some((
        scheme,
        host.to_ascii_lowercase(),
        url.port_u16().unwrap_or(usual),
    ))
}

/// Address that a redirect leads to; `None` where it is not followed.
fn redirected(from: &str, to: &str) -> Option<String> {
    let (scheme, rest) = from.split_once("://")?;
    let host = rest.split('/').next()?;
    let next = if to.starts_with("//") {
        format!("{scheme}:{to}")
    } else if to.starts_with('/') {
        format!("{scheme}://{host}{to}")
    } else {
        to.to_owned()
    };
    let (next_scheme, _, _) = origin(&next)?;
    // What was asked for in secret is not fetched in the open.
    let is_worse = scheme.eq_ignore_ascii_case("https") && next_scheme == "http";
    (!is_worse).then_some(next)
}

fn is_loopback(url: &str) -> bool {
    let host = origin(url).map(|(_, host, _)| host);
    host.is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

/// Pause before another try, where the hub does not say how long it is to be.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);
/// Wait that the hub may ask for before a user would rather come back.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
const MAX_REDIRECTS: usize = 10;
/// Bytes of a list of files: a name of 100 letters for each of 100 000 files.
const LONGEST_TEXT: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        for (from, to, expected) in [
            ("https://hub/a/b", "/c?d", Some("https://hub/c?d")),
            ("https://hub:8/a", "//cdn/x", Some("https://cdn/x")),
            ("http://hub/a", "https://cdn/x", Some("https://cdn/x")),
            ("https://hub/a", "http://cdn/x", None),
            ("https://hub/a", "file:///etc/passwd", None),
            ("https://hub/a", "b", None),
        ] {
            assert_eq!(redirected(from, to).as_deref(), expected, "{from} {to}");
        }
    }

    #[test]
    fn hosts_differ_by_scheme_name_and_port() {
        let hub = origin("https://hub.example");
        assert_eq!(origin("HTTPS://HUB.example:443/x"), hub);
        for other in [
            "http://hub.example",
            "https://hub.example:8443",
            "https://hub.example.evil",
            "https://evil@x.hub.example",
            "https://cdn-hub.example",
        ] {
            assert_ne!(origin(other), hub, "{other}");
        }
        assert!(is_loopback("http://127.0.0.1:80") && is_loopback("http://[::1]:80"));
        assert!(!is_loopback("http://127.0.0.1.example"));
    }
}
