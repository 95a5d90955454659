//! A client that reads server-sent events, by hand: each frame is checked to say the same three times.

use std::collections::VecDeque;

use whisperwire_protocol::stream::{ServerEvent, ServerMessage};

use super::story::Story;
use crate::client::PATIENCE;

/// A stream of events as they come. Dropping it hangs up.
pub(crate) struct Events {
    response: reqwest::Response,
    bytes: Vec<u8>,
    frames: VecDeque<ServerEvent>,
    pub(crate) story: Story,
}

impl Events {
    /// Sends the request and waits for the head of its answer.
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Self {
        let response =
            tokio::time::timeout(PATIENCE, request.send()).await.expect("in time").expect("an answer");
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap_or(""));
        assert_eq!((response.status().as_u16(), header("content-type")), (200, Some("text/event-stream")));
        assert_eq!((header("cache-control"), header("x-accel-buffering")), (Some("no-cache"), Some("no")));
        Self { response, bytes: Vec::new(), frames: VecDeque::new(), story: Story::default() }
    }

    pub(crate) fn version(&self) -> reqwest::Version {
        self.response.version()
    }

    /// Listens until it is so, or until the answer ends.
    pub(crate) async fn until(&mut self, what: &str, so: impl Fn(&Story) -> bool) {
        let listen = async { while !so(&self.story) && self.next().await {} };
        tokio::time::timeout(PATIENCE, listen).await.unwrap_or_else(|_| panic!("never came: {what}"));
    }

    /// Listens until the answer ends.
    pub(crate) async fn rest(mut self) -> Story {
        self.until("the end", |_| false).await;
        self.story
    }

    /// Takes one more event into the story; whether there was one.
    async fn next(&mut self) -> bool {
        loop {
            if let Some(event) = self.frames.pop_front() {
                self.story.events.push(event);
                return true;
            }
            // An answer that breaks off has ended as well.
            let Ok(Some(chunk)) = self.response.chunk().await else { return false };
            self.bytes.extend_from_slice(&chunk);
            while let Some(at) = self.bytes.windows(2).position(|two| two == b"\n\n") {
                let frame: Vec<u8> = self.bytes.drain(..at + 2).collect();
                self.frames.extend(read(std::str::from_utf8(&frame).expect("events in UTF-8")));
            }
        }
    }
}

/// An event; nothing for a comment.
fn read(frame: &str) -> Option<ServerEvent> {
    let field = |name: &str| {
        let value = |line: &'_ str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
        let mut values = frame.lines().filter_map(value);
        let first = values.next();
        assert_eq!(values.next(), None, "{name} stands twice in {frame:?}");
        first
    };
    let data = field("data")?;
    let event: ServerEvent = serde_json::from_str(&data).expect("a message of the protocol");
    assert_ne!(event.message, ServerMessage::Unknown, "{data}");
    let value: serde_json::Value = serde_json::from_str(&data).expect("JSON");
    assert_eq!(field("event").as_deref(), value["type"].as_str(), "{frame}");
    assert_eq!(field("id"), event.seq.map(|seq| seq.to_string()), "{frame}");
    Some(event)
}
