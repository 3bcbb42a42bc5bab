//! The description of the admin API for tools, OpenAPI 3.1: made of the table of its operations and of the types that are read and written.
//!
//! Nothing is said here that the table or a type says already, so that it cannot come to say something else.

use std::collections::BTreeMap;

use hyper::{Method, StatusCode};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::BASE;
use super::operation::Operation;
use super::operations::{JSON, OPERATIONS};
use crate::http::problem;

/// What makes the schema of a type.
pub type Shape = fn(&mut SchemaGenerator) -> Schema;

/// That of `T`.
pub fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The name of the scheme of its tokens.
const TOKEN: &str = "token";
const ABOUT: &str = "What runs in a Tidemill daemon, and changes of it. Each operation wants a role of its caller's token: `read`; `operate`, which \
    also changes what becomes of records; or `deploy`, which also changes what runs. Keys that are not known are refused. See docs/admin-api.md.";

/// The document.
pub fn document() -> Value {
    // JSON Schema 2020-12 is what OpenAPI 3.1 takes. What is read and what is written differ where a key may be missing.
    let settings =
        || SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut read = settings().for_deserialize().into_generator();
    let mut written = settings().for_serialize().into_generator();
    let refused = of::<problem::Body>(&mut written);
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for operation in OPERATIONS {
        let described = describe(operation, &mut read, &mut written);
        paths.entry(format!("/{}", operation.path)).or_default().insert(method(operation), described);
    }
    let mut schemas = read.take_definitions(true);
    schemas.extend(written.take_definitions(true));
    let responses: BTreeMap<String, Value> = PROBLEMS
        .iter()
        .map(|(status, about)| {
            let content = json!({ problem::MEDIA_TYPE: { "schema": refused } });
            (status.as_str().to_owned(), json!({ "description": about, "content": content }))
        })
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidemill's admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": BASE }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": responses,
            "securitySchemes": { TOKEN: { "type": "http", "scheme": "bearer" } },
        },
    })
}

/// The document as text, as `docs/openapi.json` holds it.
///
/// # Errors
/// None that is known.
pub fn text() -> serde_json::Result<String> {
    serde_json::to_string_pretty(&document()).map(|text| text + "\n")
}

fn describe(operation: &Operation, read: &mut SchemaGenerator, written: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = path_parameters(operation)
        .map(|name| {
            let schema = json!({ "type": "string", "minLength": 1 });
            json!({ "name": name, "in": "path", "required": true, "description": format!("The {name}."), "schema": schema })
        })
        .collect();
    parameters.extend(operation.query.iter().map(
        |query| json!({ "name": query.name, "in": "query", "description": query.about, "schema": (query.shape)(read) }),
    ));
    let mut responses: BTreeMap<String, Value> = problems(operation)
        .map(|status| {
            (status.as_str().to_owned(), json!({ "$ref": format!("#/components/responses/{}", status.as_str()) }))
        })
        .collect();
    let answer = json!({ JSON: { "schema": (operation.answer)(written) } });
    responses
        .insert("200".into(), json!({ "description": "What was asked for, or what was done.", "content": answer }));
    let described = json!({
        "operationId": id(operation),
        "summary": operation.summary,
        "tags": [operation.path.split(['/', '.']).next().unwrap_or_default()],
        "security": [{ TOKEN: [operation.role] }],
        "responses": responses,
    });
    let mut described = described.as_object().cloned().unwrap_or_default();
    if !parameters.is_empty() {
        described.insert("parameters".into(), parameters.into());
    }
    if let Some(body) = &operation.body {
        let content = body.media_types.iter().map(|kind| {
            let schema = if *kind == JSON { json!({ "schema": (body.shape)(read) }) } else { json!({}) };
            ((*kind).to_owned(), schema)
        });
        let content: Map<String, Value> = content.collect();
        described.insert("requestBody".into(), json!({ "required": body.required, "content": content }));
    }
    described.into()
}

fn method(operation: &Operation) -> String {
    operation.method.as_str().to_ascii_lowercase()
}

/// `get_handlers_versions`
fn id(operation: &Operation) -> String {
    let words = operation.path.split(['/', '.']).map(|part| match part.strip_prefix('{') {
        Some(name) => format!("of_{}", name.trim_end_matches('}')),
        None => part.to_owned(),
    });
    std::iter::once(method(operation)).chain(words).collect::<Vec<_>>().join("_").replace('-', "_")
}

fn path_parameters(operation: &Operation) -> impl Iterator<Item = &'static str> {
    operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

/// What each status means that is no success.
const PROBLEMS: [(StatusCode, &str); 12] = [
    (StatusCode::BAD_REQUEST, "What was sent cannot be read, or holds what is not known here. Nothing was done."),
    (StatusCode::UNAUTHORIZED, "There is no token, or it is not a good one."),
    (StatusCode::FORBIDDEN, "The token's role does not go so far, or a page of another origin asks."),
    (StatusCode::NOT_FOUND, "There is nothing of that name."),
    (StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time. Nothing was done."),
    (StatusCode::CONFLICT, "Something stands in its way. Nothing was done."),
    (StatusCode::PAYLOAD_TOO_LARGE, "The body, or an event in it, is too large. Nothing was done."),
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is of no type that is taken here."),
    (StatusCode::UNPROCESSABLE_ENTITY, "What was sent can be read, and cannot be done as it stands."),
    (StatusCode::INTERNAL_SERVER_ERROR, "The daemon has failed; its log says more."),
    (StatusCode::SERVICE_UNAVAILABLE, "Not at present: the daemon is stopping or busy, or what it needs is away."),
    (StatusCode::GATEWAY_TIMEOUT, "It took too long. Nothing of it was kept."),
];

/// Those of an operation: any can be refused or fail, one that names something may name nothing, and what changes or looks for something can be asked for
/// what cannot be done.
fn problems(operation: &Operation) -> impl Iterator<Item = StatusCode> {
    let changes = operation.method != Method::GET;
    let names = changes || path_parameters(operation).next().is_some() || !operation.query.is_empty();
    let sends = operation.body.is_some();
    PROBLEMS.into_iter().map(|(status, _)| status).filter(move |status| match *status {
        StatusCode::NOT_FOUND | StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => names,
        StatusCode::GATEWAY_TIMEOUT => changes,
        StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNSUPPORTED_MEDIA_TYPE => sends,
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_operation_has_a_name_of_its_own_and_each_reference_leads_somewhere() {
        let document = document();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
        let ids: BTreeSet<String> = OPERATIONS.iter().map(id).collect();
        assert_eq!(ids.len(), OPERATIONS.len());
        assert!(ids.contains("get_handlers_of_handler_versions"), "{ids:?}");
    }

    #[test]
    fn a_type_that_is_read_and_written_is_the_same_in_both() {
        let mut read = SchemaSettings::draft2020_12().for_deserialize().into_generator();
        let mut written = SchemaSettings::draft2020_12().for_serialize().into_generator();
        OPERATIONS.iter().for_each(|operation| drop(describe(operation, &mut read, &mut written)));
        let written = written.take_definitions(false);
        for (name, schema) in read.take_definitions(false) {
            assert!(written.get(&name).is_none_or(|other| *other == schema), "{name} is two types: rename one");
        }
    }
}
