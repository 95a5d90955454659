//! `openapi.json` says what the types, the forms and the error table say. That it says what the server does is shown
//! by the server's own tests and by schemathesis (`tests/schemathesis`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use whisperwire_protocol::error::TABLE;
use whisperwire_protocol::form::ResponseFormat;

/// What an OpenAPI path holds beside its operations.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

#[test]
fn every_reference_leads_somewhere_and_everything_named_is_used() {
    let document = document();
    let mut used = BTreeSet::new();
    visit(&document, &mut |node| {
        if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').expect("references stay in the document");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            used.insert(pointer.split('/').take(4).collect::<Vec<_>>().join("/"));
        }
    });
    for (kind, named) in document["components"].as_object().expect("components") {
        let unused =
            named.as_object().expect("named").keys().map(|name| format!("/components/{kind}/{name}"));
        let unused: Vec<String> = unused.filter(|pointer| !used.contains(pointer)).collect();
        assert!(kind == "securitySchemes" || unused.is_empty(), "nothing refers to {unused:?}");
    }
}

#[test]
fn operations_have_names_of_their_own_and_say_what_can_go_wrong() {
    let document = document();
    let mut names = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let name = operation["operationId"].as_str().expect("an operation has a name");
        assert!(names.insert(name.to_owned()), "{name} is there twice");
        assert!(operation["summary"].is_string() && operation["tags"].is_array(), "{method} {path}");
        let responses = operation["responses"].as_object().expect("an operation has responses");
        assert!(responses.keys().any(|status| status < &"400".to_owned()), "{method} {path} can go well");
        let open = operation["security"].as_array().is_some_and(Vec::is_empty);
        assert_eq!(responses.contains_key("401"), !open, "{method} {path}: a key is missing");
        let rated = !open && (path.starts_with("/v1") || path.starts_with("/api"));
        assert_eq!(responses.contains_key("429"), rated, "{method} {path}: a quota is used up");
        for (status, response) in responses {
            let response = resolve(&document, response);
            let named = response["headers"].get("x-request-id").is_some();
            assert_eq!(named, status != "101", "{method} {path} {status}: x-request-id");
            let later = ["429", "503"].contains(&status.as_str());
            assert_eq!(response["headers"].get("retry-after").is_some(), later, "{method} {path} {status}");
        }
        for link in responses.values().filter_map(|r| r["links"].as_object()).flat_map(|links| links.values())
        {
            let target = link["operationId"].as_str().expect("a link names an operation");
            assert!(operations(&document).any(|(_, _, o)| o["operationId"] == target), "{name} → {target}");
        }
    }
}

#[test]
fn every_error_of_the_table_is_there() {
    let document = document();
    let detail = &document["components"]["schemas"]["Error"]["properties"]["error"]["properties"];
    let told = |name: &str| -> BTreeSet<String> {
        let values = detail[name]["enum"].as_array().expect("values").iter();
        values.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let codes: BTreeSet<String> =
        TABLE.iter().flat_map(|row| [row.name, row.openai.code]).map(str::to_owned).collect();
    assert_eq!(told("code"), codes);
    let kinds: BTreeSet<String> = TABLE.iter().map(|row| row.openai.kind.to_owned()).collect();
    assert_eq!(told("type"), kinds);
    let statuses: BTreeSet<String> =
        TABLE.iter().flat_map(|row| [row.status, row.openai.status]).map(|s| s.to_string()).collect();
    for (path, method, operation) in operations(&document) {
        let responses = operation["responses"].as_object().expect("responses");
        for status in responses.keys().filter(|status| *status >= &"400".to_owned()) {
            assert!(statuses.contains(status), "{method} {path}: {status} is in no row of the table");
        }
    }
}

#[test]
fn every_field_of_a_form_is_there() {
    let document = document();
    let form = &document["components"]["schemas"]["TranscriptionForm"]["properties"];
    let told: BTreeSet<String> =
        keys(form).iter().map(|name| name.trim_end_matches("[]").to_owned()).collect();
    let source = fs::read_to_string(root().join("src/fields.rs")).expect("the fields have a file");
    let known = source.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split_once("\", Shape::"));
    let mut known: BTreeSet<String> = known.map(|(name, _)| name.to_owned()).collect();
    known.extend(["file".to_owned(), "chunking_strategy".to_owned()]);
    assert_eq!(told, known);
    let formats: Vec<&str> = ResponseFormat::ALL.map(ResponseFormat::name).to_vec();
    let told: Vec<&str> = form["response_format"]["enum"]
        .as_array()
        .expect("formats")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(told, formats);
}

#[test]
fn streams_are_set_to_what_asyncapi_says() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    let settings = &read("asyncapi.json")["components"]["schemas"]["settings"]["properties"];
    assert_eq!(keys(&schemas["StreamSettings"]["properties"]), keys(settings));
    assert_eq!(keys(&schemas["StreamSettingsInForce"]["properties"]), keys(settings));
    let parameters = |method: &str| -> BTreeSet<String> {
        let listed = document["paths"]["/v1/stream"][method]["parameters"].as_array().expect("parameters");
        let names = listed.iter().map(|parameter| resolve(&document, parameter)["name"].as_str());
        names.map(|name| name.expect("a name").to_owned()).collect()
    };
    assert_eq!(parameters("post"), keys(settings));
    let mut both = keys(settings);
    both.extend(["stream".to_owned(), "after".to_owned()]);
    assert_eq!(parameters("get"), both);
}

fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().expect("paths").iter();
    paths.flat_map(|(path, item)| {
        let item = item.as_object().expect("a path has operations").iter();
        item.map(move |(method, operation)| {
            assert!(METHODS.contains(&method.as_str()), "{path} has a {method}");
            (path.as_str(), method.as_str(), operation)
        })
    })
}

fn visit(node: &Value, look: &mut impl FnMut(&Value)) {
    look(node);
    match node {
        Value::Object(object) => object.values().for_each(|inner| visit(inner, look)),
        Value::Array(array) => array.iter().for_each(|inner| visit(inner, look)),
        _ => {}
    }
}

fn resolve<'a>(document: &'a Value, node: &'a Value) -> &'a Value {
    match node.get("$ref").and_then(Value::as_str) {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).expect("it leads somewhere"),
        None => node,
    }
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().expect("an object").keys().cloned().collect()
}

fn document() -> Value {
    read("openapi.json")
}

fn read(name: &str) -> Value {
    let text = fs::read_to_string(root().join(name)).expect("the file is readable");
    serde_json::from_str(&text).expect("the file is JSON")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}
