//! The model that is served, as Ollama's clients list it.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::request::{model_name, with_tag};
use crate::fields::Fields;
use crate::guard::object;
use crate::site::{About, Served, Site};
use crate::work::Answer;

pub(crate) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

pub(crate) async fn tags(State(site): State<Arc<Site>>) -> Answer {
    let mut model = listed(site.served()?);
    model["modified_at"] = loaded_at(site.served()?);
    Ok(Json(json!({"models": [model]})).into_response())
}

pub(crate) async fn running(State(site): State<Arc<Site>>) -> Answer {
    let served = site.served()?;
    let mut model = listed(served);
    // It stays as long as the server runs.
    model["expires_at"] = "9999-12-31T23:59:59Z".into();
    model["size_vram"] = served.about.gpu_bytes.into();
    model["context_length"] = served.context.into();
    Ok(Json(json!({"models": [model]})).into_response())
}

pub(crate) async fn show(State(site): State<Arc<Site>>, body: Body) -> Answer {
    site.served()?;
    let object = object(&site, body).await?;
    let served = site.served()?;
    let mut fields = Fields::new(object);
    model_name(served, &mut fields)?;
    let _: Option<bool> = fields.take("verbose")?;
    fields.end()?;
    Ok(Json(shown(served)).into_response())
}

fn shown(served: &Served) -> Value {
    let About {
        family,
        n_parameters,
        hidden,
        n_layers,
        ..
    } = served.about;
    let mut info = Map::new();
    info.insert("general.architecture".to_owned(), family.into());
    info.insert("general.basename".to_owned(), served.name.clone().into());
    info.insert("general.parameter_count".to_owned(), n_parameters.into());
    for (key, value) in [
        ("block_count", n_layers),
        ("context_length", served.context),
        ("embedding_length", hidden),
        ("vocab_size", served.vocab),
    ] {
        info.insert(format!("{family}.{key}"), value.into());
    }
    let template = served.tokenizer.chat_template();
    json!({
        "modelfile": format!("FROM {}\n", served.name),
        "parameters": parameters(served),
        "template": template.and_then(|template| template.source()).unwrap_or_default(),
        "details": details(&served.about),
        "model_info": info,
        "capabilities": ["completion"],
        "modified_at": loaded_at(served),
    })
}

/// Settings of answers whose requests say nothing else, as lines of a Modelfile.
fn parameters(served: &Served) -> String {
    let settings = &served.settings;
    let mut lines = vec![format!("temperature {}", settings.sampling.temperature)];
    if settings.draws() {
        lines.push(format!("top_k {}", settings.sampling.top_k));
        lines.push(format!("top_p {}", settings.sampling.top_p));
    }
    lines.extend(settings.stop.iter().map(|stop| format!("stop {stop:?}")));
    lines.join("\n")
}

fn listed(served: &Served) -> Value {
    let name = with_tag(&served.name);
    let About {
        n_parameters,
        n_bytes,
        ..
    } = served.about;
    // Clients cut it to twelve characters, which have to be there. It tells this model from others, and is not that of its
    // files, which nobody has read.
    let digest = format!("{name} {n_parameters} {n_bytes} {}", served.created);
    json!({
        "name": name,
        "model": name,
        "size": n_bytes,
        "digest": blake3::hash(digest.as_bytes()).to_hex().as_str(),
        "details": details(&served.about),
    })
}

fn details(about: &About) -> Value {
    json!({
        "parent_model": "",
        "format": about.format,
        "family": about.family,
        "families": [about.family],
        "parameter_size": rounded(about.n_parameters),
        "quantization_level": about.quantization,
    })
}

/// Parameters in a few digits, as `135M`.
fn rounded(n_parameters: u64) -> String {
    let n = n_parameters as f64;
    match n_parameters {
        0..1_000 => n_parameters.to_string(),
        1_000..1_000_000 => format!("{:.0}K", n / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", n / 1e6),
        _ => format!("{:.1}B", n / 1e9),
    }
}

fn loaded_at(served: &Served) -> Value {
    let seconds = i64::try_from(served.created).unwrap_or(i64::MAX);
    let time = Timestamp::from_second(seconds);
    time.unwrap_or(Timestamp::UNIX_EPOCH).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_counted_as_people_name_models() {
        for (n, expected) in [
            (12, "12"),
            (655_360, "655K"),
            (134_515_008, "134.5M"),
            (7_241_732_096, "7.2B"),
        ] {
            assert_eq!(rounded(n), expected);
        }
    }
}
