//! `/openapi.json` and the router say the same: every operation is a route, and every route is an operation. What the
//! answers are like is schemathesis's business (`tests/schemathesis`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::client::Answer;
use crate::house::TestHouse;

/// Routes that are no part of the interface: another name for one that is, and one for conformance tests alone.
const UNTOLD: [&str; 2] = ["/v1/", "/v1/ws-echo"];
/// What routers are nested under.
const PREFIXES: [&str; 3] = ["", "/v1", "/api/v1/transcribe"];

#[test]
fn every_operation_is_a_route() {
    // One of them opens a stream, which nobody comes back to.
    let house = TestHouse::start(&["--resume-grace=0", "--idle-timeout=1"]);
    let document = house.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let operations = operations(&document);
    assert!(operations.len() > 20, "the document has operations");
    for (path, methods) in operations {
        let address = house.url(&path.split('/').map(filled).collect::<Vec<_>>().join("/"));
        for method in methods {
            let verb = method.to_uppercase().parse().expect("a method");
            let answer = Answer::to(house.client.request(verb, &address));
            assert!(answer.status != 405, "{method} {path}: {}", answer.text());
            assert!(!answer.text().contains("There is no such route"), "{method} {path}: {}", answer.text());
        }
    }
}

#[test]
fn every_route_is_an_operation() {
    let document: Value =
        serde_json::from_str(&read(&root().join("protocol/openapi.json"))).expect("the document is JSON");
    let told: BTreeMap<_, _> =
        operations(&document).into_iter().map(|(path, methods)| (nameless(&path), methods)).collect();
    let mut found = 0;
    for (path, methods) in routes(&root().join("src/http")) {
        let candidates = PREFIXES.map(|prefix| nameless(&format!("{prefix}{path}")));
        if candidates.iter().any(|path| UNTOLD.contains(&path.as_str())) {
            continue;
        }
        // Behind a name that may hold slashes, the router cannot tell a path from the paths below it.
        let below = |known: &str, path: &str| path.starts_with('/') && known.starts_with(&format!("{path}/"));
        let wild = path.contains("{*");
        let fits = |path: &String| {
            let here = told.iter().filter(|(known, _)| *known == path || wild && below(known, path));
            methods.is_subset(&here.flat_map(|(_, methods)| methods.clone()).collect())
        };
        assert!(candidates.iter().any(fits), "{methods:?} of the route {path} are not in openapi.json");
        found += 1;
    }
    assert!(found > 15, "the routes were found");
}

#[test]
fn documents_are_told_once() {
    let house = TestHouse::start(&[]);
    for path in ["/openapi.json", "/docs", "/redoc"] {
        let first = house.get(path);
        let etag = first.header("etag").to_owned();
        assert_eq!((first.status, etag.is_empty()), (200, false), "{path}");
        let again = Answer::to(house.client.get(house.url(path)).header("if-none-match", &etag));
        assert_eq!((again.status, again.text()), (304, ""), "{path}");
        assert!(first.header("content-security-policy").contains("default-src 'none'"), "{path}");
    }
}

#[test]
fn what_the_library_refuses_has_our_body() {
    let house = TestHouse::start(&[]);
    let refused = house.get("/v1/streams/%FF");
    let message = refused.refused(400, "invalid_value", None);
    assert!(message.contains("UTF-8"), "{message}");
}

/// Paths and their methods, as the document names them.
fn operations(document: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let paths = document["paths"].as_object().expect("paths").iter();
    paths
        .map(|(path, item)| (path.clone(), item.as_object().expect("methods").keys().cloned().collect()))
        .collect()
}

/// A path without the names of its parameters, which are nobody's business.
fn nameless(path: &str) -> String {
    let parts = path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

/// A part of a path with something in the place of its parameter.
fn filled(part: &str) -> &str {
    if part.starts_with('{') { "something" } else { part }
}

/// Paths and methods of every `.route("…", …)` in a folder.
fn routes(folder: &Path) -> Vec<(String, BTreeSet<String>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(routes(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = read(&path);
            found.extend(text.split(".route(").skip(1).filter_map(route));
        }
    }
    found
}

/// What stands between the parentheses of a route, whose path is a literal.
fn route(text: &str) -> Option<(String, BTreeSet<String>)> {
    let (path, rest) = text.trim_start().strip_prefix('"')?.split_once('"')?;
    let mut depth = 1;
    let end = rest.find(|c| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0
    });
    let handlers = &rest[..end?];
    let methods = ["get", "post", "put", "patch", "delete"].iter().filter(|method| {
        let called = format!("{method}(");
        handlers
            .match_indices(&called)
            .any(|(at, _)| !handlers[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
    });
    Some((path.to_owned(), methods.map(|method| (*method).to_owned()).collect()))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("the file is readable")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
