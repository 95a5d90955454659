//! Where is counted: in this process, or in the Redis that several servers share. While Redis is away each process
//! counts by itself, from nothing; when it is back, what it still knows counts again.

use std::sync::LazyLock;

use redis::Script;

use super::memory::Memory;
use super::rate::Rate;
use super::window::Count;
use crate::link::Link;

/// The same arithmetic in two places; a test compares them.
pub(super) enum Counters {
    Memory(Memory),
    Redis { link: Link, alone: Memory },
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Currency {
    Requests,
    /// In milliseconds.
    Audio,
}

/// Whether there is room, and what to count then.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) currency: Currency,
    /// Whose count it is.
    pub(super) who: &'a str,
    pub(super) rates: &'a [Rate],
    /// For how much there must be room in every window; 0 counts in any case.
    pub(super) need: u64,
    /// How much is counted, in every window or in none.
    pub(super) cost: u64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    /// Whether there was room.
    pub(super) room: bool,
    /// When that was, in milliseconds of whoever counts.
    pub(super) now: u64,
    /// The count of each rate, as it is now.
    pub(super) counts: Vec<Count>,
}

impl Counters {
    pub(super) fn new(link: Option<Link>) -> Self {
        match link {
            Some(link) => Self::Redis { link, alone: Memory::default() },
            None => Self::Memory(Memory::default()),
        }
    }

    pub(super) async fn ask(&self, question: &Question<'_>) -> Tally {
        match self {
            Self::Memory(memory) => memory.ask(question),
            Self::Redis { link, alone } => match ask_redis(link, question, 0).await {
                Some(tally) => tally,
                // The link has said in the log that it is away.
                None => alone.ask(question),
            },
        }
    }

    /// An answer where none has to be waited for.
    pub(super) fn ask_here(&self, question: &Question<'_>) -> Option<Tally> {
        match self {
            Self::Memory(memory) => Some(memory.ask(question)),
            Self::Redis { .. } => None,
        }
    }
}

impl Question<'_> {
    /// What it is kept under.
    pub(super) fn name(&self) -> String {
        let currency = match self.currency {
            Currency::Requests => "requests",
            Currency::Audio => "audio",
        };
        format!("limit:{currency}:{}", self.who)
    }
}

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("window.lua")));

/// Asks at a time of the caller's, or at Redis' own if it is 0.
async fn ask_redis(link: &Link, question: &Question<'_>, now: u64) -> Option<Tally> {
    let mut script = SCRIPT.prepare_invoke();
    script.key(link.key(&question.name())).arg(now).arg(question.need).arg(question.cost);
    for rate in question.rates {
        script.arg(rate.window).arg(rate.amount);
    }
    let answer: Vec<u64> = link.script(&script).await.ok()?;
    let (&[room, now], counts) = answer.split_first_chunk()?;
    let (counts, []) = counts.as_chunks() else { return None };
    let counts: Vec<Count> =
        counts.iter().map(|&[start, current, previous]| Count { start, current, previous }).collect();
    (counts.len() == question.rates.len()).then_some(Tally { room: room == 1, now, counts })
}

#[cfg(test)]
pub(super) mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::http::limit::rate::Rates;
    use crate::link::LinkConfig;

    /// A redis-server on a socket in a folder of its own; `None` where none is installed.
    pub(in super::super) struct Redis(Child, tempfile::TempDir);

    impl Redis {
        pub(in super::super) fn start() -> Option<Self> {
            let folder = tempfile::tempdir().expect("a folder");
            let started = Command::new("redis-server")
                .args(["--port", "0", "--save", "", "--unixsocket", "redis.sock"])
                .current_dir(folder.path())
                .stdout(Stdio::null())
                .spawn();
            Some(Self(started.ok()?, folder))
        }

        pub(in super::super) async fn link(&self) -> Link {
            let address = format!("redis+unix://{}/redis.sock", self.1.path().display());
            let link = Link::connect(LinkConfig::new(&address, "test:").expect("an address")).await;
            while !link.is_up() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            link
        }
    }

    impl Drop for Redis {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    #[tokio::test]
    async fn redis_counts_as_memory_does() {
        let Some(redis) = Redis::start() else {
            eprintln!("SKIPPED: there is no redis-server here");
            return;
        };
        let (link, memory) = (redis.link().await, Memory::default());
        let rates: Rates = "3/second,20/minute,60/2minutes".parse().expect("limits");
        // A sequence without a pattern that is the same each time.
        let mut random = 7_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let (mut now, mut admitted) = (1_763_700_000_000, 0);
        for step in 0..2_000 {
            now += [0, 1, 300, 5_000, 61_000][next(5) as usize] + next(100);
            let (need, cost) = [(1, 1), (1, 0), (0, 2)][next(3) as usize];
            let who = ["one", "two"][next(2) as usize];
            let question = Question { currency: Currency::Requests, who, rates: rates.all(), need, cost };
            let (here, there) = (memory.ask_at(&question, now), ask_redis(&link, &question, now).await);
            assert_eq!(Some(&here), there.as_ref(), "step {step}");
            admitted += u32::from(here.room);
        }
        assert!((200..1_900).contains(&admitted), "{admitted} were admitted, so not both answers were seen");
        let keys: Vec<String> = link.command(redis::cmd("KEYS").arg("*")).await.expect("it answers");
        assert_eq!(keys.len(), 2);
        let left: i64 = link.command(redis::cmd("PTTL").arg(&keys[0])).await.expect("it answers");
        assert!((1..=240_000).contains(&left), "it is forgotten in {left} ms");
        // Without a time it is Redis' own.
        let question =
            Question { currency: Currency::Audio, who: "one", rates: rates.all(), need: 1, cost: 1 };
        let tally = ask_redis(&link, &question, 0).await.expect("it answers");
        assert!(tally.room && tally.now > 1_700_000_000_000);
    }
}
