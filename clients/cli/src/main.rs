//! `ww`: send recordings or live speech to a whisperwire server, measure it, and ask it what it is.
//!
//! The contract is with scripts: answers go to standard output, or into files where a flag says so; complaints go to
//! standard error, one sentence each; the exit code is 0 when all went well, 1 when something failed (the other
//! files are still done), and 64 when the command line makes no sense. Deliberately absent: settings files, and any
//! way to transcribe without a server, which is `whisperwire transcribe`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use whisperwire_client::live::LiveError;
use whisperwire_client::{Client, Options};
use whisperwire_protocol::form::ResponseFormat;

mod bench;
mod captions;
mod feed;
mod file;
mod mic;
#[cfg(test)]
#[expect(dead_code, reason = "the library's tests use the rest of it")]
mod mock;
mod screen;

use crate::captions::Output;

const ALL_WELL: u8 = 0;
const SOME_FAILED: u8 = 1;
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let columns = std::io::stdout().is_terminal().then(screen::columns);
    let (mut out, mut complaints) = (std::io::stdout(), std::io::stderr());
    let output = Output { out: &mut out, complaints: &mut complaints, columns };
    ExitCode::from(run(std::env::args_os(), output))
}

/// Sends recordings and live speech to a whisperwire server, measures it, and asks it what it is.
#[derive(Debug, Parser)]
#[command(name = "ww", version, about)]
struct CommandLine {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Transcribe recordings: upload them, and wait for the whole text.
    Transcribe(Transcribe),
    /// Stream a recording and read the text while it comes.
    File(file::File),
    /// Speak into the microphone and read.
    Mic(mic::Mic),
    /// Measure a server under live load.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// List the models that the server answers for.
    Models(Server),
    /// Ask the server how it is; fails if it is not well.
    Health(Server),
}

/// Who is asked.
#[derive(Clone, Debug, Args)]
struct Place {
    /// Where the server is.
    #[arg(long, env = "WHISPERWIRE_SERVER", default_value = "http://127.0.0.1:8000", value_name = "URL")]
    server: String,
    /// The key, if the server wants one.
    #[arg(long, env = "WHISPERWIRE_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
}

#[derive(Debug, Args)]
struct Server {
    #[command(flatten)]
    place: Place,
    /// How long one answer may take, the upload included.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    timeout: u64,
}

#[derive(Debug, Args)]
struct Transcribe {
    /// The recordings.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    server: Server,
    /// What the answer looks like.
    #[arg(long, default_value = "text", value_parser = PossibleValuesParser::new(ResponseFormat::ALL.map(ResponseFormat::name)))]
    format: String,
    /// The spoken language; detected if not given.
    #[arg(long)]
    language: Option<String>,
    /// Text that stands before the audio, for style and spelling.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// The model, or an alias of it.
    #[arg(long, default_value = "whisper-1")]
    model: String,
    /// Write one file per recording into this folder instead of to standard output.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// The whole program, with its ways out as parameters.
fn run(args: impl IntoIterator<Item = OsString>, output: Output<'_>) -> u8 {
    let Output { out, complaints, columns } = output;
    let what = match CommandLine::try_parse_from(args) {
        Ok(line) => line.what,
        // Help and version come this way too, and are no errors.
        Err(asked) if !asked.use_stderr() => return written(write!(out, "{asked}")),
        Err(wrong) => {
            // If nobody can be told, the exit code still says it.
            let _ = write!(complaints, "{wrong}");
            return USAGE;
        }
    };
    match carry_out(&what, Output { out, complaints, columns }) {
        Ok(code) => code,
        Err(wrong) => {
            let _ = writeln!(complaints, "ww: {wrong:#}");
            let live = matches!(wrong.downcast_ref(), Some(LiveError::Address(_) | LiveError::Settings(_)));
            if live || wrong.is::<Unusable>() { USAGE } else { SOME_FAILED }
        }
    }
}

/// A command line that could be read but not used.
#[derive(Debug)]
struct Unusable(whisperwire_client::ClientError);

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unusable {}

fn carry_out(what: &What, output: Output<'_>) -> anyhow::Result<u8> {
    let Output { out, complaints, columns } = output;
    match what {
        What::Transcribe(order) => transcribe(order, out, complaints),
        What::File(order) => live(order.run(Output { out, complaints, columns })),
        What::Mic(order) => live(order.run(Output { out, complaints, columns })),
        What::Bench(order) => live(order.run(out, complaints)),
        What::Models(server) => {
            for model in connect(server)?.models()?.data {
                let stands_for =
                    model.whisperwire.map(|details| details.model).filter(|name| *name != model.id);
                let alias = stands_for.map(|name| format!("\t{name}")).unwrap_or_default();
                writeln!(out, "{}{alias}", model.id)?;
            }
            Ok(ALL_WELL)
        }
        What::Health(server) => {
            writeln!(out, "{}", connect(server)?.health()?.trim_end())?;
            Ok(ALL_WELL)
        }
    }
}

fn connect(Server { place, timeout }: &Server) -> anyhow::Result<Client> {
    let patience = Duration::from_secs(*timeout);
    Ok(Client::new(&place.server, place.api_key.as_deref(), patience).map_err(Unusable)?)
}

/// Runs what needs timers and sockets. Two threads: one that keeps time is not held up by one that reads.
fn live(what: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(what);
    // What still reads from a terminal or a pipe is not waited for.
    runtime.shutdown_background();
    result
}

/// A time as people write it: `20ms`, `1.5s`, `2m`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)];
    let split = units.iter().find_map(|(unit, factor)| text.trim().strip_suffix(unit).map(|n| (n, factor)));
    let number = split.and_then(|(number, factor)| Some(number.trim().parse::<f64>().ok()? * factor));
    number
        .filter(|seconds| (0.0..=1e7).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "a time looks like 20ms, 1.5s or 2m".to_owned())
}

/// One file after another, so that a server is not asked for more than one slot; a failure does not stop the rest.
fn transcribe(order: &Transcribe, out: &mut dyn Write, complaints: &mut dyn Write) -> anyhow::Result<u8> {
    let client = connect(&order.server)?;
    let options = Options {
        model: order.model.clone(),
        format: ResponseFormat::parse(&order.format).context("the format is one of those clap allows")?,
        language: order.language.clone(),
        prompt: order.prompt.clone(),
    };
    if let Some(folder) = &order.output {
        fs::create_dir_all(folder)
            .with_context(|| format!("The folder {} cannot be made", folder.display()))?;
    }
    let mut taken = HashSet::new();
    let mut code = ALL_WELL;
    for file in &order.files {
        let done = client.transcribe(file, &options).map_err(anyhow::Error::from).and_then(|answer| {
            match &order.output {
                Some(folder) => {
                    let target = free_name(folder, file, options.format, &mut taken);
                    fs::write(&target, ended(&answer)).with_context(|| target.display().to_string())
                }
                None => Ok(out.write_all(ended(&answer).as_bytes())?),
            }
        });
        if let Err(wrong) = done {
            let _ = writeln!(complaints, "{}: {wrong:#}", file.display());
            code = SOME_FAILED;
        }
    }
    Ok(code)
}

/// `talk.srt` for `talk.wav`; `talk.mp3.srt` where that name is taken by another recording of this run.
fn free_name(folder: &Path, file: &Path, format: ResponseFormat, taken: &mut HashSet<PathBuf>) -> PathBuf {
    let extension = match format {
        ResponseFormat::Json | ResponseFormat::VerboseJson => "json",
        ResponseFormat::Text => "txt",
        ResponseFormat::Srt => "srt",
        ResponseFormat::Vtt => "vtt",
    };
    let named = |name: Option<&std::ffi::OsStr>, number: usize| {
        let mut name = name.unwrap_or_default().to_os_string();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        name.push(format!(".{extension}"));
        folder.join(name)
    };
    let whole = (0..).map(|number| named(file.file_name(), number));
    let mut names = std::iter::once(named(file.file_stem(), 0)).chain(whole);
    names.find(|name| taken.insert(name.clone())).expect("numbers do not run out")
}

/// JSON comes without a line break at its end, and files and terminals want one.
fn ended(answer: &str) -> String {
    if answer.ends_with('\n') { answer.to_owned() } else { format!("{answer}\n") }
}

fn written(result: std::io::Result<()>) -> u8 {
    if result.is_ok() { ALL_WELL } else { SOME_FAILED }
}

#[cfg(test)]
mod responder;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::responder::Responder;

    /// Exit code, standard output, standard error.
    fn ww(args: &[&str]) -> (u8, String, String) {
        let (mut out, mut complaints) = (Vec::new(), Vec::new());
        let all = std::iter::once("ww").chain(args.iter().copied()).map(OsString::from);
        let code = run(all, Output { out: &mut out, complaints: &mut complaints, columns: None });
        let text = |bytes| String::from_utf8(bytes).expect("plain text");
        (code, text(out), text(complaints))
    }

    #[test]
    fn a_command_line_that_makes_no_sense_ends_in_64() {
        for args in [
            &["transcribe"][..],
            &[],
            &["sing"],
            &["transcribe", "a.wav", "--format", "xml"],
            &["health", "--server", "nowhere"],
            &["file", "Cargo.toml", "--server", "nowhere"],
            &["file", "Cargo.toml", "--save", "a.doc"],
            &["mic", "--stdin", "--recorder", "rec"],
            &["bench", "live", "--duration", "soon"],
        ] {
            let (code, out, complaints) = ww(args);
            assert_eq!((code, out.as_str()), (USAGE, ""), "{args:?}");
            assert!(!complaints.is_empty(), "{args:?}");
        }
        let (code, out, _) = ww(&["--help"]);
        assert_eq!(code, ALL_WELL);
        assert!(out.contains("transcribe"), "{out}");
    }

    #[test]
    fn files_are_done_one_after_another_and_a_failure_does_not_stop_the_rest() {
        let no = r#"{"error":{"message":"Too long.","type":"invalid_request_error","param":"file","code":"file_too_large"}}"#;
        let responder = Responder::new(vec![(200, "One.\n"), (413, no), (200, "Three.\n")]);
        let (code, out, complaints) = ww(&[
            "transcribe",
            "Cargo.toml",
            "src/wer.rs",
            "no-such-file",
            "src/lib.rs",
            "--server",
            &responder.address,
        ]);
        assert_eq!((code, out.as_str()), (SOME_FAILED, "One.\nThree.\n"));
        let complaints: Vec<&str> = complaints.lines().collect();
        assert_eq!(complaints[0], "src/wer.rs: Too long. (HTTP 413)");
        assert!(complaints[1].starts_with("no-such-file: The file cannot be read: "), "{complaints:?}");
        assert_eq!(complaints.len(), 2);
        let heard = responder.heard();
        assert!(heard.iter().all(|one| String::from_utf8_lossy(&one.body).contains("\r\n\r\ntext\r\n")));
    }

    #[test]
    fn answers_go_into_files_of_their_own() {
        let responder = Responder::new(vec![(200, "{}"), (200, "[]")]);
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("new");
        let target = output.to_str().expect("a plain path");
        let (code, out, complaints) = ww(&[
            "transcribe",
            "src/lib.rs",
            "src/../src/lib.rs",
            "--format",
            "json",
            "--output",
            target,
            "--server",
            &responder.address,
        ]);
        assert_eq!((code, out.as_str(), complaints.as_str()), (ALL_WELL, "", ""));
        let read = |name: &str| fs::read_to_string(output.join(name)).expect(name);
        assert_eq!((read("lib.json"), read("lib.rs.json")), ("{}\n".to_owned(), "[]\n".to_owned()));
        assert_eq!(responder.heard().len(), 2);
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, milliseconds) in
            [("20ms", 20), ("1.5s", 1_500), ("2m", 120_000), ("7", 7_000), (" 1 h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for wrong in ["", "ms", "-1s", "inf", "nan", "5 days", "1e99h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_never_meet() {
        let mut taken = HashSet::new();
        let mut name =
            |file: &str| free_name(Path::new("o"), Path::new(file), ResponseFormat::Text, &mut taken);
        let names: Vec<PathBuf> =
            ["a.wav", "b/a.wav", "c/a.wav", "a.mp3", "x"].into_iter().map(&mut name).collect();
        assert_eq!(
            names,
            ["o/a.txt", "o/a.wav.txt", "o/a.wav.1.txt", "o/a.mp3.txt", "o/x.txt"].map(PathBuf::from)
        );
    }

    #[test]
    fn models_and_health_are_printed() {
        let models = include_str!("../../../protocol/fixtures/models.json");
        let responder = Responder::new(vec![(200, models), (200, "{\"status\":\"ok\"}"), (503, "")]);
        let server = ["--server", &responder.address];
        assert_eq!(
            ww(&["models", server[0], server[1]]),
            (ALL_WELL, "whisper-1\nbase.en\n".into(), String::new())
        );
        let (code, out, _) = ww(&["health", server[0], server[1]]);
        assert_eq!((code, out.as_str()), (ALL_WELL, "{\"status\":\"ok\"}\n"));
        let (code, out, complaints) = ww(&["health", server[0], server[1]]);
        assert_eq!((code, out.as_str()), (SOME_FAILED, ""));
        assert_eq!(complaints, "ww: The server refused without saying why. (HTTP 503)\n");
        let heard = responder.heard();
        let asked: Vec<&str> = heard.iter().filter_map(|one| one.head.split(' ').nth(1)).collect();
        assert_eq!(asked, ["/v1/models", "/health", "/health"]);
    }
}
