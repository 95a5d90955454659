//! `ww mic`: what a microphone hears, by the system's own recorder program.
//!
//! The contract: the recorder writes raw samples to its standard output, 16,000 per second of 16 bits in one channel
//! unless `--rate` and `--channels` say otherwise. Of the programs that are usual on this system the first that
//! gives sound is taken. Building needs no sound library. A lost connection is mended for half a minute.
//! Deliberately absent: a level meter, and the choice of a device by its number.

use std::process::Command;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use whisperwire_protocol::stream::Encoding;

use crate::captions::{Output, Pace, Wishes, caption};
use crate::feed::{Feed, Layout};

/// How long a lost connection may stay away, in seconds.
const GRACE: f64 = 30.0;
/// One message. Longer ones only add delay, shorter ones only cost.
const CHUNK: Duration = Duration::from_millis(20);

/// The arguments.
#[derive(Debug, Args)]
pub(crate) struct Mic {
    #[command(flatten)]
    wishes: Wishes,
    /// The recorder program with its arguments, instead of one that is found.
    #[arg(long, value_name = "COMMAND", conflicts_with = "stdin")]
    recorder: Option<String>,
    /// Read raw samples of 16 bits from standard input instead of recording.
    #[arg(long)]
    stdin: bool,
    /// The microphone, as the recorder program names it.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["recorder", "stdin"])]
    device: Option<String>,
    /// Samples per second of --recorder or --stdin.
    #[arg(long, default_value_t = 16_000, value_name = "HZ", value_parser = clap::value_parser!(u32).range(4_000..=192_000))]
    rate: u32,
    /// Channels of --recorder or --stdin.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    channels: u16,
}

impl Mic {
    pub(crate) async fn run(&self, output: Output<'_>) -> anyhow::Result<u8> {
        let layout = Layout { encoding: Encoding::PcmS16le, rate: self.rate, channels: self.channels };
        let feed = match &self.recorder {
            _ if self.stdin => Feed::stdin(layout, CHUNK),
            Some(line) => record(&split(line)?, layout).await?,
            None => self.first_that_works().await?,
        };
        caption(&self.wishes, feed, (Pace::AsItComes, Some(GRACE)), output).await
    }

    async fn first_that_works(&self) -> anyhow::Result<Feed> {
        let lines = recorders(std::env::consts::OS, self.device.as_deref());
        let mut tried = Vec::new();
        for line in &lines {
            match record(line, Layout::SPEECH).await {
                Ok(feed) => return Ok(feed),
                Err(wrong) => tried.push(wrong.to_string()),
            }
        }
        if lines.is_empty() {
            bail!(
                "Name the microphone with --device, as `ffmpeg -list_devices true -f dshow -i dummy` tells it."
            );
        }
        bail!("No recorder program works here; name one with --recorder. Tried: {}", tried.join(" "))
    }
}

/// Starts a recorder and waits for its first samples, because one without a microphone ends without any.
async fn record(line: &[String], layout: Layout) -> anyhow::Result<Feed> {
    let [program, arguments @ ..] = line else { bail!("--recorder names no program.") };
    let started = Feed::program(Command::new(program).args(arguments), layout, Some(CHUNK));
    let mut feed = started.map_err(|wrong| anyhow::anyhow!("{program} cannot be started: {wrong}."))?;
    match feed.take().await {
        Some(Ok(first)) => {
            feed.put_back(first);
            Ok(feed)
        }
        _ => {
            let ended = feed.finish(Duration::from_secs(1)).await?;
            let ended = ended.map_or_else(|| "it goes on".to_owned(), |status| status.to_string());
            bail!("{program} gave no sound ({ended}).")
        }
    }
}

/// The usual recorder programs of a system, the most likely first.
fn recorders(system: &str, device: Option<&str>) -> Vec<Vec<String>> {
    let line = |words: &str, option: &str, file: &str| {
        let mut line: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        if let Some(device) = device
            && !option.is_empty()
        {
            line.push(option.to_owned());
            line.push(device.to_owned());
        }
        line.extend(file.split_whitespace().map(str::to_owned));
        line
    };
    let ffmpeg = |kind: &str, name: &str| {
        let mut line = line(&format!("ffmpeg -nostdin -v error -f {kind} -i"), "", "");
        line.push(name.to_owned());
        line.extend("-ac 1 -ar 16000 -f s16le -flush_packets 1 -".split_whitespace().map(str::to_owned));
        line
    };
    let sox = line("rec -q -t raw -e signed-integer -b 16 -L -r 16000 -c 1 -", "", "");
    match system {
        "macos" => {
            let name = format!(":{}", device.unwrap_or("default"));
            let ffmpeg = ffmpeg("avfoundation", &name);
            if device.is_some() { vec![ffmpeg] } else { vec![sox, ffmpeg] }
        }
        "windows" => device.map(|name| ffmpeg("dshow", &format!("audio={name}"))).into_iter().collect(),
        _ => vec![
            line("pw-record --raw --rate 16000 --channels 1 --format s16 --latency 20ms", "--target", "-"),
            line("parec --raw --format=s16le --rate=16000 --channels=1 --latency-msec=20", "--device", ""),
            line("arecord -q -t raw -f S16_LE -r 16000 -c 1 --buffer-time=200000", "-D", ""),
            sox,
            ffmpeg("pulse", device.unwrap_or("default")),
            ffmpeg("alsa", device.unwrap_or("default")),
        ],
    }
}

/// A command line as words; quotation marks of both kinds hold words together.
fn split(line: &str) -> anyhow::Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(mark), c) if c == mark => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match quote {
        Some(mark) => bail!("--recorder has a {mark} without its other half."),
        None => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_split_as_people_expect() {
        let words = |line| split(line).expect("a good line");
        assert_eq!(words("rec -q  -"), ["rec", "-q", "-"]);
        assert_eq!(words(r#"'/a b/c' -d "x 'y'" ''"#), ["/a b/c", "-d", "x 'y'", ""]);
        assert!(words("  ").is_empty());
        assert!(split("rec 'x").is_err());
    }

    #[test]
    fn every_system_has_its_recorders() {
        let programs = |system, device| -> Vec<String> {
            recorders(system, device).into_iter().map(|line| line[0].clone()).collect()
        };
        assert_eq!(programs("linux", None), ["pw-record", "parec", "arecord", "rec", "ffmpeg", "ffmpeg"]);
        assert_eq!(programs("macos", None), ["rec", "ffmpeg"]);
        assert!(programs("windows", None).is_empty(), "there the device has to be named");
        let windows = recorders("windows", Some("Mikrofon (USB)"));
        assert!(windows[0].contains(&"audio=Mikrofon (USB)".to_owned()), "{windows:?}");
        let arecord = &recorders("linux", Some("hw:1"))[2];
        assert!(arecord.ends_with(&["-D".to_owned(), "hw:1".to_owned()]), "{arecord:?}");
        let pipewire = &recorders("linux", Some("7"))[0];
        assert!(pipewire.ends_with(&["--target".to_owned(), "7".to_owned(), "-".to_owned()]), "{pipewire:?}");
    }

    #[tokio::test]
    async fn a_recorder_without_sound_is_no_recorder() {
        let silent = record(&split("true").expect("a line"), Layout::SPEECH).await;
        let wrong = silent.err().expect("it gave nothing").to_string();
        assert!(wrong.starts_with("true gave no sound (exit status: 0"), "{wrong}");
        assert!(record(&["no-such-program".into()], Layout::SPEECH).await.is_err());
        let mut feed = record(&split("printf abcd").expect("a line"), Layout::SPEECH).await.expect("sound");
        assert_eq!(feed.take().await.expect("a chunk").expect("readable"), b"abcd");
        assert!(feed.take().await.is_none());
    }
}
