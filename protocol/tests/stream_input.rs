//! What strangers send where a message or a setting is due: it is either understood or refused with the name of what is
//! wrong, whatever its size and shape, and a query means what the same settings mean in JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use whisperwire_protocol::form::{MAX_ITEMS, MAX_PROMPT, MAX_TEXT};
use whisperwire_protocol::stream::{ClientMessage, Encoding, Settings, Task};

#[test]
fn what_is_no_message_is_refused_with_its_reason() {
    for text in
        ["", " ", "null", "7", "\"flush\"", "[]", "[{\"type\":\"flush\"}]", "{", "{}{}", "flush", "\0"]
    {
        let error = ClientMessage::parse(text).expect_err(text);
        assert!(error.message.starts_with("A text message must be a JSON object"), "{text}: {error}");
        assert_eq!(error.param, "");
    }
    for text in ["{}", r#"{"type":null}"#, r#"{"type":7}"#, r#"{"type":"stop"}"#, r#"{"Type":"flush"}"#] {
        assert_eq!(ClientMessage::parse(text).expect_err(text).param, "type", "{text}");
    }
    for kind in ["flush", "end", "ping", "configure"] {
        let error =
            ClientMessage::parse(&json!({"type": kind, "langauge": "en"}).to_string()).expect_err(kind);
        assert_eq!(error.param, "langauge");
    }
    let long = "x".repeat(1 << 20);
    let error =
        ClientMessage::parse(&json!({"type": "configure", &long: 1}).to_string()).expect_err("unknown");
    assert!(
        error.param.len() == 64 && error.message.len() < 200,
        "a stranger's name is not sent back in full"
    );
}

#[test]
fn deep_and_large_texts_are_refused_without_harm() {
    let deep = 1 << 20;
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("{\"type\":", ""), ("[", "")] {
        assert!(ClientMessage::parse(&open.repeat(deep)).is_err());
        assert!(ClientMessage::parse(&(open.repeat(deep) + "1" + &close.repeat(deep))).is_err());
    }
    let nested = format!(r#"{{"type":"configure","keywords":{}1{}}}"#, "[".repeat(100), "]".repeat(100));
    assert_eq!(ClientMessage::parse(&nested).expect_err("not a list of texts").param, "keywords");
    let many: BTreeMap<String, u32> = (0..200_000).map(|n| (format!("k{n}"), n)).collect();
    let mut many = json!(many);
    many["type"] = json!("configure");
    assert!(ClientMessage::parse(&many.to_string()).is_err());
}

#[test]
fn every_rule_of_the_settings_is_kept_in_json() {
    let refused = [
        ("encoding", json!("mp3")),
        ("encoding", json!("")),
        ("encoding", json!(7)),
        ("encoding", json!({"pcm_s16le": null, "opus": null})),
        ("sample_rate", json!(3_999)),
        ("sample_rate", json!(192_001)),
        ("sample_rate", json!(-16_000)),
        ("sample_rate", json!(16_000.5)),
        ("sample_rate", json!("16000")),
        ("sample_rate", json!(1e300)),
        ("channels", json!(0)),
        ("channels", json!(9)),
        ("channels", json!(65_537)),
        ("model", json!("a\0b")),
        ("model", json!("m".repeat(MAX_TEXT + 1))),
        ("model", json!(["a"])),
        ("language", json!("e\0n")),
        ("language", json!("l".repeat(MAX_TEXT + 1))),
        ("languages", json!("en")),
        ("languages", json!(["en", 7])),
        ("languages", json!(["en", "d\0e"])),
        ("languages", json!(vec!["en"; MAX_ITEMS + 1])),
        ("prompt", json!("\0")),
        ("prompt", json!("p".repeat(MAX_PROMPT + 1))),
        ("prompt", json!(true)),
        ("keywords", json!(vec!["x"; MAX_ITEMS + 1])),
        ("keywords", json!(["k".repeat(MAX_TEXT + 1)])),
        ("keywords", json!([null])),
        ("keywords", json!(["a\0"])),
        ("task", json!("Translate")),
        ("partials", json!("true")),
        ("partials", json!(1)),
        ("words", json!("no")),
        ("vad_threshold", json!(-0.01)),
        ("vad_threshold", json!(1.01)),
        ("vad_threshold", json!(1e300)),
        ("silence_ms", json!(99)),
        ("silence_ms", json!(10_001)),
        ("prefix_ms", json!(5_001)),
        ("prefix_ms", json!(-1)),
        ("grace", json!(-0.5)),
        ("grace", json!(3_600.5)),
        ("grace", json!([30])),
        ("stream", json!("5b1f0c9e7d3a4e62b8f4a1c07de95243")),
    ];
    for (name, value) in refused {
        let text = json!({"type": "configure", name: value}).to_string();
        let error = ClientMessage::parse(&text).expect_err(&text[..text.len().min(80)]);
        assert_eq!(error.param, name, "{error}");
        assert!(error.message.contains(name) && error.message.len() < 200, "{error}");
    }
    let most = json!({
        "type": "configure", "model": "m".repeat(MAX_TEXT), "prompt": "p".repeat(MAX_PROMPT),
        "keywords": vec!["k".repeat(MAX_TEXT); MAX_ITEMS], "language": null,
    });
    let Ok(ClientMessage::Configure(most)) = ClientMessage::parse(&most.to_string()) else {
        panic!("the limits themselves are allowed");
    };
    assert_eq!(most.language, None, "null is as good as nothing");
}

#[test]
fn rate_and_channels_suit_the_encoding() {
    let read = |encoding: &str, name: &str, value: u32| {
        let text = json!({"encoding": encoding, name: value}).to_string();
        Settings::from_json(&text).map_err(|error| error.param)
    };
    for encoding in ["ogg_opus", "webm_opus", "container"] {
        for (name, value) in [("sample_rate", 48_000), ("channels", 1)] {
            assert_eq!(
                read(encoding, name, value),
                Err(name.to_owned()),
                "{encoding} tells its {name} itself"
            );
        }
        Settings::from_json(&json!({"encoding": encoding}).to_string()).expect("nothing else is needed");
    }
    for (channels, allowed) in [(1, true), (2, true), (3, false)] {
        assert_eq!(read("opus", "channels", channels).is_ok(), allowed, "{channels}");
    }
    assert_eq!(read("opus", "channels", 3), Err("channels".to_owned()));
    for rate in [4_000, 24_000, 192_000] {
        let settings = read("opus", "sample_rate", rate).expect("a rate beside opus does no harm");
        assert_eq!(settings.sample_rate, Some(rate));
    }
    assert_eq!(read("opus", "sample_rate", 1), Err("sample_rate".to_owned()), "nonsense is still nonsense");
    for encoding in ["pcm_s16le", "pcm_f32le", "mulaw", "alaw"] {
        read(encoding, "channels", 8).expect("raw samples have up to 8 channels");
    }
}

#[test]
fn settings_alone_are_read_like_a_message() {
    let settings = Settings::from_json(r#"{"language": "en", "silence_ms": 300}"#).expect("is understood");
    assert_eq!((settings.language.as_deref(), settings.silence_ms), (Some("en"), Some(300)));
    assert_eq!(Settings::from_json("{}").expect("everything may be left out"), Settings::default());
    for text in ["", "null", "[]", "7", "\"{}\"", "{", "{}{}", "\0"] {
        assert_eq!(Settings::from_json(text).expect_err(text).param, "", "{text}");
    }
    for (text, param) in [(r#"{"type": "configure"}"#, "type"), (r#"{"grace": -1}"#, "grace")] {
        assert_eq!(Settings::from_json(text).expect_err(text).param, param);
    }
}

#[test]
fn a_query_says_the_same_as_json() {
    let pairs = [
        ("encoding", "pcm_f32le"),
        ("sample_rate", "48000"),
        ("channels", "2"),
        ("model", "small"),
        ("language", "en"),
        ("languages", "en, de"),
        ("languages", "fr"),
        ("prompt", "true, 7, and \"more\""),
        ("keywords", "quay,,Skerryvore,"),
        ("task", "translate"),
        ("partials", "False"),
        ("words", "1"),
        ("vad_threshold", "0.25"),
        ("silence_ms", "300"),
        ("prefix_ms", "100"),
        ("grace", "12.5"),
    ];
    assert_eq!(BTreeSet::from(pairs.map(|(name, _)| name.to_owned())), setting_names());
    let settings = Settings::from_query(pairs).expect("is understood");
    let text = r#"{"type": "configure", "encoding": "pcm_f32le", "sample_rate": 48000, "channels": 2,
        "model": "small", "language": "en", "languages": ["en", "de", "fr"],
        "prompt": "true, 7, and \"more\"", "keywords": ["quay", "Skerryvore"], "task": "translate",
        "partials": false, "words": true, "vad_threshold": 0.25, "silence_ms": 300, "prefix_ms": 100,
        "grace": 12.5}"#;
    let same = ClientMessage::parse(text).expect("is understood");
    assert_eq!(ClientMessage::Configure(Box::new(settings)), same);
    let empty = Settings::from_query([]).expect("everything may be left out");
    assert_eq!(empty, Settings::default());
    let empty = Settings::from_query([("language", ""), ("keywords", "")]).expect("empty texts are texts");
    assert_eq!((empty.language, empty.keywords), (Some(String::new()), Some(vec![])));
}

#[test]
fn a_bad_query_names_what_is_wrong() {
    let refused = [
        ("sample_rate", "fast"),
        ("sample_rate", ""),
        ("sample_rate", "\"16000\""),
        ("sample_rate", "16000.5"),
        ("sample_rate", "1"),
        ("channels", "[1]"),
        ("partials", "yes"),
        ("words", ""),
        ("grace", "NaN"),
        ("grace", "1e999"),
        ("vad_threshold", "true"),
        ("encoding", "PCM"),
        ("model", "a\0b"),
        ("langauge", "en"),
        ("after", "7"),
        ("type", "configure"),
    ];
    for pair in refused {
        let error = Settings::from_query([pair]).expect_err(pair.1);
        assert_eq!(error.param, pair.0, "{error}");
    }
    for twice in
        [[("model", "a"), ("model", "a")], [("words", "1"), ("words", "0")], [("x", "1"), ("x", "1")]]
    {
        let error = Settings::from_query(twice).expect_err("sent twice");
        assert_eq!(error.param, twice[0].0);
        assert!(error.message.contains("twice"), "{error}");
    }
    let deep = "[".repeat(1 << 20);
    assert_eq!(Settings::from_query([("grace", deep.as_str())]).expect_err("deep").param, "grace");
    let long = "n".repeat(1 << 20);
    assert_eq!(Settings::from_query([(long.as_str(), "1")]).expect_err("unknown").param.len(), 64);
    let many = vec![("keywords", "a,b"); MAX_ITEMS];
    assert_eq!(Settings::from_query(many).expect_err("too many").param, "keywords");
}

#[test]
fn newer_settings_take_the_place_of_what_they_name() {
    let all = all_settings();
    assert_eq!(Settings::default().with(all.clone()), all);
    assert_eq!(all.clone().with(Settings::default()), all);
    let newer = Settings {
        channels: Some(1),
        language: Some(String::new()),
        keywords: Some(vec![]),
        partials: Some(false),
        ..Settings::default()
    };
    let merged = all.clone().with(newer.clone());
    assert_eq!(merged.language.as_deref(), Some(""), "an empty text is how a setting is taken back");
    assert_eq!((merged.channels, merged.keywords, merged.partials), (Some(1), Some(vec![]), Some(false)));
    assert_eq!((merged.prompt, merged.grace), (all.prompt.clone(), all.grace));

    let container = Settings { encoding: Some(Encoding::OggOpus), ..Settings::default() };
    let merged = all.clone().with(container);
    assert_eq!((merged.sample_rate, merged.channels), (None, None), "a container says them itself");
    merged.check().expect("the rate of the samples before it does not stand in its way");

    let opus = |channels| Settings { encoding: Some(Encoding::Opus), channels, ..Settings::default() };
    let wide = Settings { channels: Some(6), ..all };
    let merged = wide.with(opus(None));
    assert_eq!(
        (merged.sample_rate, merged.channels),
        (None, None),
        "those of the samples are not those of packets"
    );
    let stereo = opus(Some(2)).with(opus(None));
    assert_eq!(stereo.channels, Some(2), "the same encoding named once more changes nothing");
    let raw = Settings { encoding: Some(Encoding::Mulaw), ..Settings::default() };
    let samples = Settings { channels: Some(6), ..Settings::default() };
    assert_eq!(samples.with(raw).channels, Some(6), "raw samples stay raw samples");
}

/// Every setting, named one by one: a new one does not compile until it stands here, and so in the query below.
fn all_settings() -> Settings {
    Settings {
        encoding: Some(Encoding::PcmF32le),
        sample_rate: Some(48_000),
        channels: Some(2),
        model: Some("small".to_owned()),
        language: Some("en".to_owned()),
        languages: Some(vec!["en".to_owned()]),
        prompt: Some("Minutes.".to_owned()),
        keywords: Some(vec!["quay".to_owned()]),
        task: Some(Task::Transcribe),
        partials: Some(true),
        words: Some(true),
        vad_threshold: Some(0.5),
        silence_ms: Some(500),
        prefix_ms: Some(300),
        grace: Some(30.0),
    }
}

fn setting_names() -> BTreeSet<String> {
    let all = serde_json::to_value(all_settings()).expect("plain data");
    all.as_object().expect("an object").keys().cloned().collect()
}
