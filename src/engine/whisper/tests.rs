//! The real engine on the bundled model, and on a multilingual one made from it: what must not crash, must not
//! depend on what came before, and must stop when it is told to.

use std::time::{Duration, Instant};

use super::*;
use crate::engine::models;
use crate::engine::{Abort, DecodeOptions, Effort, Request, Task};
use crate::transcript::{RATE, Recognition};

fn config(weights: Vec<u8>) -> WhisperConfig {
    WhisperConfig {
        name: "test".into(),
        weights: Weights::Bytes(Arc::new(weights)),
        device: Device::Cpu,
        threads: 1,
        beam_size: 5,
        audio_ctx: AudioContext::Auto { floor: 150, margin: 0, whole: false },
        max_window: Samples::from_millis(12_000),
        file_window: Samples::from_millis(10_000),
        alignment: Alignment::TopLayers(2),
        best_of: 5,
        fallback: false,
        least_confidence: None,
        flash_attention: false,
        translates: true,
        caveat: None,
    }
}

fn bundled() -> Vec<u8> {
    models::bundled().expect("the bundled model is whole")
}

/// The bundled model with one token more, which is what tells a multilingual one. OpenAI's multilingual vocabulary
/// has one text token more than the English one and the same order after it, so the rows stay with their meaning.
fn multilingual() -> Vec<u8> {
    const FIRST_SPECIAL: usize = 50_256;
    let model = bundled();
    let header = models::inspect_bytes(&model).expect("whole");
    let width = header.width as usize;
    let name = b"decoder.token_embedding.weight";
    let at = model.windows(name.len()).position(|bytes| bytes == name).expect("has an embedding");
    let data = at + name.len();
    // Blocks of 32 numbers in 34 bytes: q8_0.
    let row = width / 32 * 34;
    let cut = data + FIRST_SPECIAL * row;
    let vocab = header.vocab + 1;
    let mut grown = model[..cut].to_vec();
    grown.extend_from_slice(&model[cut - row..]);
    // The vocabulary stands in the header, and again as the second dimension just before the tensor's name.
    grown[4..8].copy_from_slice(&vocab.to_le_bytes());
    grown[at - 4..at].copy_from_slice(&vocab.to_le_bytes());
    grown
}

/// A buzz with formants, in syllables.
fn babble(seconds: f32) -> Arc<[f32]> {
    (0..(seconds * RATE as f32) as u32)
        .map(|n| {
            let t = n as f32 / RATE as f32;
            let voice: f32 =
                (1..20).map(|k| (std::f32::consts::TAU * 120.0 * k as f32 * t).sin() / k as f32).sum();
            0.2 * (std::f32::consts::TAU * 3.0 * t).sin().abs() * voice
        })
        .collect()
}

fn request(pcm: Arc<[f32]>, language: Option<Language>, options: DecodeOptions) -> Request {
    Request {
        pcm,
        offset: Samples(1000),
        effort: Effort::Full,
        language,
        prior: None,
        options: Arc::new(options),
    }
}

fn hear(recognizer: &mut dyn Recognizer, request: &Request) -> Recognition {
    recognizer.recognize(request, &Abort::default()).expect("is decoded")
}

#[test]
fn a_window_is_heard_the_same_whatever_came_before_it() {
    let engine = Whisper::load(config(bundled())).expect("loads");
    let english = Some(Language::ENGLISH);
    let one = request(babble(3.0), english, DecodeOptions::default());
    let other = request(babble(5.5), english, DecodeOptions::default());
    let mut fresh = engine.recognizer().expect("is made");
    let first = hear(fresh.as_mut(), &one);
    let mut used = engine.recognizer().expect("is made");
    hear(used.as_mut(), &other);
    hear(used.as_mut(), &one);
    hear(used.as_mut(), &Request { effort: Effort::Draft, ..other });
    assert_eq!(hear(used.as_mut(), &one), first);
}

#[test]
fn every_length_is_borne_and_times_stay_inside() {
    let engine = Whisper::load(config(bundled())).expect("loads");
    let mut recognizer = engine.recognizer().expect("is made");
    for seconds in [0.0001, 0.05, 0.16, 0.99, 1.0, 2.3, 12.0, 30.0] {
        let request = request(babble(seconds), Some(Language::ENGLISH), DecodeOptions::default());
        // Windows are padded to a second, so words may lie in the padding; the session clamps them.
        let end = request.offset + Samples((request.pcm.len() as u64).max(u64::from(RATE)));
        for word in hear(recognizer.as_mut(), &request).phrases.iter().flat_map(|phrase| &phrase.words) {
            assert!(word.span.start >= request.offset && word.span.end <= end, "{seconds}: {:?}", word.span);
        }
    }
}

#[test]
fn no_prompt_brings_it_down() {
    let engine = Whisper::load(config(bundled())).expect("loads");
    let mut recognizer = engine.recognizer().expect("is made");
    for prompt in
        ["a".repeat(64 << 10), "ü ".repeat(9000), "1,2;".repeat(9000), "\u{1F600}".repeat(5000), " ".into()]
    {
        let keywords = vec![prompt.clone(); 3];
        let options = DecodeOptions { prompt: Some(prompt), keywords, ..DecodeOptions::default() };
        hear(recognizer.as_mut(), &request(babble(1.5), Some(Language::ENGLISH), options));
    }
}

#[test]
fn it_stops_when_it_is_told_to() {
    let engine = Whisper::load(config(bundled())).expect("loads");
    let mut recognizer = engine.recognizer().expect("is made");
    let request = request(babble(12.0), Some(Language::ENGLISH), DecodeOptions::default());
    let abort = Abort::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            #[expect(clippy::disallowed_methods, reason = "the decode must be under way")]
            std::thread::sleep(Duration::from_millis(30));
            abort.set();
        });
        let started = Instant::now();
        assert_eq!(recognizer.recognize(&request, &abort), Err(EngineError::Aborted));
        assert!(started.elapsed() < Duration::from_secs(20));
    });
    hear(recognizer.as_mut(), &request);
}

#[test]
fn the_ladder_is_climbed_and_its_best_rung_taken() {
    let engine = Whisper::load(WhisperConfig { fallback: true, ..config(bundled()) }).expect("loads");
    let mut recognizer = engine.recognizer().expect("is made");
    // Noise without words leaves the decoder in doubt.
    let noise: Arc<[f32]> = (0..4 * RATE).map(|n| ((n * 7919 % 4099) as f32 / 4099.0 - 0.5) * 0.6).collect();
    let request = request(noise, Some(Language::ENGLISH), DecodeOptions::default());
    let once = hear(recognizer.as_mut(), &request);
    assert_eq!(hear(recognizer.as_mut(), &request), once, "the ladder draws the same numbers every time");
    for phrase in &once.phrases {
        assert!((0.0..=1.001).contains(&phrase.temperature));
    }
}

#[test]
fn a_multilingual_model_detects_among_the_candidates_and_translates() {
    let engine = Whisper::load(config(multilingual())).expect("loads");
    assert_eq!(engine.traits().languages.len(), 99);
    assert!(engine.traits().translates);
    let mut recognizer = engine.recognizer().expect("is made");
    let candidates: Vec<Language> =
        ["de", "fr", "ja"].iter().filter_map(|code| Language::parse(code)).collect();
    for task in [Task::Transcribe, Task::Translate] {
        let options = DecodeOptions { task, candidates: candidates.clone(), ..DecodeOptions::default() };
        let heard = hear(recognizer.as_mut(), &request(babble(2.0), None, options));
        assert!(
            heard.language.is_some_and(|language| candidates.contains(&language)),
            "{:?}",
            heard.language
        );
    }
    let any = request(babble(2.0), None, DecodeOptions::default());
    let first = hear(recognizer.as_mut(), &any);
    assert!(first.language.is_some());
    assert_eq!(hear(recognizer.as_mut(), &any), first);
}

#[test]
fn an_english_model_knows_english_alone_and_a_missing_gpu_is_said() {
    let engine = Whisper::load(config(bundled())).expect("loads");
    assert_eq!(engine.traits().languages, [Language::ENGLISH]);
    assert!(!engine.traits().translates && engine.traits().device.starts_with("cpu"));
    if !GPU_BUILD {
        let error = Whisper::load(WhisperConfig { device: Device::Gpu(0), ..config(bundled()) }).err();
        assert!(matches!(error, Some(EngineError::Load(why)) if why.contains("GPU")));
    }
}

/// Blocks of an imported model are those that the engine itself would make of the same weights.
#[test]
#[expect(unsafe_code, reason = "the engine's quantiser is a C function")]
fn imported_weights_are_quantised_as_the_engine_does_it() {
    use whisper_rs::whisper_rs_sys as sys;

    use crate::engine::models::Numbers;

    let (rows, width) = (32, 1024);
    let mut state = 1_u32;
    let weights: Vec<f32> = (0..rows * width)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let random = (state >> 8) as f32 / (1 << 24) as f32 - 0.5;
            random * random * random
        })
        .collect();
    for (numbers, kind) in [
        (Numbers::Q4_0, sys::ggml_type_GGML_TYPE_Q4_0),
        (Numbers::Q4_1, sys::ggml_type_GGML_TYPE_Q4_1),
        (Numbers::Q5_0, sys::ggml_type_GGML_TYPE_Q5_0),
        (Numbers::Q5_1, sys::ggml_type_GGML_TYPE_Q5_1),
        (Numbers::Q8_0, sys::ggml_type_GGML_TYPE_Q8_0),
    ] {
        let mut ours = Vec::new();
        numbers.write(&weights, &mut ours);
        let mut theirs = vec![0_u8; ours.len() + 64];
        // SAFETY: the source holds rows times width values, and the target has room for as many blocks.
        let written = unsafe {
            sys::ggml_quantize_chunk(
                kind,
                weights.as_ptr(),
                theirs.as_mut_ptr().cast(),
                0,
                rows as i64,
                width as i64,
                std::ptr::null(),
            )
        };
        assert_eq!(written, ours.len(), "{numbers:?}");
        // Where the compiler joins a product and a sum, a value in the middle of two steps may go the other way.
        let different = ours.iter().zip(&theirs).filter(|(ours, theirs)| ours != theirs).count();
        assert!(different * 10_000 <= ours.len(), "{numbers:?}: {different} of {} bytes", ours.len());
    }
}
