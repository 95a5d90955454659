//! The link to a shared Redis, whatever becomes of it.

use std::time::{Duration, Instant};

use whisperwire::link::{Away, Link, LinkConfig};

use crate::client::{runtime, until};
use crate::house::TestHouse;
use crate::redis::Redis;

/// How long a change of the link may take to be noticed on a busy machine.
const NOTICING: Duration = Duration::from_secs(30);

fn link(redis: &Redis) -> Link {
    let config = LinkConfig::new(&redis.url(), "test:").expect("a good address");
    runtime().block_on(Link::connect(config))
}

fn set(link: &Link, value: &str) -> Result<(), Away> {
    let mut command = redis::cmd("SET");
    command.arg(link.key("word")).arg(value);
    runtime().block_on(link.command(&command))
}

fn get(link: &Link) -> Result<Option<String>, Away> {
    runtime().block_on(link.command(redis::cmd("GET").arg("test:word")))
}

#[test]
fn commands_pipelines_and_scripts_are_answered() {
    let Some(redis) = Redis::start() else { return };
    let link = link(&redis);
    assert!(link.is_up());
    set(&link, "one").expect("it is there");
    assert_eq!(get(&link), Ok(Some("one".to_owned())));

    let mut pipeline = redis::pipe();
    pipeline.cmd("SET").arg(link.key("word")).arg("two").ignore().cmd("GET").arg(link.key("word"));
    assert_eq!(runtime().block_on(link.pipeline(&pipeline)), Ok(("two".to_owned(),)));

    let script = redis::Script::new("return redis.call('GET', KEYS[1]) .. ARGV[1]");
    let mut invocation = script.key(link.key("word"));
    let joined: Result<String, Away> = runtime().block_on(link.script(invocation.arg("!")));
    assert_eq!(joined, Ok("two!".to_owned()));

    // What it refuses is no answer, and no reason to leave either.
    let refused: Result<(), Away> = runtime().block_on(link.command(redis::cmd("LPOP").arg("test:word")));
    assert_eq!(refused, Err(Away));
    assert!(link.is_up());
}

#[test]
fn one_that_is_killed_is_missed_at_once_and_found_again() {
    let Some(mut redis) = Redis::start() else { return };
    let link = link(&redis);
    redis.kill();
    assert_eq!(set(&link, "lost"), Err(Away));
    until("the link is down", NOTICING, || !link.is_up());
    assert!(!link.state().up);

    redis.begin();
    until("the link is up", NOTICING, || link.is_up());
    set(&link, "kept").expect("it is there again");
    assert_eq!(get(&link), Ok(Some("kept".to_owned())));
}

#[test]
fn one_that_hangs_holds_nobody_up() {
    let Some(redis) = Redis::start() else { return };
    let link = link(&redis);
    redis.pause();
    assert_eq!(set(&link, "unheard"), Err(Away));
    until("the link is down", NOTICING, || !link.is_up());
    let began = Instant::now();
    for _ in 0..1000 {
        assert_eq!(get(&link), Err(Away));
    }
    assert!(began.elapsed() < NOTICING, "a thousand questions to nobody took {:?}", began.elapsed());

    redis.resume();
    until("the link is up", NOTICING, || link.is_up());
    set(&link, "heard").expect("it answers again");
}

#[test]
fn a_server_starts_without_its_redis_and_is_whole_when_it_comes() {
    let Some(mut redis) = Redis::absent() else { return };
    let house = TestHouse::start(&["--redis", &redis.url()]);
    assert_eq!(house.health()["redis"]["status"], "away");
    redis.begin();
    until("the link is up", NOTICING, || house.health()["redis"]["status"] == "connected");
    assert!(TestHouse::start(&[]).health()["redis"].is_null());
}
