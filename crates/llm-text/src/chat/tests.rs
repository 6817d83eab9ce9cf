use std::collections::BTreeMap;

use serde::Deserialize;

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
    messages: Vec<BTreeMap<String, String>>,
    add_generation_prompt: bool,
    rendered: Option<String>,
    refused: Option<String>,
}

fn message(fields: &BTreeMap<String, String>) -> Message {
    let roles = [Role::System, Role::User, Role::Assistant];
    Message {
        role: roles
            .into_iter()
            .find(|r| r.name() == fields["role"])
            .unwrap(),
        content: fields["content"].clone(),
    }
}

fn template(source: &str) -> ChatTemplate {
    let bos = ("bos_token", "<s>".to_owned());
    let eos = ("eos_token", "</s>".to_owned());
    ChatTemplate::new(source.to_owned(), "test.jinja".to_owned(), vec![bos, eos])
}

fn render(source: &str) -> Result<String, TextError> {
    let user = Message {
        role: Role::User,
        content: "hi".to_owned(),
    };
    template(source).render(&[user], GenerationPrompt::Add)
}

#[test]
fn renders_what_transformers_renders() {
    let fixture: Fixture = read_json(&fixture("chats.json"));
    assert_eq!(fixture.special_tokens["bos_token"], "<s>");
    assert_eq!(fixture.special_tokens["eos_token"], "</s>");
    for case in &fixture.cases {
        let messages: Vec<Message> = case.messages.iter().map(message).collect();
        let prompt = match case.add_generation_prompt {
            true => GenerationPrompt::Add,
            false => GenerationPrompt::Omit,
        };
        let result = template(&fixture.templates[&case.template]).render(&messages, prompt);
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
        "{{ strftime_now('%!') }}",
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

#[test]
fn an_endless_template_is_stopped() {
    let nested = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = b %}{% endfor %}{% endfor %}";
    let error = render(nested).unwrap_err();
    assert!(error.to_string().contains("fuel"), "{error}");
    let recursive = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    assert!(matches!(
        render(recursive),
        Err(TextError::BrokenChatTemplate { .. })
    ));
}

#[test]
fn dates_are_written_as_python_writes_them() {
    let date = jiff::civil::date(2024, 7, 6).at(15, 4, 5, 0);
    let time = date.to_zoned(jiff::tz::TimeZone::UTC).unwrap();
    let cases = [
        ("%d %b %Y", "06 Jul 2024"),
        ("%Y-%m-%d", "2024-07-06"),
        ("%B %d, %Y", "July 06, 2024"),
        ("%A %H:%M:%S %p %j %%", "Saturday 15:04:05 PM 188 %"),
    ];
    for (format, expected) in cases {
        assert_eq!(python::strftime(&time, format).unwrap(), expected);
    }
    let year: i32 = render("{{ strftime_now('%Y') }}").unwrap().parse().unwrap();
    assert!(year >= 2024);
}
