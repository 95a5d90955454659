//! One worker's half of the engine: a window goes in, phrases come out.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ffi::c_int;
use std::sync::Arc;

use whisper_rs::{FullParams, SamplingStrategy, WhisperContext, WhisperState};

use super::super::guard::{compression_ratio, drop_echoes};
use super::super::{Abort, Effort, EngineError, Recognizer, Request, Task};
use super::guard::Guard;
use super::words::{Heard, Loudness, phrases, written};
use super::{Alignment, AudioContext, WhisperConfig, failed};
use crate::language::Language;
use crate::transcript::{Phrase, RATE, Recognition, Samples, Span, Token};

pub(super) struct WhisperRecognizer {
    context: Arc<WhisperContext>,
    state: WhisperState,
    config: Arc<WhisperConfig>,
    languages: Vec<Language>,
    /// Built once per language and search, because building them leaks the language's name.
    parameters: Vec<(Language, Search, FullParams<'static, 'static>)>,
}

/// How the decoder looks for the best words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    /// So many beams; 1 is greedy.
    Beams(c_int),
    /// The best of so many samples.
    Samples(c_int),
}

/// Below it the words are doubtful and the next temperature is tried. OpenAI's and whisper.cpp's threshold.
const LOGPROB_THRESHOLD: f32 = -1.0;
/// Above it the text repeats itself, and the decoder is taken to be stuck. OpenAI's threshold.
const COMPRESSION_THRESHOLD: f32 = 2.4;
/// Above it nobody spoke, and doubtful words are no reason to try again. OpenAI's and whisper.cpp's threshold.
const NO_SPEECH_THRESHOLD: f32 = 0.6;
/// The rungs of the ladder. OpenAI's and whisper.cpp's step.
const TEMPERATURE_STEP: f32 = 0.2;
/// The highest rung: what is drawn above it is seldom what was said.
const HIGHEST_TEMPERATURE: f32 = 0.6;
/// Windows are padded to a second: the engine ignores less than 100 ms and does badly on less than a second.
const SHORTEST: usize = RATE as usize;
/// Windows shorter than this get quiet in front of them: a word that is cut tight is heard as another one.
const SNIPPET: usize = 3 * RATE as usize;
/// The quiet in front of a snippet: half a second.
const RUN_IN: usize = RATE as usize / 2;
/// The most tokens of a window, apart from those per second. Speech has up to a dozen a second, in scripts of which
/// the vocabulary holds no words up to thirty; a stuck decoder would go on to the end of its context.
const TOKENS: usize = 32;
/// The most tokens per second of audio.
const TOKENS_PER_SECOND: usize = 30;
/// So many words that are said twice may be the model's own doing.
const REPEATED: usize = 4;
/// How likely another language than the stream's must be for a window to be heard in it.
const SWITCH: f32 = 0.85;
/// A window shorter than this is heard in the stream's language whatever it sounds like: 2 s.
const SWITCHABLE: usize = 2 * RATE as usize;
/// Contexts are a multiple of this: others fall off the engine's fast kernels.
const KERNEL: usize = 8;
/// The most prompt tokens Whisper looks at.
const PROMPT_TOKENS: usize = 224;
/// The most of a prompt that is looked at, in bytes from its end: more than its tokens ever hold.
const PROMPT_BYTES: usize = 1200;
/// The most of the terms to expect that is looked at, in bytes from their beginning.
const KEYWORD_BYTES: usize = 600;
/// Encoder positions per second.
const POSITIONS: usize = 50;

impl Recognizer for WhisperRecognizer {
    fn recognize(&mut self, request: &Request, abort: &Abort) -> Result<Recognition, EngineError> {
        let window = Padded::of(&request.pcm);
        let (language, certainty) = match request.language {
            Some(language) => (language, None),
            None => self.detect(&window, request, abort)?,
        };
        let prompt = self.prompt(request)?;
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut temperature = request.options.temperature;
        let mut effort = request.effort;
        let best = loop {
            let attempt = self.attempt(&window, language, &prompt, temperature, (request, effort), abort)?;
            // What is written alike twice was said, also if it repeats itself.
            let good = !attempt.doubtful() || attempts.iter().any(|other| other.says_the_same(&attempt));
            // A context that is cut too short makes the model begin again, which it does not doubt.
            let again = effort == Effort::Live && (attempt.repeats_its_end() || !good);
            if again
                && self.positions(window.pcm.len(), Effort::Full) > self.positions(window.pcm.len(), effort)
            {
                effort = Effort::Full;
                attempts.push(attempt);
                continue;
            }
            temperature += TEMPERATURE_STEP;
            let last = request.effort == Effort::Draft
                || !self.config.fallback
                || temperature > HIGHEST_TEMPERATURE + 1e-3;
            if good {
                break Some(attempt);
            }
            attempts.push(attempt);
            if last {
                break attempts
                    .into_iter()
                    .max_by(|a, b| a.rank().partial_cmp(&b.rank()).unwrap_or(Ordering::Equal));
            }
        };
        let least = self.config.least_confidence.unwrap_or(f32::NEG_INFINITY);
        let mut phrases =
            best.filter(|best| best.confidence >= least).map_or_else(Vec::new, |attempt| attempt.phrases);
        if let Some(prompt) = &request.options.prompt {
            drop_echoes(&mut phrases, prompt);
        }
        Ok(Recognition { phrases, language: Some(language), certainty })
    }
}

/// A window with the quiet around it that the model needs.
struct Padded<'a> {
    pcm: Cow<'a, [f32]>,
    /// How much quiet stands in front.
    lead: usize,
    /// How long the window itself is.
    length: usize,
}

impl<'a> Padded<'a> {
    fn of(pcm: &'a [f32]) -> Self {
        let length = pcm.len();
        if length >= SNIPPET {
            return Self { pcm: Cow::Borrowed(pcm), lead: 0, length };
        }
        let mut padded = vec![0.0; RUN_IN];
        padded.extend_from_slice(pcm);
        padded.resize(padded.len().max(SHORTEST), 0.0);
        Self { pcm: Cow::Owned(padded), lead: RUN_IN, length }
    }
}

/// One decode of a window.
struct Attempt {
    phrases: Vec<Phrase>,
    /// Mean log probability of the tokens.
    confidence: f32,
    compression: f32,
    no_speech: f32,
}

impl Attempt {
    fn doubtful(&self) -> bool {
        let unsure = self.confidence < LOGPROB_THRESHOLD && self.no_speech < NO_SPEECH_THRESHOLD;
        unsure || self.stuck()
    }

    fn stuck(&self) -> bool {
        self.compression > COMPRESSION_THRESHOLD
    }

    /// Which of the doubtful ones is best. A stuck decoder is very sure of itself, so that comes first.
    fn rank(&self) -> (bool, f32) {
        (!self.stuck(), self.confidence)
    }

    fn says_the_same(&self, other: &Self) -> bool {
        self.letters() == other.letters()
    }

    /// Its words without what is not heard of them.
    fn letters(&self) -> Vec<String> {
        let words = self.phrases.iter().flat_map(|phrase| &phrase.words);
        let letters = |text: &str| text.to_lowercase().replace(|c: char| !c.is_alphanumeric(), "");
        words.map(|word| letters(&word.text)).collect()
    }

    /// Whether its last words, [`REPEATED`] or more, stand in it once before.
    fn repeats_its_end(&self) -> bool {
        let words = self.letters();
        let Some(rest) = words.len().checked_sub(REPEATED) else { return false };
        words[..rest].windows(REPEATED).any(|earlier| *earlier == words[rest..])
    }
}

impl WhisperRecognizer {
    pub(super) fn new(
        context: Arc<WhisperContext>,
        config: Arc<WhisperConfig>,
        languages: Vec<Language>,
    ) -> Result<Self, EngineError> {
        let state = context.create_state().map_err(failed)?;
        Ok(Self { context, state, config, languages, parameters: Vec::new() })
    }

    /// The language of a window, and how sure that is: the likeliest of the candidates, or of all languages that the
    /// model knows, unless the stream speaks another one and the evidence is weak. It costs one decoder step: the
    /// engine keeps what it encoded for the decode that follows.
    fn detect(
        &mut self,
        window: &Padded<'_>,
        request: &Request,
        abort: &Abort,
    ) -> Result<(Language, Option<f32>), EngineError> {
        let candidates = match &request.options.candidates[..] {
            [] => self.languages.clone(),
            some => some.to_vec(),
        };
        if let [only] = candidates[..] {
            return Ok((only, None));
        }
        if abort.is_set() {
            return Err(EngineError::Aborted);
        }
        let mut parameters = self.parameters(Language::ENGLISH, Search::Beams(1));
        parameters.set_detect_language(true);
        parameters.set_audio_ctx(self.positions(window.pcm.len(), request.effort) as c_int);
        self.state.full(parameters, &window.pcm).map_err(failed)?;
        let logits = self.state.get_logits().map_err(failed)?;
        let logit = |language: &Language| {
            let id = whisper_rs::get_lang_id(language.code());
            let token = id.and_then(|id| usize::try_from(self.context.token_lang(id)).ok());
            token.and_then(|token| logits.get(token)).copied().unwrap_or(f32::NEG_INFINITY)
        };
        let logits: Vec<f32> = candidates.iter().map(logit).collect();
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let all: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
        let likeliest = logits.iter().position(|logit| *logit == highest).unwrap_or_default();
        let (likeliest, certainty) = (candidates[likeliest], 1.0 / all);
        let prior = request.prior.filter(|prior| candidates.contains(prior));
        let stays =
            |prior: &Language| *prior == likeliest || certainty < SWITCH || window.length < SWITCHABLE;
        Ok((prior.filter(stays).unwrap_or(likeliest), Some(certainty)))
    }

    /// The prompt's last tokens, the terms to expect in front of it.
    fn prompt(&self, request: &Request) -> Result<Vec<c_int>, EngineError> {
        // The engine's tokeniser recurses once per letter of a word, so what it gets is bounded here.
        let keywords = request.options.keywords.join(", ");
        let keywords = &keywords[..keywords.floor_char_boundary(KEYWORD_BYTES)];
        let prompt = request.options.prompt.as_deref().unwrap_or_default().trim();
        let prompt = &prompt[prompt.ceil_char_boundary(prompt.len().saturating_sub(PROMPT_BYTES))..];
        let text =
            [keywords, prompt].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(". ");
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        // Whisper saw its prompts begin with a space. There are never more tokens than bytes, and room for all of
        // them is vital: the wrapper takes the engine's "too many" for a length.
        let text = format!(" {}", text.trim());
        let tokens = self.context.tokenize(&text, text.len() + 1).map_err(failed)?;
        Ok(tokens[tokens.len().saturating_sub(PROMPT_TOKENS)..].to_vec())
    }

    fn attempt(
        &mut self,
        window: &Padded<'_>,
        language: Language,
        prompt: &[c_int],
        temperature: f32,
        (request, effort): (&Request, Effort),
        abort: &Abort,
    ) -> Result<Attempt, EngineError> {
        let search = match effort {
            // Beams are for the first rung; above it the best of five samples is taken, as OpenAI does.
            _ if temperature > 0.0 => Search::Samples(self.config.best_of.clamp(1, 8) as c_int),
            Effort::Draft => Search::Beams(1),
            Effort::Live | Effort::Full => Search::Beams(self.config.beam_size.clamp(1, 8) as c_int),
        };
        let mut parameters: FullParams<'_, '_> = self.parameters(language, search);
        parameters.set_temperature(temperature);
        parameters.set_translate(request.options.task == Task::Translate && self.context.is_multilingual());
        parameters.set_audio_ctx(self.positions(window.pcm.len(), effort) as c_int);
        parameters.set_max_tokens((TOKENS + TOKENS_PER_SECOND * window.length / RATE as usize) as c_int);
        if !prompt.is_empty() {
            parameters.set_tokens(prompt);
        }
        let guard = Guard::new(abort, self.context.token_beg());
        guard.install(&mut parameters);
        let result = self.state.full(parameters, &window.pcm);
        if abort.is_set() {
            return Err(EngineError::Aborted);
        }
        result.map_err(failed)?;
        Ok(self.read(window, request.offset, temperature))
    }

    /// The parameters that every window of a language shares.
    fn parameters(&mut self, language: Language, search: Search) -> FullParams<'static, 'static> {
        let known = self.parameters.iter().find(|(l, s, _)| (*l, *s) == (language, search));
        if let Some((_, _, parameters)) = known {
            return parameters.clone();
        }
        let mut parameters = FullParams::new(match search {
            Search::Beams(1) => SamplingStrategy::Greedy { best_of: 1 },
            Search::Beams(beam_size) => SamplingStrategy::BeamSearch { beam_size, patience: -1.0 },
            Search::Samples(best_of) => SamplingStrategy::Greedy { best_of },
        });
        parameters.set_language(Some(language.code()));
        parameters.set_n_threads(self.config.threads.max(1) as c_int);
        parameters.set_no_context(true);
        // One pass over the window: phrases are told apart here, by the timestamps among the tokens.
        parameters.set_single_segment(true);
        parameters.set_suppress_blank(true);
        parameters.set_suppress_nst(true);
        parameters.set_temperature_inc(0.0);
        parameters.set_no_speech_thold(NO_SPEECH_THRESHOLD);
        parameters.set_logprob_thold(LOGPROB_THRESHOLD);
        // Judged here, by the compression ratio; the engine would drop the best beam for it.
        parameters.set_entropy_thold(0.0);
        parameters.set_token_timestamps(self.config.alignment == Alignment::Estimate);
        parameters.set_print_special(false);
        parameters.set_print_progress(false);
        parameters.set_print_realtime(false);
        parameters.set_print_timestamps(false);
        self.parameters.push((language, search, parameters.clone()));
        parameters
    }

    /// How many encoder positions so many samples get.
    fn positions(&self, samples: usize, effort: Effort) -> usize {
        let most = usize::try_from(self.context.model_n_audio_ctx()).unwrap_or(1500);
        // Word times need every frame of the window under a position, so one more than it fills; with fewer the
        // engine ends the process.
        let needed = (samples * POSITIONS).div_ceil(RATE as usize) + 2;
        let all = if needed <= most / KERNEL * KERNEL { most / KERNEL * KERNEL } else { most };
        let positions = match self.config.audio_ctx {
            AudioContext::Full => all,
            AudioContext::Auto { whole: true, .. } if effort == Effort::Full => all,
            AudioContext::Auto { floor, margin, .. } => (needed + margin).max(floor),
            AudioContext::Fixed(n) => needed.max(n),
        };
        positions.next_multiple_of(KERNEL).min(all)
    }

    /// Reads the state's result.
    fn read(&self, window: &Padded<'_>, offset: Samples, temperature: f32) -> Attempt {
        let (lead, end) = (window.lead as u64, window.length as u64);
        let mut heard: Vec<Heard> = Vec::new();
        let mut no_speech = 0.0;
        for segment in self.state.as_iter() {
            no_speech = segment.no_speech_probability();
            for n in 0..segment.n_tokens() {
                let Some(token) = segment.get_token(n) else { continue };
                let data = token.token_data();
                let timestamp = data.id - self.context.token_beg();
                if timestamp >= 0 {
                    let at = u64::from(timestamp.unsigned_abs()) * 320;
                    heard.push(Heard::Timestamp(at.saturating_sub(lead).min(end)));
                } else if data.id < self.context.token_eot() {
                    let bytes = self.context.token_to_bytes(data.id).unwrap_or_default().to_vec();
                    let at = |hundredths: i64| {
                        let at = hundredths.max(0).unsigned_abs() * 160;
                        Some(at.saturating_sub(lead).min(end))
                    };
                    // What the engine calls a token's time is where the attention leaves it for the next one.
                    let (start, stop) =
                        if data.t_dtw >= 0 { (None, at(data.t_dtw)) } else { (at(data.t0), at(data.t1)) };
                    let token = Token { id: data.id.unsigned_abs(), bytes, logprob: data.plog };
                    heard.push(Heard::Text { token, start, stop });
                }
            }
        }
        let logprobs: Vec<f32> = heard.iter().filter_map(Heard::logprob).collect();
        let confidence = logprobs.iter().sum::<f32>() / logprobs.len().max(1) as f32;
        let loudness = Loudness::of(&window.pcm[window.lead..window.lead + window.length]);
        let span = Span::new(offset, offset + Samples(end));
        Attempt {
            confidence,
            compression: compression_ratio(&written(&heard)),
            no_speech,
            phrases: phrases(heard, &loudness, span, temperature, no_speech),
        }
    }
}
