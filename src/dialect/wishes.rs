//! What every client may wish for, in whichever dialect: languages, a task, and where utterances end.

use whisperwire_protocol::form::{FieldError, quoted};

use crate::engine::{EngineTraits, Task};
use crate::language::Language;
pub use crate::transcript::Endpointing;

/// The language, if there is no choice, and otherwise what to choose from.
///
/// `candidates` come with the name of their field.
pub(super) fn languages(
    language: Option<&str>,
    (field, candidates): (&str, &[String]),
    traits: &EngineTraits,
) -> Result<(Option<Language>, Vec<Language>), FieldError> {
    let spoken = |language: &Language| traits.languages.contains(language);
    let forgiving = traits.takes_placeholders;
    if let Some(text) = language {
        match Language::parse(text) {
            Some(language) if spoken(&language) => return Ok((Some(language), Vec::new())),
            _ if forgiving => {}
            Some(language) => return Err(not_spoken("language", language, traits)),
            None => return Err(not_a_language("language", text)),
        }
    }
    let (texts, mut candidates) = (candidates, Vec::<Language>::new());
    let mut foreign = None;
    for text in texts {
        match Language::parse(text) {
            Some(language) if candidates.contains(&language) => {}
            Some(language) if spoken(&language) => candidates.push(language),
            _ if forgiving => {}
            Some(language) => foreign = Some(language),
            None => return Err(not_a_language(field, text)),
        }
    }
    match (candidates.as_slice(), foreign, traits.languages.as_slice()) {
        // Candidates that the model does not know cannot be chosen; they only matter if nothing else is left.
        ([], Some(foreign), _) => Err(not_spoken(field, foreign, traits)),
        ([only], ..) | ([], None, [only]) => Ok((Some(*only), Vec::new())),
        _ => Ok((None, candidates)),
    }
}

/// English from English is no translation, so every model that hears English can do it.
pub(super) fn possible_task(
    task: Task,
    language: Option<Language>,
    traits: &EngineTraits,
) -> Result<Task, FieldError> {
    if task == Task::Transcribe || traits.translates {
        return Ok(task);
    }
    if language == Some(Language::ENGLISH) || traits.takes_placeholders {
        return Ok(Task::Transcribe);
    }
    let message = format!("The model {} cannot translate; it writes down what was spoken.", traits.name);
    Err(FieldError::new("model", message))
}

fn not_a_language(param: &str, text: &str) -> FieldError {
    let message =
        format!("{} is not a language that is known here; codes and English names are.", quoted(text));
    FieldError::new(param, message)
}

fn not_spoken(param: &str, language: Language, traits: &EngineTraits) -> FieldError {
    let known = match traits.languages.as_slice() {
        [only] => format!("it knows {} only", only.name()),
        all => format!("it knows {} others", all.len()),
    };
    let message = format!("The model {} does not know {}; {known}.", traits.name, language.name());
    FieldError::new(param, message)
}
