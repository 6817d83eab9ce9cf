//! A server and its clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::chat::talkative;
use crate::support::{json as run_json, program, run, wait_until};

/// A server that listens, killed when it is not needed any more.
pub(crate) struct Server {
    child: Child,
    address: String,
    said: BufReader<std::process::ChildStderr>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts one, which has its model loaded.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut child = program()
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
            said,
        };
        wait_until(|| server.get("/health").0 == 200);
        server
    }

    /// A connection with a request that was sent.
    pub(crate) fn send(&self, head: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let length = body.len();
        // HTTP/1.0: what follows on the head is the body, without chunks.
        let request =
            format!("{head} HTTP/1.0\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}");
        // A server that refuses the head need not read the rest.
        let _ = stream.write_all(request.as_bytes());
        stream
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String, String) {
        response(self.send(&format!("GET {path}"), ""))
    }

    /// Status, head and body of the answer to an object.
    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, String, String) {
        response(self.open(path, body))
    }

    fn open(&self, path: &str, body: &Value) -> TcpStream {
        let body = body.to_string();
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let request = format!(
            "POST {path} HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let _ = stream.write_all(request.as_bytes());
        stream
    }

    /// The answer to an object, which has to be one.
    pub(crate) fn ask(&self, path: &str, body: &Value) -> Value {
        let (status, _, text) = self.post(path, body);
        assert_eq!(status, 200, "{body}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The value of a count.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let (_, _, text) = self.get("/metrics");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("llm_run_{name} ")));
        line.unwrap().parse().unwrap()
    }

    fn signal(&self, signal: &str) {
        let (kill, id) = (format!("kill -{signal} $0"), self.child.id().to_string());
        let sent = Command::new("sh").args(["-c", &kill, &id]).status();
        assert!(sent.unwrap().success());
    }
}

pub(crate) fn response(mut stream: TcpStream) -> (u16, String, String) {
    let mut all = String::new();
    // A server that refuses what is still being sent may reset the connection once it has answered.
    let _ = stream.read_to_string(&mut all);
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or((&all, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (
        status.unwrap_or(0),
        head.to_ascii_lowercase(),
        body.to_owned(),
    )
}

/// The objects of a stream, which ends as it should.
pub(crate) fn events(text: &str) -> Vec<Value> {
    let mut events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(events.pop(), Some("data: [DONE]"), "{text}");
    let object = |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
    events.into_iter().map(object).collect()
}

const TALE: [&str; 6] = [
    "Once upon a time",
    "The little dog was very",
    "Once upon a time there was",
    "A bird",
    "One",
    "Mia and Tom",
];

fn tale(prompt: &str, n: usize) -> Value {
    json!({"model": "demo", "prompt": prompt, "max_tokens": n, "temperature": 0})
}

#[test]
fn clients_at_a_time_get_what_generate_writes() {
    let server = Server::start(&["demo", "--batch", "3"]);
    let expected = TALE
        .map(|prompt| run_json(&["generate", "demo", prompt, "--greedy", "-n", "30", "--json"]));
    std::thread::scope(|scope| {
        for (prompt, expected) in TALE.iter().zip(&expected) {
            let server = &server;
            scope.spawn(move || {
                for is_streamed in [false, true] {
                    let mut asked = tale(prompt, 30);
                    asked["stream"] = is_streamed.into();
                    let (status, _, text) = server.post("/v1/completions", &asked);
                    assert_eq!(status, 200, "{text}");
                    let text = match is_streamed {
                        true => events(&text)
                            .iter()
                            .map(|part| part["choices"][0]["text"].as_str().unwrap())
                            .collect::<String>(),
                        false => {
                            let whole: Value = serde_json::from_str(&text).unwrap();
                            let n_prompt = expected["prompt_ids"].as_array().unwrap().len();
                            let n_new = expected["generated_ids"].as_array().unwrap().len();
                            let usage = &whole["usage"];
                            assert_eq!(usage["prompt_tokens"], n_prompt);
                            assert_eq!(usage["completion_tokens"], n_new);
                            assert_eq!(usage["total_tokens"], n_prompt + n_new);
                            whole["choices"][0]["text"].as_str().unwrap().to_owned()
                        }
                    };
                    assert_eq!(text, expected["text"]);
                }
            });
        }
    });
    assert_eq!(server.count("requests_waiting"), 0);
    assert_eq!(server.count("requests_failed_total"), 0);
}

#[test]
fn a_conversation_is_streamed_as_it_is_answered() {
    let folder = talkative();
    let server = Server::start(&[folder.path().to_str().unwrap(), "--name", "talker"]);
    let asked = json!({
        "model": "talker",
        "messages": [
            {"role": "developer", "content": "Tell."},
            {"role": "user", "content": [{"type": "text", "text": "Once upon "}, {"type": "text", "text": "a time"}]},
        ],
        "max_completion_tokens": 20, "temperature": 0.9, "seed": -7, "n": 3, "stop": ["zzz", "qqq"],
        "logprobs": true, "top_logprobs": 2,
    });
    let whole = server.ask("/v1/chat/completions", &asked);
    assert_eq!(whole["object"], "chat.completion");
    let mut streamed = asked.clone();
    streamed["stream"] = true.into();
    streamed["stream_options"] = json!({"include_usage": true});
    let (status, head, text) = server.post("/v1/chat/completions", &streamed);
    assert_eq!(status, 200, "{text}");
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    let mut parts = events(&text);
    let usage = parts.pop().unwrap();
    assert_eq!(usage["choices"], json!([]));
    for field in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(usage["usage"][field], whole["usage"][field]);
    }
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    for (index, choice) in choices.iter().enumerate() {
        let of_choice = || {
            let parts = parts.iter().map(|part| &part["choices"][0]);
            parts.filter(|part| part["index"] == index)
        };
        let content: String = of_choice()
            .filter_map(|part| part["delta"]["content"].as_str())
            .collect();
        assert_eq!(content, choice["message"]["content"]);
        let first = of_choice().next().unwrap();
        assert_eq!(first["delta"]["role"], "assistant");
        let last = of_choice().next_back().unwrap();
        assert_eq!(last["finish_reason"], choice["finish_reason"]);
        let logprobs = of_choice().filter_map(|part| part["logprobs"]["content"].as_array());
        let logprobs: Vec<_> = logprobs.flatten().cloned().collect();
        let whole = choice["logprobs"]["content"].as_array().unwrap();
        assert_eq!(logprobs.len(), whole.len());
        for (streamed, whole) in logprobs.iter().zip(whole) {
            assert_eq!(streamed["token"], whole["token"]);
            let of = |value: &Value| value["logprob"].as_f64().unwrap();
            // How many rows a pass has decides on the rounding of sums.
            assert!(
                (of(streamed) - of(whole)).abs() < 1e-4,
                "{streamed} {whole}"
            );
        }
        for logprob in &logprobs {
            let top = logprob["top_logprobs"].as_array().unwrap();
            assert_eq!(top.len(), 2);
            assert!(top[0]["logprob"].as_f64() >= logprob["logprob"].as_f64());
        }
    }
    // Each choice has chances of its own, and the seed repeats them.
    assert_ne!(choices[0]["message"], choices[1]["message"]);
    let again = server.ask("/v1/chat/completions", &asked);
    for (again, choice) in again["choices"].as_array().unwrap().iter().zip(choices) {
        assert_eq!(again["message"], choice["message"]);
    }

    let models: Value = serde_json::from_str(&server.get("/v1/models").2).unwrap();
    assert_eq!(models["data"][0]["id"], "talker");
    let tokens = server.ask("/tokenize", &json!({"prompt": "Once upon a time"}));
    let expected = run_json(&["generate", "demo", "Once upon a time", "-n", "1", "--json"]);
    assert_eq!(tokens["tokens"], expected["prompt_ids"]);
}

#[test]
fn what_cannot_be_had_is_refused_with_a_reason() {
    let server = Server::start(&["demo", "--context", "64"]);
    let path = "/v1/completions";
    let with = |field: &str, value: Value| {
        let mut asked = tale("One", 4);
        asked[field] = value;
        asked
    };
    for (asked, status, words) in [
        (
            with("temprature", json!(0)),
            400,
            "`temprature` is not supported",
        ),
        (
            with("temperature", json!(3)),
            400,
            "`temperature` is 3; expected 0 to 2",
        ),
        (
            with("temperature", json!("hot")),
            400,
            "`temperature`: invalid type",
        ),
        (with("n", json!(17)), 400, "`n` is 17; expected 1 to 16"),
        (with("max_tokens", json!(0)), 400, "`max_tokens` is 0"),
        (with("seed", json!(1.5)), 400, "`seed`"),
        (with("stop", json!("")), 400, "`stop` takes"),
        (with("stop", json!(vec!["x"; 17])), 400, "`stop` takes"),
        (
            with("logit_bias", json!({"1024": 1})),
            400,
            "expected a token id",
        ),
        (with("echo", json!(true)), 400, "`echo` is not supported"),
        (
            with("response_format", json!({"type": "grammar"})),
            400,
            "`response_format`",
        ),
        (
            with("stream_options", json!({"include_usage": true})),
            400,
            "goes with `stream`",
        ),
        (with("model", json!("gpt-4")), 404, "this server has"),
        (with("prompt", json!("")), 400, "`prompt` is empty"),
        (with("prompt", json!([])), 400, "is empty"),
        (with("prompt", json!([1, 5000])), 400, "token id 5000"),
        (with("prompt", json!([[]])), 400, "a prompt has no tokens"),
        (
            with("prompt", json!(vec![5; 65])),
            400,
            "context_length_exceeded",
        ),
        (json!({"max_tokens": 3}), 400, "`prompt` is missing"),
    ] {
        let (found, _, text) = server.post(path, &asked);
        assert_eq!(found, status, "{asked}: {text}");
        assert!(text.contains(words), "{asked}: {text}");
        let error: Value = serde_json::from_str(&text).unwrap();
        assert!(error["error"]["message"].is_string(), "{text}");
    }
    let chat = json!({"messages": [{"role": "user", "content": "Hello"}]});
    let (status, _, text) = server.post("/v1/chat/completions", &chat);
    assert!(status == 400 && text.contains("no chat template"), "{text}");

    let json_head = format!("POST {path} HTTP/1.0\r\ncontent-type: application/json\r\nx: ");
    for (head, body, status) in [
        (json_head.as_str(), "{\"prompt\": ", 400),
        (&json_head, "[1, 2]", 400),
        (&json_head, &"[".repeat(100_000), 400),
        (&json_head, &" ".repeat(5 << 20), 413),
        (&format!("POST {path}"), "{}", 415),
        ("GET /v1/completions", "", 405),
        ("GET /nothing", "", 404),
        (
            "GET /v1/models HTTP/1.0\r\nhost: evil.example\r\nx: ",
            "",
            403,
        ),
    ] {
        let (found, _, text) = response(server.send(head, body));
        assert_eq!(found, status, "{head}: {text}");
    }
    // All of that was nobody else's.
    assert_eq!(
        server.ask(path, &tale("One", 4))["choices"][0]["finish_reason"],
        "length"
    );
    let full = server.ask(path, &tale("One", 400));
    assert_eq!(full["choices"][0]["finish_reason"], "length");
}

#[test]
fn a_key_is_asked_for() {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&key, "secret\n").unwrap();
    let server = Server::start(&["demo", "--api-key-file", key.path().to_str().unwrap()]);
    assert_eq!(server.get("/v1/models").0, 401);
    for (given, status) in [("secret", 200), ("secre", 401), ("secret2", 401)] {
        let head = format!("GET /v1/models HTTP/1.0\r\nauthorization: Bearer {given}\r\nx: ");
        assert_eq!(response(server.send(&head, "")).0, status, "{given}");
    }
    for (args, words) in [
        (
            &["--host", "0.0.0.0"][..],
            "give --api-key-file, or --allow-anyone",
        ),
        (
            &["--host", "no.such.host.invalid"],
            "--host no.such.host.invalid",
        ),
        (&["--api-key-file", "/dev/null"], "expected a key"),
        (
            &["--port", server.address.split(':').next_back().unwrap()],
            "cannot listen",
        ),
    ] {
        let output = run(&[&["serve", "demo"], args].concat());
        assert_eq!(output.code, 2, "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains(words), "{args:?}: {}", output.stderr);
    }
}

#[test]
fn whoever_goes_away_makes_room_and_whoever_comes_too_late_is_told() {
    let server = Server::start(&["demo", "--batch", "1", "--queue", "0"]);
    let mut endless = tale("Once upon a time", 500);
    endless["ignore_eos"] = true.into();
    let path = "/v1/completions";
    for (i, is_streamed) in [true, false].into_iter().enumerate() {
        endless["stream"] = is_streamed.into();
        let mut first = server.open(path, &endless);
        wait_until(|| server.count("requests_running") == 1);
        if is_streamed {
            first.read_exact(&mut [0; 200]).unwrap();
        }
        let (status, head, _) = server.post(path, &tale("One", 1));
        // It may be through by then.
        assert!(status == 429 || status == 200, "{head}");
        assert!(status == 200 || head.contains("retry-after: "), "{head}");
        drop(first);
        wait_until(|| server.post(path, &tale("One", 1)).0 == 200);
        assert!(server.count("requests_cancelled_total") <= i as u64 + 1);
    }
    assert!(server.count("requests_cancelled_total") > 0);
}

#[test]
fn answers_come_to_their_ends_when_a_server_is_stopped() {
    let mut server = Server::start(&["demo"]);
    let mut endless = tale("Once upon a time", 400);
    endless["ignore_eos"] = true.into();
    endless["stream"] = true.into();
    let mut stream = server.open("/v1/completions", &endless);
    let mut begin = [0; 400];
    stream.read_exact(&mut begin).unwrap();
    server.signal("TERM");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
    let status = server.child.wait().unwrap();
    let mut said = String::new();
    server.said.read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("answers at a time"), "{said}");
}
