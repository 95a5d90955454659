//! The commands: what a person at a terminal sees. Standard output is for what was asked for, standard error for
//! everything else.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use whisperwire_protocol::TranscriptionForm;
use whisperwire_protocol::captions;
use whisperwire_protocol::form::ResponseFormat;

use crate::app::{App, start_engine};
use crate::config::{ConfigError, Format, ServeConfig, TranscribeConfig, TranscribeFlags};
use crate::dialect::openai::{as_captions, order, render};
use crate::engine::Task;
use crate::engine::models::{HubConfig, ModelsCommand};
use crate::pipeline::Transcriber;
use crate::telemetry::{LogConfig, Traces};
use crate::transcript::{Segment, Transcript};

/// `EX_USAGE` of `sysexits.h`.
pub const BAD_CONFIG: u8 = 64;

/// One sentence on standard error.
pub fn complain(sentence: &str) {
    drop(writeln!(io::stderr(), "whisperwire: {sentence}"));
}

/// `whisperwire serve`.
pub fn serve(config: ServeConfig) -> Result<ExitCode, ConfigError> {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return Ok(exit(Err(error))),
    };
    let traces = runtime.block_on(async { start_log(&config.log) })?;
    let try_with = config.http.try_with.clone();
    let grace = config.http.grace;
    let served = (|| {
        let made_it = runtime.block_on(async {
            let app = App::build(config).await?.with_traces(traces);
            announce(&app, try_with.as_deref())?;
            let stop = CancellationToken::new();
            stop_on_signal(stop.clone())?;
            anyhow::Ok(app.run(stop).await)
        })?;
        // A thread may still wait for a disk or a child; it is not waited for longer than a request would be.
        runtime.shutdown_timeout(grace.min(std::time::Duration::from_secs(1)));
        Ok(made_it)
    })();
    Ok(exit(served))
}

/// Tells where the server is, and how to try it: the lines a script or a person waits for.
fn announce(app: &App, try_with: Option<&str>) -> anyhow::Result<()> {
    let address = app.address()?;
    let (scheme, trust) = match app.tls() {
        // A certificate that nobody has signed is its own authority.
        Some(tls) => ("https", format!("--cacert {} ", tls.certificate().display())),
        None => ("http", String::new()),
    };
    let mut out = io::stdout().lock();
    writeln!(out, "listening on {scheme}://{address}")?;
    if let Some(recording) = try_with {
        let url = format!("{scheme}://{address}/v1/audio/transcriptions");
        writeln!(out, "try: curl {trust}{url} -F file=@{recording} -F model=whisper-1")?;
    }
    Ok(out.flush()?)
}

/// The first SIGTERM or Ctrl-C drains, the second ends at once.
fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    #[cfg(unix)]
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        for round in 0..2 {
            #[cfg(unix)]
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            #[cfg(not(unix))]
            drop(tokio::signal::ctrl_c().await);
            if round == 1 {
                complain("stopped at once");
                std::process::exit(1);
            }
            stop.cancel();
        }
    });
    Ok(())
}

/// `whisperwire models`.
pub fn models(command: ModelsCommand, hub: &HubConfig) -> ExitCode {
    let done = crate::engine::models::run(command, hub, &mut io::stdout().lock());
    exit(done.map(|()| true).map_err(anyhow::Error::from))
}

/// `whisperwire transcribe`: each file by itself, so that one that fails does not cost the others.
pub fn transcribe(flags: &TranscribeFlags, config: TranscribeConfig) -> Result<ExitCode, ConfigError> {
    let _no_traces = start_log(&config.log)?;
    if let Some(folder) = &flags.output
        && let Err(error) = std::fs::create_dir_all(folder)
    {
        return Err(ConfigError::Bad(format!("--output {}: {error}", folder.display())));
    }
    refuse_collisions(flags)?;
    let done = start_engine(&config.engine).and_then(|(pool, workers)| {
        let transcriber = Transcriber::new(pool, config.pipeline);
        let runtime = runtime()?;
        let mut all = true;
        for path in &flags.files {
            if let Err(error) = runtime.block_on(transcribe_file(&transcriber, path, flags)) {
                complain(&format!("{}: {error:#}", path.display()));
                all = false;
            }
        }
        drop(transcriber);
        workers.drain(std::time::Duration::ZERO);
        Ok(all)
    });
    Ok(exit(done))
}

async fn transcribe_file(
    transcriber: &Transcriber,
    path: &Path,
    flags: &TranscribeFlags,
) -> anyhow::Result<()> {
    let task = if flags.translate { Task::Translate } else { Task::Transcribe };
    let form = form(flags)?;
    let order = order(&form, transcriber.traits(), task)?;
    let source = transcriber.open(File::open(path)?).await?;
    let bar = bar(path, source.length_hint().map(crate::transcript::Samples::seconds));
    let (finals, mut segments) = mpsc::channel::<Segment>(16);
    let work = transcriber.work(order.options, order.language);
    let transcribe = transcriber.transcribe(transcriber.admit()?, source, work, Some(finals));
    let watch = async {
        while let Some(segment) = segments.recv().await {
            bar.set_position(segment.span.end.seconds() as u64);
        }
    };
    let (transcript, ()) = tokio::join!(transcribe, watch);
    bar.finish_and_clear();
    let transcript = transcript?;
    for gap in &transcript.gaps {
        complain(&format!(
            "{}: {} to {} s could not be transcribed",
            path.display(),
            gap.span.start,
            gap.span.end
        ));
    }
    write(path, flags, &text(&transcript, flags.format, &form, task))
}

fn form(flags: &TranscribeFlags) -> anyhow::Result<TranscriptionForm> {
    let given = [("language", &flags.language), ("prompt", &flags.prompt)];
    let given = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
    let fields: Vec<(String, String)> =
        [("model".to_owned(), "whisper-1".to_owned())].into_iter().chain(given).collect();
    Ok(TranscriptionForm::from_fields(&fields, flags.translate)?)
}

fn text(transcript: &Transcript, format: Format, form: &TranscriptionForm, task: Task) -> String {
    let as_format = |response_format| {
        let form = TranscriptionForm { response_format, ..form.clone() };
        render(transcript, &form, task, None).body
    };
    match format {
        Format::Text => as_format(ResponseFormat::Text),
        Format::Srt => as_format(ResponseFormat::Srt),
        Format::Vtt => as_format(ResponseFormat::Vtt),
        Format::Json => as_format(ResponseFormat::VerboseJson) + "\n",
        Format::Tsv => captions::tsv(&as_captions(transcript)),
    }
}

/// Two recordings of one name would be written over each other.
fn refuse_collisions(flags: &TranscribeFlags) -> Result<(), ConfigError> {
    let Some(folder) = &flags.output else { return Ok(()) };
    let mut taken = std::collections::HashSet::new();
    match flags.files.iter().find(|path| !taken.insert(path.file_stem())) {
        Some(path) => Err(ConfigError::Bad(format!(
            "{} and a recording before it would both be written to {}/{}",
            path.display(),
            folder.display(),
            output_name(path, flags.format).display()
        ))),
        None => Ok(()),
    }
}

fn output_name(path: &Path, format: Format) -> PathBuf {
    let extension = match format {
        Format::Text => "txt",
        Format::Srt => "srt",
        Format::Vtt => "vtt",
        Format::Json => "json",
        Format::Tsv => "tsv",
    };
    PathBuf::from(path.file_name().unwrap_or_default()).with_extension(extension)
}

fn write(path: &Path, flags: &TranscribeFlags, text: &str) -> anyhow::Result<()> {
    let Some(folder) = &flags.output else {
        return io::stdout().lock().write_all(text.as_bytes()).context("standard output");
    };
    let name = output_name(path, flags.format);
    std::fs::write(folder.join(&name), text).with_context(|| folder.join(name).display().to_string())
}

/// A bar on a terminal, nothing elsewhere.
fn bar(path: &Path, seconds: Option<f64>) -> ProgressBar {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bar = match seconds {
        Some(seconds) => ProgressBar::new(seconds.ceil() as u64),
        None => ProgressBar::new_spinner(),
    };
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} s, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(name)
}

fn start_log(log: &LogConfig) -> Result<Traces, ConfigError> {
    log.start().map_err(ConfigError::Bad)
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads")
}

/// 0 when all went well, 1 when not, with the reason on standard error.
fn exit(done: anyhow::Result<bool>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
