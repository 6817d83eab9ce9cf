//! The template engine with Python's values in place of its own, on a path of known depth.

use std::collections::BTreeMap;
use std::time::Duration;

use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Environment, Error, State};
use serde_json::{Map, Value as Json};

use super::python::{self, Callable, Cx, FILTERS, FUNCTIONS, Limits, OPERATORS, Refusal};
use super::{Conversation, GenerationPrompt, source};
use crate::error::one_line;

/// Failure of a template.
#[derive(Debug)]
pub(super) enum Failure {
    /// Its own words.
    Refused(String),
    /// Error in it or in what it was given.
    Broken(String),
}

/// Template variables, by name.
pub(super) type Variables = BTreeMap<String, Json>;

/// The variables that `transformers` gives a template.
pub(super) fn variables(
    conversation: &Conversation,
    special_tokens: &[(&'static str, String)],
    prompt: GenerationPrompt,
) -> Result<Variables, Failure> {
    let tokens = special_tokens.iter();
    let mut variables: Variables = tokens
        .map(|(name, text)| ((*name).to_owned(), Json::from(text.as_str())))
        .collect();
    for (name, value) in &conversation.variables {
        variables.insert(name.clone(), value.clone());
    }
    let objects = |list: &Option<Vec<Map<String, Json>>>| match list {
        Some(list) => Json::Array(list.iter().cloned().map(Json::Object).collect()),
        // Templates ask whether it is none, which an undefined variable is not.
        None => Json::Null,
    };
    let messages = conversation.messages.iter();
    let messages = messages.map(|message| Json::Object(with_reasoning(message.fields())));
    let own = [
        ("messages", Json::Array(messages.collect())),
        ("tools", objects(&conversation.tools)),
        ("documents", objects(&conversation.documents)),
        (
            "add_generation_prompt",
            Json::Bool(prompt == GenerationPrompt::Add),
        ),
    ];
    for (name, value) in own {
        if conversation.variables.contains_key(name) {
            let problem = format!("the variable {name} is given beside the conversation's own");
            return Err(Failure::Broken(problem));
        }
        variables.insert(name.to_owned(), value);
    }
    Ok(variables)
}

/// A message whose thoughts are found under the names that templates use.
fn with_reasoning(fields: &Map<String, Json>) -> Map<String, Json> {
    let names = ["reasoning_content", "thinking", "reasoning"];
    let found = names.iter().find_map(|name| fields.get(*name));
    let Some(reasoning) = found.filter(|value| !value.is_null()) else {
        return fields.clone();
    };
    let mut result = Map::new();
    result.insert("thinking".to_owned(), reasoning.clone());
    for (name, value) in fields {
        result.insert(name.clone(), value.clone());
    }
    result.insert("reasoning_content".to_owned(), reasoning.clone());
    result
}

/// Renders a template within the bounds.
pub(super) fn render(template: &str, variables: Variables) -> Result<String, Failure> {
    render_within(template, variables, LIMITS)
}

pub(super) fn render_within(
    template: &str,
    variables: Variables,
    limits: Limits,
) -> Result<String, Failure> {
    // A thread of its own has a stack whose size is known, however deep the caller is.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("chat template".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, move || on_thread(template, variables, limits));
        match thread.map(|thread| thread.join()) {
            Ok(Ok(result)) => result,
            Ok(Err(_panic)) => Err(Failure::Broken("the engine stopped".to_owned())),
            Err(error) => Err(Failure::Broken(format!(
                "there is no thread for it: {error}"
            ))),
        }
    })
}

fn on_thread(template: &str, variables: Variables, limits: Limits) -> Result<String, Failure> {
    let rewritten = source::rewritten(template).map_err(|fault| {
        let place = fault
            .line
            .map_or(String::new(), |line| format!(" (line {line})"));
        Failure::Broken(one_line(format!("{}{place}", fault.problem)))
    })?;
    let n_given: usize = variables.values().map(size).sum();
    let cx = Cx::new(Limits {
        // A long conversation may be copied a few times.
        bytes: limits.bytes.max(n_given.saturating_mul(COPIES)),
        ..limits
    });
    let result = values(&cx, variables).and_then(|variables| {
        let environment = environment(&cx, limits.instructions);
        let template = environment.template_from_named_str("chat_template", &rewritten)?;
        template.render(minijinja::Value::from_pairs(variables))
    });
    cx.close();
    result.map_err(|error| explained(&error))
}

fn values(cx: &Cx, variables: Variables) -> Result<Vec<(String, minijinja::Value)>, Error> {
    let values = variables.into_iter();
    let values = values.map(|(name, json)| Ok((name, cx.of_json(&json)?.into_engine())));
    values.collect()
}

/// About the bytes of a value.
fn size(json: &Json) -> usize {
    match json {
        Json::Null | Json::Bool(_) | Json::Number(_) => 48,
        Json::String(text) => text.len() + 48,
        Json::Array(items) => items.iter().map(size).sum::<usize>() + 48,
        Json::Object(fields) => fields
            .iter()
            .map(|(name, value)| name.len() + size(value) + 160)
            .sum(),
    }
}

fn environment(cx: &Cx, instructions: u64) -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_fuel(Some(instructions));
    let inner = cx.clone();
    env.set_formatter(move |out, _, value| {
        let text = inner.printed(value)?;
        Ok(out.write_str(&text)?)
    });
    let bound = |callable: Callable| {
        let cx = cx.clone();
        move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            let args = python::arguments(&args.into_values())?;
            Ok::<_, Error>(callable(&cx, state, args)?.into_engine())
        }
    };
    for (name, filter) in FILTERS {
        env.add_filter(*name, bound(*filter));
    }
    for (name, operator) in OPERATORS {
        env.add_function(*name, bound(*operator));
        env.add_filter(*name, bound(*operator));
    }
    for (name, function) in FUNCTIONS {
        env.add_global(*name, cx.function(name, *function).into_engine());
    }
    env
}

fn explained(error: &Error) -> Failure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Refusal(message)) = error.downcast_ref() {
            return Failure::Refused(one_line(message));
        }
        cause = error.source();
    }
    Failure::Broken(one_line(error))
}

/// Two seconds and 64 MB, of which the engine's own share and what is in the making is left free.
const LIMITS: Limits = Limits {
    bytes: 40 << 20,
    time: Duration::from_millis(1900),
    instructions: 20_000_000,
};
const COPIES: usize = 16;
const STACK_BYTES: usize = 32 << 20;
