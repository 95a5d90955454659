//! One worker's half of the engine: a window goes in, phrases come out.

use std::borrow::Cow;
use std::ffi::c_int;
use std::sync::Arc;

use whisper_rs::{FullParams, SamplingStrategy, WhisperContext, WhisperState};

use super::super::{Abort, Effort, EngineError, Recognizer, Request, Task};
use super::guard::Guard;
use super::words::{Heard, entropy, phrases};
use super::{Alignment, AudioContext, WhisperConfig, failed};
use crate::language::Language;
use crate::transcript::{Phrase, RATE, Recognition, Samples, Span, Token};

pub(super) struct WhisperRecognizer {
    context: Arc<WhisperContext>,
    /// `None` only between two states, and after one could not be made.
    state: Option<WhisperState>,
    /// Whether the state has been through a decode, and remembers its context length.
    used: bool,
    /// Whether its random numbers have been drawn from.
    drawn: bool,
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
/// Entropy of the last 32 tokens below which the decoder is taken to be stuck. whisper.cpp's threshold.
const ENTROPY_THRESHOLD: f32 = 2.4;
/// Above it nobody spoke, and doubtful words are no reason to try again. OpenAI's and whisper.cpp's threshold.
const NO_SPEECH_THRESHOLD: f32 = 0.6;
/// The rungs of the ladder. OpenAI's and whisper.cpp's step.
const TEMPERATURE_STEP: f32 = 0.2;
/// Windows are padded to a second: the engine ignores less than 100 ms and does badly on less than a second.
const SHORTEST: usize = RATE as usize;
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
        let mut pcm = Cow::Borrowed(&request.pcm[..]);
        if pcm.len() < SHORTEST {
            pcm.to_mut().resize(SHORTEST, 0.0);
        }
        let language = match request.language {
            Some(language) => language,
            None => self.detect(&pcm, &request.options.candidates, abort)?,
        };
        let prompt = self.prompt(request)?;
        let mut best: Option<Attempt> = None;
        let mut temperature = request.options.temperature;
        loop {
            let attempt = self.attempt(&pcm, language, &prompt, temperature, request, abort)?;
            let good = !attempt.doubtful();
            if best.as_ref().is_none_or(|best| good || attempt.rank() > best.rank()) {
                best = Some(attempt);
            }
            temperature += TEMPERATURE_STEP;
            if good || request.effort == Effort::Draft || !self.config.fallback || temperature > 1.0 + 1e-3 {
                break;
            }
        }
        let least = self.config.least_confidence.unwrap_or(f32::NEG_INFINITY);
        let phrases =
            best.filter(|best| best.confidence >= least).map_or_else(Vec::new, |attempt| attempt.phrases);
        Ok(Recognition { phrases, language: Some(language) })
    }
}

/// One decode of a window.
struct Attempt {
    phrases: Vec<Phrase>,
    /// Mean log probability of the tokens.
    confidence: f32,
    entropy: f32,
    tokens: usize,
    no_speech: f32,
}

impl Attempt {
    fn doubtful(&self) -> bool {
        let unsure = self.confidence < LOGPROB_THRESHOLD && self.no_speech < NO_SPEECH_THRESHOLD;
        unsure || self.stuck()
    }

    fn stuck(&self) -> bool {
        self.tokens > 32 && self.entropy < ENTROPY_THRESHOLD
    }

    /// Which of the doubtful ones is best. A stuck decoder is very sure of itself, so that comes first.
    fn rank(&self) -> (bool, f32) {
        (!self.stuck(), self.confidence)
    }
}

impl WhisperRecognizer {
    pub(super) fn new(
        context: Arc<WhisperContext>,
        config: Arc<WhisperConfig>,
        languages: Vec<Language>,
    ) -> Result<Self, EngineError> {
        let state = Some(context.create_state().map_err(failed)?);
        Ok(Self { context, state, used: false, drawn: false, config, languages, parameters: Vec::new() })
    }

    /// The likeliest of the candidates, or of all languages the model knows.
    fn detect(
        &mut self,
        pcm: &[f32],
        candidates: &[Language],
        abort: &Abort,
    ) -> Result<Language, EngineError> {
        let candidates = if candidates.is_empty() { self.languages.clone() } else { candidates.to_vec() };
        if let [only] = candidates[..] {
            return Ok(only);
        }
        if abort.is_set() {
            return Err(EngineError::Aborted);
        }
        let threads = self.config.threads;
        let state = self.state(self.used)?;
        state.pcm_to_mel(pcm, threads).map_err(failed)?;
        let (_, probabilities) = state.lang_detect(0, threads).map_err(failed)?;
        let probability = |language: &Language| {
            let id = whisper_rs::get_lang_id(language.code()).and_then(|id| usize::try_from(id).ok());
            id.and_then(|id| probabilities.get(id)).copied().unwrap_or(0.0)
        };
        let likeliest = candidates.iter().max_by(|a, b| probability(a).total_cmp(&probability(b)));
        Ok(likeliest.copied().unwrap_or(Language::ENGLISH))
    }

    /// The state, made anew where the old one must not be used again. The old one goes first: with beams it is the
    /// largest piece of memory a worker holds.
    fn state(&mut self, fresh: bool) -> Result<&mut WhisperState, EngineError> {
        if fresh || self.state.is_none() {
            self.state = None;
            (self.used, self.drawn) = (false, false);
        }
        match &mut self.state {
            Some(state) => Ok(state),
            none => Ok(none.insert(self.context.create_state().map_err(failed)?)),
        }
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
        pcm: &[f32],
        language: Language,
        prompt: &[c_int],
        temperature: f32,
        request: &Request,
        abort: &Abort,
    ) -> Result<Attempt, EngineError> {
        let search = match request.effort {
            // Beams are for the first rung; above it the best of five samples is taken, as OpenAI does.
            _ if temperature > 0.0 => Search::Samples(self.config.best_of.clamp(1, 8) as c_int),
            Effort::Draft => Search::Beams(1),
            Effort::Full => Search::Beams(self.config.beam_size.clamp(1, 8) as c_int),
        };
        let mut parameters: FullParams<'_, '_> = self.parameters(language, search);
        parameters.set_temperature(temperature);
        parameters.set_translate(request.options.task == Task::Translate && self.context.is_multilingual());
        parameters.set_audio_ctx(self.positions(pcm.len()) as c_int);
        if !prompt.is_empty() {
            parameters.set_tokens(prompt);
        }
        let fresh = self.drawn;
        self.state(fresh)?;
        self.used = true;
        self.drawn = search != Search::Beams(1);
        let guard = Guard::new(abort, self.context.token_beg());
        guard.install(&mut parameters);
        let result = self.state(false)?.full(parameters, pcm);
        if abort.is_set() {
            return Err(EngineError::Aborted);
        }
        result.map_err(failed)?;
        Ok(self.read(pcm.len(), request.offset, temperature))
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
        parameters.set_entropy_thold(ENTROPY_THRESHOLD);
        parameters.set_token_timestamps(self.config.alignment == Alignment::Estimate);
        parameters.set_print_special(false);
        parameters.set_print_progress(false);
        parameters.set_print_realtime(false);
        parameters.set_print_timestamps(false);
        self.parameters.push((language, search, parameters.clone()));
        parameters
    }

    /// How many encoder positions a window of so many samples gets.
    fn positions(&self, samples: usize) -> usize {
        let all = usize::try_from(self.context.model_n_audio_ctx()).unwrap_or(1500);
        // Word times need every frame of the window under a position, so one more than it fills.
        let needed = (samples * POSITIONS).div_ceil(RATE as usize) + 2;
        match self.config.audio_ctx {
            AudioContext::Full => all,
            AudioContext::Auto { floor } => needed.max(floor).min(all),
            AudioContext::Fixed(n) => needed.max(n).min(all),
        }
    }

    /// Reads the state's result.
    fn read(&self, samples: usize, offset: Samples, temperature: f32) -> Attempt {
        let end = samples as u64;
        let mut heard: Vec<Heard> = Vec::new();
        let mut no_speech = 0.0;
        for segment in self.state.iter().flat_map(WhisperState::as_iter) {
            no_speech = segment.no_speech_probability();
            for n in 0..segment.n_tokens() {
                let Some(token) = segment.get_token(n) else { continue };
                let data = token.token_data();
                let timestamp = data.id - self.context.token_beg();
                if timestamp >= 0 {
                    heard.push(Heard::Timestamp(u64::from(timestamp.unsigned_abs()) * 320));
                } else if data.id < self.context.token_eot() {
                    let bytes = self.context.token_to_bytes(data.id).unwrap_or_default().to_vec();
                    let at = |hundredths: i64| hundredths.max(0).unsigned_abs() * 160;
                    let (start, stop) = if data.t_dtw >= 0 {
                        (at(data.t_dtw), None)
                    } else {
                        (at(data.t0), Some(at(data.t1)))
                    };
                    let token = Token { id: data.id.unsigned_abs(), bytes, logprob: data.plog };
                    heard.push(Heard::Text {
                        token,
                        start: start.min(end),
                        stop: stop.map(|at| at.min(end)),
                    });
                }
            }
        }
        let logprobs: Vec<f32> = heard.iter().filter_map(Heard::logprob).collect();
        let confidence = logprobs.iter().sum::<f32>() / logprobs.len().max(1) as f32;
        Attempt {
            confidence,
            entropy: entropy(&heard),
            tokens: logprobs.len(),
            no_speech,
            phrases: phrases(heard, Span::new(offset, offset + Samples(end)), temperature, no_speech),
        }
    }
}
