//! Signatures against vectors made elsewhere, secrets, and the times between attempts.

mod deliveries;
mod targets;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::courier::retry_after;
use super::{Attempt, BadSecret, Delivery, Next, Policy, Secret, Target, schedule, sign};

fn secret(text: &str) -> Secret {
    text.parse().expect("a secret")
}

/// The vectors were made with Python's `hmac`; `tests/clients` shows that the openai package accepts them.
#[test]
fn signatures_are_those_of_the_standard() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../../tests/clients/webhooks.json")).expect("JSON");
    let vectors = vectors["deliveries"].as_array().expect("a list");
    assert!(vectors.len() > 3);
    for vector in vectors {
        let text = |name: &str| vector[name].as_str().expect("a text");
        let timestamp = vector["timestamp"].as_i64().expect("a time");
        let made = sign(&secret(text("secret")), text("id"), timestamp, text("body"));
        assert_eq!(made, text("signature"));
    }
}

#[test]
fn a_secret_is_any_text_or_base64_behind_its_prefix() {
    for text in ["s", "correct horse", "Grüße", "whsec_QQ==", "whsec_QR==", &"x".repeat(512)] {
        assert_eq!(secret(text).expose(), text);
    }
    for (text, bad) in [
        ("", BadSecret::Empty),
        ("whsec_", BadSecret::Empty),
        ("whsec_QQ", BadSecret::Base64),
        ("whsec_QQ==\n", BadSecret::Base64),
        ("whsec_-_-_", BadSecret::Base64),
        ("whsec_what is this", BadSecret::Base64),
        (&"x".repeat(513), BadSecret::TooLong),
    ] {
        assert_eq!(text.parse::<Secret>().expect_err(text), bad);
    }
}

#[test]
fn a_new_secret_is_long_and_new_and_can_be_read_again() {
    let (one, other) = (Secret::generate(), Secret::generate());
    assert_ne!(one.expose(), other.expose());
    assert_eq!(one.expose().len(), "whsec_".len() + 44);
    assert_eq!(sign(&one, "id", 0, "x"), sign(&secret(one.expose()), "id", 0, "x"));
}

#[test]
fn nothing_that_is_printed_holds_a_secret() {
    let kept = secret("a very secret secret");
    assert_eq!(format!("{kept:?}"), "***");
    assert!(!format!("{:?}", "whsec_not base64".parse::<Secret>()).contains("not base64"));
    let url = "https://hooks.example.com/path?token=hidden";
    let target = Target::check(url, Policy::PublicOnly).expect("a good one");
    assert_eq!(format!("{target:?}"), "https://hooks.example.com/…");
    let body = "hidden words".to_owned();
    let delivery = Delivery { id: "evt_1".to_owned(), url: url.to_owned(), secret: Some(kept), body };
    assert_eq!(format!("{delivery:?}"), r#"Delivery { id: "evt_1", .. }"#);
}

#[test]
fn attempts_are_made_for_about_a_day() {
    let total = |jitter: u64| {
        (1..).map_while(|attempt| schedule(attempt, jitter, None)).sum::<Duration>().as_secs_f64() / 3600.0
    };
    assert!((20.0..22.0).contains(&total(0)) && (25.0..27.0).contains(&total(200)));
    for jitter in [0, 100, 200, 12_345, u64::MAX] {
        let waits: Vec<Duration> = (1..).map_while(|attempt| schedule(attempt, jitter, None)).collect();
        assert!(waits.is_sorted(), "{waits:?}");
        assert!((4500..=5500).contains(&waits[0].as_millis()), "{waits:?}");
        assert_eq!(schedule(u32::MAX, jitter, None), None);
    }
    // An attempt before the first is none; whoever counts from 0 is not punished with a panic.
    assert_eq!(schedule(0, 100, None), schedule(1, 100, None));
    assert_eq!(schedule(1, 100, None), Some(Duration::from_secs(5)));
}

#[test]
fn a_busy_receiver_is_given_the_time_it_asks_for_within_reason() {
    let asked = |seconds| schedule(1, 100, Some(Duration::from_secs(seconds))).map(|wait| wait.as_secs());
    assert_eq!([asked(0), asked(120), asked(1_000_000)], [Some(5), Some(120), Some(3600)]);
    // It never shortens what is due anyway, and never makes an attempt out of the last.
    assert_eq!(schedule(5, 100, Some(Duration::from_secs(120))), schedule(5, 100, None));
    assert_eq!(schedule(9, 100, Some(Duration::from_secs(120))), None);
}

#[test]
fn when_to_come_back_is_seconds_or_a_date() {
    let now: Timestamp = "2026-11-21T15:00:00Z".parse().expect("a time");
    let read = |value: &str| retry_after(value, now).map(|wait| wait.as_secs());
    assert_eq!(read("120"), Some(120));
    assert_eq!(read(" 0 "), Some(0));
    assert_eq!(read("Sat, 21 Nov 2026 15:02:00 GMT"), Some(120));
    assert_eq!(read("Sat, 21 Nov 2026 14:00:00 GMT"), Some(0));
    for nonsense in ["", "soon", "-5", "1.5", "99999999999999999999999"] {
        assert_eq!(read(nonsense), None, "{nonsense}");
    }
}

#[test]
fn what_follows_from_an_answer() {
    let after = |status: Option<u16>, number: u32| {
        Attempt { status, error: None, millis: 1, retry_after: None }.next(number, 100)
    };
    for status in [200, 201, 204, 299] {
        assert_eq!(after(Some(status), 1), Next::Delivered);
        assert_eq!(after(Some(status), 99), Next::Delivered);
    }
    for status in [199, 300, 301, 308, 400, 401, 404, 429, 500, 503] {
        assert_eq!(after(Some(status), 1), Next::Again(Duration::from_secs(5)), "{status}");
        assert_eq!(after(Some(status), 9), Next::GiveUp, "{status}");
    }
    assert_eq!(after(None, 2), Next::Again(Duration::from_secs(60)));
    assert_eq!(after(Some(410), 1), Next::GiveUp);
}
