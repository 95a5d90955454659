//! A lost connection is not a lost caption: who comes back misses nothing, hears nothing twice, and learns how much
//! of the audio has arrived.

use serde_json::{Value, json};
use whisperwire_protocol::stream::{Received, ServerMessage};

use super::events::Events;
use super::socket::Socket;
use super::story::Story;
use super::{opus_packets, s16le, talk};
use crate::client::{Answer, runtime, until};
use crate::house::TestHouse;
use crate::sound::{scripted, speech};

/// Audio as it is sent: in messages, of which some may not arrive.
struct Tape {
    messages: Vec<Vec<u8>>,
    /// Whether a message is a packet, or bytes that may be cut anywhere.
    packets: bool,
}

impl Tape {
    /// What has not arrived.
    fn from(&self, received: Received) -> Vec<Vec<u8>> {
        if self.packets {
            return self.messages[received.messages as usize..].to_vec();
        }
        let all = self.messages.concat();
        all[received.bytes as usize..].chunks(self.messages[0].len()).map(<[u8]>::to_vec).collect()
    }

    async fn unbroken(&self, house: &TestHouse, query: &str) -> Story {
        let mut socket = Socket::open(house, query).await;
        for message in &self.messages {
            socket.audio(message).await;
        }
        socket.end().await.whole()
    }

    /// Loses the connection after so many messages, and again after so many more.
    async fn broken(&self, house: &TestHouse, query: &str, losses: [usize; 2]) -> Story {
        let mut socket = Socket::open(house, query).await;
        let id = socket.ready().stream.clone();
        for (n, loss) in losses.into_iter().enumerate() {
            for message in self.from(socket.ready().received).iter().take(loss) {
                socket.audio(message).await;
            }
            let lost = if n == 0 { socket } else { socket.breaking() };
            let story = lost.story.clone();
            // What is on its way may be lost; what is counted is not.
            drop(lost);
            socket = Socket::resume(house, &id, story.last_seq()).await.expect("it has a grace");
            assert_eq!(socket.ready().stream, id);
            assert!(socket.ready().last_seq >= story.last_seq());
            socket.story = story.and(std::mem::take(&mut socket.story));
        }
        for message in &self.from(socket.ready().received) {
            socket.audio(message).await;
        }
        socket.end().await.whole()
    }
}

/// Where one comes among the others depends on when the engine answers; what is said does not.
fn same(broken: &Story, unbroken: &Story, pcm: &[f32]) {
    let finals = |story: &Story| story.finals().cloned().collect::<Vec<_>>();
    assert_eq!(finals(broken), finals(unbroken));
    assert_eq!(broken.last_seq(), unbroken.last_seq());
    assert_eq!((broken.text(), broken.done()), (scripted(pcm), unbroken.done()));
    assert_eq!((broken.done().account.received, broken.close), (pcm.len() as u64, Some(1000)));
}

#[test]
fn two_losses_in_the_middle_of_a_sentence() {
    let house = TestHouse::start(&[]);
    let pcm = talk(30.0, 9.0);
    let odd = Tape { messages: s16le(&pcm).chunks(777).map(<[u8]>::to_vec).collect(), packets: false };
    let stereo: Vec<u8> =
        pcm.iter().flat_map(|sample| [sample.to_le_bytes(), sample.to_le_bytes()].concat()).collect();
    let stereo = Tape { messages: stereo.chunks(5_001).map(<[u8]>::to_vec).collect(), packets: false };
    let file = crate::sound::wav(&pcm);
    let file = Tape { messages: file.chunks(999).map(<[u8]>::to_vec).collect(), packets: false };
    runtime().block_on(async {
        for (query, tape) in [
            ("grace=20", &odd),
            ("grace=20&encoding=pcm_f32le&channels=2", &stereo),
            ("grace=20&encoding=container", &file),
        ] {
            let unbroken = tape.unbroken(&house, query).await;
            let all = tape.messages.len();
            for losses in [[all / 6, all / 3], [1, 1], [all / 3 + 1, all]] {
                same(&tape.broken(&house, query, losses).await, &unbroken, &pcm);
            }
        }
    });
}

#[test]
fn two_losses_between_packets() {
    let house = TestHouse::start(&[]);
    let pcm = speech(20.0);
    let tape = Tape { messages: opus_packets(&pcm), packets: true };
    runtime().block_on(async {
        let query = "grace=20&encoding=opus";
        let unbroken = tape.unbroken(&house, query).await;
        same(&tape.broken(&house, query, [211, 389]).await, &unbroken, &pcm);
    });
}

#[test]
fn a_loss_between_the_end_and_the_last_word() {
    let house = TestHouse::start(&["--script-delay-ms", "100", "--max-streams", "4"]);
    let pcm = speech(5.0);
    let story = runtime().block_on(async {
        let mut socket = Socket::open(&house, "grace=20").await;
        socket.audio(&s16le(&pcm)).await;
        socket.say(r#"{"type":"end"}"#).await;
        socket.taken().await;
        let story = socket.story.clone();
        let id = socket.ready().stream.clone();
        drop(socket);
        let mut again = Socket::resume(&house, &id, story.last_seq()).await.expect("it has a grace");
        again.story = story.and(std::mem::take(&mut again.story));
        // More audio is too late.
        again.audio(&s16le(&pcm)).await;
        again.rest().await.whole()
    });
    assert_eq!((story.text(), story.close), (scripted(&pcm), Some(1000)));
    assert_eq!(story.done().account.received, pcm.len() as u64);
}

#[test]
fn a_newer_connection_takes_the_place_of_the_older() {
    let house = TestHouse::start(&["--script-delay-ms", "20", "--max-streams", "4"]);
    let pcm = speech(12.0);
    let bytes = s16le(&pcm);
    let (older, story) = runtime().block_on(async {
        let mut older = Socket::open(&house, "grace=20").await;
        let id = older.ready().stream.clone();
        older.audio(&bytes[..100_001]).await;
        older.taken().await;
        let mut newer = Socket::resume(&house, &id, 0).await.expect("it is open");
        let older = older.rest().await;
        // Half a sample had come.
        assert_eq!(newer.ready().received, Received { bytes: 100_000, samples: 50_000, messages: 1 });
        newer.audio(&bytes[100_000..]).await;
        (older, newer.end().await.whole())
    });
    assert_eq!((older.close, story.close), (Some(4409), Some(1000)));
    assert_eq!((story.text(), story.done().account.received), (scripted(&pcm), pcm.len() as u64));
}

#[test]
fn who_closes_properly_is_not_waited_for_unless_he_says_so() {
    let house = TestHouse::start(&[]);
    runtime().block_on(async {
        let socket = Socket::open(&house, "grace=20").await;
        let id = socket.ready().stream.clone();
        assert_eq!(socket.close(4000).await.close, Some(4000));
        let socket = Socket::resume(&house, &id, 0).await.expect("it was to be back soon");
        assert_eq!(socket.close(1000).await.close, Some(1000));
        let Err(refusal) = Socket::resume(&house, &id, 0).await else { panic!("it is still there") };
        refusal.is(404, "not_found", Some("stream"));
    });
}

#[test]
fn what_is_not_kept_or_was_never_told() {
    let house = TestHouse::start(&[]);
    runtime().block_on(async {
        let mut socket = Socket::open(&house, "grace=20").await;
        let id = socket.ready().stream.clone();
        for flush in 1..=5_000 {
            socket.flush().await;
            if flush % 100 == 0 {
                socket.until("answers", |story| story.last_seq() == flush).await;
            }
        }
        let mut again = Socket::resume(&house, &id, 4_990).await.expect("it is kept");
        again.until("the rest", |story| story.last_seq() == 5_000).await;
        assert_eq!(again.story.numbered().len(), 10);
        for after in [1, 800, 5_001, u64::MAX] {
            let Err(refusal) = Socket::resume(&house, &id, after).await else { panic!("{after} is known") };
            refusal.is(409, "conflict", Some("after"));
        }
        assert_eq!(again.end().await.close, Some(1000));
    });
}

#[test]
fn the_grace_has_a_limit() {
    let house = TestHouse::start(&["--resume-grace", "3"]);
    runtime().block_on(async {
        for (asked, given) in [("grace=100", 3.0), ("grace=2.5", 2.5), ("", 0.0)] {
            let socket = Socket::open(&house, asked).await;
            assert_eq!(socket.ready().settings.grace, Some(given), "{asked}");
            assert_eq!(socket.end().await.whole().close, Some(1000));
        }
    });
}

#[test]
fn events_go_on_where_the_last_one_was_heard() {
    let house = TestHouse::start(&["--script-delay-ms", "10", "--max-streams", "4"]);
    let pcm = talk(24.0, 5.0);
    let bytes = s16le(&pcm);
    let story = runtime().block_on(async {
        let created =
            Answer::fetch(house.client.post(house.url("/v1/streams")).json(&json!({"grace": 20}))).await;
        let stream = house.url(created.header("location"));
        let listen = async |after: Option<u64>| {
            let request = house.client.get(format!("{stream}/events"));
            match after {
                Some(after) => Events::of(request.header("last-event-id", after)).await,
                None => Events::of(request).await,
            }
        };
        let send = async |bytes: &[u8]| -> Value {
            Answer::fetch(house.client.post(format!("{stream}/audio")).body(bytes.to_vec())).await.json()
        };
        let (mut story, mut at) = (Story::default(), 0);
        for upto in [bytes.len() / 3 + 1, bytes.len() / 2 + 3] {
            let mut events = listen(Some(story.last_seq()).filter(|seq| *seq > 0)).await;
            let received = send(&bytes[at..upto]).await;
            assert_eq!(received["received"]["bytes"], upto, "{received}");
            at = upto;
            let seen = story.last_seq();
            events.until("something new", |heard| heard.last_seq() > seen + 1).await;
            story = story.and(events.story.clone());
        }
        // As an event source that was told the number in its address.
        let events =
            Events::of(house.client.get(format!("{stream}/events?after={}", story.last_seq()))).await;
        send(&bytes[at..]).await;
        let end = house.client.post(format!("{stream}/messages")).json(&json!({"type": "end"}));
        assert_eq!(Answer::fetch(end).await.status, 202);
        story.and(events.rest().await).whole()
    });
    assert_eq!((story.text(), story.done().account.received), (scripted(&pcm), pcm.len() as u64));
    assert!(story.messages().filter(|message| matches!(message, ServerMessage::Ready(_))).count() == 3);
    until("nothing is left", super::SECOND, || house.health()["streams"] == 0);
}
