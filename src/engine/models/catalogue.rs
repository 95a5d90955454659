//! The models with names: what `models/catalogue.toml` says, read once.
//!
//! The order of the file is an order of preference, lightest first and best last.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde::Deserialize;

use super::hub::Source;
use crate::transcript::Samples;

/// The licence of every model in the catalogue, as an SPDX expression.
pub const LICENSE: &str = "MIT";

/// One model of the catalogue.
#[derive(Debug, PartialEq)]
pub struct Entry {
    /// What people call it: `base.en-q5_1`.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// The repository on the hub, `owner/name`.
    pub repo: String,
    /// The file in the repository, and in the cache.
    pub file: String,
    /// Bytes, nearly.
    pub size: u64,
    /// The file's SHA-256 in lower-case hexadecimal, where it is known for certain.
    pub sha256: Option<String>,
    /// Whether an ordinary CPU keeps up with speech.
    pub cpu: bool,
    /// How to decode it.
    pub preset: Preset,
}

impl Entry {
    pub(super) fn source(&self) -> Source<'_> {
        Source { repo: &self.repo, file: &self.file, sha256: self.sha256.as_deref() }
    }
}

/// How to decode a model, and what it can do. Flags override it.
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    /// Beam size for text that stays. Partials are greedy.
    pub beam: u32,
    /// Candidates per step once the temperature is above zero.
    pub best_of: u32,
    /// Whether windows the decoder doubts are tried again at higher temperatures.
    pub fallback: bool,
    /// Mean log probability of a window's tokens below which they are taken to be invented; `None` where the
    /// model's own estimate that nobody spoke can be relied on.
    pub least_confidence: Option<f32>,
    /// The shortest encoder context the model was found to bear, in positions of 20 ms.
    pub audio_ctx_floor: u32,
    /// Positions behind the audio that it needs to find its end.
    pub audio_ctx_margin: u32,
    /// Whether windows that nobody waits for are heard with its whole context.
    pub whole_context: bool,
    /// The longest window it decodes well.
    pub max_window: Samples,
    /// The window it is given of a file, where nobody asks for another.
    pub file_window: Samples,
    /// It understands this many languages, the first of [`Language::all`](crate::language::Language::all); 1 is
    /// English only.
    pub languages: usize,
    /// Whether it can write English for speech in another language.
    pub translates: bool,
    /// The attention heads that give its words their times, if they are known.
    pub heads: Option<AlignmentHeads>,
}

impl Preset {
    /// Whether it understands other languages than English.
    pub fn multilingual(&self) -> bool {
        self.languages > 1
    }
}

/// An attention head of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its layer, from 0.
    pub layer: u32,
    /// Its place in the layer, from 0.
    pub head: u32,
}

/// Whose alignment heads to use: one for each shape OpenAI published, or those that a model brings itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub enum AlignmentHeads {
    /// These, which the model has.
    #[serde(skip)]
    Listed(Arc<[Head]>),
    /// `tiny.en`
    #[serde(rename = "tiny.en")]
    TinyEn,
    /// `tiny`
    #[serde(rename = "tiny")]
    Tiny,
    /// `base.en`
    #[serde(rename = "base.en")]
    BaseEn,
    /// `base`
    #[serde(rename = "base")]
    Base,
    /// `small.en`
    #[serde(rename = "small.en")]
    SmallEn,
    /// `small`
    #[serde(rename = "small")]
    Small,
    /// `medium.en`
    #[serde(rename = "medium.en")]
    MediumEn,
    /// `medium`
    #[serde(rename = "medium")]
    Medium,
    /// `large-v1`
    #[serde(rename = "large-v1")]
    LargeV1,
    /// `large-v2`
    #[serde(rename = "large-v2")]
    LargeV2,
    /// `large-v3`
    #[serde(rename = "large-v3")]
    LargeV3,
    /// `large-v3-turbo`
    #[serde(rename = "large-v3-turbo")]
    LargeV3Turbo,
}

/// Every model, from the lightest to the best.
pub fn entries() -> &'static [Entry] {
    &CATALOGUE.entries
}

/// A model by its name, an alias, or the name of a repository in which its publisher or a well-known converter keeps
/// it; upper and lower case alike.
pub fn find(name: &str) -> Option<&'static Entry> {
    let named = |name: &str| {
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        entries().iter().find(|entry| is(&entry.name) || entry.aliases.iter().any(|alias| is(alias)))
    };
    let lower = name.to_ascii_lowercase();
    let repositories = &CATALOGUE.repositories;
    named(name)
        .or_else(|| repositories.names.get(&lower).and_then(|name| named(name)))
        .or_else(|| repositories.prefixes.iter().find_map(|prefix| named(lower.strip_prefix(prefix)?)))
}

/// The model that is this file on the hub.
pub(super) fn at(repo: &str, file: &str) -> Option<&'static Entry> {
    entries().iter().find(|entry| entry.repo == repo && entry.file == file)
}

pub(super) fn bundled_preset() -> Preset {
    CATALOGUE.bundled.clone()
}

pub(super) fn bundled_size() -> u64 {
    CATALOGUE.bundled_size
}

/// How to decode a model of OpenAI's make that the catalogue does not know.
pub(super) fn openai_preset(languages: usize, translates: bool, heads: Option<AlignmentHeads>) -> Preset {
    CATALOGUE.openai.preset(languages, translates, heads)
}

struct Catalogue {
    entries: Vec<Entry>,
    openai: Decoding,
    bundled: Preset,
    bundled_size: u64,
    repositories: Repositories,
}

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
    let written: Written = toml::from_str(include_str!("../../../models/catalogue.toml"))
        .expect("the catalogue in the binary is what the tests have read");
    Catalogue::from(written)
});

/// The file, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    preset: Presets,
    bundled: WrittenBundled,
    aliases: BTreeMap<String, String>,
    repositories: Repositories,
    family: Vec<Family>,
}

/// What repositories call the models; all in lower case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Repositories {
    /// What may stand before a name.
    prefixes: Vec<String>,
    /// Repositories whose names are none with a prefix, or mean another model.
    names: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Presets {
    openai: Decoding,
    bundled: Decoding,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decoding {
    beam: u32,
    best_of: u32,
    fallback: bool,
    least_confidence: Option<f32>,
    audio_ctx_floor: u32,
    audio_ctx_margin: u32,
    whole_context: bool,
    window_seconds: u64,
    file_window_seconds: u64,
}

impl Decoding {
    fn preset(self, languages: usize, translates: bool, heads: Option<AlignmentHeads>) -> Preset {
        Preset {
            beam: self.beam,
            best_of: self.best_of,
            fallback: self.fallback,
            least_confidence: self.least_confidence,
            audio_ctx_floor: self.audio_ctx_floor,
            audio_ctx_margin: self.audio_ctx_margin,
            whole_context: self.whole_context,
            max_window: Samples::from_millis(self.window_seconds * 1000),
            file_window: Samples::from_millis(self.file_window_seconds * 1000),
            languages,
            translates,
            heads,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenBundled {
    size: u64,
    languages: usize,
    translates: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    repo: String,
    languages: usize,
    translates: bool,
    cpu: bool,
    heads: Option<AlignmentHeads>,
    models: Vec<WrittenModel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenModel {
    name: String,
    size: u64,
    sha256: Option<String>,
}

impl From<Written> for Catalogue {
    fn from(written: Written) -> Self {
        let aliases_of = |name: &str| -> Vec<String> {
            let of = written.aliases.iter().filter(|(_, model)| *model == name);
            of.map(|(alias, _)| alias.clone()).collect()
        };
        let mut entries = Vec::new();
        for family in written.family {
            for model in family.models {
                entries.push(Entry {
                    aliases: aliases_of(&model.name),
                    repo: family.repo.clone(),
                    file: format!("ggml-{}.bin", model.name),
                    size: model.size,
                    sha256: model.sha256,
                    cpu: family.cpu,
                    preset: written.preset.openai.preset(
                        family.languages,
                        family.translates,
                        family.heads.clone(),
                    ),
                    name: model.name,
                });
            }
        }
        let bundled =
            written.preset.bundled.preset(written.bundled.languages, written.bundled.translates, None);
        Self {
            entries,
            openai: written.preset.openai,
            bundled,
            bundled_size: written.bundled.size,
            repositories: written.repositories,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_aliases_and_files_are_unique() {
        let mut names = HashSet::new();
        let mut files = HashSet::new();
        for entry in entries() {
            assert!(names.insert(&entry.name), "{} twice", entry.name);
            assert!(files.insert(&entry.file), "{} twice", entry.file);
            for alias in &entry.aliases {
                assert!(names.insert(alias), "{alias} twice");
            }
        }
        assert!(!names.contains(&"auto".to_owned()) && !names.contains(&"bundled".to_owned()));
    }

    #[test]
    fn every_published_size_is_there() {
        let published = [
            "tiny",
            "tiny.en",
            "base",
            "base.en",
            "small",
            "small.en",
            "medium",
            "medium.en",
            "large-v1",
            "large-v2",
            "large-v3",
            "large-v3-turbo",
            "small.en-tdrz",
            "distil-large-v3",
        ];
        for name in published {
            assert_eq!(find(name).expect(name).name, name);
        }
        for (base, widths) in [
            ("tiny", ["q5_1", "q8_0"]),
            ("small.en", ["q5_1", "q8_0"]),
            ("medium", ["q5_0", "q8_0"]),
            ("large-v2", ["q5_0", "q8_0"]),
            ("large-v3-turbo", ["q5_0", "q8_0"]),
        ] {
            for width in widths {
                let entry = find(&format!("{base}-{width}")).expect(base);
                let full = find(base).expect(base);
                assert!(entry.size < full.size);
                assert_eq!(entry.preset, full.preset);
            }
        }
    }

    #[test]
    fn every_alias_leads_to_a_model() {
        let written: Written =
            toml::from_str(include_str!("../../../models/catalogue.toml")).expect("the catalogue is valid");
        assert!(!written.aliases.is_empty());
        for (alias, name) in &written.aliases {
            assert_eq!(&find(alias).expect(alias).name, name);
        }
        assert_eq!(find("LARGE").expect("case does not matter").name, "large-v3");
        assert_eq!(find("turbo").expect("an alias").name, "large-v3-turbo");
    }

    #[test]
    fn what_is_written_about_a_model_makes_sense() {
        for entry in entries() {
            let english = entry.name.contains(".en") || entry.name.starts_with("distil");
            assert_eq!(entry.preset.multilingual(), !english, "{}", entry.name);
            assert!(entry.preset.multilingual() || !entry.preset.translates, "{}", entry.name);
            assert!((30_000_000..3_200_000_000).contains(&entry.size), "{}", entry.name);
            assert_eq!(entry.file, format!("ggml-{}.bin", entry.name));
            assert!(entry.preset.audio_ctx_margin >= 128 && entry.preset.whole_context, "{}", entry.name);
            assert_eq!(entry.preset.max_window, Samples::from_millis(27_000));
            if let Some(sum) = &entry.sha256 {
                let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                assert!(sum.len() == 64 && sum.bytes().all(hex), "{}", entry.name);
            }
        }
        let turbo = find("turbo").expect("turbo is there");
        assert!(!turbo.preset.translates, "turbo was not trained to translate");
        assert!(find("large").expect("large is there").preset.translates);
        assert!(bundled_preset().heads.is_none() && bundled_preset().languages == 1);
        assert!(bundled_preset().max_window < turbo.preset.max_window);
    }

    #[test]
    fn the_order_is_from_the_lightest_to_the_best() {
        let at = |name: &str| entries().iter().position(|entry| entry.name == name).expect("it is there");
        let order =
            ["tiny.en", "tiny", "base.en", "base", "small.en", "small", "medium", "large-v2", "large-v3"];
        assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])));
        assert!(at("small-q5_1") < at("small-q8_0") && at("small-q8_0") < at("small"));
    }
}
