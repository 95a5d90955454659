//! Where a stream's audio comes from: a file that is read ahead, or a client that sends while somebody speaks.
//!
//! Contract: [`Feed::next`] gives one thing at a time, in the order in which it was sent, and dropping its future
//! loses nothing. Deliberately absent: any judgement about the audio, and the wire it came over.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Transcriber;
use crate::audio::{AudioError, ContainerDecoder, Heard, Limits, LiveDecoder, LiveFormat};
use crate::engine::DecodeOptions;
use crate::language::Language;
use crate::session::{EndpointConfig, LiveConfig};

/// Chunks that may wait for a thread that decodes a container, and for whoever takes its samples.
const AHEAD: usize = 4;

/// What happens to a stream.
pub(super) enum Item<'a> {
    /// 16 kHz mono.
    Audio(&'a [f32]),
    /// The same, made up for a packet that was lost.
    Concealed(&'a [f32]),
    /// The client wants the open utterance finished.
    Flush,
    /// The client wants something else from here on.
    Change(Change),
    /// There is no more.
    End,
    /// There is no more that could be decoded.
    Broken(AudioError),
}

/// What may change while a stream runs.
#[derive(Clone)]
pub(super) struct Change {
    pub(super) options: Arc<DecodeOptions>,
    pub(super) language: Option<Language>,
    pub(super) endpoint: EndpointConfig,
    pub(super) live: LiveConfig,
    /// Of another model, if it is to be another.
    pub(super) transcriber: Option<Transcriber>,
}

/// What a client sends.
pub(super) enum Command {
    /// The next bytes, as they came.
    Audio(Bytes),
    /// The bytes to come are in this format. Comes before the first of them, or not at all.
    Format(LiveFormat),
    /// The bytes to come begin with a whole frame: the rest of the last one never came.
    NewFrame,
    Flush,
    Change(Box<Change>),
    End,
}

/// See the module.
pub(super) enum Feed {
    /// Stretches of a file, decoded on a thread of its own.
    File { chunks: mpsc::Receiver<Vec<f32>>, chunk: Vec<f32> },
    /// What a client sends.
    Client(Box<Client>),
}

pub(super) struct Client {
    commands: mpsc::Receiver<Command>,
    /// Cancelled when the server stops: then nothing more is taken.
    stop: CancellationToken,
    limits: Limits,
    decoder: Decoder,
    pcm: Vec<f32>,
    stopping: bool,
    ended: bool,
}

enum Decoder {
    /// Nothing has been sent yet.
    None(LiveFormat),
    Inline(LiveDecoder),
    Thread {
        /// Absent once the end was sent.
        bytes: Option<mpsc::Sender<Bytes>>,
        chunks: mpsc::Receiver<Result<Vec<f32>, AudioError>>,
        /// Taken from the client, and not by the thread yet.
        next: Option<Bytes>,
    },
}

impl Feed {
    /// A file's stretches.
    pub(super) fn file(chunks: mpsc::Receiver<Vec<f32>>) -> Self {
        Self::File { chunks, chunk: Vec::new() }
    }

    /// A client's commands, in this format unless it says otherwise before its first bytes.
    pub(super) fn client(
        commands: mpsc::Receiver<Command>,
        format: LiveFormat,
        limits: Limits,
        stop: CancellationToken,
    ) -> Self {
        let (decoder, pcm) = (Decoder::None(format), Vec::new());
        let (stopping, ended) = (false, false);
        Self::Client(Box::new(Client { commands, stop, limits, decoder, pcm, stopping, ended }))
    }

    pub(super) async fn next(&mut self) -> Item<'_> {
        match self {
            Self::File { chunks, chunk } => match chunks.recv().await {
                Some(next) => {
                    *chunk = next;
                    Item::Audio(chunk)
                }
                None => Item::End,
            },
            Self::Client(client) => client.next().await,
        }
    }
}

impl Client {
    async fn next(&mut self) -> Item<'_> {
        self.pcm.clear();
        if self.ended && !matches!(self.decoder, Decoder::Thread { .. }) {
            return Item::End;
        }
        loop {
            let command = tokio::select! {
                biased;
                decoded = self.decoder.decoded() => match decoded {
                    Some(Ok(pcm)) => {
                        self.pcm = pcm;
                        return Item::Audio(&self.pcm);
                    }
                    Some(Err(error)) => return Item::Broken(error),
                    None => return Item::End,
                },
                () = self.stop.cancelled(), if !self.stopping => {
                    // What has arrived is still taken, and nothing after it.
                    self.stopping = true;
                    self.commands.close();
                    continue;
                }
                command = self.commands.recv(), if !self.ended && self.decoder.is_ready() => command,
            };
            match command {
                Some(Command::Audio(bytes)) => match self.decode(bytes) {
                    Ok(Heard::Sound) if self.pcm.is_empty() => {}
                    Ok(Heard::Sound) => return Item::Audio(&self.pcm),
                    Ok(Heard::Concealed) => return Item::Concealed(&self.pcm),
                    Err(error) => return Item::Broken(error),
                },
                Some(Command::Format(format)) => {
                    if let Decoder::None(current) = &mut self.decoder {
                        *current = format;
                    }
                }
                Some(Command::NewFrame) => {
                    if let Decoder::Inline(decoder) = &mut self.decoder {
                        decoder.drop_partial();
                    }
                }
                // The few milliseconds that the resampler holds back go to what comes next.
                Some(Command::Flush) => return Item::Flush,
                Some(Command::Change(change)) => return Item::Change(*change),
                // A client that is gone without a word ends like one that says so; whether anybody still listens
                // is not this room's business.
                Some(Command::End) | None => {
                    self.ended = true;
                    match &mut self.decoder {
                        Decoder::None(_) => return Item::End,
                        Decoder::Thread { bytes, .. } => *bytes = None,
                        Decoder::Inline(decoder) => {
                            decoder.finish(&mut self.pcm);
                            return Item::Audio(&self.pcm);
                        }
                    }
                }
            }
        }
    }

    /// Decodes what can be decoded at once, into `pcm`; hands the rest to a thread.
    fn decode(&mut self, bytes: Bytes) -> Result<Heard, AudioError> {
        if let Decoder::None(format) = self.decoder {
            self.decoder = match format {
                LiveFormat::Container => Decoder::start_thread(self.limits),
                format => Decoder::Inline(LiveDecoder::new(format, &self.limits)?),
            };
        }
        match &mut self.decoder {
            Decoder::Inline(decoder) => decoder.push(&bytes, &mut self.pcm),
            Decoder::Thread { next, .. } => {
                *next = Some(bytes);
                Ok(Heard::Sound)
            }
            Decoder::None(_) => Ok(Heard::Sound),
        }
    }
}

impl Decoder {
    fn start_thread(limits: Limits) -> Self {
        let (bytes, incoming) = mpsc::channel(AHEAD);
        let (outgoing, chunks) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = follow(incoming, &limits, &outgoing) {
                // Nobody is interested any more if the stream is gone.
                let _ = outgoing.blocking_send(Err(error));
            }
        });
        Self::Thread { bytes: Some(bytes), chunks, next: None }
    }

    /// Whether one more command can be taken.
    fn is_ready(&self) -> bool {
        !matches!(self, Self::Thread { next: Some(_), .. })
    }

    /// What a thread has decoded; `None` at its end. Meanwhile hands it what waits. Pending for ever where there is
    /// no thread, unless there is nothing left to wait for.
    async fn decoded(&mut self) -> Option<Result<Vec<f32>, AudioError>> {
        let Self::Thread { bytes, chunks, next } = self else { return std::future::pending().await };
        loop {
            let Some(sender) = bytes.as_ref().filter(|_| next.is_some()) else { return chunks.recv().await };
            let taken = tokio::select! {
                decoded = chunks.recv() => return decoded,
                room = sender.reserve() => room.ok().zip(next.take()).map(|(room, taken)| room.send(taken)),
            };
            match taken {
                // The next command can be taken now, and that is for the caller to do.
                Some(()) => return Some(Ok(Vec::new())),
                // The thread has ended; its last word is in the channel.
                None => *bytes = None,
            }
        }
    }
}

/// Decodes a container as it comes. Blocks.
fn follow(
    incoming: mpsc::Receiver<Bytes>,
    limits: &Limits,
    outgoing: &mpsc::Sender<Result<Vec<f32>, AudioError>>,
) -> Result<(), AudioError> {
    let mut decoder = ContainerDecoder::open(Incoming { incoming, rest: Bytes::new() }, limits)?;
    loop {
        let mut pcm = Vec::new();
        let more = decoder.read(&mut pcm)?;
        if (!pcm.is_empty() && outgoing.blocking_send(Ok(pcm)).is_err()) || !more {
            return Ok(());
        }
    }
}

/// A channel of chunks as one stream of bytes. Its end is the sender's.
struct Incoming {
    incoming: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.incoming.blocking_recv() {
                Some(bytes) => self.rest = bytes,
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
