//! A server and the clients that programs speak to it with, as their makers publish them.
//!
//! These tests take a minute and the network: `cargo xtask ci --full` runs them, or `cargo test --test clients -- --ignored`.
//! What they install stays in the folder of built things.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails where it meets the unexpected"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Clients for Python, in the versions that are tested.
const PYTHON_CLIENTS: [&str; 3] = ["openai==3.57.0", "litellm==1.110.2", "ollama==0.6.3"];

/// The same for Node.
const NODE_CLIENT: &str = "openai@6.49.0";

#[test]
#[ignore = "installs packages from the network"]
fn openai_for_python_gets_its_answers() {
    let (server, narrow) = (talker(&["--batch", "4"]), talker(NARROW));
    let bases = [&server, &narrow].map(|server| format!("http://{}/v1", server.address));
    let script = script("openai_python.py");
    check(Command::new(python()).args([&script, &bases[0], KEY, &bases[1]]));
}

#[test]
#[ignore = "installs packages from the network"]
fn openai_for_node_gets_its_answers() {
    let server = talker(&["--batch", "4"]);
    let base = format!("http://{}/v1", server.address);
    if let Some(folder) = node() {
        // A module is looked for beside the script that asks for it.
        let path = folder.join("openai_node.mjs");
        fs::copy(script("openai_node.mjs"), &path).unwrap();
        check(Command::new("node").arg(path).args([&base, KEY]));
    }
}

#[test]
#[ignore = "installs packages from the network"]
fn litellm_gets_its_answers() {
    let server = talker(&["--batch", "4"]);
    let base = format!("http://{}/v1", server.address);
    check(Command::new(python()).args([&script("litellm_python.py"), &base, KEY]));
}

#[test]
#[ignore = "installs packages from the network"]
fn ollama_for_python_gets_its_answers() {
    let server = talker(&["--batch", "4"]);
    let text = serve(&["demo", "--context", "256"], tempfile::tempdir().unwrap());
    let hosts = [&server, &text].map(|server| format!("http://{}", server.address));
    let script = script("ollama_python.py");
    check(Command::new(python()).args([&script, &hosts[0], KEY, &hosts[1]]));
}

/// One answer at a time, and as many places as a request may have choices.
const NARROW: &[&str] = &["--batch", "1", "--queue", "15"];

const KEY: &str = "secret";

/// A server that listens and has its model loaded, killed when it is not needed any more.
struct Server {
    child: Child,
    address: String,
    /// Open, as it may say more.
    _said: BufReader<ChildStderr>,
    /// Of the model and the key.
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bundled model with a template that it was never trained on, for those who have the key.
fn talker(args: &[&str]) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        fs::copy(assets.join(name), folder.path().join(name)).unwrap();
    }
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    write(
        "chat_template.jinja",
        "{% for m in messages %}{{ m.content }} {% endfor %}",
    );
    let key = write("key", KEY);
    let model = folder.path().to_str().unwrap().to_owned();
    let common = [
        &model,
        "--name",
        "talker",
        "--api-key-file",
        &key,
        "--context",
        "256",
    ];
    serve(&[&common, args].concat(), folder)
}

fn serve(args: &[&str], folder: tempfile::TempDir) -> Server {
    let mut child = Command::new(env!("CARGO_BIN_EXE_llm-run"))
        .args([&["serve"], args, &["--port", "0"]].concat())
        .env("CUDA_VISIBLE_DEVICES", "")
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
    let begin = Instant::now();
    while !is_ready(&address) {
        assert!(begin.elapsed() < LONGEST, "its model is never loaded");
        std::thread::sleep(Duration::from_millis(10));
    }
    Server {
        child,
        address,
        _said: said,
        _folder: folder,
    }
}

fn is_ready(address: &str) -> bool {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.contains(" 200 OK")
}

/// Path of a script beside this file.
fn script(name: &str) -> String {
    format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A Python that has the clients.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let folder = installed("python-clients", &PYTHON_CLIENTS.join("\n"), |folder| {
            check(Command::new("python3").args(["-m", "venv"]).arg(folder));
            let pip = [
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ];
            let mut install = Command::new(folder.join("bin/python"));
            check(install.args(pip).args(PYTHON_CLIENTS));
        });
        folder.join("bin/python")
    })
}

/// A folder in which Node finds the client; nothing where there is no Node.
fn node() -> Option<PathBuf> {
    let found = Command::new("npm").arg("--version").output();
    if !found.is_ok_and(|found| found.status.success()) {
        println!("skipped: no npm; apt-get install nodejs npm brings it");
        return None;
    }
    let folder = installed("node-client", NODE_CLIENT, |folder| {
        // Without a package of its own npm would install into one of a folder above.
        fs::write(folder.join("package.json"), "{}").unwrap();
        let mut install = Command::new("npm");
        install.args(["install", "--no-audit", "--no-fund", NODE_CLIENT]);
        check(install.current_dir(folder));
    });
    Some(folder)
}

/// A folder of built things with `what`, installed anew where it has anything else.
fn installed(name: &str, what: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let label = folder.join("installed");
    if fs::read_to_string(&label).is_ok_and(|there| there == what) {
        return folder;
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    install(&folder);
    fs::write(label, what).unwrap();
    folder
}

/// Runs a command that has to succeed.
fn check(command: &mut Command) {
    let begin = Instant::now();
    // What a user has set for clients is not for these.
    let mut child = command
        .env_remove("OPENAI_API_KEY")
        .env_remove("OPENAI_BASE_URL")
        .env("NO_PROXY", "127.0.0.1")
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > LONGEST {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{command:?}: {status}");
}

/// Time that an installation or a script takes at most.
const LONGEST: Duration = Duration::from_secs(900);
