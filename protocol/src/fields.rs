//! The text parts of a form, before anybody knows what they mean: sorted by name, and read as texts, lists, numbers
//! and booleans.
//!
//! The contract is that of [`crate::form`]: anything may come in, and what comes out is within the caps or an error
//! that names its field. Deliberately absent: rules about one field alone; those stand with the form.

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use crate::form::{FieldError, MAX_ITEMS, MAX_TEXT};

/// The one field that is an object.
pub(crate) const CHUNKING: &str = "chunking_strategy";

/// What a field may look like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Scalar,
    Array,
    Object,
}

/// Every field there is.
const KNOWN: [(&str, Shape); 23] = [
    ("model", Shape::Scalar),
    ("language", Shape::Scalar),
    ("languages", Shape::Array),
    ("keywords", Shape::Array),
    ("hotwords", Shape::Scalar),
    ("prompt", Shape::Scalar),
    ("response_format", Shape::Scalar),
    ("temperature", Shape::Scalar),
    ("include", Shape::Array),
    ("timestamp_granularities", Shape::Array),
    ("stream", Shape::Scalar),
    (CHUNKING, Shape::Object),
    ("known_speaker_names", Shape::Array),
    ("known_speaker_references", Shape::Array),
    ("vad_filter", Shape::Scalar),
    ("min_speakers", Shape::Scalar),
    ("max_speakers", Shape::Scalar),
    ("window_seconds", Shape::Scalar),
    ("cache", Shape::Scalar),
    ("diarize", Shape::Scalar),
    ("async", Shape::Scalar),
    ("webhook_url", Shape::Scalar),
    ("webhook_secret", Shape::Scalar),
];

/// The fields of one form, sorted into those that are known and those that are not.
pub(crate) struct Fields<'a> {
    /// Name without brackets, what stood in the brackets, value. Empty values are left out.
    pub(crate) known: Vec<(&'static str, &'a str, &'a str)>,
    pub(crate) unknown: Vec<String>,
}

impl<'a> Fields<'a> {
    pub(crate) fn sort(fields: &'a [(String, String)]) -> Result<Self, FieldError> {
        let mut sorted = Self { known: Vec::new(), unknown: Vec::new() };
        for (name, value) in fields {
            let (base, key) = split_name(name);
            let known = KNOWN.iter().find(|(known, shape)| {
                let index = key.is_none_or(|key| key.bytes().all(|byte| byte.is_ascii_digit()));
                *known == base
                    && match shape {
                        Shape::Scalar => key.is_none(),
                        Shape::Array => index,
                        Shape::Object => key != Some(""),
                    }
            });
            match known {
                None if sorted.unknown.len() < MAX_ITEMS => {
                    sorted.unknown.push(name.chars().take(64).collect())
                }
                None => {}
                Some(_) if value.trim().is_empty() => {}
                Some((known, Shape::Scalar)) if sorted.values(known).next().is_some() => {
                    return Err(FieldError::new(*known, format!("{known} was sent more than once.")));
                }
                Some((known, _)) => sorted.known.push((known, key.unwrap_or(""), value)),
            }
        }
        Ok(sorted)
    }

    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.known.iter().filter(move |(known, ..)| *known == name).map(|(_, _, value)| *value)
    }

    pub(crate) fn text(&self, name: &str, most: usize) -> Result<Option<String>, FieldError> {
        self.values(name).next().map(|value| plain(name, value, most)).transpose()
    }

    /// The items of an array, however they were sent. A value that reads as a JSON array stands for its items.
    pub(crate) fn items(&self, name: &str) -> Result<Vec<String>, FieldError> {
        let mut items = Vec::new();
        for value in self.values(name) {
            match json_array(value) {
                Some(Value::Array(array)) => {
                    for item in array {
                        let Value::String(item) = item else {
                            let message = format!("{name}[] must hold texts only.");
                            return Err(FieldError::new(bracketed(name), message));
                        };
                        items.push(item);
                        cap_items(name, items.len())?;
                    }
                }
                _ => items.push(value.to_owned()),
            }
            cap_items(name, items.len())?;
        }
        Ok(items)
    }

    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, FieldError> {
        let items = self.items(name)?;
        let kept = items.iter().filter(|item| !item.trim().is_empty());
        kept.map(|item| plain(&bracketed(name), item, MAX_TEXT)).collect()
    }

    /// How many items there are, without keeping them: a reference is a recording, and can be megabytes.
    pub(crate) fn count(&self, name: &str) -> Result<usize, FieldError> {
        let mut count = 0;
        for value in self.values(name) {
            count += match json_array(value) {
                Some(Value::Array(array)) => array.len(),
                _ => 1,
            };
        }
        cap_items(name, count)?;
        Ok(count)
    }

    pub(crate) fn choices<T: Copy + PartialEq>(
        &self,
        name: &str,
        allowed: &[(&str, T)],
    ) -> Result<Vec<T>, FieldError> {
        let mut chosen = Vec::new();
        for item in self.items(name)?.iter().filter(|item| !item.trim().is_empty()) {
            let Some((_, choice)) = allowed.iter().find(|(allowed, _)| *allowed == item.trim()) else {
                let names: Vec<&str> = allowed.iter().map(|(name, _)| *name).collect();
                let message = format!("{name}[] knows {}, not {}.", names.join(" and "), quoted(item));
                return Err(FieldError::new(bracketed(name), message));
            };
            if !chosen.contains(choice) {
                chosen.push(*choice);
            }
        }
        Ok(chosen)
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, FieldError> {
        let Some(value) = self.values(name).next() else { return Ok(None) };
        match value.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => Err(FieldError::new(name, format!("{name} must be true or false, not {}.", quoted(value)))),
        }
    }

    pub(crate) fn number(&self, name: &str, least: f32, most: f32) -> Result<Option<f32>, FieldError> {
        let Some(value) = self.values(name).next() else { return Ok(None) };
        let number = value.trim().parse::<f32>().ok().filter(|number| (least..=most).contains(number));
        let message = || format!("{name} must be a number from {least} to {most}, not {}.", quoted(value));
        number.map(Some).ok_or_else(|| FieldError::new(name, message()))
    }

    pub(crate) fn speakers(&self, name: &str) -> Result<Option<u32>, FieldError> {
        let Some(value) = self.values(name).next() else { return Ok(None) };
        let number = value.trim().parse::<u32>().ok().filter(|number| (1..=100).contains(number));
        let message = || format!("{name} must be a whole number from 1 to 100, not {}.", quoted(value));
        number.map(Some).ok_or_else(|| FieldError::new(name, message()))
    }
}

/// `chunking_strategy[type]` is `chunking_strategy` and `type`; without brackets there is no key.
fn split_name(name: &str) -> (&str, Option<&str>) {
    match name.strip_suffix(']').and_then(|open| open.split_once('[')) {
        Some((base, key)) => (base, Some(key)),
        None => (name, None),
    }
}

/// A text without NUL, which the engine could not take, and within its cap.
fn plain(name: &str, value: &str, most: usize) -> Result<String, FieldError> {
    if value.contains('\0') {
        return Err(FieldError::new(name, format!("{name} must not contain NUL characters.")));
    }
    if value.len() > most {
        return Err(FieldError::new(name, format!("{name} must not be longer than {most} bytes.")));
    }
    Ok(value.to_owned())
}

pub(crate) fn cap_items(name: &str, count: usize) -> Result<(), FieldError> {
    if count <= MAX_ITEMS {
        return Ok(());
    }
    Err(FieldError::new(bracketed(name), format!("{name} must not have more than {MAX_ITEMS} items.")))
}

/// Only what looks like an array is parsed; a keyword may well be a word that happens to be JSON.
fn json_array(value: &str) -> Option<Value> {
    if !value.trim_start().starts_with('[') {
        return None;
    }
    serde_json::from_str(value).ok()
}

fn bracketed(name: &str) -> String {
    format!("{name}[]")
}

/// A whole number in JSON, of which some clients only know the kind with a point: 600.0 is 600.
pub(crate) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let whole = |number: f64| number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    match Option::<f64>::deserialize(deserializer)? {
        Some(number) if !whole(number) => Err(de::Error::custom("a whole number is expected")),
        number => Ok(number.map(|number| number as u64)),
    }
}

/// A stranger's value inside a sentence: short, and without characters that act.
pub fn quoted(value: &str) -> String {
    let short: String = value.chars().take(40).collect();
    let dots = if short.len() < value.len() { "…" } else { "" };
    format!("\"{}{dots}\"", short.escape_debug())
}
