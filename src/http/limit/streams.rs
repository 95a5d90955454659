//! How many live streams a key has open at once.
//!
//! Each process counts its own. Where several share a Redis, each open stream is also a lease there, which its
//! process renews: so the limit holds across all of them, and the streams of a server that was killed are forgotten
//! when their leases run out. While Redis is away each process goes by its own count, and when it is back, what is
//! open here is told anew.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redis::{Script, ScriptInvocation};
use tokio::runtime::Handle;

use crate::link::Link;

/// How long a lease is good for that nobody renews.
const LEASE: Duration = Duration::from_secs(60);
/// How often they are renewed.
const ROUND: Duration = Duration::from_secs(15);

/// The open streams of everybody who has some. Clones are the same.
#[derive(Clone)]
pub(super) struct OpenStreams(Arc<Shared>);

struct Shared {
    /// Each with the names of its leases.
    open: Mutex<HashMap<Arc<str>, Vec<Arc<str>>>>,
    link: Option<Link>,
}

/// Leave to have one stream open, until it is dropped.
pub(in crate::http) struct Permit(Option<Held>);

struct Held {
    streams: OpenStreams,
    who: Arc<str>,
    lease: Arc<str>,
}

/// One lease more, if there are fewer than so many. `KEYS[1]`: a sorted set of leases by their ends. ARGV: the lease, how
/// long it is good for in milliseconds, and how many there may be.
static OPEN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
         redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
         local mine = redis.call('ZSCORE', KEYS[1], ARGV[1])
         if not mine and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
         redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
         redis.call('PEXPIRE', KEYS[1], ARGV[2])
         return 1",
    )
});

impl OpenStreams {
    /// Must be called on a runtime.
    pub(super) fn new(link: Option<Link>) -> Self {
        let shared = Arc::new(Shared { open: Mutex::default(), link });
        if shared.link.is_some() {
            tokio::spawn(renew(Arc::downgrade(&shared)));
        }
        Self(shared)
    }

    /// One more, if there are fewer than so many.
    pub(super) async fn open(&self, who: &Arc<str>, most: u32) -> Option<Permit> {
        // Taken here first, so that two that come at once are not both let in.
        let permit = self.open_here(who, most)?;
        let (Some(link), Some(held)) = (&self.0.link, &permit.0) else { return Some(permit) };
        match link.script::<u32>(&lease(link, &held.who, &held.lease, most)).await {
            Ok(0) => None,
            Ok(_) => Some(permit),
            // The link has said in the log that it is away.
            Err(_) => Some(permit),
        }
    }

    fn open_here(&self, who: &Arc<str>, most: u32) -> Option<Permit> {
        let mut open = self.0.open();
        let leases = open.entry(who.clone()).or_default();
        if leases.len() >= most as usize {
            if leases.is_empty() {
                open.remove(who);
            }
            return None;
        }
        let lease: Arc<str> = uuid::Uuid::new_v4().simple().to_string().into();
        leases.push(lease.clone());
        Some(Permit(Some(Held { streams: self.clone(), who: who.clone(), lease })))
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<Arc<str>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Where nobody counts.
    pub(super) fn free() -> Self {
        Self(None)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(Held { streams, who, lease }) = self.0.take() else { return };
        let mut open = streams.0.open();
        if let Some(leases) = open.get_mut(&who) {
            leases.retain(|other| *other != lease);
            if leases.is_empty() {
                open.remove(&who);
            }
        }
        drop(open);
        // If it cannot be told now, the lease runs out.
        if let (Some(link), Ok(runtime)) = (streams.0.link.clone(), Handle::try_current()) {
            runtime.spawn(async move {
                let mut close = redis::cmd("ZREM");
                close.arg(key(&link, &who)).arg(&*lease);
                let _ = link.command::<u32>(&close).await;
            });
        }
    }
}

/// Renews all leases again and again, as long as somebody holds on to the streams.
async fn renew(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(ROUND).await;
        let Some(shared) = shared.upgrade() else { return };
        let Some(link) = shared.link.as_ref().filter(|link| link.is_up()) else { continue };
        let all: Vec<_> = shared.open().iter().map(|(who, leases)| (who.clone(), leases.clone())).collect();
        for (who, leases) in all {
            for name in leases {
                // What is open is open, however many there are.
                if link.script::<u32>(&lease(link, &who, &name, u32::MAX)).await.is_err() {
                    break;
                }
            }
        }
    }
}

fn lease(link: &Link, who: &str, name: &str, most: u32) -> ScriptInvocation<'static> {
    let mut script = OPEN.prepare_invoke();
    script.key(key(link, who)).arg(name).arg(LEASE.as_millis() as u64).arg(most);
    script
}

fn key(link: &Link, who: &str) -> String {
    link.key(&format!("limit:streams:{who}"))
}

#[cfg(test)]
mod tests {
    use super::super::counters::tests::Redis;
    use super::*;

    #[tokio::test]
    async fn a_stream_that_ends_makes_room_and_leaves_nothing_behind() {
        let streams = OpenStreams::new(None);
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        let first = streams.open(&one, 2).await;
        let second = streams.open(&one, 2).await;
        assert!(first.is_some() && second.is_some());
        assert!(streams.open(&one, 2).await.is_none());
        assert!(streams.open(&two, 1).await.is_some(), "everybody has their own");
        drop(first);
        let third = streams.open(&one, 2).await;
        assert!(third.is_some() && streams.open(&one, 2).await.is_none());
        drop((second, third));
        assert!(streams.0.open().is_empty());
        assert!(streams.open(&one, 0).await.is_none() && streams.0.open().is_empty());
    }

    #[tokio::test]
    async fn servers_that_share_a_redis_count_together() {
        let Some(redis) = Redis::start() else {
            eprintln!("SKIPPED: there is no redis-server here");
            return;
        };
        let who: Arc<str> = "one".into();
        let link = redis.link().await;
        let here = OpenStreams::new(Some(link.clone()));
        let there = OpenStreams::new(Some(redis.link().await));
        let first = here.open(&who, 2).await;
        let second = there.open(&who, 2).await;
        assert!(first.is_some() && second.is_some());
        assert!(here.open(&who, 2).await.is_none() && there.open(&who, 2).await.is_none());
        drop(first);
        let count = async || link.command::<u32>(redis::cmd("ZCARD").arg(key(&link, &who))).await;
        while count().await.expect("it answers") > 1 {
            tokio::task::yield_now().await;
        }
        let third = there.open(&who, 2).await;
        assert!(third.is_some() && here.open(&who, 2).await.is_none());
        // A lease that is renewed is none more, and one that has run out is none.
        let Some(Permit(Some(held))) = &third else { panic!("it is counted") };
        assert_eq!(link.script::<u32>(&lease(&link, &who, &held.lease, 0)).await, Ok(1));
        assert_eq!(count().await, Ok(2));
        let mut past = redis::cmd("ZADD");
        past.arg(key(&link, &who)).arg("XX").arg(1).arg(&*held.lease);
        link.command::<u32>(&past).await.expect("it answers");
        assert!(here.open(&who, 2).await.is_some());
    }
}
