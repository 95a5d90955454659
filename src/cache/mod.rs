//! Finished transcripts, kept by what was heard, by which model, and how it was asked.
//!
//! Contract: whoever asks for the transcript of a [`Key`] gets the one that is kept, or joins whoever is having it
//! made, or has it made; equal questions at one time are one piece of work. It is made for as long as anybody waits,
//! whoever asked first: one who leaves takes nothing from the others, and when the last one leaves, it stops. What
//! failed is not kept, and everybody who waited for it hears why. Nor is what the engine had no words for although
//! there may be some.
//!
//! What is kept is bounded in bytes and in time; who was used longest ago goes first. Behind the memory there may be
//! a Redis that several servers share: it is asked before work begins and told afterwards, and nobody waits for it
//! to be told. While it is away, there is the memory alone.
//!
//! Whoever was given a transcript can come back for it with a receipt, for as long as it is kept. Receipts are in this
//! process's memory alone.
//!
//! Deliberately absent: formats of answers, all of which are rendered from the one transcript; what is in a key,
//! which is the business of those who know what changes a text; and whatever makes transcripts and may fail at it,
//! for which `E` stands.

mod flights;
mod receipts;
mod remote;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use moka::Expiry;
use moka::future::Cache as Memory;
use moka::policy::EvictionPolicy;
use sha2::{Digest, Sha256};
use tokio_util::task::TaskTracker;

use self::flights::Flights;
pub use self::receipts::Receipt;
use self::remote::Remote;
use crate::link::Link;
use crate::transcript::{GapReason, Segment, Token, Transcript, Word};

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// In memory; with 0, nothing is kept anywhere.
    pub bytes: u64,
    /// Since it was made.
    pub ttl: Duration,
}

/// What a transcript is kept by: equal keys have equal transcripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of an upload with this SHA-256, and of all else that decides what is written, in whatever form.
    pub fn new(content: &[u8; 32], all_else: &str) -> Self {
        Self(Sha256::new().chain_update(content).chain_update(all_else).finalize().into())
    }
}

/// Where a transcript came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was kept.
    Hit,
    /// Somebody was having it made already.
    Joined,
    /// It was made for whoever asked.
    Miss,
}

/// What a cache holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Questions that were answered with what was kept.
    pub hits: u64,
    /// Those that were answered by work for somebody else.
    pub joined: u64,
    /// Those that work began for, whatever became of it.
    pub misses: u64,
    /// Transcripts in memory.
    pub entries: u64,
    /// What they take there, by estimate.
    pub bytes: u64,
    /// What they may take.
    pub bytes_max: u64,
}

/// See the module. `E` is why a transcript could not be made. Clones are the same cache.
pub struct Cache<E> {
    inner: Arc<Inner<E>>,
}

impl<E> Clone for Cache<E> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

type Made<E> = Result<Found, Arc<E>>;

/// A transcript, and whether it was there already.
#[derive(Clone)]
struct Found {
    transcript: Arc<Transcript>,
    kept: bool,
}

struct Inner<E> {
    config: CacheConfig,
    memory: Memory<Key, Entry>,
    remote: Option<Remote>,
    receipts: Memory<String, Receipt>,
    flights: Flights<Made<E>>,
    /// What is being told to the Redis.
    telling: TaskTracker,
    hits: AtomicU64,
    joined: AtomicU64,
    misses: AtomicU64,
}

#[derive(Clone)]
struct Entry {
    transcript: Arc<Transcript>,
    /// From when it came into this memory: less than the whole time to live, if it came from another one.
    lives: Duration,
}

impl<E: Send + Sync + 'static> Cache<E> {
    /// An empty one, before a Redis if there is a link to it.
    pub fn new(config: CacheConfig, link: Option<Link>) -> Self {
        let memory = Memory::builder()
            .max_capacity(config.bytes)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_, entry: &Entry| u32::try_from(weight(&entry.transcript)).unwrap_or(u32::MAX))
            .expire_after(Lives)
            .build();
        let inner = Inner {
            config,
            memory,
            remote: link.map(Remote::new),
            // By default it would turn new ones away when it is full.
            receipts: Memory::builder()
                .max_capacity(receipts::KNOWN)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_live(config.ttl)
                .build(),
            flights: Flights::default(),
            telling: TaskTracker::new(),
            hits: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The transcript of a key, made by `begin` if nobody has it and nobody else is having it made. Dropping the
    /// future drops the work, unless others wait for it too.
    pub async fn transcript<F>(
        &self,
        key: Key,
        begin: impl FnOnce() -> F,
    ) -> Result<(Arc<Transcript>, Outcome), Arc<E>>
    where
        F: Future<Output = Result<Transcript, E>> + Send + 'static,
    {
        if !self.is_on() {
            return Ok((Arc::new(begin().await?), Outcome::Miss));
        }
        if let Some(transcript) = self.remembered(&key).await {
            self.count(Outcome::Hit);
            return Ok((transcript, Outcome::Hit));
        }
        let (flight, joined) = self.inner.flights.join(key, || {
            let (cache, work) = (self.clone(), begin());
            async move { cache.make(key, work).await }.boxed()
        });
        let made = flight.await;
        let outcome = match &made {
            Ok(found) if found.kept => Outcome::Hit,
            _ if joined => Outcome::Joined,
            _ => Outcome::Miss,
        };
        self.count(outcome);
        Ok((made?.transcript, outcome))
    }

    /// The transcript of a key, if it is kept. Whoever asks like this joins nobody.
    pub async fn get(&self, key: Key) -> Option<Arc<Transcript>> {
        if !self.is_on() {
            return None;
        }
        let transcript = self.kept(&key).await;
        self.count(if transcript.is_some() { Outcome::Hit } else { Outcome::Miss });
        transcript
    }

    /// Keeps a transcript that was made without [`Cache::transcript`], in place of one that is kept already.
    pub async fn put(&self, key: Key, transcript: &Arc<Transcript>) {
        if !self.is_on() || !is_whole(transcript) {
            return;
        }
        let Inner { config, memory, remote, telling, .. } = &*self.inner;
        memory.insert(key, Entry { transcript: transcript.clone(), lives: config.ttl }).await;
        if let Some(remote) = remote {
            telling.spawn(remote.clone().put(key, transcript.clone(), config.ttl));
        }
    }

    /// Whether anything is ever kept.
    pub fn is_on(&self) -> bool {
        self.inner.config.bytes > 0
    }

    /// What it holds and has done.
    pub async fn stats(&self) -> Stats {
        let Inner { config, memory, hits, joined, misses, .. } = &*self.inner;
        // What expired and what was evicted is counted until it has been swept out.
        memory.run_pending_tasks().await;
        Stats {
            hits: hits.load(Ordering::Relaxed),
            joined: joined.load(Ordering::Relaxed),
            misses: misses.load(Ordering::Relaxed),
            entries: memory.entry_count(),
            bytes: memory.weighted_size(),
            bytes_max: config.bytes,
        }
    }

    /// Waits until the Redis has been told of everything, or is away. For the end: nothing may be put in afterwards.
    pub async fn flush(&self) {
        self.inner.telling.close();
        self.inner.telling.wait().await;
    }

    async fn make(self, key: Key, work: impl Future<Output = Result<Transcript, E>>) -> Made<E> {
        // Whoever was at work until a moment ago has put it there.
        if let Some(transcript) = self.kept(&key).await {
            return Ok(Found { transcript, kept: true });
        }
        let transcript = Arc::new(work.await.map_err(Arc::new)?);
        self.put(key, &transcript).await;
        Ok(Found { transcript, kept: false })
    }

    /// From the memory, else from the Redis.
    async fn kept(&self, key: &Key) -> Option<Arc<Transcript>> {
        if let Some(transcript) = self.remembered(key).await {
            return Some(transcript);
        }
        let (transcript, lives) = self.inner.remote.as_ref()?.get(key).await?;
        let entry = Entry { transcript: Arc::new(transcript), lives };
        self.inner.memory.insert(*key, entry.clone()).await;
        Some(entry.transcript)
    }

    async fn remembered(&self, key: &Key) -> Option<Arc<Transcript>> {
        self.inner.memory.get(key).await.map(|entry| entry.transcript)
    }

    fn count(&self, outcome: Outcome) {
        let Inner { hits, joined, misses, .. } = &*self.inner;
        let counter = match outcome {
            Outcome::Hit => hits,
            Outcome::Joined => joined,
            Outcome::Miss => misses,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Each entry has its own time, and a new one in its place has it anew. Reading does not lengthen it.
struct Lives;

impl Expiry<Key, Entry> for Lives {
    fn expire_after_create(&self, _: &Key, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(entry.lives)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.lives)
    }
}

/// Whether the same work would bring the same again. Bytes that are corrupt stay so; an engine that failed may do
/// better next time.
fn is_whole(transcript: &Transcript) -> bool {
    transcript.gaps.iter().all(|gap| gap.reason == GapReason::Corrupt)
}

/// What a transcript takes in memory: its parts, what they point to, and what the allocator adds to each piece.
fn weight(transcript: &Transcript) -> usize {
    const PIECE: usize = 16;
    let token = |token: &Token| size_of::<Token>() + token.bytes.capacity() + PIECE;
    let word = |word: &Word| {
        size_of::<Word>() + word.text.capacity() + 2 * PIECE + word.tokens.iter().map(token).sum::<usize>()
    };
    let words = transcript.words().map(word).sum::<usize>();
    let segments = transcript.segments.len() * (size_of::<Segment>() + PIECE);
    size_of::<Entry>() + size_of::<Transcript>() + words + segments + size_of_val(&transcript.gaps[..])
}

#[cfg(test)]
mod tests;
