//! A server and clients of other APIs than OpenAI's older ones.

use serde_json::{Value, json};

use crate::chat::talkative;
use crate::serve::{Server, response};
use crate::support::json as run_json;

const OPENING: &str = "Once upon a time";

/// The objects of a stream with one a line.
fn lines(text: &str) -> Vec<Value> {
    let object = |line: &str| serde_json::from_str(line).unwrap();
    text.lines().map(object).collect()
}

/// Names and objects of a stream of events.
fn events(text: &str) -> Vec<(String, Value)> {
    let event = |event: &str| {
        let (kind, data) = event.split_once('\n').unwrap();
        let kind = kind.strip_prefix("event: ").unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["type"], kind);
        (kind.to_owned(), data)
    };
    text.split_terminator("\n\n").map(event).collect()
}

#[test]
fn clients_of_ollama_get_what_generate_writes() {
    let server = Server::start(&["demo", "--context", "256"]);
    let args = [
        "generate", "demo", OPENING, "--greedy", "-n", "30", "--json",
    ];
    let expected = run_json(&args);
    let asked = json!({
        "model": "demo:latest",
        "prompt": OPENING,
        "options": {"temperature": 0, "num_predict": 30, "num_ctx": 128, "num_thread": 3},
        "keep_alive": "5m",
    });
    let (status, head, text) = server.post("/api/generate", &asked);
    assert_eq!(status, 200, "{text}");
    assert!(
        head.contains("content-type: application/x-ndjson"),
        "{head}"
    );
    let parts = lines(&text);
    let (last, others) = parts.split_last().unwrap();
    let written: String = others
        .iter()
        .map(|part| part["response"].as_str().unwrap())
        .collect();
    assert_eq!(written, expected["text"]);
    assert!(others.len() > 5 && others.iter().all(|part| part["done"] == false));

    let mut asked = asked;
    asked["stream"] = false.into();
    let whole = server.ask("/api/generate", &asked);
    assert_eq!(whole["response"], expected["text"]);
    for answer in [last, &whole] {
        let count = |ids: &str| expected[ids].as_array().unwrap().len();
        assert_eq!(answer["done"], true);
        assert_eq!(answer["done_reason"], "length");
        assert_eq!(answer["model"], "demo:latest");
        assert_eq!(answer["prompt_eval_count"], count("prompt_ids"));
        assert_eq!(answer["eval_count"], count("generated_ids"));
        let time = |name: &str| answer[name].as_u64().unwrap();
        let parts = time("prompt_eval_duration") + time("eval_duration");
        assert!(time("prompt_eval_duration") > 0 && parts <= time("total_duration"));
    }
    // What is not said is as the model's makers have it, and the context ends what nothing else does.
    let open = server.ask(
        "/api/generate",
        &json!({"model": "demo", "prompt": OPENING, "stream": false}),
    );
    let said = open["response"].as_str().unwrap();
    assert!(
        said.starts_with(expected["text"].as_str().unwrap()),
        "{said}"
    );
    assert!(said.len() > written.len());
}

#[test]
fn a_model_is_listed_as_ollama_does() {
    let folder = talkative();
    let args = [
        folder.path().to_str().unwrap(),
        "--name",
        "talker",
        "--context",
        "64",
    ];
    let server = Server::start(&args);
    let get = |path: &str| -> Value {
        let (status, _, text) = server.get(path);
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    };
    let inspected = run_json(&["inspect", args[0], "--json"]);
    let listed = &get("/api/tags")["models"][0];
    assert_eq!(listed["name"], "talker:latest");
    assert_eq!(listed["size"], inspected["bytes"]);
    assert_eq!(listed["digest"].as_str().unwrap().len(), 64);
    let running = &get("/api/ps")["models"][0];
    assert_eq!(running["digest"], listed["digest"]);
    assert_eq!(running["context_length"], 64);
    assert_eq!(running["size_vram"], 0);
    let shown = server.ask("/api/show", &json!({"model": "talker"}));
    assert_eq!(shown["details"], listed["details"]);
    assert_eq!(shown["details"]["family"], "llama");
    assert_eq!(shown["details"]["format"], "safetensors");
    assert_eq!(shown["capabilities"], json!(["completion"]));
    let info = &shown["model_info"];
    assert_eq!(info["general.parameter_count"], inspected["n_parameters"]);
    assert_eq!(info["llama.context_length"], 64);
    assert!(shown["template"].as_str().unwrap().contains("m.content"));
    assert!(get("/api/version")["version"].is_string());
    assert_eq!(server.get("/").0, 200);

    let asked = json!({
        "model": "talker", "stream": false, "options": {"temperature": 0, "num_predict": 5},
        "messages": [{"role": "system", "content": "Tell."}, {"role": "user", "content": OPENING, "images": []}],
    });
    let answer = server.ask("/api/chat", &asked);
    assert_eq!(answer["message"]["role"], "assistant");
    let system = json!({
        "model": "talker", "stream": false, "options": {"temperature": 0, "num_predict": 5},
        "system": "Tell.", "prompt": OPENING,
    });
    let generated = server.ask("/api/generate", &system);
    assert_eq!(generated["response"], answer["message"]["content"]);
    assert_eq!(generated["prompt_eval_count"], answer["prompt_eval_count"]);
    let empty = server.ask("/api/chat", &json!({"model": "talker"}));
    assert_eq!(empty["done_reason"], "load");

    for (path, field, value, status, words) in [
        (
            "chat",
            "model",
            json!("llama3"),
            404,
            "model 'llama3' not found",
        ),
        (
            "chat",
            "tools",
            json!([{}]),
            400,
            "`tools` is not supported",
        ),
        (
            "chat",
            "format",
            json!("xml"),
            400,
            "expected \"json\" or a schema",
        ),
        ("chat", "think", json!(true), 400, "`think`"),
        (
            "chat",
            "options",
            json!({"mirostat": 1}),
            400,
            "`mirostat` is not supported",
        ),
        (
            "chat",
            "options",
            json!({"num_ctx": 65}),
            400,
            "--context 65",
        ),
        (
            "chat",
            "options",
            json!({"repeat_last_n": 64}),
            400,
            "`repeat_last_n` is 64",
        ),
        ("chat", "options", json!({"top_p": 0}), 400, "`top_p` is 0"),
        (
            "chat",
            "messages",
            json!([{"role": "user", "content": "x", "images": ["AA=="]}]),
            400,
            "`images`",
        ),
        ("chat", "messages", json!([{"content": "x"}]), 400, "role"),
        (
            "generate",
            "suffix",
            json!("end"),
            400,
            "`suffix` is not supported",
        ),
        (
            "generate",
            "context",
            json!([1]),
            400,
            "`context` is not supported",
        ),
        ("generate", "raw", json!(true), 400, "`system` and `raw`"),
        (
            "generate",
            "prompt",
            json!("mouse ".repeat(99)),
            400,
            "and the context 64",
        ),
        ("embed", "input", json!("x"), 501, "no embeddings"),
        ("pull", "model", json!("x"), 501, "llm-run pull"),
    ] {
        let mut asked = if path == "generate" {
            system.clone()
        } else {
            asked.clone()
        };
        asked[field] = value;
        let (found, _, text) = server.post(&format!("/api/{path}"), &asked);
        assert_eq!(found, status, "{asked}: {text}");
        let error: Value = serde_json::from_str(&text).unwrap();
        let error = error["error"]
            .as_str()
            .unwrap_or_else(|| panic!("a text: {text}"));
        assert!(error.contains(words), "{asked}: {error}");
    }
    // What is refused unread is refused in its clients' words, too.
    for (head, status) in [
        ("POST /api/chat HTTP/1.0\r\nx: ", 415),
        ("GET /api/tags HTTP/1.0\r\nhost: evil.example\r\nx: ", 403),
        ("GET /api/nothing", 404),
        ("GET /api/chat", 405),
    ] {
        let (found, _, text) = response(server.send(head, "{}"));
        assert_eq!(found, status, "{head}: {text}");
        let error: Value = serde_json::from_str(&text).unwrap();
        assert!(error["error"].is_string(), "{text}");
    }
}

#[test]
fn a_response_is_told_by_events_in_their_order() {
    let folder = talkative();
    let args = [folder.path().to_str().unwrap(), "--name", "talker"];
    let server = Server::start(&args);
    let asked = json!({
        "model": "talker", "instructions": "Tell.", "input": OPENING, "max_output_tokens": 12, "temperature": 0,
        "store": true, "metadata": {"a": "b"},
    });
    let whole = server.ask("/v1/responses", &asked);
    assert_eq!(whole["object"], "response");
    assert_eq!(whole["status"], "incomplete");
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(whole["store"], false);
    assert_eq!(whole["metadata"], json!({"a": "b"}));
    assert_eq!(whole["usage"]["output_tokens"], 12);
    let text = whole["output"][0]["content"][0]["text"].as_str().unwrap();

    let chat = json!({
        "messages": [{"role": "system", "content": "Tell."}, {"role": "user", "content": OPENING}],
        "max_tokens": 12, "temperature": 0,
    });
    let chat = server.ask("/v1/chat/completions", &chat);
    assert_eq!(chat["choices"][0]["message"]["content"], text);
    assert_eq!(
        chat["usage"]["prompt_tokens"],
        whole["usage"]["input_tokens"]
    );

    // The same as items, with parts, streamed.
    let mut streamed = asked.clone();
    streamed["instructions"] = Value::Null;
    streamed["input"] = json!([
        {"role": "developer", "content": "Tell."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": OPENING}]},
    ]);
    streamed["stream"] = true.into();
    streamed["top_logprobs"] = 2.into();
    let (status, head, body) = server.post("/v1/responses", &streamed);
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    let events = events(&body);
    for (i, (_, event)) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i);
    }
    let is_delta = |(kind, _): &&(String, Value)| kind == "response.output_text.delta";
    let kinds: Vec<&str> = events
        .iter()
        .filter(|event| !is_delta(event))
        .map(|(kind, _)| kind.as_str())
        .collect();
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ];
    assert_eq!(kinds, expected);
    let deltas = events.iter().filter(is_delta);
    let written: String = deltas
        .clone()
        .map(|(_, event)| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(written, text);
    let logprobs = deltas.map(|(_, event)| event["logprobs"].as_array().unwrap().len());
    assert_eq!(logprobs.sum::<usize>(), 12);
    let (_, last) = events.last().unwrap();
    let output = &last["response"]["output"][0];
    assert_eq!(output["content"][0]["text"], text);
    assert_eq!(
        output["content"][0]["logprobs"].as_array().unwrap().len(),
        12
    );
    assert_eq!(output["id"], events[2].1["item"]["id"]);
    for field in ["input_tokens", "output_tokens", "total_tokens"] {
        assert_eq!(last["response"]["usage"][field], whole["usage"][field]);
    }
    // What was written is given back as it came.
    let mut again = asked.clone();
    again["input"] = json!([output, {"role": "user", "content": "And then?"}]);
    server.ask("/v1/responses", &again);

    for (field, value, words) in [
        ("input", json!([]), "`input` is empty"),
        (
            "input",
            json!([{"type": "item_reference", "id": "x"}]),
            "\\\"item_reference\\\" are not supported",
        ),
        (
            "input",
            json!([{"role": "user", "content": [{"type": "input_image"}]}]),
            "`input_text`",
        ),
        ("previous_response_id", json!("resp_1"), "keeps nothing"),
        ("conversation", json!("conv_1"), "keeps nothing"),
        ("background", json!(true), "`background` is not supported"),
        (
            "tools",
            json!([{"type": "web_search"}]),
            "`tools` is not supported",
        ),
        (
            "text",
            json!({"format": {"type": "xml"}}),
            "unknown variant",
        ),
        (
            "text",
            json!({"verbosity": "low"}),
            "`verbosity` is not supported",
        ),
        ("truncation", json!("auto"), "`truncation` is not supported"),
        ("include", json!(["file_search_call.results"]), "`include`"),
        (
            "reasoning",
            json!({"effort": "high"}),
            "`reasoning` is not supported",
        ),
        ("max_output_tokens", json!(0), "`max_output_tokens` is 0"),
    ] {
        let mut asked = asked.clone();
        asked[field] = value;
        let (status, _, text) = server.post("/v1/responses", &asked);
        assert_eq!(status, 400, "{asked}: {text}");
        assert!(text.contains(words), "{asked}: {text}");
    }
    let (status, _, text) = server.get("/v1/responses/resp_1");
    assert!(
        status == 404 && text.contains("keeps no responses"),
        "{text}"
    );
}

/// Somebody with a name, an age and pets of known kinds.
fn somebody() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "pets": {"type": "array", "items": {"enum": ["cat", "dog"]}, "minItems": 1, "maxItems": 2},
        },
        "required": ["name", "age", "pets"],
        "additionalProperties": false,
    })
}

fn is_somebody(text: &str) {
    let found: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{text}"));
    assert_eq!(found.as_object().unwrap().len(), 3, "{text}");
    assert!(
        found["name"].as_str().unwrap().chars().count() <= 12,
        "{text}"
    );
    assert!(found["age"].as_u64().unwrap() <= 120, "{text}");
    let pets = found["pets"].as_array().unwrap();
    assert!((1..=2).contains(&pets.len()), "{text}");
    assert!(
        pets.iter().all(|pet| pet == "cat" || pet == "dog"),
        "{text}"
    );
}

#[test]
fn answers_are_held_to_a_schema_in_every_api() {
    let folder = talkative();
    let args = [
        folder.path().to_str().unwrap(),
        "--name",
        "talker",
        "--batch",
        "4",
    ];
    let server = Server::start(&args);
    let messages = json!([{"role": "user", "content": OPENING}]);
    let described = json!({"name": "somebody", "strict": true, "schema": somebody()});
    let format = json!({"type": "json_schema", "json_schema": described});
    // A model of tales that knows no JSON, by chance and without.
    let chat = json!({
        "messages": messages, "max_tokens": 400, "temperature": 1.2, "seed": 3, "n": 6, "response_format": format,
    });
    let drawn = server.ask("/v1/chat/completions", &chat);
    let choices = drawn["choices"].as_array().unwrap();
    for choice in choices {
        assert_eq!(choice["finish_reason"], "stop");
        is_somebody(choice["message"]["content"].as_str().unwrap());
    }
    assert_ne!(choices[0]["message"], choices[1]["message"]);
    assert_eq!(
        server.ask("/v1/chat/completions", &chat)["choices"],
        drawn["choices"]
    );

    let greedy = json!({
        "messages": messages, "max_tokens": 400, "temperature": 0, "response_format": format, "stream": true,
    });
    let (status, _, text) = server.post("/v1/chat/completions", &greedy);
    assert_eq!(status, 200, "{text}");
    let parts = crate::serve::events(&text);
    let content = parts
        .iter()
        .filter_map(|part| part["choices"][0]["delta"]["content"].as_str());
    is_somebody(&content.collect::<String>());

    let continued =
        json!({"prompt": OPENING, "max_tokens": 400, "temperature": 0, "response_format": format});
    let continued = server.ask("/v1/completions", &continued);
    is_somebody(continued["choices"][0]["text"].as_str().unwrap());

    let ollama = json!({
        "model": "talker", "messages": messages, "stream": false, "format": somebody(), "options": {"temperature": 0},
    });
    let answer = server.ask("/api/chat", &ollama);
    assert_eq!(answer["done_reason"], "stop");
    is_somebody(answer["message"]["content"].as_str().unwrap());

    let text = json!({"format": {"type": "json_schema", "name": "somebody", "schema": somebody()}});
    let response =
        json!({"input": OPENING, "temperature": 0, "max_output_tokens": 400, "text": text});
    let response = server.ask("/v1/responses", &response);
    assert_eq!(response["status"], "completed");
    assert_eq!(response["text"], text);
    is_somebody(
        response["output"][0]["content"][0]["text"]
            .as_str()
            .unwrap(),
    );

    // Whatever is asked for, it is the beginning of an object at least.
    let object = json!({
        "messages": messages, "max_tokens": 60, "temperature": 0, "response_format": {"type": "json_object"},
    });
    let object = server.ask("/v1/chat/completions", &object);
    let content = object["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(content.trim_start().starts_with('{'), "{content}");

    for (field, value, words) in [
        (
            "response_format",
            json!({"type": "grammar"}),
            "unknown variant",
        ),
        (
            "response_format",
            json!({"type": "json_schema"}),
            "json_schema",
        ),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}),
            "`response_format`: ",
        ),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"schema": false}}),
            "`response_format`: ",
        ),
        ("ignore_eos", json!(true), "`ignore_eos` has it go on"),
    ] {
        let mut asked = chat.clone();
        asked[field] = value;
        let (status, _, text) = server.post("/v1/chat/completions", &asked);
        assert_eq!(status, 400, "{asked}: {text}");
        assert!(text.contains(words), "{asked}: {text}");
    }
    // Those beside are as they were.
    let args = [
        "generate", "demo", OPENING, "--greedy", "-n", "12", "--json",
    ];
    let plain = json!({"prompt": OPENING, "max_tokens": 12, "temperature": 0});
    let plain = server.ask("/v1/completions", &plain);
    assert_eq!(plain["choices"][0]["text"], run_json(&args)["text"]);
}
