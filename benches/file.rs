//! The pipeline against the bare engine: `./dev bench file`.
//!
//! Prints a table of ratios: what the pipeline adds to calling the engine on the same windows, what fitting the
//! encoder's context to the window is worth (in speed and in word error rate), one worker against all, and the peak
//! memory of a two-hour upload. Everything is measured in one run on one machine, the pairs in turns, because
//! machines are noisy; the best of several rounds counts. `quick` as an argument leaves out the upload.

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
    use std::ffi::OsString;
    use std::fs::File;
    use std::io::{BufRead, BufReader, Write};
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use anyhow::{Context, ensure};
    use whisperwire::app::{load_engine, start_engine};
    use whisperwire::audio::{FileDecoder, FileOptions};
    use whisperwire::config::{Cli, Command as Parsed, TranscribeConfig};
    use whisperwire::engine::{Abort, DecodeOptions, Effort, Engine, Request};
    use whisperwire::language::Language;
    use whisperwire::pipeline::Transcriber;
    use whisperwire::session::{Input, Output, Session, SessionConfig, Window, WindowConfig};
    use whisperwire::transcript::{RATE, Samples, Transcript};
    use whisperwire_client::wer;

    const ROUNDS: usize = 5;

    pub(super) fn main() -> anyhow::Result<()> {
        let cores = std::thread::available_parallelism()?.get();
        let recordings = Recordings::make()?;
        println!(
            "{cores} cores; {:.0} s of speech in {} sentences\n",
            recordings.seconds, recordings.sentences
        );
        overhead(&recordings)?;
        contexts(&recordings)?;
        workers(&recordings, cores)?;
        if !std::env::args().any(|argument| argument == "quick") {
            memory("--engine=script", "dense speech, scripted engine", 0)?;
            memory("--model=bundled", "a sentence every 30 s, bundled model", 26)?;
        }
        Ok(())
    }

    /// Our sentences in one file, with pauses, and what is said in them.
    struct Recordings {
        file: PathBuf,
        reference: String,
        seconds: f64,
        sentences: usize,
        _folder: tempfile::TempDir,
    }

    impl Recordings {
        fn make() -> anyhow::Result<Self> {
            let folder = tempfile::tempdir()?;
            let (pcm, reference, sentences) = sentences(Duration::from_secs(1))?;
            let file = folder.path().join("sentences.wav");
            write_wav(&file, std::iter::once(&pcm[..]))?;
            let seconds = pcm.len() as f64 / f64::from(RATE);
            Ok(Self { file, reference, seconds, sentences, _folder: folder })
        }
    }

    fn sentences(pause: Duration) -> anyhow::Result<(Vec<f32>, String, usize)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audio");
        let manifest = std::fs::read_to_string(folder.join("manifest.json"))?;
        let manifest: Vec<serde_json::Value> = serde_json::from_str(&manifest)?;
        let mut pcm = Vec::new();
        let mut reference = String::new();
        let mut count = 0;
        for entry in &manifest {
            let name = entry["file"].as_str().context("a name")?;
            if name.starts_with("sentence") {
                let mut decoder = FileDecoder::open(File::open(folder.join(name))?, &FileOptions::default())?;
                while decoder.read(&mut pcm)? {}
                pcm.extend(std::iter::repeat_n(0.0, (pause.as_secs() * u64::from(RATE)) as usize));
                reference.push_str(entry["text"].as_str().context("a text")?);
                reference.push(' ');
                count += 1;
            }
        }
        Ok((pcm, reference, count))
    }

    fn write_wav<'a>(path: &Path, parts: impl Iterator<Item = &'a [f32]>) -> anyhow::Result<()> {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: RATE,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(path, spec)?;
        for sample in parts.flatten() {
            writer.write_sample((sample * 32767.0) as i16)?;
        }
        Ok(writer.finalize()?)
    }

    fn configure(flags: &[&str]) -> anyhow::Result<TranscribeConfig> {
        let fixed = ["whisperwire", "transcribe", "none.wav", "--model=bundled", "--device=cpu"];
        let arguments = fixed.iter().chain(flags).map(OsString::from);
        match Cli::read(arguments).map_err(|error| anyhow::anyhow!("{error:?}"))?.command {
            Parsed::Transcribe(flags) => flags.config().map_err(|error| anyhow::anyhow!("{error:?}")),
            other => anyhow::bail!("{other:?}"),
        }
    }

    /// Times the transcription of a file, engine start not included.
    struct Pipeline {
        runtime: tokio::runtime::Runtime,
        transcriber: Transcriber,
        _workers: whisperwire::engine::pool::Workers,
    }

    impl Pipeline {
        fn start(flags: &[&str]) -> anyhow::Result<Self> {
            let config = configure(flags)?;
            let (pool, workers) = start_engine(&config.engine)?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            Ok(Self { runtime, transcriber: Transcriber::new(pool, config.pipeline), _workers: workers })
        }

        fn run(&self, file: &Path) -> anyhow::Result<(Duration, Transcript)> {
            let started = Instant::now();
            let transcript = self.runtime.block_on(async {
                let source = self.transcriber.open(File::open(file)?).await?;
                let work = self.transcriber.work(DecodeOptions::default(), None);
                anyhow::Ok(self.transcriber.transcribe(self.transcriber.admit()?, source, work, None).await?)
            })?;
            Ok((started.elapsed(), transcript))
        }
    }

    /// One worker with one thread in the pipeline, against the same windows handed to the engine one by one.
    fn overhead(recordings: &Recordings) -> anyhow::Result<()> {
        let flags = ["--workers=1", "--threads=1"];
        let pipeline = Pipeline::start(&flags)?;
        let engine = load_engine(&configure(&flags)?.engine.choice)?;
        let windows = windows(&recordings.file, &configure(&flags)?, engine.traits().file_window)?;
        let (mut direct, mut piped) = (Duration::MAX, Duration::MAX);
        for _ in 0..ROUNDS {
            direct = direct.min(decode_all(engine.as_ref(), &windows)?);
            piped = piped.min(pipeline.run(&recordings.file)?.0);
        }
        let rtf = |time: Duration| time.as_secs_f64() / recordings.seconds;
        println!(
            "real-time factor, 1 worker, 1 thread     engine alone {:.4}   pipeline {:.4}",
            rtf(direct),
            rtf(piped)
        );
        println!(
            "overhead of the pipeline                 {:+.1} %\n",
            100.0 * (piped.as_secs_f64() / direct.as_secs_f64() - 1.0)
        );
        Ok(())
    }

    /// The windows the pipeline would ask for.
    fn windows(file: &Path, config: &TranscribeConfig, window: Samples) -> anyhow::Result<Vec<Window>> {
        let mut decoder = FileDecoder::open(File::open(file)?, &FileOptions::default())?;
        let mut pcm = Vec::new();
        while decoder.read(&mut pcm)? {}
        let session = SessionConfig {
            endpoint: config.pipeline.endpoint.clone(),
            window: WindowConfig::with_max(window),
            max_in_flight: usize::MAX,
            ..SessionConfig::default()
        };
        let mut session = Session::new(session, config.pipeline.vad.build());
        session.handle(Input::Audio(&pcm));
        session.handle(Input::End);
        let windows = std::iter::from_fn(|| session.poll()).filter_map(|output| match output {
            Output::Recognize(window) => Some(window),
            _ => None,
        });
        Ok(windows.collect())
    }

    fn decode_all(engine: &dyn Engine, windows: &[Window]) -> anyhow::Result<Duration> {
        let mut recognizer = engine.recognizer()?;
        let options = Arc::new(DecodeOptions::default());
        let started = Instant::now();
        for window in windows {
            let request = Request {
                pcm: window.pcm.clone(),
                offset: window.span.start,
                effort: Effort::Full,
                language: Some(Language::ENGLISH),
                prior: None,
                options: options.clone(),
            };
            recognizer.recognize(&request, &Abort::default())?;
        }
        Ok(started.elapsed())
    }

    /// What the encoder's context costs and what it is worth.
    fn contexts(recordings: &Recordings) -> anyhow::Result<()> {
        let settings = ["auto", "300", "500", "768", "full"];
        let pipelines = settings
            .iter()
            .map(|ctx| Pipeline::start(&["--workers=1", "--threads=1", &format!("--audio-ctx={ctx}")]))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut best = vec![(Duration::MAX, String::new()); settings.len()];
        for _ in 0..2 {
            for (pipeline, best) in pipelines.iter().zip(&mut best) {
                let (time, transcript) = pipeline.run(&recordings.file)?;
                *best = (best.0.min(time), transcript.text());
            }
        }
        let full = best[settings.len() - 1].0;
        for (ctx, (time, text)) in settings.iter().zip(&best) {
            let score = wer::score(&recordings.reference, text);
            println!(
                "audio_ctx {ctx:5}                          {:.2} x the speed of full   word error rate {:.1} %",
                full.as_secs_f64() / time.as_secs_f64(),
                100.0 * score.rate()
            );
        }
        println!();
        Ok(())
    }

    fn workers(recordings: &Recordings, cores: usize) -> anyhow::Result<()> {
        let one = Pipeline::start(&["--workers=1", "--threads=1"])?;
        let spread = Pipeline::start(&["--workers=1", &format!("--threads={cores}")])?;
        let all = Pipeline::start(&[&format!("--workers={cores}"), "--threads=1"])?;
        let mut best = [Duration::MAX; 3];
        let mut texts: [String; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (n, pipeline) in [&one, &spread, &all].into_iter().enumerate() {
                let (time, transcript) = pipeline.run(&recordings.file)?;
                best[n] = best[n].min(time);
                texts[n] = transcript.text();
            }
        }
        ensure!(texts[0] == texts[2], "the transcript depends on the number of workers");
        let ratio = |time: Duration| best[0].as_secs_f64() / time.as_secs_f64();
        println!(
            "1 worker of {cores} threads                    {:.2} x the speed of 1 of 1",
            ratio(best[1])
        );
        println!(
            "{cores} workers of 1 thread                    {:.2} x the speed of 1 of 1, same text\n",
            ratio(best[2])
        );
        Ok(())
    }

    /// Uploads two hours to a server of its own and reads the server's peak memory.
    fn memory(engine: &str, what: &str, pause: u64) -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("two-hours.wav");
        let (pcm, ..) = sentences(Duration::from_secs(pause))?;
        let times = (2 * 3600 * RATE as usize).div_ceil(pcm.len());
        write_wav(&file, std::iter::repeat_n(&pcm[..], times))?;
        let mut server = Server::start(engine)?;
        let before = server.peak()?;
        let started = Instant::now();
        let address = server.address.clone();
        let client = whisperwire_client::Client::new(&address, None, Duration::from_secs(3600))?;
        let answer = client.transcribe(&file, &whisperwire_client::Options::default())?;
        let after = server.peak()?;
        println!(
            "2 h upload, {what:38} peak {:.0} MB, {:.0} MB above the idle server   {} letters in {:.0} s",
            after,
            after - before,
            answer.len(),
            started.elapsed().as_secs_f64(),
        );
        std::io::stdout().flush()?;
        server.stop()
    }

    struct Server {
        child: Child,
        address: String,
    }

    impl Server {
        fn start(engine: &str) -> anyhow::Result<Self> {
            let mut child = Command::new(env!("CARGO_BIN_EXE_whisperwire"))
                .args(["serve", "--port=0", "--log=warn", engine])
                .stdout(Stdio::piped())
                .spawn()?;
            let mut line = String::new();
            BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
            let address = line.trim().strip_prefix("listening on ").context("no address")?.to_owned();
            Ok(Self { child, address })
        }

        /// The most memory the process ever held, in MB.
        fn peak(&self) -> anyhow::Result<f64> {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
            let kilobytes: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
            Ok(kilobytes / 1000.0)
        }

        fn stop(&mut self) -> anyhow::Result<()> {
            self.child.kill()?;
            self.child.wait()?;
            Ok(())
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            drop(self.stop());
        }
    }
}
