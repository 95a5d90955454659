//! The OpenAI transcription and translation endpoints: a form becomes an [`Order`], a transcript becomes a body, and
//! with `stream=true` the finals become events one by one.
//!
//! The contract is OpenAI's own, down to the keys that its client libraries require. Deliberately absent: HTTP, the
//! `data:` framing of events, and the names of models, which the caller has resolved before it comes here.

mod answer;

use whisperwire_protocol::form::{ChunkingStrategy, FieldError, TranscriptionForm};

pub(super) use self::answer::{Edge, logprobs};
pub use self::answer::{Rendered, StreamRenderer, as_captions, render, segments};
use super::wishes::{Endpointing, languages, possible_task};
use crate::engine::{DecodeOptions, EngineTraits, Task};
use crate::language::Language;
use crate::transcript::Samples;

/// What a form asks of the pipeline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Order {
    /// For the engine, the same in every window.
    pub options: DecodeOptions,
    /// The spoken language, where it is asked for or there is no choice; `None` asks for detection.
    pub language: Option<Language>,
    /// How much the model hears at once, within what it can; `None` leaves it to the server.
    pub window: Option<Samples>,
    /// What differs from the server's own way of cutting.
    pub endpointing: Endpointing,
}

/// Turns a form into an order for the engine with these traits. `task` is what the endpoint is for.
///
/// A model that knows one language alone hears that language, and one that hears English and is asked for English
/// just writes it down. An engine that takes placeholders takes any language for none.
pub fn order(form: &TranscriptionForm, traits: &EngineTraits, task: Task) -> Result<Order, FieldError> {
    let (language, candidates) =
        languages(form.language.as_deref(), ("languages[]", &form.languages), traits)?;
    let options = DecodeOptions {
        task: possible_task(task, language, traits)?,
        candidates,
        prompt: form.prompt.clone(),
        keywords: form.keywords.clone(),
        temperature: form.temperature,
    };
    let window =
        form.window_seconds.map(|seconds| Samples::from_seconds(seconds.into()).min(traits.max_window));
    let endpointing = match form.chunking_strategy {
        Some(ChunkingStrategy::ServerVad { threshold, prefix_padding_ms, silence_duration_ms }) => {
            Endpointing { threshold, prefix_padding_ms, silence_duration_ms }
        }
        Some(ChunkingStrategy::Auto) | None => Endpointing::default(),
    };
    Ok(Order { options, language, window, endpointing })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn language(code: &str) -> Language {
        Language::parse(code).expect("a code of the table")
    }

    fn multilingual() -> EngineTraits {
        EngineTraits {
            name: "base".into(),
            languages: Language::all().collect(),
            translates: true,
            max_window: Samples::from_millis(20_000),
            file_window: Samples::from_millis(10_000),
            live_context: Samples(0),
            takes_placeholders: false,
            caveat: None,
            device: "cpu".into(),
        }
    }

    fn english_only() -> EngineTraits {
        EngineTraits {
            name: "base.en".into(),
            languages: vec![Language::ENGLISH],
            translates: false,
            ..multilingual()
        }
    }

    fn form(fields: &[(&str, &str)]) -> TranscriptionForm {
        let mut all = vec![("model".to_owned(), "whisper-1".to_owned())];
        all.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        TranscriptionForm::from_fields(&all, false).expect("the form is right by itself")
    }

    #[test]
    fn every_wish_finds_its_place() {
        let asked = form(&[
            ("language", "de-CH"),
            ("prompt", "Grüezi."),
            ("keywords[]", "Znüni"),
            ("temperature", "0.5"),
            ("window_seconds", "30"),
            ("chunking_strategy[type]", "server_vad"),
            ("chunking_strategy[silence_duration_ms]", "200"),
        ]);
        let order = order(&asked, &multilingual(), Task::Transcribe).expect("all of it can be done");
        let options = DecodeOptions {
            task: Task::Transcribe,
            candidates: vec![],
            prompt: Some("Grüezi.".into()),
            keywords: vec!["Znüni".into()],
            temperature: 0.5,
        };
        let endpointing = Endpointing { silence_duration_ms: Some(200), ..Endpointing::default() };
        let window = Some(Samples::from_millis(20_000));
        assert_eq!(order, Order { options, language: Some(language("de")), window, endpointing });
        assert_eq!(super::order(&form(&[]), &multilingual(), Task::Transcribe), Ok(Order::default()));
    }

    #[test]
    fn languages_that_cannot_be_heard_are_refused_by_name() {
        let refused = |fields: &[(&str, &str)], traits: &EngineTraits| {
            order(&form(fields), traits, Task::Transcribe).expect_err("must be refused")
        };
        let error = refused(&[("language", "klingon")], &multilingual());
        assert_eq!(error.param, "language");
        assert!(error.message.contains("klingon"), "{error}");
        let error = refused(&[("language", "de")], &english_only());
        assert_eq!(error.message, "The model base.en does not know german; it knows english only.");
        assert_eq!(refused(&[("languages", "xx")], &multilingual()).param, "languages[]");
        assert_eq!(refused(&[("languages", "de")], &english_only()).param, "languages[]");
    }

    #[test]
    fn detection_chooses_among_the_candidates_that_the_model_knows() {
        let heard = |fields: &[(&str, &str)], traits: &EngineTraits| {
            let order = order(&form(fields), traits, Task::Transcribe).expect("can be done");
            (order.language, order.options.candidates)
        };
        let both = [("languages[]", "de"), ("languages[]", "french"), ("languages[]", "de-AT")];
        assert_eq!(heard(&both, &multilingual()), (None, vec![language("de"), language("fr")]));
        assert_eq!(heard(&[("languages[]", "de")], &multilingual()), (Some(language("de")), vec![]));
        let english = [("languages[]", "de"), ("languages[]", "en")];
        assert_eq!(heard(&english, &english_only()), (Some(Language::ENGLISH), vec![]));
        assert_eq!(heard(&[], &english_only()), (Some(Language::ENGLISH), vec![]));
        let one = [("language", "fr"), ("languages[]", "de"), ("languages[]", "en")];
        assert_eq!(heard(&one, &multilingual()), (Some(language("fr")), vec![]));
    }

    #[test]
    fn english_is_its_own_translation() {
        let task = |fields: &[(&str, &str)], traits: &EngineTraits| {
            order(&form(fields), traits, Task::Translate).map(|order| order.options.task)
        };
        assert_eq!(task(&[], &multilingual()), Ok(Task::Translate));
        assert_eq!(task(&[], &english_only()), Ok(Task::Transcribe));
        let cannot = EngineTraits { translates: false, ..multilingual() };
        assert_eq!(task(&[("language", "en")], &cannot), Ok(Task::Transcribe));
        assert_eq!(task(&[("language", "de")], &cannot).expect_err("cannot").param, "model");
        assert_eq!(task(&[], &cannot).expect_err("nobody knows the language").param, "model");
    }

    #[test]
    fn placeholders_stand_for_nothing() {
        let traits = EngineTraits { takes_placeholders: true, translates: false, ..multilingual() };
        let asked = form(&[("language", "language"), ("languages[]", "string")]);
        let order = order(&asked, &traits, Task::Translate).expect("is forgiven");
        assert_eq!(
            (order.language, order.options.candidates, order.options.task),
            (None, vec![], Task::Transcribe)
        );
    }
}
