//! A live stream: audio goes in while it is spoken, typed events come out.
//!
//! The contract: [`LiveClient::connect`] returns once the server has said `ready`. Audio is sent as it is, in the
//! encoding of the settings; what the samples are is the caller's business. If the settings ask for a
//! [`grace`](Settings::grace), a lost connection is mended without the caller: the client comes back within that
//! time, sends the audio that had not arrived (the last 60 s are kept for it), and passes no numbered event on twice;
//! the caller sees one more `ready`. Without grace a lost connection is an error. Dropping the sender without
//! [`end`](LiveSender::end) hangs up. Needs a tokio runtime. Deliberately absent: recording, pacing and display.

mod connection;
mod driver;
mod error;
mod outgoing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::sync::mpsc;
pub use tokio_tungstenite::tungstenite::Bytes;
use whisperwire_protocol::stream::{
    ClientMessage, Encoding, MAX_MESSAGE, Ready, ServerEvent, ServerMessage, Settings,
};

pub use self::error::{LiveError, Refusal};

use self::connection::Target;
use self::driver::{Command, Driver, Incoming, Last};
use self::outgoing::Outgoing;

/// Messages that may wait to be sent: somewhat more than a second in chunks of 20 ms.
const COMMANDS: usize = 64;
/// Events that may wait to be read; then the server waits.
const EVENTS: usize = 256;

/// One server, and the key to it.
#[derive(Clone, Debug)]
pub struct LiveClient {
    target: Target,
}

impl LiveClient {
    /// A client for the server at this address, such as `http://127.0.0.1:8000`; `https` and a path before `/v1`
    /// are fine. Nothing is sent yet.
    pub fn new(server: &str, api_key: Option<&str>) -> Result<Self, LiveError> {
        Ok(Self { target: Target::new(server, api_key)? })
    }

    /// Opens a stream with these settings, and waits at most 20 seconds for it.
    pub async fn connect(
        server: &str,
        api_key: Option<&str>,
        settings: &Settings,
    ) -> Result<LiveStream, LiveError> {
        Self::new(server, api_key)?.open(settings).await
    }

    /// Opens a stream with these settings, and waits at most 20 seconds for it.
    pub async fn open(&self, settings: &Settings) -> Result<LiveStream, LiveError> {
        let (query, later) = connection::query(settings)?;
        let (socket, ready) = self.target.open(&query).await?;
        let grace = ready.settings.grace.filter(|_| settings.grace.is_some_and(|grace| grace > 0.0));
        let grace = Duration::try_from_secs_f64(grace.unwrap_or(0.0)).unwrap_or_default();
        let mut outgoing = Outgoing::new(&ready.settings, !grace.is_zero());
        if let Some(later) = later {
            outgoing.control(ClientMessage::Configure(Box::new(later)).to_json());
        }
        let (commands_in, commands) = mpsc::channel(COMMANDS);
        let (events, events_out) = mpsc::channel(EVENTS);
        let driver = Driver {
            target: self.target.clone(),
            outgoing,
            commands,
            incoming: Incoming {
                events,
                last_seq: ready.last_seq,
                ask: !grace.is_zero(),
                done: false,
                fatal: None,
            },
            stream: ready.stream.clone(),
            grace,
            ended: false,
        };
        tokio::spawn(driver.run(socket));
        let encoding = ready.settings.encoding.unwrap_or_default();
        let sender = LiveSender { commands: commands_in, packets: encoding == Encoding::Opus, ended: false };
        Ok(LiveStream { sender, receiver: LiveReceiver { events: events_out }, ready })
    }
}

/// An open stream: both halves, and what the server said at the beginning.
#[derive(Debug)]
pub struct LiveStream {
    /// Sends.
    pub sender: LiveSender,
    /// Receives.
    pub receiver: LiveReceiver,
    /// The server's greeting: the stream's name and the settings in force.
    pub ready: Ready,
}

/// The half that speaks.
#[derive(Debug)]
pub struct LiveSender {
    commands: mpsc::Sender<Command>,
    /// Each message is one Opus packet and may not be cut.
    packets: bool,
    ended: bool,
}

/// The half that listens.
#[derive(Debug)]
pub struct LiveReceiver {
    events: mpsc::Receiver<Result<ServerEvent, LiveError>>,
}

/// What became of audio that may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It is on its way.
    Taken,
    /// So much is waiting already that this has no place; the server reads too slowly.
    Full,
    /// The stream is over.
    Over,
}

impl LiveSender {
    /// Sends audio of any length; with Opus exactly one packet. Waits while the server does not read.
    pub async fn audio(&mut self, bytes: impl Into<Bytes>) -> Result<(), LiveError> {
        let mut bytes = bytes.into();
        while bytes.len() > MAX_MESSAGE && !self.packets {
            let rest = bytes.split_off(MAX_MESSAGE);
            self.send(Command::Audio(bytes)).await?;
            bytes = rest;
        }
        self.send(Command::Audio(bytes)).await
    }

    /// Sends audio of at most 4 MiB if that is possible at once, for those who keep time.
    pub fn try_audio(&mut self, bytes: impl Into<Bytes>) -> Tried {
        if self.ended {
            return Tried::Over;
        }
        match self.commands.try_send(Command::Audio(bytes.into())) {
            Ok(()) => Tried::Taken,
            Err(mpsc::error::TrySendError::Full(_)) => Tried::Full,
            Err(mpsc::error::TrySendError::Closed(_)) => Tried::Over,
        }
    }

    /// Changes settings; what is `None` stays. The server answers with `ready`.
    pub async fn configure(&mut self, settings: Settings) -> Result<(), LiveError> {
        self.say(&ClientMessage::Configure(Box::new(settings))).await
    }

    /// Finishes the open utterance now.
    pub async fn flush(&mut self) -> Result<(), LiveError> {
        self.say(&ClientMessage::Flush).await
    }

    /// Keeps a silent stream from its idle timeout. The server answers with `pong`.
    pub async fn ping(&mut self) -> Result<(), LiveError> {
        self.say(&ClientMessage::Ping).await
    }

    /// Says that no more audio will come. The receiver then tells the rest, up to `done`.
    pub async fn end(&mut self) -> Result<(), LiveError> {
        self.send(Command::Control(ClientMessage::End.to_json(), Last::Yes)).await?;
        self.ended = true;
        Ok(())
    }

    async fn say(&mut self, message: &ClientMessage) -> Result<(), LiveError> {
        self.send(Command::Control(message.to_json(), Last::No)).await
    }

    async fn send(&mut self, command: Command) -> Result<(), LiveError> {
        if self.ended {
            return Err(LiveError::Over);
        }
        self.commands.send(command).await.map_err(|_| LiveError::Over)
    }
}

impl LiveReceiver {
    /// The next event; kinds of a newer server are left out. `None` after `done`, once the connection is closed; an error is the last thing said.
    /// `ready` comes again after `configure` and after a mended connection.
    pub async fn next(&mut self) -> Option<Result<ServerEvent, LiveError>> {
        self.events.recv().await
    }

    /// Everything until the end, for those who do not look on meanwhile.
    pub async fn rest(&mut self) -> Result<Vec<ServerMessage>, LiveError> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event?.message);
        }
        Ok(all)
    }
}
