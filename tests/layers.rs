//! Keeps the house in order: who may import whom, which rooms stay pure, who owns which dependency, how long a
//! file may grow, and that nothing names a path of somebody's machine.
//!
//! The rules are the tables below; ARCHITECTURE.md says them in words. To find what a file uses, its text is
//! stripped of comments and literals and read as a list of paths (`use a::{b, c::d}` is `a::b` and `a::c::d`).
//! That is no compiler: a macro that builds a path escapes it. It is here to stop slips, not sabotage.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms it may import. A room is a folder or a file of `src`.
#[rustfmt::skip]
const ROOMS: &[(&str, &[&str])] = &[
    ("main", &["app", "cli", "config", "telemetry"]),
    ("lib", &[]),
    ("app", &["cache", "config", "http", "jobs", "link", "pipeline", "engine", "audio", "vad", "transcript", "language",
              "telemetry"]),
    ("cli", &["app", "config", "dialect", "pipeline", "session", "engine", "audio", "vad", "transcript", "language",
              "telemetry"]),
    ("config", &["cache", "http", "jobs", "link", "pipeline", "session", "engine", "audio", "vad", "transcript", "language",
                 "telemetry"]),
    ("http", &["cache", "jobs", "link", "dialect", "pipeline", "engine", "audio", "transcript", "language", "telemetry"]),
    ("jobs", &["cache", "link", "dialect", "pipeline", "engine", "audio", "transcript", "language", "telemetry"]),
    ("cache", &["link", "dialect", "transcript", "telemetry"]),
    ("link", &["telemetry"]),
    ("pipeline", &["session", "engine", "audio", "vad", "transcript", "language", "telemetry"]),
    ("dialect", &["engine", "audio", "transcript", "language"]),
    ("engine", &["transcript", "language", "telemetry"]),
    ("session", &["vad", "transcript", "language"]),
    ("audio", &["transcript"]),
    ("vad", &["transcript"]),
    ("telemetry", &[]),
    ("transcript", &["language"]),
    ("language", &[]),
];

/// Rooms that compute and do nothing else: no clock, no input or output, no threads, no log. Their tests may.
const PURE: &[&str] = &["session", "vad", "dialect", "transcript", "language"];

/// What a pure room does not say, wherever it stands in a path.
const IMPURE: &[&str] = &[
    "tokio",
    "async",
    "await",
    "Instant::now",
    "SystemTime",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "tracing",
];

/// Each dependency that belongs to somebody, and the places in `src` that may name it.
/// Replacing one then touches one room.
const OWNERS: &[(&str, &[&str])] = &[
    ("aide", &["http"]),
    ("anyhow", &["main", "app", "cli", "config", "jobs"]),
    ("audioadapter_buffers", &["audio"]),
    ("axum", &["http"]),
    ("base64", &["http", "jobs/webhook"]),
    ("bytes", &["pipeline"]),
    ("clap", &["main", "cli", "config", "engine/models"]),
    ("dashmap", &["http"]),
    ("dotenvy", &["main", "config"]),
    ("earshot", &["vad"]),
    ("flate2", &["dialect", "engine"]),
    ("half", &["engine/models"]),
    ("hmac", &["jobs/webhook"]),
    ("hyper", &["http"]),
    ("hyper_util", &["http"]),
    ("indicatif", &["cli", "engine/models"]),
    ("jiff", &["http", "jobs", "dialect", "engine/models"]),
    ("libc", &["engine/whisper"]),
    ("metrics", &["telemetry"]),
    ("metrics_exporter_prometheus", &["telemetry"]),
    ("moka", &["cache"]),
    ("opus", &["audio"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("redis", &["link", "cache", "jobs/store", "http/limit"]),
    ("rubato", &["audio"]),
    ("rusqlite", &["jobs/store"]),
    ("rustix", &["telemetry"]),
    ("rusty_s3", &["jobs"]),
    ("ruzstd", &["engine"]),
    ("serde", &["http", "dialect", "jobs", "config", "engine/models"]),
    ("serde_json", &["http", "dialect", "jobs", "engine/models"]),
    ("serde_urlencoded", &["http"]),
    ("sha2", &["http", "cache", "jobs", "engine/models"]),
    ("subtle", &["http"]),
    ("symphonia", &["audio"]),
    ("symphonia_adapter_libopus", &["audio"]),
    ("sysinfo", &["telemetry", "app"]),
    ("tokio_rustls", &["http"]),
    ("tokio_tungstenite", &["http"]),
    ("toml", &["config", "engine/models", "http/keys"]),
    ("tower", &["http"]),
    ("tower_http", &["http"]),
    ("tract_onnx", &["vad"]),
    ("tracing_opentelemetry", &["telemetry"]),
    ("tracing_subscriber", &["telemetry"]),
    ("ureq", &["engine/models", "jobs"]),
    ("webrtc_vad", &["vad"]),
    ("whisper_rs", &["engine/whisper"]),
    ("whisperwire_protocol", &["http", "jobs", "dialect", "cli"]),
];

/// Types of `transcript` are free to change and those of `protocol` are promises, so the former never serialise.
const NEVER_SERIALISED: &str = "transcript";

/// A file longer than this is usually two rooms.
const LONG: usize = 600;
const TOO_LONG: usize = 700;

#[test]
fn rooms_keep_their_layers() {
    let sources = rust_files(&root().join("src"));
    assert!(sources.len() > 3, "the sources were not found");
    let complaints: Vec<String> = sources.iter().flat_map(complaints).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn files_stay_short() {
    let mut too_long = Vec::new();
    for folder in ["src", "protocol/src", "clients/cli/src", "tests"] {
        for source in rust_files(&root().join(folder)) {
            let lines = source.text.lines().count();
            if lines > LONG {
                eprintln!("{folder}/{} has {lines} lines; past {TOO_LONG} this test fails", source.place);
            }
            if lines > TOO_LONG {
                too_long.push(format!("{folder}/{} has {lines} lines: it is two files", source.place));
            }
        }
    }
    assert!(too_long.is_empty(), "\n{}\n", too_long.join("\n"));
}

#[test]
fn nothing_names_a_path_of_somebodys_machine() {
    let mut found = Vec::new();
    for path in text_files(&root()) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if names_a_machine(line) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Everything that is wrong with one file.
fn complaints(source: &Source) -> Vec<String> {
    let room = source.room();
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{}: the room `{room}` is not in the table", source.place)];
    };
    let code = strip(&source.text);
    let mut complaints = Vec::new();
    let mut complain = |used: &Used, what: String| {
        complaints.push(format!("src/{}:{}: {what}", source.place, used.line));
    };
    for used in paths(&code) {
        if let Some(other) = source.imported_room(&used)
            && !allowed.contains(&other)
        {
            complain(&used, format!("`{room}` may not import `{other}`"));
        }
        let dependency = used.path[0].as_str();
        if used.path.len() > 1
            && let Some((_, owners)) = OWNERS.iter().find(|(name, _)| *name == dependency)
            && !owners.iter().any(|owner| source.is_in(owner))
        {
            complain(&used, format!("`{dependency}` belongs to {}", owners.join(", ")));
        }
        if room == NEVER_SERIALISED
            && used.path.iter().any(|part| part == "Serialize" || part == "Deserialize")
        {
            complain(&used, format!("`{room}` does not serialise"));
        }
    }
    if PURE.contains(&room) && !source.is_test() {
        for used in paths(&without_tests(&code)) {
            if let Some(impure) = IMPURE.iter().find(|impure| used.mentions(impure)) {
                complain(&used, format!("`{room}` is pure: no `{impure}`"));
            }
        }
    }
    complaints.dedup();
    complaints
}

/// One file of Rust.
struct Source {
    /// Where it lies in its source folder, with `/` between the parts.
    place: String,
    text: String,
    /// The files and folders it can reach as `super::name` without leaving its room.
    siblings: Vec<String>,
}

impl Source {
    fn room(&self) -> &str {
        let first = self.place.split('/').next().expect("a path has a first part");
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Whether this is the file `owner.rs`, or lies in the folder `owner`.
    fn is_in(&self, owner: &str) -> bool {
        self.place.strip_prefix(owner).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    }

    /// Whether this whole file is tests, by its name.
    fn is_test(&self) -> bool {
        self.place.split('/').any(|part| part == "tests" || part == "tests.rs")
    }

    /// The other room that a path leads to, however it is written.
    fn imported_room<'a>(&self, used: &'a Used) -> Option<&'a str> {
        let climbs = used.path.iter().take_while(|part| *part == "super").count();
        let room = match used.path[0].as_str() {
            // The binary is a crate of its own and names the library.
            "crate" => used.path.get(1)?,
            "whisperwire" if self.room() == "main" => used.path.get(1)?,
            // Out of a file at the root of a room, `super` is the crate; anywhere else it may be.
            "super" => used
                .path
                .get(climbs)
                .filter(|name| ROOMS.iter().any(|(room, _)| room == name) && !self.siblings.contains(name))?,
            _ => return None,
        };
        (room != self.room() && room != "*").then_some(room)
    }
}

/// A path that a file uses, for example `["std", "fs", "read"]`. An identifier alone is one too.
struct Used {
    path: Vec<String>,
    line: usize,
}

impl Used {
    /// Whether `wanted`, itself a path, stands somewhere in this one.
    fn mentions(&self, wanted: &str) -> bool {
        let wanted: Vec<&str> = wanted.split("::").collect();
        self.path.windows(wanted.len()).any(|part| part == wanted)
    }
}

/// Every path of stripped code, groups spelled out.
fn paths(code: &str) -> Vec<Used> {
    let mut reader = Reader { code: code.chars().collect(), at: 0, line: 1, found: Vec::new() };
    while reader.at < reader.code.len() {
        if reader.at_word() {
            reader.path(Vec::new());
        } else {
            reader.skip();
        }
    }
    reader.found
}

struct Reader {
    code: Vec<char>,
    at: usize,
    line: usize,
    found: Vec<Used>,
}

impl Reader {
    /// Reads `a::b::{c, d as e}` from its first identifier on.
    fn path(&mut self, mut path: Vec<String>) {
        let line = self.line;
        path.push(self.word());
        if self.code[self.at..].starts_with(&[':', ':']) {
            self.at += 2;
            self.blank();
            if self.at_word() {
                return self.path(path);
            } else if self.code.get(self.at) == Some(&'{') {
                self.at += 1;
                return self.group(&path);
            }
        }
        self.found.push(Used { path, line });
    }

    /// Reads the rest of a group, in which every name continues `stem`.
    fn group(&mut self, stem: &[String]) {
        let mut renaming = false;
        while let Some(&next) = self.code.get(self.at) {
            if next == '}' {
                self.at += 1;
                return;
            } else if self.at_word() && renaming {
                self.word();
            } else if self.at_word() && self.code[self.at..].starts_with(&['a', 's', ' ']) {
                self.word();
                renaming = true;
            } else if self.at_word() {
                self.path(stem.to_vec());
            } else {
                renaming &= next != ',';
                self.skip();
            }
        }
    }

    fn at_word(&self) -> bool {
        self.code.get(self.at).is_some_and(|&c| is_word(c))
    }

    fn word(&mut self) -> String {
        let word: String = self.code[self.at..].iter().take_while(|&&c| is_word(c)).collect();
        self.at += word.chars().count();
        word
    }

    fn blank(&mut self) {
        while self.code.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.skip();
        }
    }

    fn skip(&mut self) {
        self.line += usize::from(self.code[self.at] == '\n');
        self.at += 1;
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The same text with comments and the contents of literals as blanks, line for line.
fn strip(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = at + passive(&chars[at..], at.checked_sub(1).is_some_and(|before| is_word(chars[before])));
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// How many characters from here on are a comment or a literal.
fn passive(rest: &[char], inside_word: bool) -> usize {
    match rest {
        ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => block_comment(rest),
        ['"', ..] => quoted(rest, '"'),
        ['r', '"' | '#', ..] if !inside_word => raw_string(rest, 1),
        ['b' | 'c', 'r', '"' | '#', ..] if !inside_word => raw_string(rest, 2),
        // A character, and not a lifetime.
        ['\'', '\\', ..] => quoted(rest, '\''),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => depth += 1,
            ['*', '/', ..] => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// A raw string whose hashes begin at `prefix`; nothing if it is a raw identifier such as `r#type`.
fn raw_string(rest: &[char], prefix: usize) -> usize {
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&'"') {
        return 0;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = &rest[open + 1..];
    body.windows(close.len()).position(|w| w == close).map_or(rest.len(), |at| open + 1 + at + close.len())
}

/// The same stripped code with everything under `#[cfg(test)]` as blanks.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, item) = rest.split_at(at);
        kept.push_str(before);
        let end = item_end(item);
        kept.extend(item[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &item[end..];
    }
    kept.push_str(rest);
    kept
}

/// Where an item ends: at its semicolon, or at the brace that closes its first.
fn item_end(item: &str) -> usize {
    let mut depth = 0;
    for (at, c) in item.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => continue,
        }
        if depth == 0 {
            return at + 1;
        }
    }
    item.len()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under a folder.
fn rust_files(folder: &Path) -> Vec<Source> {
    let paths = files(folder).into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let mut by_folder: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for path in paths {
        by_folder
            .entry(path.parent().expect("a file lies in a folder").to_path_buf())
            .or_default()
            .push(path);
    }
    let name = |path: &Path| path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
    let mut sources = Vec::new();
    for (parent, paths) in &by_folder {
        let inside_a_room = parent != folder;
        let mut siblings = Vec::new();
        if inside_a_room {
            siblings.extend(paths.iter().map(|path| name(path)));
            siblings.extend(by_folder.keys().filter(|other| other.parent() == Some(parent)).map(|f| name(f)));
        }
        for path in paths {
            let place =
                path.strip_prefix(folder).expect("it was found there").to_string_lossy().replace('\\', "/");
            let text = fs::read_to_string(path).expect("a source file is readable text");
            sources.push(Source { place, text, siblings: siblings.clone() });
        }
    }
    sources
}

/// Every file that people write: no build output, no recordings, no weights.
fn text_files(folder: &Path) -> Vec<PathBuf> {
    const WRITTEN: [&str; 12] =
        ["rs", "md", "toml", "py", "sh", "txt", "json", "js", "html", "yaml", "yml", "session"];
    let written = |path: &PathBuf| path.extension().is_none_or(|e| WRITTEN.iter().any(|known| e == *known));
    files(folder).into_iter().filter(written).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("the folder is readable").path();
        let name = path.file_name().expect("an entry has a name").to_string_lossy();
        if path.is_dir() && !["target", ".git", ".venv", "node_modules"].contains(&&*name) {
            found.extend(files(&path));
        } else if path.is_file() && name != ".env" {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The folders in which people, build machines and containers keep their copies.
fn names_a_machine(line: &str) -> bool {
    ["root", "home", "Users", "work"].iter().any(|folder| {
        let needle = format!("/{folder}/");
        // Inside an address or a longer path the same letters mean something else.
        line.match_indices(&needle).any(|(at, _)| {
            !line[..at].ends_with(|c: char| is_word(c) || matches!(c, '.' | '}' | '*' | '-' | '~'))
        })
    })
}

/// The guard itself: each planted violation is found, and its innocent twin is not.
mod self_test {
    use super::*;

    fn planted(place: &str, text: &str) -> Vec<String> {
        let siblings = vec!["window".to_owned(), "stitch".to_owned(), "audio".to_owned()];
        complaints(&Source { place: place.to_owned(), text: text.to_owned(), siblings })
    }

    #[test]
    fn violations_are_caught() {
        for (place, text) in [
            ("session/window.rs", "use crate::engine::Request;"),
            (
                "session/window.rs",
                "use crate::{\n    transcript::Samples,\n    pipeline::{Live, driver as d},\n};",
            ),
            ("session/window.rs", "use super::super::engine::Request;"),
            ("session/mod.rs", "fn f() { let x = super::http::serve(); }"),
            ("transcript.rs", "use crate::session::Session;"),
            ("language.rs", "use crate::transcript::Word;"),
            ("engine/pool.rs", "type T = Vec<crate::http::ApiError>;"),
            ("main.rs", "use whisperwire::engine::pool;"),
            ("audio/mod.rs", "use crate::no_such_room::X;"),
            ("utils.rs", ""),
            ("session/mod.rs", "fn f() { let now = std::time::Instant::now(); }"),
            ("session/mod.rs", "use std::{fmt, fs as disk};"),
            ("vad/mod.rs", "async fn f() {}"),
            ("dialect/openai.rs", "tracing::info!(\"no\");"),
            ("vad/mod.rs", "#[cfg(test)]\nmod tests { fn t() {} }\nuse std::thread;"),
            ("engine/pool.rs", "use whisper_rs::WhisperContext;"),
            ("pipeline/mod.rs", "fn f() -> axum::Router { panic!() }"),
            ("audio/mod.rs", "#[derive(serde::Serialize)] struct S;"),
            ("transcript.rs", "#[derive(Serialize)] struct S;"),
            ("engine/models_extra.rs", "use ::ureq::Agent;"),
        ] {
            assert_eq!(planted(place, text).len(), 1, "{place}: {text}\n{:?}", planted(place, text));
        }
    }

    #[test]
    fn the_innocent_are_left_alone() {
        for (place, text) in [
            ("session/window.rs", "use crate::{transcript::{Samples, Span}, vad::Vad};"),
            ("session/window.rs", "use super::stitch::Stitcher; use super::{audio, Session};"),
            ("session/mod.rs", "// crate::engine, std::fs\n/* tokio /* nested */ async */ fn f() {}"),
            ("session/mod.rs", r###"const A: &str = "crate::http"; const B: &str = r#"a " std::fs"#;"###),
            (
                "session/mod.rs",
                r#"const A: &[u8] = b"\"tokio"; const C: char = '"'; const D: &str = "async";"#,
            ),
            ("session/mod.rs", "fn f<'a>(x: &'a str) -> &'a str { x } // 'tokio'"),
            (
                "session/mod.rs",
                "#[cfg(test)]\nmod tests {\n use std::fs; fn f() { std::thread::spawn(g); }\n}",
            ),
            ("session/tests/mod.rs", "use std::fs;"),
            ("session/mod.rs", "#[cfg(test)]\nmod tests;\n"),
            ("engine/models.rs", "use ureq::Agent; use serde::Deserialize;"),
            ("engine/models/hub.rs", "use ureq::Agent;"),
            ("engine/whisper.rs", "use whisper_rs::WhisperContext; use crate::transcript::Word;"),
            ("dialect/openai.rs", "use crate::engine::Task; let r#type = 1; let raw = r; let b = br;"),
            ("pipeline/mod.rs", "fn f(now: std::time::Instant) { std::thread::yield_now(); }"),
            ("main.rs", "use whisperwire::{app, config};"),
        ] {
            assert_eq!(planted(place, text), Vec::<String>::new(), "{place}: {text}");
        }
    }

    #[test]
    fn the_line_is_named() {
        let complaint = planted("vad/mod.rs", "//! A room.\n\nuse std::{\n    fmt,\n    fs,\n};\n").join("");
        assert!(complaint.contains("src/vad/mod.rs:5:"), "{complaint}");
    }

    #[test]
    fn paths_of_machines_are_told_from_addresses() {
        for folder in ["root", "home", "Users", "work"] {
            assert!(names_a_machine(&format!("see /{folder}/somebody/file")));
            assert!(names_a_machine(&format!("\"/{folder}/x\"")));
            assert!(!names_a_machine(&format!("https://example.org/{folder}/x")));
        }
    }
}
