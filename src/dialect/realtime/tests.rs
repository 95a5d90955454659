use proptest::prelude::*;
use serde_json::{Value, json};
use whisperwire_protocol::realtime::Format;

use super::*;
use crate::transcript::{Gap, GapReason, Span};

fn conversation(turn_detection: Value) -> Conversation {
    let session = json!({"audio": {"input": {"turn_detection": turn_detection}}});
    let settings = SessionSettings::default().update(Shape::Ga, &session).expect("right");
    Conversation::new("sess_1".into(), Shape::Ga, settings, "tiny", 7)
}

fn by_silence() -> Conversation {
    conversation(json!({"type": "server_vad"}))
}

fn at(seconds: f64) -> Samples {
    Samples::from_seconds(seconds)
}

fn words(text: &str) -> Vec<Word> {
    let word = |text: &str| Word {
        text: format!(" {text}"),
        span: Span::new(at(0.0), at(1.0)),
        probability: 0.9,
        tokens: vec![],
    };
    text.split_whitespace().map(word).collect()
}

fn partial(utterance: u32, stable: &str, tentative: &str) -> Event {
    let span = Span::new(at(0.0), at(1.0));
    Event::Partial(Hypothesis { utterance, stable: words(stable), tentative: words(tentative), span })
}

fn final_(utterance: u32, text: &str) -> Event {
    Event::Final(Segment {
        utterance,
        span: Span::new(at(0.0), at(1.0)),
        words: words(text),
        temperature: 0.0,
        no_speech: 0.0,
        language: Some(Language::ENGLISH),
    })
}

fn started(utterance: u32, seconds: f64) -> Event {
    Event::SpeechStarted { utterance, at: at(seconds) }
}

fn stopped(utterance: u32, seconds: f64) -> Event {
    Event::SpeechStopped { utterance, at: at(seconds) }
}

fn done(utterance: u32) -> Event {
    Event::UtteranceDone { utterance }
}

fn flushed() -> Event {
    Event::Flushed { at: at(0.0) }
}

/// So many milliseconds of silence, as a client sends them.
fn append(conversation: &Conversation, millis: u64) -> Value {
    let bytes = conversation.settings.format.bytes_per_second() * millis / 1000;
    json!({"type": "input_audio_buffer.append", "audio": "AAAA".repeat(bytes as usize / 3)})
}

fn hear(conversation: &mut Conversation, message: &Value) -> (Vec<Value>, Vec<Deed>) {
    let (say, deeds) = conversation.hear(&message.to_string(), |_| Ok(()));
    (say.iter().map(plain).collect(), deeds)
}

fn tell(conversation: &mut Conversation, events: &[Event]) -> Vec<Value> {
    events.iter().flat_map(|event| conversation.tell(event)).map(|event| plain(&event)).collect()
}

fn plain(event: &ServerEvent) -> Value {
    serde_json::from_str(&event.to_json()).expect("an event is JSON")
}

/// The types without what they have in common.
fn types(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["type"].as_str().expect("a type"))
        .map(|name| name.rsplit_once("transcription.").map_or(name, |(_, last)| last))
        .map(|name| name.trim_start_matches("input_audio_buffer.").trim_start_matches("conversation."))
        .collect()
}

#[test]
fn a_turn_is_told_in_the_documented_order() {
    let mut c = by_silence();
    let message = append(&c, 3_000);
    assert_eq!(hear(&mut c, &message).0, Vec::<Value>::new(), "audio is not acknowledged");
    let events = tell(
        &mut c,
        &[
            started(0, 1.0),
            partial(0, "", "Hey can"),
            partial(0, "Hey,", "can you"),
            stopped(0, 2.0),
            final_(0, "Hey, can you hear me?"),
            done(0),
        ],
    );
    let expected = [
        "speech_started",
        "delta",
        "speech_stopped",
        "committed",
        "item.added",
        "item.done",
        "delta",
        "completed",
    ];
    assert_eq!(types(&events), expected);
    let item = events[0]["item_id"].as_str().expect("an item");
    for event in &events {
        assert!(event["item_id"] == item || event["item"]["id"] == item, "{event}");
    }
    assert_eq!((&events[0]["audio_start_ms"], &events[2]["audio_end_ms"]), (&json!(1000), &json!(2340)));
    assert_eq!((&events[1]["delta"], &events[6]["delta"]), (&json!("Hey,"), &json!(" can you hear me?")));
    assert_eq!(events[7]["transcript"], "Hey, can you hear me?");
    assert_eq!(events[7]["languages"], json!([{"code": "en"}]));
    assert_eq!(events[3]["previous_item_id"], Value::Null);
    let usage = &events[7]["usage"];
    assert_eq!(
        (&usage["type"], &usage["input_tokens"], &usage["output_tokens"]),
        (&json!("tokens"), &json!(10), &json!(5))
    );

    let next = tell(&mut c, &[started(1, 4.0), stopped(1, 5.0), done(1)]);
    assert_eq!(
        types(&next),
        ["speech_started", "speech_stopped", "committed", "item.added", "item.done", "completed"]
    );
    assert_eq!(next[2]["previous_item_id"], item);
    assert_eq!(next[5]["transcript"], "");
}

#[test]
fn the_beta_shape_has_one_event_for_a_new_item() {
    let mut c = Conversation::new("sess_1".into(), Shape::Beta, SessionSettings::default(), "tiny", 7);
    assert_eq!(plain(&c.created())["type"], "transcription_session.created");
    let events = tell(&mut c, &[started(0, 1.0), stopped(0, 2.0), done(0)]);
    assert_eq!(
        types(&events),
        ["speech_started", "speech_stopped", "committed", "item.created", "completed"]
    );
    let update =
        json!({"type": "transcription_session.update", "session": {"input_audio_format": "g711_alaw"}});
    let (say, deeds) = hear(&mut c, &update);
    assert_eq!(say[0]["type"], "transcription_session.updated");
    assert_eq!(
        (say[0]["session"]["input_audio_format"].as_str(), deeds),
        (Some("g711_alaw"), vec![Deed::Change])
    );
}

#[test]
fn without_turn_detection_an_item_is_what_lies_between_two_commits() {
    let mut c = conversation(Value::Null);
    let audio = append(&c, 5_000);
    hear(&mut c, &audio);
    let first =
        tell(&mut c, &[started(0, 0.1), stopped(0, 1.0), final_(0, "One two."), done(0), started(1, 2.0)]);
    assert_eq!(types(&first), ["delta"], "nothing is said of turns");
    let (say, deeds) = hear(&mut c, &json!({"type": "input_audio_buffer.commit"}));
    assert_eq!((types(&say), deeds), (vec!["committed", "item.added", "item.done"], vec![Deed::Flush]));
    // The client goes on at once; what comes before the flush is still the first item's.
    hear(&mut c, &audio);
    let rest = tell(
        &mut c,
        &[stopped(1, 3.0), final_(1, "Three."), done(1), flushed(), started(2, 6.0), final_(2, "Four.")],
    );
    assert_eq!(types(&rest), ["delta", "completed", "delta"]);
    assert_eq!(rest[0]["item_id"], first[0]["item_id"]);
    assert_eq!(
        (rest[0]["delta"].as_str(), rest[1]["transcript"].as_str()),
        (Some(" Three."), Some("One two. Three."))
    );
    assert_ne!(rest[2]["item_id"], first[0]["item_id"]);
    assert_eq!(rest[1]["usage"]["input_tokens"], 50);
    assert_eq!(rest[1]["item_id"], say[0]["item_id"]);
}

#[test]
fn a_commit_of_nothing_is_refused_as_openai_does() {
    for turns in [Value::Null, json!({"type": "server_vad"})] {
        let mut c = conversation(turns);
        let short = append(&c, 50);
        hear(&mut c, &short);
        let (say, deeds) = hear(&mut c, &json!({"type": "input_audio_buffer.commit", "event_id": "mine"}));
        assert_eq!((types(&say), deeds), (vec!["error"], vec![]));
        assert_eq!(say[0]["error"]["code"], "input_audio_buffer_commit_empty");
        assert_eq!(say[0]["error"]["event_id"], "mine");
        let message = say[0]["error"]["message"].as_str().expect("a sentence");
        assert!(message.ends_with("buffer only has 50.00ms of audio."), "{message}");
    }
}

#[test]
fn a_commit_ends_a_turn_early_and_once() {
    let mut c = by_silence();
    let audio = append(&c, 2_000);
    hear(&mut c, &audio);
    tell(&mut c, &[started(0, 0.5)]);
    let (say, deeds) = hear(&mut c, &json!({"type": "input_audio_buffer.commit"}));
    assert_eq!((types(&say), deeds), (vec!["committed", "item.added", "item.done"], vec![Deed::Flush]));
    let rest = tell(&mut c, &[stopped(0, 2.0), final_(0, "Stop."), done(0), flushed()]);
    assert_eq!(types(&rest), ["speech_stopped", "delta", "completed"]);
    assert_eq!(rest[0]["audio_end_ms"], 2000, "nobody waited for silence");
}

#[test]
fn a_commit_of_silence_is_an_item_without_words() {
    let mut c = by_silence();
    let audio = append(&c, 2_000);
    hear(&mut c, &audio);
    let (say, _) = hear(&mut c, &json!({"type": "input_audio_buffer.commit"}));
    assert_eq!(types(&say), Vec::<&str>::new(), "somebody may be speaking already");
    assert_eq!(types(&tell(&mut c, &[flushed()])), ["committed", "item.added", "item.done", "completed"]);
    // And where somebody was, the turn is the item.
    hear(&mut c, &audio);
    hear(&mut c, &json!({"type": "input_audio_buffer.commit"}));
    let events = tell(&mut c, &[started(0, 2.5), stopped(0, 4.0), final_(0, "Yes."), done(0), flushed()]);
    assert_eq!(
        types(&events),
        ["speech_started", "speech_stopped", "committed", "item.added", "item.done", "delta", "completed"]
    );
}

#[test]
fn what_is_cleared_is_not_heard_and_what_was_committed_is() {
    let mut c = by_silence();
    let audio = append(&c, 4_000);
    hear(&mut c, &audio);
    tell(&mut c, &[started(0, 0.5), stopped(0, 1.5), started(1, 2.0)]);
    let (say, deeds) = hear(&mut c, &json!({"type": "input_audio_buffer.clear"}));
    assert_eq!((types(&say), deeds), (vec!["cleared"], vec![Deed::Flush]));
    let rest = [
        final_(0, "Kept."),
        done(0),
        stopped(1, 3.0),
        final_(1, "Gone."),
        done(1),
        started(2, 3.1),
        stopped(2, 4.0),
        final_(2, "Gone too."),
        done(2),
        flushed(),
        started(3, 5.0),
    ];
    assert_eq!(types(&tell(&mut c, &rest)), ["delta", "completed", "speech_started"]);

    let mut c = conversation(Value::Null);
    hear(&mut c, &audio);
    hear(&mut c, &json!({"type": "input_audio_buffer.commit"}));
    hear(&mut c, &audio);
    hear(&mut c, &json!({"type": "input_audio_buffer.clear"}));
    let events = [
        started(0, 0.5),
        final_(0, "Kept."),
        done(0),
        flushed(),
        started(1, 4.5),
        final_(1, "Gone."),
        done(1),
        flushed(),
        started(2, 8.5),
        final_(2, "New."),
    ];
    assert_eq!(types(&tell(&mut c, &events)), ["delta", "completed", "delta"]);
}

#[test]
fn turn_detection_can_be_given_up_and_taken_up_again() {
    let update = |turns: Value| json!({"type": "session.update", "session": {"audio": {"input": {"turn_detection": turns}}}});
    let mut c = by_silence();
    let audio = append(&c, 2_000);
    hear(&mut c, &audio);
    let item = tell(&mut c, &[started(0, 0.5)])[0]["item_id"].clone();
    let (say, deeds) = hear(&mut c, &update(Value::Null));
    assert_eq!((types(&say), deeds), (vec!["session.updated"], vec![Deed::Change]));
    assert_eq!(types(&tell(&mut c, &[stopped(0, 1.5), final_(0, "First."), done(0)])), ["delta"]);
    let (say, deeds) = hear(&mut c, &update(json!({"type": "semantic_vad"})));
    assert_eq!(types(&say), ["committed", "item.added", "item.done", "session.updated"]);
    assert_eq!(deeds, [Deed::Flush, Deed::Flush, Deed::Change]);
    assert_eq!(say[0]["item_id"], item);
    let events = tell(
        &mut c,
        &[flushed(), flushed(), started(1, 3.0), final_(1, "Second."), stopped(1, 4.0), done(1)],
    );
    assert_eq!(
        types(&events),
        [
            "completed",
            "speech_started",
            "delta",
            "speech_stopped",
            "committed",
            "item.added",
            "item.done",
            "completed"
        ]
    );
}

#[test]
fn silence_becomes_an_item_where_that_was_asked_for() {
    let mut c = conversation(json!({"type": "server_vad", "idle_timeout_ms": 5000}));
    let audio = append(&c, 3_000);
    assert_eq!(types(&hear(&mut c, &audio).0), Vec::<&str>::new());
    let (say, _) = hear(&mut c, &audio);
    assert_eq!(types(&say), ["timeout_triggered", "committed", "item.added", "item.done", "completed"]);
    assert_eq!((&say[0]["audio_start_ms"], &say[0]["audio_end_ms"]), (&json!(0), &json!(6000)));
    tell(&mut c, &[started(0, 6.5)]);
    assert_eq!(types(&hear(&mut c, &audio).0), Vec::<&str>::new());
    assert_eq!(types(&hear(&mut c, &audio).0), Vec::<&str>::new(), "somebody speaks");
    tell(&mut c, &[stopped(0, 9.0), done(0)]);
    let (say, _) = hear(&mut c, &audio);
    assert_eq!((&say[0]["audio_start_ms"], &say[0]["audio_end_ms"]), (&json!(9000), &json!(15000)));
}

#[test]
fn items_can_be_asked_for_and_forgotten() {
    let mut c = by_silence();
    let events = tell(&mut c, &[started(0, 0.5), stopped(0, 1.0), final_(0, "Hello."), done(0)]);
    let id = events[0]["item_id"].clone();
    let (say, _) = hear(&mut c, &json!({"type": "conversation.item.retrieve", "item_id": id}));
    assert_eq!(say[0]["item"]["content"][0]["transcript"], "Hello.");
    let (say, _) = hear(&mut c, &json!({"type": "conversation.item.delete", "item_id": id}));
    assert_eq!((types(&say), &say[0]["item_id"]), (vec!["item.deleted"], &id));
    let (say, _) = hear(&mut c, &json!({"type": "conversation.item.retrieve", "item_id": id}));
    assert_eq!(say[0]["error"]["code"], "item_not_found");
}

#[test]
fn mistakes_change_nothing_and_name_the_event() {
    let mut c = by_silence();
    for (message, code) in [
        (json!({"type": "response.create", "event_id": "e"}), "invalid_event"),
        (json!({"type": "dance", "event_id": "e"}), "invalid_event"),
        (json!({"event_id": "e"}), "invalid_event"),
        (json!({"type": "input_audio_buffer.append", "audio": "AAAAA", "event_id": "e"}), "invalid_value"),
        (json!({"type": "session.update", "event_id": "e", "session": {"type": "speech"}}), "invalid_value"),
    ] {
        let (say, deeds) = hear(&mut c, &message);
        assert_eq!((types(&say), deeds), (vec!["error"], vec![]), "{message}");
        assert_eq!((&say[0]["error"]["code"], &say[0]["error"]["event_id"]), (&json!(code), &json!("e")));
    }
    let impossible =
        |_: &SessionSettings| Err(ErrorBody::new(ErrorCode::ModelNotFound, "No.", Some("model")));
    let update = json!({"type": "session.update", "session": {"include": ["item.input_audio_transcription.logprobs"]}});
    let (say, deeds) = c.hear(&update.to_string(), impossible);
    assert_eq!((plain(&say[0])["error"]["code"].as_str(), deeds), (Some("model_not_found"), vec![]));
    assert!(!c.settings().logprobs);
    let audio = append(&c, 100);
    hear(&mut c, &audio);
    let update = json!({"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}});
    let (say, _) = hear(&mut c, &update);
    assert_eq!(say[0]["error"]["param"], "session.audio.input.format");
    assert_eq!(c.settings().format, Format::DEFAULT);
}

#[test]
fn audio_that_was_lost_fails_only_where_nothing_was_heard() {
    let gap = || Event::Gap(Gap { span: Span::new(at(0.5), at(1.0)), reason: GapReason::Engine });
    let mut c = by_silence();
    let events = tell(&mut c, &[started(0, 0.5), stopped(0, 1.0), gap(), done(0)]);
    assert_eq!(types(&events).last(), Some(&"failed"));
    assert_eq!(events[events.len() - 1]["error"]["code"], "engine_failed");
    let events = tell(&mut c, &[started(1, 1.5), final_(1, "Half."), stopped(1, 2.0), gap(), done(1)]);
    assert_eq!(types(&events).last(), Some(&"completed"));
}

#[test]
fn a_promise_may_be_kept_by_several_finals() {
    let mut c = by_silence();
    let events = [
        started(0, 0.5),
        partial(0, "one two three", "four"),
        final_(0, "one two"),
        partial(0, "three four", "five"),
        final_(0, "three four five."),
        stopped(0, 3.0),
        done(0),
    ];
    let events = tell(&mut c, &events);
    let deltas: Vec<&str> = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(deltas, ["one two three", " four", " five."]);
    assert_eq!(events[events.len() - 1]["transcript"], "one two three four five.");
}

#[test]
fn logprobs_come_where_they_are_included() {
    let mut c = by_silence();
    let include = json!({"type": "session.update", "session": {"include": ["item.input_audio_transcription.logprobs"]}});
    hear(&mut c, &include);
    let events = tell(
        &mut c,
        &[started(0, 0.5), partial(0, "Hey", ""), final_(0, "Hey you."), stopped(0, 1.0), done(0)],
    );
    assert_eq!(events[1]["logprobs"][0]["token"], "Hey");
    assert_eq!(events[2]["logprobs"][0]["token"], " you.");
    assert_eq!(events.last().expect("an event")["logprobs"].as_array().map(Vec::len), Some(2));
}

/// What a client and a pipeline may do, in any order that a pipeline keeps.
#[derive(Clone, Debug)]
enum Step {
    Append,
    Commit,
    Clear,
    Turns(bool),
    /// The pipeline goes on by so much of what it has to tell.
    Pipeline(usize),
    /// Somebody says so many words, of which so many are promised first.
    Utterance(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Append),
        2 => Just(Step::Commit),
        1 => Just(Step::Clear),
        1 => any::<bool>().prop_map(Step::Turns),
        6 => (1usize..6).prop_map(Step::Pipeline),
        4 => (0usize..5, 0usize..5).prop_map(|(words, promised)| Step::Utterance(words, promised.min(words))),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a client does while a pipeline tells: every committed item ends once, in order; deltas are its
    /// transcript; nothing is said of an item after its end.
    #[test]
    fn every_committed_item_ends_once_and_in_order(steps in steps(), turns: bool) {
        let mut c = conversation(if turns { json!({"type": "server_vad"}) } else { Value::Null });
        let mut pipeline: VecDeque<Event> = VecDeque::new();
        let (mut told, mut utterances, mut clock) = (Vec::new(), 0, 0.0);
        let audio = append(&c, 300);
        for step in steps {
            match step {
                Step::Append => told.extend(hear(&mut c, &audio).0),
                Step::Commit | Step::Clear | Step::Turns(_) => {
                    let message = match step {
                        Step::Commit => json!({"type": "input_audio_buffer.commit"}),
                        Step::Clear => json!({"type": "input_audio_buffer.clear"}),
                        Step::Turns(on) => json!({"type": "session.update", "session": {"audio": {"input":
                            {"turn_detection": if on { json!({"type": "server_vad"}) } else { Value::Null }}}}}),
                        _ => unreachable!("the arm says so"),
                    };
                    let (say, deeds) = hear(&mut c, &message);
                    told.extend(say);
                    let flushes = deeds.iter().filter(|deed| **deed == Deed::Flush).count();
                    pipeline.extend(std::iter::repeat_n(flushed(), flushes));
                }
                Step::Utterance(words, promised) => {
                    let all: Vec<String> = (0..words).map(|n| format!("w{utterances}x{n}")).collect();
                    pipeline.push_back(started(utterances, clock));
                    if promised > 0 {
                        pipeline.push_back(partial(utterances, &all[..promised].join(" "), &all[promised..].join(" ")));
                    }
                    clock += 1.0;
                    pipeline.push_back(stopped(utterances, clock));
                    // Long utterances become final in two pieces, whatever was promised of them.
                    let cut = words / 2;
                    for piece in [&all[..cut], &all[cut..]].into_iter().filter(|piece| !piece.is_empty()) {
                        pipeline.push_back(final_(utterances, &piece.join(" ")));
                    }
                    pipeline.push_back(done(utterances));
                    utterances += 1;
                }
                Step::Pipeline(count) => {
                    for event in pipeline.drain(..count.min(pipeline.len())) {
                        told.extend(tell(&mut c, &[event]));
                    }
                }
            }
        }
        told.extend(tell(&mut c, &pipeline.into_iter().collect::<Vec<_>>()));
        told.extend(c.end().iter().map(plain));
        judge(&told)?;
    }
}

fn judge(told: &[Value]) -> Result<(), TestCaseError> {
    let of = |name: &str| {
        let wanted = move |event: &&Value| event["type"].as_str().is_some_and(|kind| kind.ends_with(name));
        told.iter().filter(wanted).map(|event| event["item_id"].clone()).collect::<Vec<_>>()
    };
    prop_assert_eq!(of("buffer.committed"), of("transcription.completed"), "each once, and in order");
    for (n, event) in told.iter().enumerate() {
        if event["type"].as_str().is_some_and(|kind| kind.ends_with("transcription.completed")) {
            let mine = |event: &&Value| {
                event["item_id"] == told[n]["item_id"]
                    && event["type"].as_str().is_some_and(|k| k.ends_with("delta"))
            };
            let deltas: String =
                told[..n].iter().filter(mine).filter_map(|event| event["delta"].as_str()).collect();
            prop_assert_eq!(&event["transcript"], &deltas);
            prop_assert_eq!(told[n..].iter().filter(mine).count(), 0, "nothing after the end");
        }
    }
    let transcripts = told.iter().filter_map(|event| event["transcript"].as_str());
    let mut words: Vec<&str> = transcripts.flat_map(str::split_whitespace).collect();
    let said = words.len();
    words.sort_unstable();
    words.dedup();
    prop_assert_eq!(words.len(), said, "no word is told twice");
    let mut names: Vec<&str> = told.iter().filter_map(|event| event["event_id"].as_str()).collect();
    prop_assert_eq!(names.len(), told.len());
    names.sort_unstable();
    names.dedup();
    prop_assert_eq!(names.len(), told.len(), "every event has a name of its own");
    Ok(())
}
