//! The hundred languages Whisper knows, and the ways people name them.
//!
//! Names and codes as in OpenAI's `whisper/tokenizer.py`; the wire wants the lower-case English name in
//! `verbose_json` and takes codes, names and region tags on input.

use std::fmt;

/// One language of Whisper's table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Language(usize);

impl Language {
    /// English.
    pub const ENGLISH: Self = Self(0);

    /// Reads a code (`de`), an English name (`german`), a region or script tag (`de-CH`, `zh_Hans`) or a common
    /// other spelling; upper and lower case alike. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let known = |wanted: &str| {
            TABLE.iter().position(|(code, name)| *code == wanted || *name == wanted).or_else(|| {
                let (_, code) = OTHER_SPELLINGS.iter().find(|(spelling, _)| *spelling == wanted)?;
                TABLE.iter().position(|(known, _)| known == code)
            })
        };
        known(&text).or_else(|| known(text.split(['-', '_']).next()?)).map(Self)
    }

    /// The code Whisper uses, mostly ISO 639-1.
    pub fn code(self) -> &'static str {
        TABLE[self.0].0
    }

    /// The lower-case English name.
    pub fn name(self) -> &'static str {
        TABLE[self.0].1
    }

    /// All of them, in Whisper's order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..TABLE.len()).map(Self)
    }
}

impl fmt::Debug for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Code and English name, in the order of Whisper's language tokens.
#[rustfmt::skip]
const TABLE: [(&str, &str); 100] = [
    ("en", "english"), ("zh", "chinese"), ("de", "german"), ("es", "spanish"), ("ru", "russian"),
    ("ko", "korean"), ("fr", "french"), ("ja", "japanese"), ("pt", "portuguese"), ("tr", "turkish"),
    ("pl", "polish"), ("ca", "catalan"), ("nl", "dutch"), ("ar", "arabic"), ("sv", "swedish"),
    ("it", "italian"), ("id", "indonesian"), ("hi", "hindi"), ("fi", "finnish"), ("vi", "vietnamese"),
    ("he", "hebrew"), ("uk", "ukrainian"), ("el", "greek"), ("ms", "malay"), ("cs", "czech"),
    ("ro", "romanian"), ("da", "danish"), ("hu", "hungarian"), ("ta", "tamil"), ("no", "norwegian"),
    ("th", "thai"), ("ur", "urdu"), ("hr", "croatian"), ("bg", "bulgarian"), ("lt", "lithuanian"),
    ("la", "latin"), ("mi", "maori"), ("ml", "malayalam"), ("cy", "welsh"), ("sk", "slovak"),
    ("te", "telugu"), ("fa", "persian"), ("lv", "latvian"), ("bn", "bengali"), ("sr", "serbian"),
    ("az", "azerbaijani"), ("sl", "slovenian"), ("kn", "kannada"), ("et", "estonian"), ("mk", "macedonian"),
    ("br", "breton"), ("eu", "basque"), ("is", "icelandic"), ("hy", "armenian"), ("ne", "nepali"),
    ("mn", "mongolian"), ("bs", "bosnian"), ("kk", "kazakh"), ("sq", "albanian"), ("sw", "swahili"),
    ("gl", "galician"), ("mr", "marathi"), ("pa", "punjabi"), ("si", "sinhala"), ("km", "khmer"),
    ("sn", "shona"), ("yo", "yoruba"), ("so", "somali"), ("af", "afrikaans"), ("oc", "occitan"),
    ("ka", "georgian"), ("be", "belarusian"), ("tg", "tajik"), ("sd", "sindhi"), ("gu", "gujarati"),
    ("am", "amharic"), ("yi", "yiddish"), ("lo", "lao"), ("uz", "uzbek"), ("fo", "faroese"),
    ("ht", "haitian creole"), ("ps", "pashto"), ("tk", "turkmen"), ("nn", "nynorsk"), ("mt", "maltese"),
    ("sa", "sanskrit"), ("lb", "luxembourgish"), ("my", "myanmar"), ("bo", "tibetan"), ("tl", "tagalog"),
    ("mg", "malagasy"), ("as", "assamese"), ("tt", "tatar"), ("haw", "hawaiian"), ("ln", "lingala"),
    ("ha", "hausa"), ("ba", "bashkir"), ("jw", "javanese"), ("su", "sundanese"), ("yue", "cantonese"),
];

/// Spellings that are neither the code nor the name, and the code they mean.
const OTHER_SPELLINGS: [(&str, &str); 14] = [
    ("burmese", "my"),
    ("castilian", "es"),
    ("farsi", "fa"),
    ("fil", "tl"),
    ("flemish", "nl"),
    ("haitian", "ht"),
    ("iw", "he"),
    ("jv", "jw"),
    ("mandarin", "zh"),
    ("moldavian", "ro"),
    ("nb", "no"),
    ("pushto", "ps"),
    ("sinhalese", "si"),
    ("valencian", "ca"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_finds_its_language() {
        for (spelling, code) in [
            ("en", "en"),
            ("English", "en"),
            ("en-US", "en"),
            ("zh-Hans", "zh"),
            ("zh_TW", "zh"),
            ("Haitian Creole", "ht"),
            (" DE ", "de"),
            ("yue", "yue"),
            ("Farsi", "fa"),
        ] {
            assert_eq!(Language::parse(spelling).map(Language::code), Some(code), "{spelling}");
        }
        for nonsense in ["", "language", "e", "-", "english\0"] {
            assert_eq!(Language::parse(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn every_language_is_read_back_from_its_code_and_its_name() {
        for language in Language::all() {
            assert_eq!(Language::parse(language.code()), Some(language));
            assert_eq!(Language::parse(language.name()), Some(language));
        }
    }
}
