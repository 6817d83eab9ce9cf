use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::*;
use crate::tokenizer::testing::{fixture, read_json};

#[derive(Deserialize)]
struct Fixture {
    special_tokens: BTreeMap<String, String>,
    templates: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: Vec<Map<String, Value>>,
    add_generation_prompt: bool,
    rendered: Option<String>,
    refused: Option<String>,
}

fn template(source: &str) -> ChatTemplate {
    let bos = ("bos_token", "<s>".to_owned());
    let eos = ("eos_token", "</s>".to_owned());
    ChatTemplate::new(source.to_owned(), "test.jinja".to_owned(), vec![bos, eos])
}

fn render(source: &str) -> Result<String, TextError> {
    let user = Message::new(Role::User, "hi".to_owned());
    template(source).render(&Conversation::new(vec![user]), GenerationPrompt::Add)
}

#[test]
fn renders_what_transformers_renders() {
    let fixture: Fixture = read_json(&fixture("chats.json"));
    assert_eq!(fixture.special_tokens["bos_token"], "<s>");
    assert_eq!(fixture.special_tokens["eos_token"], "</s>");
    for case in &fixture.cases {
        let messages = case.messages.iter().cloned().map(Message::from_fields);
        let conversation = Conversation::new(messages.collect::<Result<_, _>>().unwrap());
        let prompt = match case.add_generation_prompt {
            true => GenerationPrompt::Add,
            false => GenerationPrompt::Omit,
        };
        let result = template(&fixture.templates[&case.template]).render(&conversation, prompt);
        let context = format!("{} of {:?}", case.template, case.messages);
        match (&case.rendered, &case.refused, result) {
            (Some(expected), _, Ok(text)) => assert_eq!(&text, expected, "{context}"),
            (_, Some(expected), Err(TextError::ChatRefused { message })) => {
                assert_eq!(&message, expected, "{context}");
            }
            (_, _, result) => panic!("{context}: {result:?}"),
        }
    }
}

#[test]
fn variables_are_those_of_transformers() {
    let source =
        "{{ tools is none }} {{ documents is defined }} {{ pad_token is defined }} {{ eos_token }}";
    assert_eq!(render(source).unwrap(), "True True False </s>");
}

#[test]
fn broken_templates_are_one_line_that_names_the_file() {
    let sources = [
        "{% if %}",
        "{{ messages[0].content.no_such_method() }}",
        "{{ nothing.attribute }}",
        "{% for x in messages %}",
        "{% generation %}",
        "{{ messages | tojson(indent=99999999999) }}",
        "{{ messages | tojson(nonsense=1) }}",
    ];
    for source in sources {
        let error = render(source).unwrap_err();
        assert!(
            matches!(error, TextError::BrokenChatTemplate { .. }),
            "{error:?}"
        );
        let line = error.to_string();
        assert!(line.starts_with("test.jinja: "), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}

/// A template with what it is given and what `transformers` makes of it.
#[derive(Deserialize)]
struct Rendering {
    template: String,
    #[serde(default)]
    messages: Option<Vec<Map<String, Value>>>,
    #[serde(default)]
    tools: Option<Vec<Map<String, Value>>>,
    #[serde(default)]
    documents: Option<Vec<Map<String, Value>>>,
    #[serde(default)]
    variables: Map<String, Value>,
    #[serde(default)]
    add_generation_prompt: bool,
    rendered: Option<String>,
    /// Python's message where it renders nothing.
    refused: Option<String>,
}

#[derive(Deserialize)]
struct Renderings {
    messages: Vec<Map<String, Value>>,
    variables: Map<String, Value>,
    /// Templates by name; a case may give its own in its place.
    #[serde(default)]
    templates: BTreeMap<String, String>,
    cases: Vec<Rendering>,
}

fn check_renderings(file: &str) {
    let fixture: Renderings = read_json(&fixture(file));
    let mut wrong = Vec::new();
    for case in &fixture.cases {
        let source = fixture.templates.get(&case.template);
        let source = source.unwrap_or(&case.template);
        let messages = case.messages.as_ref().unwrap_or(&fixture.messages).clone();
        let messages = messages.into_iter().map(Message::from_fields);
        let mut variables = fixture.variables.clone();
        variables.extend(case.variables.clone());
        let conversation = Conversation {
            messages: messages.collect::<Result<_, _>>().unwrap(),
            tools: case.tools.clone(),
            documents: case.documents.clone(),
            variables,
        };
        let prompt = match case.add_generation_prompt {
            true => GenerationPrompt::Add,
            false => GenerationPrompt::Omit,
        };
        let result = template(source).render(&conversation, prompt);
        let is_right = match (&case.rendered, &result) {
            (Some(expected), Ok(text)) => text == expected,
            (None, Err(_)) => true,
            (Some(_), Err(_)) | (None, Ok(_)) => false,
        };
        if !is_right {
            let expected = (&case.rendered, &case.refused);
            wrong.push(format!("{}\n  {expected:?}\n  {result:?}", case.template));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        fixture.cases.len(),
        wrong.join("\n")
    );
}

#[test]
fn constructs_render_as_jinja2_renders_them() {
    check_renderings("templates/constructs.json");
}

/// Templates from the field, each in a folder with what it is given and what is expected.
#[test]
fn what_people_met_in_templates_is_answered_rightly() {
    #[derive(Deserialize)]
    struct Met {
        messages: Vec<Map<String, Value>>,
        expected: String,
    }
    let folders = [
        "01-tools-is-iterable",
        "05-crlf-template",
        "06-undefined-length",
        "09-generation-in-string",
    ];
    for folder in folders {
        let folder = fixture("../faults/text").join(folder);
        let met: Met = read_json(&folder.join("expected.json"));
        let source = std::fs::read_to_string(folder.join("chat_template.jinja")).unwrap();
        let messages = met.messages.into_iter().map(Message::from_fields);
        let conversation = Conversation::new(messages.collect::<Result<_, _>>().unwrap());
        let rendered = template(&source).render(&conversation, GenerationPrompt::Add);
        assert_eq!(rendered.unwrap(), met.expected, "{}", folder.display());
    }
    check_renderings("../faults/text/10-constructs/constructs.json");
}

#[test]
fn families_templates_render_as_transformers_renders_them() {
    check_renderings("templates/families.json");
}

#[test]
fn expressions_of_all_types_render_as_jinja2_renders_them() {
    check_renderings("templates/expressions.json");
}

#[test]
fn hostile_templates_are_stopped_within_their_bounds() {
    let double = "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s OP ns.s %}{% endfor %}";
    let deep = "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}";
    let nested =
        "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}";
    let brackets = format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000));
    let sums = format!("{{{{ 1{} }}}}", " + 1".repeat(50_000));
    let filters = format!("{{{{ 1{} }}}}", "|abs".repeat(50_000));
    let ifs = "{% if 1 %}".repeat(50_000);
    let templates = [
        nested.replace("BODY", ""),
        nested.replace("BODY", "{% set c = b %}"),
        nested.replace("BODY", "text that is printed"),
        format!(
            "{{% set x %}}{}{{% endset %}}",
            nested.replace("BODY", "text that is kept")
        ),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        double.replace("OP", "~"),
        double.replace("OP", "+"),
        double.replace("'x'", "['x']").replace("OP", "+"),
        double.replace("ns.s OP ns.s", "'%s%s' % (ns.s, ns.s)"),
        double.replace("ns.s OP ns.s", "[ns.s, ns.s]") + "{{ ns.s }}",
        double.replace("ns.s OP ns.s", "[ns.s, ns.s]") + "{{ ns.s | tojson }}",
        double.replace("ns.s OP ns.s", "[[ns.s], [ns.s]]") + "{{ ns.s == ns.s + [1] }}",
        double.replace("ns.s OP ns.s", "(ns.s ~ ns.s) | upper"),
        deep.to_owned(),
        deep.replace("[ns.l]", "{'a': ns.l}"),
        deep.replace("[ns.l]", "(ns.l,)"),
        deep.replace("[ns.l]", "[ns.l] | map('list')"),
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}".to_owned(),
        "{{ 'x' * 99999999999 }}".to_owned(),
        "{{ [1] * 99999999999 }}".to_owned(),
        "{{ 'x'.center(99999999999) }}".to_owned(),
        "{{ 'x'.zfill(99999999999) }}".to_owned(),
        "{{ 'x' | center(99999999999) }}".to_owned(),
        "{{ 'x' | indent(99999999999, true) }}".to_owned(),
        "{{ '\t'.expandtabs(99999999999) }}".to_owned(),
        "{{ '%99999999999d' % 1 }}".to_owned(),
        "{{ '%.99999999d' % 1 }}".to_owned(),
        "{{ '%.99999999f' % 1 }}".to_owned(),
        "{{ '{:99999999999}'.format(1) }}".to_owned(),
        "{{ '{:.99999999f}'.format(1.5) }}".to_owned(),
        "{{ ('x' * 9999).replace('', 'y' * 9999) }}".to_owned(),
        "{{ ('x' * 9999).join('y' * 9999) }}".to_owned(),
        "{{ [1] | batch(99999999999, 0) | list }}".to_owned(),
        "{{ [1] | slice(99999999999) | list }}".to_owned(),
        "{{ range(99999999999) | list }}".to_owned(),
        "{{ [1] | tojson(indent=99999999999) }}".to_owned(),
        "{{ strftime_now('%99999999999d') }}".to_owned(),
        "{{ 9 ** 9999999999 }}".to_owned(),
        "{{ 1e999999999 | int }}".to_owned(),
        brackets,
        ifs,
    ];
    for source in templates {
        let shown: String = source.chars().take(120).collect();
        match render(&source) {
            Err(TextError::BrokenChatTemplate { .. }) => {}
            result => panic!("{shown}: {result:?}"),
        }
    }
    // What goes on for long is either done or stopped.
    for source in [sums, filters] {
        match render(&source) {
            Ok(_) | Err(TextError::BrokenChatTemplate { .. }) => {}
            result => panic!("{result:?}"),
        }
    }
}

#[test]
fn the_bounds_are_what_they_are_said_to_be() {
    let limits = python::Limits {
        bytes: 1000,
        time: std::time::Duration::ZERO,
        instructions: 1000,
    };
    let problem = |source: &str, limits| {
        let result = engine::render_within(source, engine::Variables::new(), limits);
        format!("{:?}", result.unwrap_err())
    };
    let late = problem("{{ 1 + 1 }}", limits);
    assert!(late.contains("longer than 0 s"), "{late}");
    let long = std::time::Duration::from_secs(600);
    let limits = python::Limits {
        time: long,
        ..limits
    };
    let large = problem("{{ 'x' * 2000 }}", limits);
    assert!(large.contains("more than 0 MiB"), "{large}");
    let endless = problem(
        "{% for a in range(9999) %}{% endfor %}",
        python::Limits {
            bytes: 1 << 30,
            ..limits
        },
    );
    assert!(endless.contains("fuel"), "{endless}");
}

#[test]
fn errors_name_the_line() {
    let error = render("a\n{{ 1 }}\n{% set x %}\n{{ 1 +\n 'a' }}{% endset %}").unwrap_err();
    assert!(error.to_string().contains("chat_template:4"), "{error}");
    let error = render("a\n\n{{ 'x' | nothing }}").unwrap_err();
    assert!(error.to_string().contains("(line 3)"), "{error}");
}

#[test]
fn messages_are_objects_with_a_role() {
    let fields = |json: Value| json.as_object().unwrap().clone();
    let message = Message::from_fields(fields(serde_json::json!({"role": "x", "content": null})));
    assert_eq!(message.unwrap().fields().len(), 1);
    for wrong in [serde_json::json!({}), serde_json::json!({"role": 5})] {
        let error = Message::from_fields(fields(wrong)).unwrap_err();
        assert!(error.to_string().contains("`role`"), "{error}");
    }
    let mut conversation = Conversation::default();
    conversation
        .variables
        .insert("tools".to_owned(), Value::Null);
    let error = template("x").render(&conversation, GenerationPrompt::Omit);
    assert!(error.unwrap_err().to_string().contains("variable tools"));
}

#[test]
fn of_several_templates_the_one_for_the_conversation_is_taken() {
    let source = |name: &str| (name.to_owned(), name.to_owned(), "test.json".to_owned());
    let tools = Conversation {
        tools: Some(Vec::new()),
        ..Conversation::default()
    };
    let plain = Conversation::default();
    let both = ChatTemplate::named([source("tool_use"), source("default")], Vec::new());
    let render = |template: &ChatTemplate, conversation| {
        template.render(conversation, GenerationPrompt::Add)
    };
    assert_eq!(render(&both, &plain).unwrap(), "default");
    assert_eq!(render(&both, &tools).unwrap(), "tool_use");
    let odd = ChatTemplate::named([source("rag"), source("tool_use")], Vec::new());
    assert_eq!(render(&odd, &tools).unwrap(), "tool_use");
    let error = render(&odd, &plain).unwrap_err().to_string();
    assert!(
        error.starts_with("test.json: ") && error.contains("rag, tool_use"),
        "{error}"
    );
}

#[test]
fn dates_are_written_as_python_writes_them() {
    let date = jiff::civil::date(2024, 7, 6).at(15, 4, 5, 12_345_678);
    let time = date.to_zoned(jiff::tz::TimeZone::UTC).unwrap();
    let cases = [
        ("%d %b %Y", "06 Jul 2024"),
        ("%Y-%m-%d", "2024-07-06"),
        ("%B %d, %Y", "July 06, 2024"),
        ("%A %H:%M:%S %p %j %%", "Saturday 15:04:05 PM 188 %"),
        ("%-d %-m %_d %e %-I %l %P %k %I", "6 7  6  6 3  3 pm 15 03"),
        (
            "%c|%x|%X|%D|%F|%T|%R|%r",
            "Sat Jul  6 15:04:05 2024|07/06/24|15:04:05|07/06/24|2024-07-06|15:04:05|15:04|03:04:05 PM",
        ),
        (
            "%C %y %g %G %u %w %U %V %W %h %s",
            "20 24 24 2024 6 6 26 27 27 Jul 1720278245",
        ),
        ("%f %N %Q %Ez %z%Z %", "012345 %N %Q   %"),
        ("%^a %^B %#p %5d %05e", "SAT JULY pm 00006 00006"),
    ];
    for (format, expected) in cases {
        assert_eq!(
            python::strftime(&time, format).unwrap(),
            expected,
            "{format}"
        );
    }
    let year: i32 = render("{{ strftime_now('%Y') }}").unwrap().parse().unwrap();
    assert!(year >= 2024);
    assert_eq!(
        render("{{ messages | random is mapping }}{{ [] | random is defined }}").unwrap(),
        "TrueFalse"
    );
}
