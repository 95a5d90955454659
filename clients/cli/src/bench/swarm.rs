//! Many streams that speak at once: they are opened, one task keeps the time of all, each has a task that listens.
//!
//! The contract: a chunk is handed over when it is due, whatever the others do. If the server does not take it, it
//! waits in line, and everything behind it; it counts as handed over when it was due, because that is when it was
//! spoken. Streams that the server refuses are counted and not tried again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use whisperwire_client::live::{LiveClient, LiveError, LiveReceiver, LiveSender, LiveStream, Tried};
use whisperwire_protocol::stream::{Encoding, ServerMessage, Settings};

use super::pacer::Pacer;
use super::recordings::{RATE, Recording};
use super::tape::{Figures, Tape};
use super::timeline::Timeline;

/// Audio that may wait for the server, per stream, in chunks of any length.
const MOST_WAITING: Duration = Duration::from_secs(60);

/// The streams of one measurement.
pub(crate) struct Swarm {
    client: LiveClient,
    pub(crate) recordings: Arc<Vec<Recording>>,
    chunk: Duration,
    voices: mpsc::Sender<Voice>,
    phase: watch::Sender<Phase>,
    pub(crate) streams: Vec<Arc<Stream>>,
    /// How many were refused, by the server's sentence.
    pub(crate) refused: BTreeMap<String, usize>,
    pub(crate) punctuality: Arc<Punctuality>,
    listeners: JoinSet<()>,
}

/// What all streams are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Speak,
    /// Finish the recording that plays, and end.
    Finish,
    /// End now.
    Cut,
}

/// A stream, and what happened on it.
pub(crate) struct Stream {
    started: Instant,
    tape: Mutex<Tape>,
}

/// How well the generator kept time.
#[derive(Debug, Default)]
pub(crate) struct Punctuality {
    /// How late each chunk was, in seconds; the latest hundred thousand.
    late: Mutex<VecDeque<f64>>,
    /// Chunks that the connection did not take at once.
    pub(crate) held_up: AtomicUsize,
}

/// The speaking half of a stream.
struct Voice {
    stream: Arc<Stream>,
    sender: LiveSender,
    timeline: Timeline,
    waiting: VecDeque<Vec<u8>>,
}

impl Swarm {
    pub(crate) fn new(client: LiveClient, recordings: Arc<Vec<Recording>>, chunk: Duration) -> Self {
        let (voices, queue) = mpsc::channel(1024);
        let (phase, orders) = watch::channel(Phase::Speak);
        let punctuality = Arc::new(Punctuality::default());
        let clock = Clock { recordings: recordings.clone(), chunk, punctuality: punctuality.clone(), orders };
        tokio::spawn(clock.run(queue));
        Self {
            client,
            recordings,
            chunk,
            voices,
            phase,
            streams: Vec::new(),
            refused: BTreeMap::new(),
            punctuality,
            listeners: JoinSet::new(),
        }
    }

    /// Opens so many more streams, evenly over this time. Says how many the server took.
    pub(crate) async fn add(&mut self, count: usize, spread: Duration) -> usize {
        let settings = Settings {
            encoding: Some(Encoding::PcmS16le),
            sample_rate: Some(RATE as u32),
            channels: Some(1),
            ..Settings::default()
        };
        let (client, settings) = (self.client.clone(), &settings);
        let client = &client;
        let opening = (0..count).map(|number| async move {
            sleep(spread.mul_f64(number as f64 / count as f64)).await;
            let opened = client.open(settings).await;
            (opened, Instant::now())
        });
        // Each speaks from the moment it is open, and not only when all are.
        let mut opening: FuturesUnordered<_> = opening.collect();
        let mut taken = 0;
        while let Some((opened, at)) = opening.next().await {
            match opened {
                Ok(stream) => {
                    taken += 1;
                    self.begin(stream, at).await;
                }
                Err(wrong) => *self.refused.entry(wrong.to_string()).or_default() += 1,
            }
        }
        taken
    }

    async fn begin(&mut self, LiveStream { sender, receiver, .. }: LiveStream, started: Instant) {
        let tape = Tape { chunk: (RATE as f64 * self.chunk.as_secs_f64()) as usize, ..Tape::default() };
        let stream = Arc::new(Stream { started, tape: Mutex::new(tape) });
        let timeline = Timeline::new(self.streams.len() as u64 + 1);
        self.streams.push(stream.clone());
        self.listeners.spawn(listen(receiver, stream.clone()));
        let voice = Voice { stream, sender, timeline, waiting: VecDeque::new() };
        // The clock lives as long as the swarm.
        let _ = self.voices.send(voice).await;
    }

    /// Lets every stream finish its recording, and waits for the last words of all.
    pub(crate) async fn finish(&mut self, patience: Duration) {
        self.stop(Phase::Finish, patience).await;
    }

    /// Ends every stream where it is.
    pub(crate) async fn cut(&mut self, patience: Duration) {
        self.stop(Phase::Cut, patience).await;
    }

    async fn stop(&mut self, phase: Phase, patience: Duration) {
        self.phase.send_replace(phase);
        let all = async { while self.listeners.join_next().await.is_some() {} };
        if timeout(patience, all).await.is_err() {
            for stream in &self.streams {
                let mut tape = stream.tape();
                let done = tape.events.last().is_some_and(|(_, event)| is_done(event));
                if !done && tape.failed.is_none() {
                    tape.failed = Some("The end of the stream was not told in time.".into());
                }
            }
            self.listeners.shutdown().await;
        }
    }

    /// The figures of all streams; with a window, of what ended in it.
    pub(crate) fn figures(&self, window: Option<(Instant, Instant)>) -> Figures {
        let mut all = Figures::default();
        for stream in &self.streams {
            let relative = |at: Instant| at.saturating_duration_since(stream.started).as_secs_f64();
            let window = window.map(|(from, to)| relative(from)..relative(to));
            all.add(stream.tape().figures(&self.recordings, window));
        }
        all
    }

    /// Streams that ended in an error, by the error.
    pub(crate) fn failed(&self) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        for wrong in self.streams.iter().filter_map(|stream| stream.tape().failed.clone()) {
            *all.entry(wrong).or_default() += 1;
        }
        all
    }

    /// Seconds of audio that were handed over, of all streams together.
    pub(crate) fn audio_seconds(&self) -> f64 {
        self.streams.iter().map(|stream| stream.tape().samples as f64 / RATE as f64).sum()
    }
}

impl Stream {
    pub(crate) fn tape(&self) -> MutexGuard<'_, Tape> {
        self.tape.lock().expect("nobody panics with a tape in hand")
    }

    fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

impl Punctuality {
    pub(crate) fn late(&self) -> Vec<f64> {
        self.late.lock().expect("nobody panics with it in hand").iter().copied().collect()
    }

    fn note(&self, late: f64) {
        let mut all = self.late.lock().expect("nobody panics with it in hand");
        if all.len() == 100_000 {
            all.pop_front();
        }
        all.push_back(late);
    }
}

async fn listen(mut receiver: LiveReceiver, stream: Arc<Stream>) {
    while let Some(event) = receiver.next().await {
        let now = stream.now();
        let mut tape = stream.tape();
        match event {
            Ok(event) => tape.events.push((now, event.message)),
            Err(wrong) => tape.failed = Some(wrong.to_string()),
        }
    }
    let mut tape = stream.tape();
    if tape.failed.is_none() && !tape.events.last().is_some_and(|(_, event)| is_done(event)) {
        tape.failed = Some(LiveError::Over.to_string());
    }
}

fn is_done(message: &ServerMessage) -> bool {
    matches!(message, ServerMessage::Done(_))
}

/// The one task that sends.
struct Clock {
    recordings: Arc<Vec<Recording>>,
    chunk: Duration,
    punctuality: Arc<Punctuality>,
    orders: watch::Receiver<Phase>,
}

impl Clock {
    /// Ends when the swarm is gone.
    async fn run(self, mut queue: mpsc::Receiver<Voice>) {
        let mut pacer = Pacer::default();
        let mut voices: HashMap<usize, Voice> = HashMap::new();
        let mut number = 0;
        loop {
            tokio::select! {
                voice = queue.recv() => {
                    let Some(voice) = voice else { return };
                    pacer.add(number, voice.stream.started.max(Instant::now()));
                    voices.insert(number, voice);
                    number += 1;
                }
                (key, due) = pacer.next() => {
                    self.punctuality.note(due.elapsed().as_secs_f64());
                    let Some(voice) = voices.get_mut(&key) else { continue };
                    if self.speak(voice) {
                        pacer.again(key, due, self.chunk);
                    } else if let Some(voice) = voices.remove(&key) {
                        tokio::spawn(voice.end());
                    }
                }
            }
        }
    }

    /// Hands over one chunk. False when there is no more.
    fn speak(&self, voice: &mut Voice) -> bool {
        let phase = *self.orders.borrow();
        if phase == Phase::Finish {
            voice.timeline.finish();
        }
        let samples = voice.stream.tape().chunk;
        let chunk =
            if phase == Phase::Cut { Vec::new() } else { voice.timeline.next(&self.recordings, samples) };
        if chunk.is_empty() {
            return false;
        }
        let now = voice.stream.now();
        {
            let mut tape = voice.stream.tape();
            tape.sent.push(now);
            tape.samples += chunk.len() as u64 / 2;
            if tape.placed.len() < voice.timeline.placed.len() {
                tape.placed.clone_from(&voice.timeline.placed);
            }
        }
        voice.waiting.push_back(chunk);
        while let Some(chunk) = voice.waiting.pop_front() {
            match voice.sender.try_audio(chunk.clone()) {
                Tried::Taken => {}
                Tried::Over => return false,
                Tried::Full => {
                    voice.waiting.push_front(chunk);
                    self.punctuality.held_up.fetch_add(1, Ordering::Relaxed);
                    return self.chunk * (voice.waiting.len() as u32) < MOST_WAITING;
                }
            }
        }
        true
    }
}

impl Voice {
    /// Sends what waits and says that this was all. If the stream is over, the listener knows why.
    async fn end(mut self) {
        for chunk in std::mem::take(&mut self.waiting) {
            if self.sender.audio(chunk).await.is_err() {
                return;
            }
        }
        let _ = self.sender.end().await;
    }
}

/// Runs one stream for so long and forgets it, so that the first decode of a fresh server is not measured.
pub(crate) async fn warm_up(client: &LiveClient, recordings: &Arc<Vec<Recording>>, time: Duration) {
    if time.is_zero() {
        return;
    }
    let mut swarm = Swarm::new(client.clone(), recordings.clone(), Duration::from_millis(20));
    swarm.add(1, Duration::ZERO).await;
    sleep(time).await;
    swarm.cut(Duration::from_secs(60)).await;
}
