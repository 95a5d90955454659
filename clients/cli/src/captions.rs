//! One live stream for people: audio from a feed goes in, the screen shows what comes out. `ww file` and `ww mic`.
//!
//! The contract: what was said is shown and saved even if the stream fails in the end. The first Ctrl-C ends the
//! audio and waits for the rest of the text, the second leaves at once. Deliberately absent: several streams.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use whisperwire_client::live::{LiveClient, LiveError, LiveSender};
use whisperwire_protocol::stream::{ServerEvent, ServerMessage, Settings, Task};

use crate::feed::Feed;
use crate::screen::{Format, Screen, Style};
use crate::{Place, SOME_FAILED};

/// What `ww file` and `ww mic` share.
#[derive(Debug, Args)]
pub(crate) struct Wishes {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The spoken language; detected if not given.
    #[arg(long)]
    language: Option<String>,
    /// Text that stands before the audio, for style and spelling.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A term to expect; may be given several times.
    #[arg(long = "keyword", value_name = "TERM")]
    keywords: Vec<String>,
    /// The model; the server's own choice if not given.
    #[arg(long)]
    model: Option<String>,
    /// Write English, whatever is spoken.
    #[arg(long)]
    translate: bool,
    /// Silence that ends an utterance, in milliseconds.
    #[arg(long, value_name = "MS")]
    silence_ms: Option<u32>,
    /// Print every event of the server as one line of JSON.
    #[arg(long)]
    json: bool,
    /// Write the text into this file; its ending is the format: .srt, .vtt, .tsv or .txt. May be given several times.
    #[arg(long, value_name = "FILE", value_parser = Format::checked)]
    save: Vec<PathBuf>,
}

/// How the audio leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As fast as the server takes it.
    AtOnce,
    /// As fast as it comes from the microphone.
    AsItComes,
    /// As fast as it would be spoken.
    RealTime,
}

impl Wishes {
    fn settings(&self, audio: Settings, grace: Option<f64>) -> Settings {
        audio.with(Settings {
            language: self.language.clone(),
            prompt: self.prompt.clone(),
            keywords: (!self.keywords.is_empty()).then(|| self.keywords.clone()),
            model: self.model.clone(),
            task: self.translate.then_some(Task::Translate),
            silence_ms: self.silence_ms,
            words: self.json.then_some(true),
            grace,
            ..Settings::default()
        })
    }

    pub(crate) fn style(&self, columns: Option<usize>) -> Style {
        match columns {
            _ if self.json => Style::Json,
            Some(columns) => Style::Terminal { columns },
            None => Style::Lines,
        }
    }
}

/// Where things are written.
pub(crate) struct Output<'a> {
    pub(crate) out: &'a mut dyn Write,
    pub(crate) complaints: &'a mut dyn Write,
    /// The terminal's width, if `out` is one.
    pub(crate) columns: Option<usize>,
}

/// Streams the feed and shows the answer until both are over.
pub(crate) async fn caption(
    wishes: &Wishes,
    feed: Feed,
    how: (Pace, Option<f64>),
    output: Output<'_>,
) -> anyhow::Result<u8> {
    let (pace, grace) = how;
    let settings = wishes.settings(feed.settings.clone(), grace);
    let mut presses = ctrl_c()?;
    let stream =
        LiveClient::connect(&wishes.place.server, wishes.place.api_key.as_deref(), &settings).await?;
    let Output { out, complaints, columns } = output;
    let mut screen = Screen::new(out, wishes.style(columns));
    // A file that is sent at once is ahead of any server; that is no news.
    let mut log = Log { complaints, quiet: wishes.json, lag: pace != Pace::AtOnce, told: false };
    log.note(stream.ready.caveat.as_deref())?;

    let stop = Notify::new();
    let mut receiver = stream.receiver;
    let mut sending = std::pin::pin!(send(stream.sender, feed, pace, &stop));
    let (mut sent, mut interrupted) = (None, false);
    let result = loop {
        tokio::select! {
            done = &mut sending, if sent.is_none() => sent = Some(done),
            event = receiver.next() => match event {
                Some(Ok(event)) => {
                    log.look(&event, &mut screen)?;
                    screen.show(&event)?;
                }
                Some(Err(error)) => break Err(anyhow::Error::from(error)),
                None => break Ok(()),
            },
            Some(()) = presses.recv() => {
                if interrupted {
                    break Err(anyhow::anyhow!("Left before the end."));
                }
                interrupted = true;
                stop.notify_one();
            }
        }
    };
    screen.clear()?;
    for file in &wishes.save {
        screen.save(file)?;
    }
    result?;
    match sent {
        Some(Err(wrong)) => {
            log.note(Some(&format!("{wrong:#}")))?;
            Ok(SOME_FAILED)
        }
        _ => Ok(crate::ALL_WELL),
    }
}

/// Every time that Ctrl-C is pressed from now on: before this, and not only once somebody waits for it, the system
/// would end the program, and leave a recorder behind.
fn ctrl_c() -> io::Result<mpsc::Receiver<()>> {
    let (sender, presses) = mpsc::channel(2);
    #[cfg(unix)]
    let mut signals = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    #[cfg(windows)]
    let mut signals = tokio::signal::windows::ctrl_c()?;
    tokio::spawn(async move { while signals.recv().await.is_some() && sender.send(()).await.is_ok() {} });
    Ok(presses)
}

/// Sends the feed and says that it is over, also where it broke off. The sender lives until then.
async fn send(
    mut sender: LiveSender,
    mut feed: Feed,
    pace: Pace,
    stop: &Notify,
) -> anyhow::Result<LiveSender> {
    let sent = match pour(&mut sender, &mut feed, pace, stop).await {
        Ok(Poured::All) => well_ended(&mut feed, stop).await,
        Ok(Poured::Stopped) => Ok(()),
        Err(wrong) => Err(wrong),
    };
    drop(feed);
    match sender.end().await {
        // The receiver knows better why the stream is over.
        Ok(()) | Err(LiveError::Over) => {}
        Err(wrong) => return Err(wrong.into()),
    }
    sent.map(|()| sender)
}

/// A program that failed has not given everything, unless Ctrl-C ended it too.
async fn well_ended(feed: &mut Feed, stop: &Notify) -> anyhow::Result<()> {
    match feed.finish(Duration::from_secs(1)).await? {
        Some(status) if !status.success() => {
            let pressed = timeout(Duration::from_millis(200), stop.notified()).await.is_ok();
            if pressed {
                Ok(())
            } else {
                Err(anyhow::anyhow!("The program that gives the audio failed ({status})."))
            }
        }
        _ => Ok(()),
    }
}

/// How far the feed was sent.
enum Poured {
    All,
    Stopped,
}

async fn pour(sender: &mut LiveSender, feed: &mut Feed, pace: Pace, stop: &Notify) -> anyhow::Result<Poured> {
    let started = Instant::now();
    let mut bytes = 0_u64;
    loop {
        let next = async {
            if let (Pace::RealTime, Some(speed)) = (pace, feed.speed) {
                sleep_until(started + due(bytes, speed)).await;
            }
            feed.take().await
        };
        let chunk = tokio::select! {
            chunk = next => chunk,
            () = stop.notified() => return Ok(Poured::Stopped),
        };
        let Some(chunk) = chunk else { return Ok(Poured::All) };
        let chunk = chunk.map_err(|wrong| anyhow::anyhow!("The audio cannot be read: {wrong}."))?;
        bytes += chunk.len() as u64;
        match sender.audio(chunk).await {
            Ok(()) => {}
            Err(LiveError::Over) => return Ok(Poured::Stopped),
            Err(wrong) => return Err(wrong.into()),
        }
    }
}

/// When the byte at this place is spoken, after the first.
pub(crate) fn due(bytes: u64, bytes_per_second: f64) -> Duration {
    Duration::try_from_secs_f64(bytes as f64 / bytes_per_second).unwrap_or(Duration::MAX / 4)
}

/// What is neither text nor an error, on standard error.
struct Log<'a> {
    complaints: &'a mut dyn Write,
    quiet: bool,
    /// Whether it matters that the server is behind.
    lag: bool,
    /// Whether that was said.
    told: bool,
}

impl Log<'_> {
    fn look(&mut self, event: &ServerEvent, screen: &mut Screen<'_>) -> anyhow::Result<()> {
        let note = match &event.message {
            ServerMessage::Error { error, fatal: false } => error.message.clone(),
            ServerMessage::Lag { seconds } if *seconds > 0.0 && self.lag && !self.told => {
                self.told = true;
                format!("The server is {seconds:.1} s behind.")
            }
            ServerMessage::Lag { seconds } if *seconds == 0.0 && self.told => {
                self.told = false;
                "The server has caught up.".to_owned()
            }
            ServerMessage::Ready(ready) if ready.received.messages > 0 => {
                "The connection was lost and is back.".to_owned()
            }
            _ => return Ok(()),
        };
        screen.clear()?;
        self.note(Some(&note))
    }

    fn note(&mut self, note: Option<&str>) -> anyhow::Result<()> {
        if let Some(note) = note.filter(|_| !self.quiet) {
            writeln!(self.complaints, "ww: {}", crate::screen::printable(note))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_time_is_a_matter_of_bytes() {
        assert_eq!(due(0, 32_000.0), Duration::ZERO);
        assert_eq!(due(32_000 * 3_600, 32_000.0), Duration::from_secs(3_600));
        assert_eq!(due(640, 32_000.0), Duration::from_millis(20));
        // A chunk that does not divide a second does not drift.
        let spoken: Duration =
            (0..441).map(|n| due(n * 400 + 400, 176_400.0) - due(n * 400, 176_400.0)).sum();
        assert!(spoken.abs_diff(Duration::from_secs(1)) < Duration::from_micros(2), "{spoken:?}");
        assert!(due(1, 0.0) > Duration::from_secs(1 << 40), "nonsense waits; it does not panic");
    }
}
