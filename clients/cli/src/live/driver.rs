//! The task behind a live stream: it owns the socket, sends what is queued, reads what comes, and comes back.
//!
//! The contract: writing never stops reading, so that neither side waits for the other. Each numbered event is
//! passed on once. The stream ends with `done`, with one error, or because its user let go of both halves; dropping
//! the sender without `end` hangs up. Deliberately absent: any reaction to what the events say.

use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use whisperwire_protocol::error::ErrorDetail;
use whisperwire_protocol::stream::{Ready, ServerEvent, ServerMessage};

use super::connection::{self, Socket, Target};
use super::error::LiveError;
use super::outgoing::Outgoing;

/// A stream that can come back asks after this much quiet whether anybody is there, and waits as long again.
const QUIET: Duration = Duration::from_secs(15);
/// How long a closing handshake may take.
const GOODBYE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What the user's half sends.
#[derive(Debug)]
pub(super) enum Command {
    Audio(Bytes),
    /// A control message, and whether it is the last one.
    Control(String, Last),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Yes,
    No,
}

pub(super) struct Driver {
    pub(super) target: Target,
    pub(super) outgoing: Outgoing,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) incoming: Incoming,
    /// Names the stream, to come back to it.
    pub(super) stream: String,
    /// How long the server keeps the stream without a connection; zero means that there is no way back.
    pub(super) grace: Duration,
    pub(super) ended: bool,
}

/// What was heard, and who wants to know.
pub(super) struct Incoming {
    pub(super) events: mpsc::Sender<Result<ServerEvent, LiveError>>,
    pub(super) last_seq: u64,
    /// Whether a lost connection is noticed by asking.
    pub(super) ask: bool,
    pub(super) done: bool,
    /// The error that announced the end.
    pub(super) fatal: Option<ErrorDetail>,
}

/// How a connection ended.
enum Ending {
    /// As it should.
    Over,
    /// The user let go.
    Dropped,
    Failed(LiveError),
    Lost(String),
}

impl Driver {
    pub(super) async fn run(mut self, mut socket: Socket) {
        let error = loop {
            match self.converse(socket).await {
                Ending::Over | Ending::Dropped => return,
                Ending::Failed(error) => break error,
                Ending::Lost(_) if self.incoming.done => return,
                Ending::Lost(reason) if self.grace.is_zero() => break LiveError::Lost(reason),
                Ending::Lost(reason) => match self.come_back(reason).await {
                    Ok(Some(again)) => socket = again,
                    Ok(None) => return,
                    Err(error) => break error,
                },
            }
        };
        // Nobody listens where the user dropped the receiver.
        let _ = self.incoming.events.send(Err(error)).await;
    }

    /// Sends and reads until the connection ends.
    async fn converse(&mut self, socket: Socket) -> Ending {
        let (mut sink, mut source) = socket.split();
        let (ask, mut asked) = mpsc::channel(1);
        let mut reading = pin!(self.incoming.read(&mut source, ask));
        let writing = write(&mut sink, &mut self.outgoing, &mut self.commands, &mut self.ended, &mut asked);
        let stopped = tokio::select! {
            ending = &mut reading => return ending,
            stopped = writing => stopped,
        };
        match stopped {
            // What the server said before it stopped listening is worth more than that it did.
            Stopped::Failed(reason) => timeout(GOODBYE, reading).await.unwrap_or(Ending::Lost(reason)),
            Stopped::Dropped => {
                let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                let farewell = async {
                    let _ = sink.send(Message::Close(Some(frame))).await;
                    reading.await
                };
                let _ = timeout(GOODBYE, farewell).await;
                Ending::Dropped
            }
        }
    }

    /// Tries to reach the stream again until the server has given it up. `None`: the user let go meanwhile.
    async fn come_back(&mut self, reason: String) -> Result<Option<Socket>, LiveError> {
        let deadline = Instant::now() + self.grace;
        let mut pause = FIRST_PAUSE;
        loop {
            let query =
                format!("stream={}&after={}", connection::percent(&self.stream), self.incoming.last_seq);
            let attempt = async {
                sleep(pause).await;
                self.target.open(&query).await
            };
            let attempt = async {
                tokio::select! {
                    attempt = attempt => attempt,
                    () = sleep_until(deadline) => Err(LiveError::Lost(reason.clone())),
                }
            };
            let result = tokio::select! {
                result = attempt => result,
                () = collect(&mut self.outgoing, &mut self.commands, &mut self.ended) => return Ok(None),
            };
            match result {
                Ok((socket, ready)) => return self.resumed(ready).await.map(|()| Some(socket)),
                Err(error) if !error.may_pass() => return Err(error),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(LiveError::Refused(refusal)) => {
                    pause = refusal.retry_after.unwrap_or(pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                }
                Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }

    async fn resumed(&mut self, ready: Ready) -> Result<(), LiveError> {
        let behind = |missing| LiveError::TooFarBehind { missing };
        self.outgoing.rewind(&ready.received).map_err(behind)?;
        let message = ServerMessage::Ready(Box::new(ready));
        let _ = self.incoming.events.send(Ok(ServerEvent { seq: None, message })).await;
        Ok(())
    }
}

impl Incoming {
    async fn read(&mut self, source: &mut SplitStream<Socket>, ask: mpsc::Sender<()>) -> Ending {
        let mut asked = false;
        loop {
            let next = match timeout(QUIET, source.next()).await {
                Ok(next) => next,
                Err(_) if !self.ask => continue,
                Err(_) if asked => return Ending::Lost("the server does not answer".into()),
                Err(_) => {
                    // If the last question is still waiting to be sent, the answer is the same.
                    let _ = ask.try_send(());
                    asked = true;
                    continue;
                }
            };
            asked = false;
            match next {
                Some(Ok(Message::Text(text))) => match connection::parse(&text) {
                    Ok(event) => self.pass_on(event).await,
                    Err(error) => return Ending::Failed(error),
                },
                Some(Ok(Message::Close(frame))) => {
                    let ending = self.closed(frame.as_ref());
                    // The library answers the close frame while it is read on.
                    let rest = async { while let Some(Ok(_)) = source.next().await {} };
                    let _ = timeout(GOODBYE, rest).await;
                    return ending;
                }
                Some(Ok(_)) => {}
                Some(Err(reason)) => {
                    let reason = crate::one_sentence(&reason.to_string());
                    return Ending::Lost(reason.trim_end_matches('.').to_owned());
                }
                None => return Ending::Lost("the server hung up".into()),
            }
        }
    }

    async fn pass_on(&mut self, event: ServerEvent) {
        if let Some(seq) = event.seq {
            if seq <= self.last_seq {
                return;
            }
            self.last_seq = seq;
        }
        match &event.message {
            ServerMessage::Done(_) => self.done = true,
            ServerMessage::Error { error, fatal: true } => self.fatal = Some(error.clone()),
            // Its number counts all the same.
            ServerMessage::Unknown => return,
            _ => {}
        }
        // A user who dropped the receiver does not want to know.
        let _ = self.events.send(Ok(event)).await;
    }

    fn closed(&self, frame: Option<&CloseFrame>) -> Ending {
        let (close, reason) = connection::close_of(frame);
        match close {
            _ if self.done => Ending::Over,
            // A proxy or a server that restarts says these; whether the stream lives on shows itself.
            1005 | 1006 | 1012..=1014 if self.fatal.is_none() => {
                Ending::Lost(format!("closed with code {close}"))
            }
            _ => Ending::Failed(LiveError::closed(close, &reason, self.fatal.as_ref())),
        }
    }
}

/// Why nothing more is sent.
enum Stopped {
    Failed(String),
    Dropped,
}

async fn write(
    sink: &mut SplitSink<Socket, Message>,
    outgoing: &mut Outgoing,
    commands: &mut mpsc::Receiver<Command>,
    ended: &mut bool,
    asked: &mut mpsc::Receiver<()>,
) -> Stopped {
    loop {
        let message = match outgoing.take() {
            Some(message) => message,
            None => tokio::select! {
                command = commands.recv(), if !*ended => match command {
                    Some(command) => {
                        *ended |= outgoing.push(command);
                        continue;
                    }
                    None => return Stopped::Dropped,
                },
                Some(()) = asked.recv() => Message::Ping(Bytes::new()),
                else => return std::future::pending().await,
            },
        };
        if let Err(reason) = sink.send(message).await {
            return Stopped::Failed(crate::one_sentence(&reason.to_string()));
        }
    }
}

/// Takes in what the user sends while there is no connection. Returns only if the user has let go.
async fn collect(outgoing: &mut Outgoing, commands: &mut mpsc::Receiver<Command>, ended: &mut bool) {
    while !*ended && outgoing.has_room() {
        match commands.recv().await {
            Some(command) => *ended |= outgoing.push(command),
            None => return,
        }
    }
    std::future::pending().await
}

impl Outgoing {
    /// Queues a command. True if it is the last one.
    fn push(&mut self, command: Command) -> bool {
        match command {
            Command::Audio(bytes) => {
                self.audio(bytes);
                false
            }
            Command::Control(text, last) => {
                self.control(text);
                last == Last::Yes
            }
        }
    }
}
