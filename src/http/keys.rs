//! The file of keys: a table for each, with its name, the key or its hash, and what it may use.
//!
//! ```toml
//! [alice]
//! sha256 = "…"                            # or key = "…"
//! rate_limits = "10/minute,50/hour"       # the rest may be left out
//! streams = 4
//! audio = "3600/hour"                     # seconds
//! ```
//!
//! Contract: what is wrong with the file is a sentence that names the place and repeats nothing of it, because it may
//! be a key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::auth::hash;
use super::limit::{Quotas, Rates};

/// A file of keys that has been read.
#[derive(Clone)]
pub struct KeysFile {
    path: PathBuf,
    keys: Vec<NamedKey>,
}

/// A key at rest.
#[derive(Clone)]
pub(super) struct NamedKey {
    pub(super) name: String,
    pub(super) hash: [u8; 32],
    /// What it may use, where that is not what everybody may.
    pub(super) quotas: Quotas,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    key: Option<String>,
    sha256: Option<String>,
    rate_limits: Option<String>,
    streams: Option<u32>,
    audio: Option<String>,
}

impl KeysFile {
    /// Reads a file. The error is a sentence for people.
    pub fn read(path: &Path) -> Result<Self, String> {
        let of_file = |why: String| format!("{}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| of_file(error.to_string()))?;
        let keys = parse(&text).map_err(of_file)?;
        Ok(Self { path: path.to_owned(), keys })
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn keys(&self) -> &[NamedKey] {
        &self.keys
    }
}

impl std::fmt::Debug for KeysFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with {} keys", self.path.display(), self.keys.len())
    }
}

fn parse(text: &str) -> Result<Vec<NamedKey>, String> {
    let tables: BTreeMap<String, Table> = toml::from_str(text).map_err(|error| {
        let before = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        let line = error.span().map(|span| before(span.start) + 1);
        // The parser's own words repeat what it found, which may be a key.
        let why = match error.message() {
            message if message.starts_with("unknown field") => {
                "a table has key or sha256, rate_limits, streams and audio, and this is none of them"
            }
            message if message.starts_with("duplicate key") => "this name was there before",
            _ => "this is no table of keys, or a value of another kind",
        };
        line.map_or(why.to_owned(), |line| format!("line {line}: {why}"))
    })?;
    if tables.is_empty() {
        return Err("there are no keys in it".into());
    }
    let mut keys: Vec<NamedKey> = Vec::new();
    for (name, table) in tables {
        let key = key(&name, &table).map_err(|why| format!("[{name}]: {why}"))?;
        if let Some(other) = keys.iter().find(|other| other.hash == key.hash) {
            return Err(format!("[{name}]: this is the key of [{}]", other.name));
        }
        keys.push(key);
    }
    Ok(keys)
}

fn key(name: &str, table: &Table) -> Result<NamedKey, String> {
    let hash = match (&table.key, &table.sha256) {
        (Some(key), None) if !key.trim().is_empty() => hash(key.trim()),
        (Some(_), None) => return Err("key is empty".into()),
        (None, Some(hex)) => from_hex(hex).ok_or("sha256 must be 64 hexadecimal digits")?,
        (None, None) => return Err("key or sha256 is missing".into()),
        (Some(_), Some(_)) => return Err("give key or sha256, not both".into()),
    };
    let rates = |text: &Option<String>| text.as_deref().map(str::parse::<Rates>).transpose();
    let quotas = Quotas {
        requests: rates(&table.rate_limits).map_err(|why| format!("rate_limits: {why}"))?,
        streams: table.streams,
        audio: rates(&table.audio).map_err(|why| format!("audio: {why}"))?,
    };
    Ok(NamedKey { name: name.to_owned(), hash, quotas })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.trim().bytes().map(|digit| char::from(digit).to_digit(16).map(|digit| digit as u8));
    let digits: Vec<u8> = digits.collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks() else { return None };
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `open sesame`, as `printf %s 'open sesame' | sha256sum` writes it.
    const SESAME: &str = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";

    #[test]
    fn keys_are_named_hashed_and_limited() {
        let text = format!(
            "[bob]\nkey = \" open sesame \"\n[alice]\nsha256 = \"{}\"\nrate_limits = \"10/minute\"\nstreams = 4\naudio = \"none\"\n",
            "0".repeat(64)
        );
        let keys = parse(&text).expect("a good file");
        let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        assert_eq!(names, ["alice", "bob"]);
        assert_eq!((keys[0].hash, Some(keys[1].hash)), ([0; 32], from_hex(SESAME)));
        assert_eq!(keys[0].quotas.streams, Some(4));
        assert_eq!(keys[0].quotas.audio, Some(Rates::default()));
        assert_eq!(keys[1].quotas, Quotas::default());
    }

    #[test]
    fn what_is_wrong_is_told_without_the_key() {
        for (text, part) in [
            ("", "no keys"),
            ("[a]\nkey = \"hunter2\"\nsha256 = \"00\"", "[a]: give key or sha256"),
            ("[a]", "[a]: key or sha256 is missing"),
            ("[a]\nkey = \" \"", "[a]: key is empty"),
            ("[a]\nsha256 = \"hunter2\"", "[a]: sha256 must be"),
            ("[a]\nkey = \"hunter2\"\nrate_limits = \"lots\"", "[a]: rate_limits: \"lots\""),
            ("[a]\nkey = \"hunter2\"\n[b]\nkey = \"hunter2\"", "[b]: this is the key of [a]"),
            ("[a]\nkey = hunter2", "line 2"),
            ("key = \"hunter2\"", "line 1"),
            ("[a]\nhunter2 = \"alice\"", "line 2"),
            ("[a]\nkey = \"hunter2\"\nscope = \"all\"", "line 3: a table has"),
            ("[a]\nkey = \"hunter2\"\n[a]\nkey = \"other\"", "line 3: this name"),
        ] {
            let why = parse(text).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert!(why.contains(part), "{text}: {why}");
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
