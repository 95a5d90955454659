//! What live captions cost and what their promises are worth, without a clock: recordings pass through a live session
//! whose windows are answered at once, one draft for each second of audio.
//!
//! `cargo bench --bench live -- [--model NAME] [--recordings DIR]` takes the bundled model and the recordings of the
//! repository, or another model and the FLAC files of a folder, in English. It prints, for several rules of when a word is promised: how many words were promised
//! and how late, in how many finals the final decode wanted something else, and how many of the words that were
//! shown as tentative came to stay. And what a window costs, as a draft and in full.

#[cfg(not(feature = "whisper"))]
fn main() {
    eprintln!("this benchmark needs the Whisper engine, which this build lacks");
}

#[cfg(feature = "whisper")]
fn main() -> anyhow::Result<()> {
    whisper::main()
}

#[cfg(feature = "whisper")]
#[expect(clippy::print_stdout, reason = "the table is what was asked for")]
mod whisper {
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use whisperwire::audio::{FileDecoder, FileOptions};
    use whisperwire::config::{Cli, Command};
    use whisperwire::engine::{Abort, Effort, Engine, Recognizer, Request};
    use whisperwire::session::{
        Input, LiveConfig, Output, Promise, Session, SessionConfig, WindowConfig, WindowKind,
    };
    use whisperwire::transcript::{Event, Recognition, Samples, Word};
    use whisperwire::vad::VadKind;

    pub(super) fn main() -> anyhow::Result<()> {
        let engine = engine()?;
        let mut recognizer = engine.recognizer()?;
        let recordings = recordings()?;
        costs(recognizer.as_mut(), &recordings)?;
        let mut heard = Heard::default();
        println!(
            "held back  sure   finals  overruled  promised  words  promised after  tentative words kept"
        );
        for (held_back, sure) in [
            (300, 0.5),
            (300, 0.7),
            (300, 0.85),
            (500, 0.5),
            (500, 0.7),
            (500, 0.85),
            (800, 0.3),
            (800, 0.5),
            (800, 0.7),
            (800, 0.85),
            (1200, 0.3),
            (1200, 0.7),
        ] {
            let promise = Promise { held_back: Samples::from_millis(held_back), sure };
            let mut sum = Sum::default();
            for (name, pcm) in &recordings {
                let before = sum.overruled;
                run(recognizer.as_mut(), engine.as_ref(), (name, pcm), promise, &mut heard, &mut sum)?;
                if sum.overruled > before {
                    sum.where_from.push(name.clone());
                }
            }
            let Sum { finals, overruled, promised, words, delay, tentative, kept, where_from } = sum;
            println!(
                "{held_back:>6} ms  {sure:.2}  {finals:>6}  {overruled:>9}  {promised:>8}  {words:>5}  {:>11.2} s  {:>18.1} %  {}",
                delay / f64::from(promised.max(1)),
                100.0 * f64::from(kept) / f64::from(tentative.max(1)),
                where_from.join(" ")
            );
        }
        Ok(())
    }

    /// What was heard in a window, by recording, place and purpose: no rule changes it.
    type Heard = BTreeMap<(String, u64, u64, bool), Recognition>;

    #[derive(Default)]
    struct Sum {
        finals: u32,
        overruled: u64,
        promised: u32,
        words: u32,
        /// Seconds from the end of a word to its promise, in audio, summed up.
        delay: f64,
        tentative: u32,
        kept: u32,
        where_from: Vec<String>,
    }

    fn run(
        recognizer: &mut dyn Recognizer,
        engine: &dyn Engine,
        (name, pcm): (&str, &[f32]),
        promise: Promise,
        heard: &mut Heard,
        sum: &mut Sum,
    ) -> anyhow::Result<()> {
        let config = SessionConfig {
            window: WindowConfig {
                max: engine.traits().max_window.min(WindowConfig::default().max),
                context: engine.traits().live_context,
                ..WindowConfig::default()
            },
            max_in_flight: 2,
            live: Some(LiveConfig { partials: true, promise }),
            ..SessionConfig::default()
        };
        let mut session = Session::new(config, VadKind::Earshot.build());
        session.handle(Input::Step(Samples::from_millis(1_000)));
        let mut shown: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        let mut stable = 0;
        for chunk in pcm.chunks(320).map(Some).chain([None]) {
            session.handle(chunk.map_or(Input::End, Input::Audio));
            while let Some(output) = session.poll() {
                match output {
                    Output::Recognize(window) => {
                        let last = window.kind == WindowKind::Final;
                        let key = (name.to_owned(), window.span.start.0, window.span.end.0, last);
                        let said = match heard.get(&key) {
                            Some(said) => said.clone(),
                            None => {
                                let effort = if last { Effort::Live } else { Effort::Draft };
                                let request = request(window.pcm, window.span.start, effort);
                                let said = recognizer.recognize(&request, &Abort::default())?;
                                heard.entry(key).or_insert(said).clone()
                            }
                        };
                        session.handle(Input::Recognized(window.id, Ok(said)));
                    }
                    Output::Event(Event::Partial(partial)) => {
                        let now = session.received();
                        for word in partial.stable.iter().skip(stable) {
                            sum.promised += 1;
                            sum.delay += (now - word.span.end.min(now)).seconds();
                        }
                        stable = partial.stable.len();
                        let words = partial.tentative.iter().map(letters);
                        shown.entry(partial.utterance).or_default().extend(words);
                    }
                    Output::Event(Event::Final(segment)) => {
                        sum.finals += 1;
                        stable = 0;
                        let told: Vec<String> = segment.words.iter().map(letters).collect();
                        sum.words += told.len() as u32;
                        for word in shown.remove(&segment.utterance).unwrap_or_default() {
                            sum.tentative += 1;
                            sum.kept += u32::from(told.contains(&word));
                        }
                    }
                    _ => {}
                }
            }
        }
        sum.overruled += session.overruled();
        Ok(())
    }

    fn costs(recognizer: &mut dyn Recognizer, recordings: &[(String, Vec<f32>)]) -> anyhow::Result<()> {
        let speech: Vec<f32> = recordings.iter().flat_map(|(_, pcm)| pcm).copied().collect();
        println!("window   draft    full   (median of 7, ms)");
        for seconds in [1.0, 2.0, 4.0, 6.0, 10.0] {
            let length = Samples::from_seconds(seconds).0 as usize;
            let mut took = [Vec::new(), Vec::new()];
            for n in 0..7 {
                let pcm = &speech[n * 40_000..n * 40_000 + length];
                for (effort, took) in [Effort::Draft, Effort::Live].into_iter().zip(&mut took) {
                    let request = Request {
                        pcm: pcm.into(),
                        offset: Samples(0),
                        effort,
                        language: Some(whisperwire::language::Language::ENGLISH),
                        prior: None,
                        options: std::sync::Arc::default(),
                    };
                    let begun = Instant::now();
                    recognizer.recognize(&request, &Abort::default())?;
                    took.push(begun.elapsed());
                }
            }
            let [draft, full] = took.map(|mut took: Vec<Duration>| {
                took.sort_unstable();
                took[took.len() / 2].as_secs_f64() * 1e3
            });
            println!("{seconds:>4} s  {draft:>6.0}  {full:>6.0}");
        }
        Ok(())
    }

    fn request(pcm: std::sync::Arc<[f32]>, offset: Samples, effort: Effort) -> Request {
        let language = Some(whisperwire::language::Language::ENGLISH);
        Request { pcm, offset, effort, language, prior: None, options: std::sync::Arc::default() }
    }

    fn letters(word: &Word) -> String {
        word.text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    }

    fn engine() -> anyhow::Result<std::sync::Arc<dyn Engine>> {
        let model = argument("--model").unwrap_or_else(|| "bundled".to_owned());
        let arguments =
            ["whisperwire", "serve", "--model", &model, "--offline", "--device", "cpu", "--threads", "1"];
        let cli =
            Cli::read(arguments.iter().map(Into::into)).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let Command::Serve(flags) = cli.command else { anyhow::bail!("it was asked to serve") };
        let config = flags.config().map_err(|error| anyhow::anyhow!("{error:?}"))?;
        whisperwire::app::load_engine(&config.engine.choice)
    }

    /// What stands behind a name on the command line.
    fn argument(name: &str) -> Option<String> {
        std::env::args().skip_while(|argument| argument != name).nth(1)
    }

    /// Every recording of the folder, each with a pause behind it.
    fn recordings() -> anyhow::Result<Vec<(String, Vec<f32>)>> {
        let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audio");
        let folder = argument("--recordings").map_or_else(own, Into::into);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if path.extension().is_some_and(|extension| extension == "flac") && name != "dialogue-stereo" {
                let mut decoder = FileDecoder::open(File::open(&path)?, &FileOptions::default())?;
                let mut pcm = Vec::new();
                while decoder.read(&mut pcm)? {}
                pcm.extend(std::iter::repeat_n(0.0, 16_000));
                found.push((name, pcm));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }
}
