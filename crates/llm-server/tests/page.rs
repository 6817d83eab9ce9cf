//! The page, and what is told of a server whose model is not loaded yet.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use llm_server::{Access, Amount, Loading, Options, Progress, Served, Stop, serve};
use serde_json::{Value, json};

/// A server whose model is never loaded, and what its loader is told.
struct Server {
    address: SocketAddr,
    loader: Sender<Order>,
    stop: Stop,
    thread: JoinHandle<Result<(), io::Error>>,
}

enum Order {
    Report(Progress),
    Fail,
}

impl Server {
    fn start(access: Access) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (loader, orders) = channel();
        let load = move |loading: &Loading| -> Result<Served, io::Error> {
            for order in orders {
                match order {
                    Order::Report(progress) => loading.report(progress),
                    Order::Fail => break,
                }
            }
            Err(io::Error::other("it was told to fail"))
        };
        let (stop, options) = (
            Stop::default(),
            Options {
                access,
                max_requests: 1,
            },
        );
        let theirs = stop.clone();
        let thread = std::thread::spawn(move || serve(listener, options, &theirs, load));
        Server {
            address,
            loader,
            stop,
            thread,
        }
    }

    /// A request with some lines in its head.
    fn open(&self, request: &str, lines: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let patience = Some(Duration::from_secs(60));
        stream.set_read_timeout(patience).unwrap();
        let host = match lines.contains("host: ") {
            true => String::new(),
            false => format!("host: {}\r\n", self.address),
        };
        write!(stream, "{request} HTTP/1.0\r\n{host}{lines}\r\n").unwrap();
        BufReader::new(stream)
    }

    /// Status, head in lower case and body of an answer.
    fn get(&self, path: &str, lines: &str) -> (u16, String, String) {
        let mut all = String::new();
        let mut answer = self.open(&format!("GET {path}"), lines);
        answer.read_to_string(&mut all).unwrap();
        let (head, body) = all.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    fn status(&self) -> Value {
        let (status, _, body) = self.get("/status", "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn end(self) {
        drop(self.loader);
        self.stop.stop();
        let error = self.thread.join().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "it was told to fail");
    }
}

/// The next state of a stream.
fn next_state(events: &mut impl BufRead) -> Option<Value> {
    let mut line = String::new();
    loop {
        line.clear();
        if events.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        if let Some(data) = line.strip_prefix("data: ") {
            return Some(serde_json::from_str(data).unwrap());
        }
    }
}

fn progress(done: u64, n_units: usize) -> Progress {
    Progress {
        doing: "loading",
        amount: Some(Amount {
            done,
            total: 4_000,
            unit: "layer 3".to_owned(),
            n_units,
            total_units: 31,
        }),
    }
}

const BROWSER: &str = "accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";

#[test]
fn browsers_get_a_page_that_runs_nothing_but_its_own_files() {
    let server = Server::start(Access::Local);
    let (status, head, page) = server.get("/", BROWSER);
    assert_eq!(status, 200, "{head}");
    for line in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; ",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "vary: accept",
    ] {
        assert!(head.contains(line), "{line} in {head}");
    }
    assert!(!head.contains("unsafe"), "{head}");
    // What the policy would refuse is not in it.
    for refused in [" style=", "<style", " onclick", "://", "javascript:"] {
        assert!(!page.contains(refused), "{refused}");
    }
    let files = page.split('"').filter(|word| word.starts_with("/page/"));
    let files: Vec<_> = files.chain(["/page/client.js", "/page/text.js"]).collect();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let (status, head, text) = server.get(file, "");
        let kind = match file.rsplit('.').next().unwrap() {
            "css" => "text/css",
            "js" => "text/javascript",
            "svg" => "image/svg+xml",
            other => panic!("{other}"),
        };
        assert_eq!(status, 200, "{file}");
        assert!(head.contains(&format!("content-type: {kind}")), "{head}");
        assert!(head.contains("x-content-type-options: nosniff"), "{head}");
        for refused in ["innerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!text.contains(refused), "{refused} in {file}");
        }
    }
    assert_eq!(server.get("/page/site.rs", "").0, 404);
    // Other programs look whether somebody is there.
    let (status, head, text) = server.get("/", "accept: */*\r\n");
    assert!(
        status == 200 && head.contains("content-type: text/plain"),
        "{head}"
    );
    assert!(text.contains("is running"), "{text}");
    server.end();
}

#[test]
fn loading_is_told_of_while_it_goes_on() {
    let server = Server::start(Access::Local);
    let (status, head, body) = server.get("/health", "");
    assert_eq!(status, 503, "{body}");
    assert!(head.contains("retry-after: "), "{head}");
    assert!(body.contains("\"the model is loading\""), "{body}");
    let state = server.status();
    let loading = json!({"doing": "preparing"});
    assert_eq!(
        (&state["state"], &state["loading"]),
        (&json!("loading"), &loading)
    );
    for unknown in ["model", "memory", "engine"] {
        assert_eq!(state[unknown], Value::Null, "{unknown}");
    }

    let mut events = server.open("GET /status/events", "");
    assert_eq!(next_state(&mut events).unwrap(), state);
    for (done, n_units, percent) in [(1_000, 4, "25 %"), (4_000, 31, "100 %")] {
        server
            .loader
            .send(Order::Report(progress(done, n_units)))
            .unwrap();
        let state = next_state(&mut events).unwrap();
        let loading = json!({
            "doing": "loading", "done": done, "total": 4_000, "unit": "layer 3", "n_units": n_units, "total_units": 31,
        });
        assert_eq!(state["loading"], loading);
        let sentence = format!("the model is loading: {percent}, layer 3 ({n_units} of 31 units)");
        assert_eq!(state["message"], sentence);
        for path in ["/health", "/v1/models", "/metrics"] {
            let (status, _, body) = server.get(path, "");
            assert!(status == 503 && body.contains(&sentence), "{path}: {body}");
        }
    }
    server.loader.send(Order::Fail).unwrap();
    assert!(server.thread.join().unwrap().is_err());
    assert_eq!(next_state(&mut events), None);
}

#[test]
fn whoever_looks_on_does_not_keep_a_server_from_ending() {
    let server = Server::start(Access::Local);
    let mut events = server.open("GET /status/events", "");
    assert!(next_state(&mut events).is_some());
    let begin = Instant::now();
    server.end();
    // Less than answers are given to come to their ends.
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(next_state(&mut events), None);
}

#[test]
fn pages_of_others_are_not_answered() {
    let server = Server::start(Access::Local);
    let own = format!(
        "origin: http://{}\r\nsec-fetch-site: same-origin\r\n",
        server.address
    );
    let visit =
        "sec-fetch-site: cross-site\r\nsec-fetch-mode: navigate\r\nsec-fetch-dest: document\r\n";
    for (path, lines, status) in [
        ("/status", own.as_str(), 200),
        ("/v1/models", &own, 503),
        (
            "/status",
            "origin: http://127.0.0.1:3000\r\nsec-fetch-site: same-site\r\n",
            403,
        ),
        ("/status", "origin: http://evil.example\r\n", 403),
        ("/status/events", "sec-fetch-site: cross-site\r\n", 403),
        ("/v1/models", "sec-fetch-site: cross-site\r\n", 403),
        ("/status", "host: evil.example\r\n", 403),
        // By a link to it.
        ("/", visit, 200),
        ("/status", visit, 403),
        (
            "/page/page.js",
            "sec-fetch-site: cross-site\r\nsec-fetch-dest: script\r\n",
            403,
        ),
        ("/", "host: evil.example\r\n", 403),
    ] {
        let (found, _, body) = server.get(path, lines);
        assert_eq!(found, status, "{path} with {lines}: {body}");
    }
    server.end();
}

#[test]
fn the_page_is_there_before_the_key() {
    let server = Server::start(Access::Key("secret".to_owned()));
    assert_eq!(server.get("/", BROWSER).0, 200);
    assert_eq!(server.get("/page/page.js", "").0, 200);
    for path in ["/status", "/status/events", "/v1/models", "/page"] {
        assert_eq!(server.get(path, "").0, 401, "{path}");
    }
    assert_eq!(
        server.get("/status", "authorization: Bearer secret\r\n").0,
        200
    );
    // What begins as the page's path is nothing else.
    assert_eq!(server.get("/page/../status", "").0, 404);
    assert_eq!(server.get("/health", "").0, 503);
    server.end();
}
