//! The page of a server whose model is loaded, by HTTP and in a browser.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails where it meets the unexpected, and says what it skips"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A server, killed when it is not needed any more.
struct Server {
    child: Child,
    address: String,
    _said: BufReader<ChildStderr>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts one whose model is loaded on the CPU.
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_llm-run"))
            .env("CUDA_VISIBLE_DEVICES", "")
            .env("HF_HUB_OFFLINE", "1")
            .args([&["serve"], args, &["--port", "0"]].concat())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "it has ended");
            if let Some(address) = line.trim().strip_prefix("listening at http://") {
                break address.to_owned();
            }
        };
        let server = Server {
            child,
            address,
            _said: said,
        };
        let begin = Instant::now();
        while !server.send("GET /health", "").contains(" 200 ") {
            assert!(begin.elapsed() < Duration::from_secs(60), "it never loads");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    fn open(&self, request: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let patience = Some(Duration::from_secs(60));
        stream.set_read_timeout(patience).unwrap();
        let (address, n) = (&self.address, body.len());
        write!(
            stream,
            "{request} HTTP/1.0\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {n}\r\n\r\n{body}"
        )
        .unwrap();
        stream
    }

    /// The whole response.
    fn send(&self, request: &str, body: &str) -> String {
        let mut all = String::new();
        self.open(request, body).read_to_string(&mut all).unwrap();
        all
    }

    fn status(&self) -> Value {
        let response = self.send("GET /status", "");
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{head}");
        serde_json::from_str(body).unwrap()
    }
}

/// The bundled model with a template that it was never trained on.
fn talkative() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(assets.join(name), folder.path().join(name)).unwrap();
    }
    let template = "{% for m in messages %}{{ m.content }} {% endfor %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    folder
}

#[test]
fn a_server_tells_where_its_model_rests_and_what_it_does() {
    let server = Server::start(&["demo", "--batch", "3", "--context", "64"]);
    let state = server.status();
    assert_eq!(state["state"], "ready");
    assert_eq!(state["loading"], Value::Null);
    let model = &state["model"];
    assert_eq!(model["name"], "demo");
    assert_eq!(model["context"], 64);
    assert_eq!(model["has_chat_template"], false);
    let number = |value: &Value| value.as_u64().unwrap();
    let ram = &state["memory"]["memories"][0];
    assert_eq!(ram["name"], "RAM");
    let parts = state["memory"]["parts"].as_array().unwrap();
    let weights: u64 = parts.iter().map(|part| number(&part["weights"])).sum();
    assert_eq!(weights, number(&ram["weights"]));
    assert!(
        number(&ram["kv_cache"]) > 0 && number(&ram["other"]) > 0,
        "{ram}"
    );
    let taken = ["weights", "kv_cache", "other"].map(|term| number(&ram[term]));
    assert!(taken.iter().sum::<u64>() <= number(&ram["budget"]), "{ram}");
    assert_eq!(ram["streamed"], 0);
    for part in parts {
        assert_eq!(
            (&part["rests_in"], &part["computes_on"]),
            (&json!("RAM"), &json!("CPU"))
        );
    }
    let engine = &state["engine"];
    assert_eq!(
        (&engine["sequences"], &engine["kv_positions"]),
        (&json!(3), &json!(192))
    );
    assert_eq!(
        (&engine["tokens"], &engine["kv_positions_held"]),
        (&json!(0), &json!(0))
    );

    let mut events = BufReader::new(server.open("GET /status/events", "")).lines();
    let mut next = || loop {
        let line = events.next().unwrap().unwrap();
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str::<Value>(data).unwrap();
        }
    };
    assert_eq!(next()["engine"]["tokens"], 0);
    let asked = json!({"prompt": "Once upon a time", "max_tokens": 9, "ignore_eos": true});
    let answer = server.send("POST /v1/completions", &asked.to_string());
    assert!(answer.contains(" 200 "), "{answer}");
    // The last token is made, and nothing runs any more.
    let last = loop {
        let state = next();
        if state["engine"]["tokens"] == 9 && state["engine"]["requests_running"] == 0 {
            break state;
        }
    };
    let engine = &last["engine"];
    // What was answered is kept for the next one that begins so.
    assert!(number(&engine["kv_positions_held"]) > 9, "{engine}");
    assert!(number(&engine["passes"]) >= 9, "{engine}");
    assert_eq!(last["memory"], state["memory"]);
}

/// Every case of `page/drive.mjs`, in a Chromium without a window.
#[test]
#[ignore = "needs Chromium, Node.js and, once, the network"]
fn a_browser_shows_the_page() {
    let Some(chromium) = CHROMIUM.into_iter().find(|path| Path::new(path).exists()) else {
        eprintln!("skipped: no Chromium; apt-get install chromium brings it");
        return;
    };
    let has = |program: &str| {
        let found = Command::new(program).arg("--version").output();
        found.is_ok_and(|found| found.status.success())
    };
    if !has("node") || !has("npm") {
        eprintln!("skipped: no Node.js; apt-get install nodejs npm brings it");
        return;
    }
    let folder = driver();
    let key = folder.join("key");
    std::fs::write(&key, "open sesame".replace(' ', "-")).unwrap();
    let talkative = talkative();
    let talker = Server::start(&[talkative.path().to_str().unwrap(), "--name", "talker"]);
    let text = Server::start(&["demo"]);
    let locked = Server::start(&["demo", "--api-key-file", key.to_str().unwrap()]);
    let status = Command::new("node")
        .arg(folder.join("drive.mjs"))
        .arg(chromium)
        .args([&talker.address, &text.address, &locked.address])
        .arg(folder.join("pictures"))
        .current_dir(&folder)
        .status();
    assert!(status.unwrap().success(), "see above");
}

const CHROMIUM: [&str; 4] = [
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
    "/snap/bin/chromium",
];

/// A folder with the script that drives a browser, and with the package that it uses.
fn driver() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    std::fs::create_dir_all(&folder).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page");
    for name in ["drive.mjs", "package.json", "package-lock.json"] {
        std::fs::copy(source.join(name), folder.join(name)).unwrap();
    }
    // What is locked, by its checksum, and nothing that it would run.
    let status = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(&folder)
        .status();
    assert!(status.unwrap().success(), "npm ci");
    folder
}
