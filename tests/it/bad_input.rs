//! Bad input is normal input: each kind gets a proper status with OpenAI's error body within a bounded time, leaves
//! nothing behind, and the next request works.

use std::time::{Duration, Instant};

use crate::client::{Answer, Form, head, runtime, until};
use crate::house::TestHouse;
use crate::sound::{ffmpeg_source, scripted, speech, wav, wav_claiming};

/// Longer than any of this may take on a slow machine that is busy.
const BOUND: Duration = Duration::from_secs(30);

/// Runs a case with a clock, then asks for something good.
fn with(house: &TestHouse, case: impl FnOnce(&TestHouse)) {
    let began = Instant::now();
    case(house);
    assert!(began.elapsed() < BOUND, "it took {:?}", began.elapsed());
    next_works(house);
}

fn next_works(house: &TestHouse) {
    let pcm = speech(2.0);
    assert_eq!(house.transcribe(&Form::of(&wav(&pcm))).words(), scripted(&pcm));
    house.settle();
}

fn scripted_house(flags: &[&str], case: impl FnOnce(&TestHouse)) {
    with(&TestHouse::start(flags), case);
}

#[test]
fn an_empty_file_or_none() {
    scripted_house(&[], |house| {
        house.transcribe(&Form::of(b"")).refused(400, "audio_too_short", Some("file"));
        let none = Form::new().text("model", "whisper-1");
        house.transcribe(&none).refused(400, "invalid_value", Some("file"));
        house.transcribe(&Form::new()).refused(400, "invalid_value", Some("file"));
        let two = Form::of(&wav(&speech(1.0))).file("again.wav", &wav(&speech(1.0)));
        house.transcribe(&two).refused(400, "invalid_value", Some("file"));
    });
}

#[test]
fn a_recording_without_a_sample() {
    scripted_house(&[], |house| {
        house.transcribe(&Form::of(&wav(&[]))).refused(400, "audio_too_short", Some("file"));
    });
}

#[test]
fn a_header_that_lies_about_the_length() {
    scripted_house(&[], |house| {
        let pcm = speech(3.0);
        let samples = &wav(&pcm)[44..];
        for claim in [0, 10, u32::MAX, 0x7FFF_FFFF] {
            let answer = house.transcribe(&Form::of(&wav_claiming(claim, samples)));
            assert_eq!(answer.words(), scripted(&pcm), "a claim of {claim} bytes");
        }
    });
}

#[test]
fn an_upload_over_the_limit() {
    scripted_house(&["--max-upload-mb", "1"], |house| {
        let form = Form::of(&wav(&speech(40.0)));
        let large = house.transcribe(&form).refused(413, "file_too_large", Some("file"));
        assert!(large.contains("1 MB"), "{large}");
        // Without a length ahead it shows on the way only.
        let mut wire = house.wire();
        wire.send(head(&Form::content_type(), "Transfer-Encoding: chunked").as_bytes());
        for chunk in form.body().chunks(50_000) {
            wire.send(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        }
        wire.send(b"0\r\n\r\n");
        wire.answer().refused(413, "file_too_large", Some("file"));
        // Many times the limit, as clients send it who do not look at answers before they are through.
        let mut wire = house.wire();
        wire.send(&Form::of(&vec![1; 30_000_000]).request());
        wire.answer().refused(413, "file_too_large", Some("file"));
    });
}

#[test]
fn ten_hours_of_silence_in_a_few_kilobytes() {
    let arguments = ["-compression_level", "12", "-frame_size", "65535"];
    let flac = ffmpeg_source("anullsrc=r=4000:cl=mono:d=36000", &arguments, "flac");
    assert!(flac.len() < 50_000, "{} bytes", flac.len());
    scripted_house(&[], |house| {
        let message = house.transcribe(&Form::of(&flac)).refused(413, "file_too_large", Some("file"));
        assert!(message.contains("21600 seconds"), "{message}");
        // A stream of unknown length is stopped on the way.
        let mut unmarked = flac.clone();
        unmarked[21] &= 0xF0;
        unmarked[22..26].fill(0);
        house.transcribe(&Form::of(&unmarked)).refused(413, "file_too_large", Some("file"));
    });
    // Where it is allowed it is listened to, all of it.
    let house = TestHouse::start(&["--max-audio-minutes", "1000"]);
    let body = house.transcribe(&Form::of(&flac).text("response_format", "verbose_json")).json();
    assert_eq!((body["text"].as_str(), body["duration"].as_f64()), (Some(""), Some(36_000.0)));
    next_works(&house);
}

#[test]
fn unknown_fields_are_ignored() {
    scripted_house(&[], |house| {
        let pcm = speech(2.0);
        let form = ["colour", "model_", "ünïcode", "a b c", ""]
            .iter()
            .fold(Form::of(&wav(&pcm)), |form, name| form.text(name, "whatever"));
        assert_eq!(house.transcribe(&form).words(), scripted(&pcm));
    });
}

#[test]
fn zero_bytes_and_broken_text_in_fields() {
    scripted_house(&[], |house| {
        let file = wav(&speech(1.0));
        for field in ["prompt", "language", "model", "response_format"] {
            let form = Form::new().file("a.wav", &file);
            let form = if field == "model" { form } else { form.text("model", "whisper-1") };
            for bytes in [&b"one\0two"[..], b"\0"] {
                house.transcribe(&form.clone().text(field, bytes)).refused(400, "invalid_value", Some(field));
            }
            let answer = house.transcribe(&form.clone().text(field, b"\xFF\xFE\xC3\x28"));
            answer.refused(400, "invalid_value", Some(field));
        }
    });
}

#[test]
fn what_is_no_form() {
    scripted_house(&[], |house| {
        let post = |content_type: &str, body: &[u8]| {
            let mut wire = house.wire();
            wire.send(head(content_type, &format!("Content-Length: {}", body.len())).as_bytes());
            wire.send(body);
            wire.answer().refused(400, "invalid_value", None)
        };
        let form = Form::of(&wav(&speech(1.0))).body();
        post("application/json", br#"{"model":"whisper-1","file":"speech.wav"}"#);
        post("application/x-www-form-urlencoded", b"model=whisper-1");
        post("multipart/form-data", &form);
        post("multipart/form-data; boundary=", &form);
        post("multipart/form-data; boundary=another", &form);
        post(&Form::content_type(), b"");
        post(&Form::content_type(), &[0x5A; 100_000]);
        post(&Form::content_type(), &form[..form.len() / 2]);
        post(&Form::content_type(), &form[..20]);
        post(
            &Form::content_type(),
            b"--a-line-between-parts\r\nno header at all\r\n\r\nx\r\n--a-line-between-parts--",
        );
        let nothing = Answer::to(house.client.post(house.url("/v1/audio/transcriptions")));
        nothing.refused(400, "invalid_value", None);
    });
}

#[test]
fn parts_with_strange_heads() {
    scripted_house(&[], |house| {
        let pcm = speech(2.0);
        let file = wav(&pcm);
        // Names that are missing, quoted wrong or very long, and files that call themselves something else.
        let strange = Form::of(&file).part("form-data", b"x").part("attachment; filename=\"passwd\"", b"x");
        let answer = house.transcribe(&strange);
        assert!([200, 400].contains(&answer.status), "{answer:?}");
        let unnamed = Form::new().text("model", "whisper-1").part("form-data; name=\"file\"", &file);
        assert_eq!(house.transcribe(&unnamed).words(), scripted(&pcm));
        for name in ["../../etc/passwd", "a\u{202E}b.wav", "", &"n".repeat(4000), "con", "speech.mp3"] {
            let form = Form::new().text("model", "whisper-1").file(name, &file);
            assert_eq!(house.transcribe(&form).words(), scripted(&pcm), "{name:?}");
        }
        let long = house.transcribe(&Form::of(&file).text(&"n".repeat(50_000), "x"));
        assert!([200, 400].contains(&long.status), "{long:?}");
        // A head without an end is given up long before it has arrived.
        let endless = Form::of(&file).text(&"n".repeat(20_000_000), "x");
        house.transcribe(&endless).refused(400, "invalid_value", None);
        let junk_before = [vec![b'-'; 20_000_000], Form::of(&file).body()].concat();
        let request = house.client.post(house.url("/v1/audio/transcriptions"));
        let request = request.header("content-type", Form::content_type()).body(junk_before);
        Answer::to(request).refused(400, "invalid_value", None);
    });
}

#[test]
fn a_client_that_stalls_half_way() {
    scripted_house(&["--upload-timeout", "1"], |house| {
        let request = Form::of(&wav(&speech(10.0))).request();
        // In the file, in the head of a part, and before the first byte.
        let body_starts = request.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        for sent in [request.len() / 2, body_starts + 30, body_starts] {
            let mut wire = house.wire();
            wire.send(&request[..sent]);
            wire.answer().refused(408, "request_timeout", None);
        }
    });
}

#[test]
fn a_client_that_vanishes_half_way() {
    scripted_house(&[], |house| {
        let request = Form::of(&wav(&speech(30.0))).request();
        for sent in [request.len() / 2, request.len() - 10, 100, 10] {
            let mut wire = house.wire();
            wire.send(&request[..sent]);
            drop(wire);
        }
        let mut wire = house.wire();
        wire.send(&request[..request.len() / 2]);
        wire.finish();
        house.settle();
    });
}

#[test]
fn more_fields_than_anybody_needs() {
    scripted_house(&[], |house| {
        let form = Form::of(&wav(&speech(1.0)));
        let many = (0..2000).fold(form.clone(), |form, n| form.text(&format!("field-{n}"), "x"));
        house.transcribe(&many).refused(400, "invalid_value", None);
        let same = (0..300).fold(form.clone(), |form, _| form.text("keywords[]", "word"));
        house.transcribe(&same).refused(400, "invalid_value", Some("keywords[]"));
        let long = form.clone().text("prompt", vec![b'a'; 5_000_000]);
        house.transcribe(&long).refused(400, "invalid_value", Some("prompt"));
        let before = Form::new().text("prompt", vec![b'a'; 5_000_000]).file("a.wav", &wav(&speech(1.0)));
        house.transcribe(&before).refused(400, "invalid_value", Some("prompt"));
        let longer = form.text("prompt", vec![b'a'; 100_000]);
        house.transcribe(&longer).refused(400, "invalid_value", Some("prompt"));
    });
}

#[test]
fn absurd_heads() {
    scripted_house(&[], |house| {
        // The HTTP library answers these itself, before there is a request that could have an id.
        for absurd in [
            format!("GET / HTTP/1.1\r\nHost: house\r\nX-Absurd: {}\r\n\r\n", "a".repeat(1 << 20)),
            format!("GET /{} HTTP/1.1\r\nHost: house\r\n\r\n", "a".repeat(1 << 17)),
            "\u{0}\u{1}\u{2}\r\n\r\n".to_owned(),
            "GET / HTTP/9.9\r\n\r\n".to_owned(),
            head(&Form::content_type(), "Content-Length: -5"),
            head(&Form::content_type(), "Content-Length: 99999999999999999999999"),
        ] {
            let mut wire = house.wire();
            wire.send(absurd.as_bytes());
            wire.finish();
            let status = wire.bare_status();
            assert!(status.is_none_or(|status| (400..=505).contains(&status)), "{status:?}");
        }
        // These reach us.
        let answer = Answer::to(house.client.get(house.url("/")).header("x-absurd", "a".repeat(10_000)));
        assert_eq!(answer.status, 200);
        let answer = Answer::to(house.client.get(house.url("/v1/models/%00%FF%2e%2e")));
        assert!([400, 404].contains(&answer.status), "{answer:?}");
        let lying = Answer::to(
            house
                .upload("/v1/audio/transcriptions", &Form::of(&wav(&speech(1.0))))
                .header("expect", "100-continue"),
        );
        assert_eq!(lying.status, 200);
    });
}

/// Who answers before the upload is through, and hangs up, leaves its client with a broken connection and no answer.
#[test]
fn an_answer_that_comes_early_arrives() {
    let form = Form::of(&wav(&speech(600.0)));
    scripted_house(&["--slots", "1", "--workers", "1", "--script-delay-ms", "1000"], |house| {
        let mut wire = house.wire();
        wire.send(&Form::of(&wav(&speech(60.0))).request());
        until("the slot is taken", BOUND, || house.health()["slots_free"] == 0);
        house.transcribe(&form).refused(503, "overloaded", None);
        drop(wire);
        house.settle();
    });
    let house = TestHouse::start(&["--api-key", "secret"]);
    house.transcribe(&form).refused(401, "invalid_api_key", None);
    Answer::to(house.upload("/v1/audio/nowhere", &form)).refused(404, "not_found", None);
    Answer::to(house.upload("/v1/models", &form).bearer_auth("secret")).refused(
        405,
        "method_not_allowed",
        None,
    );
    // Who asks first is told at once, and need not send anything.
    let mut wire = house.wire();
    let expects = "Content-Length: 1000000\r\nExpect: 100-continue";
    wire.send(head(&Form::content_type(), expects).as_bytes());
    wire.answer().refused(401, "invalid_api_key", None);
}

#[test]
fn an_upload_over_http_2() {
    scripted_house(&["--max-upload-mb", "1"], |house| {
        let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client");
        let post = |form: &Form| {
            let request = client.post(house.url("/v1/audio/transcriptions"));
            Answer::to(request.header("content-type", Form::content_type()).body(form.body()))
        };
        let pcm = speech(20.0);
        assert_eq!(post(&Form::of(&wav(&pcm))).words(), scripted(&pcm));
        post(&Form::of(&wav(&speech(40.0)))).refused(413, "file_too_large", Some("file"));
        post(&Form::of(b"")).refused(400, "audio_too_short", Some("file"));
        drop(client);
    });
    scripted_house(&[], |house| {
        let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client");
        let pcm = speech(900.0);
        let form = Form::of(&wav(&pcm));
        let request = client.post(house.url("/v1/audio/transcriptions"));
        let answer = Answer::to(request.header("content-type", Form::content_type()).body(form.body()));
        assert_eq!(answer.words(), scripted(&pcm));
    });
}

#[test]
fn fifty_at_once_for_two_slots() {
    // Kept transcripts would make one piece of work of them.
    let flags = ["--slots", "2", "--workers", "2", "--script-delay-ms", "20", "--cache-mb", "0"];
    scripted_house(&flags, |house| {
        let pcm = speech(10.0);
        let form = Form::of(&wav(&pcm));
        let all = (0..50).map(|_| Answer::fetch(house.upload("/v1/audio/transcriptions", &form)));
        let answers = runtime().block_on(futures_util::future::join_all(all));
        let (good, full): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        assert!(good.len() >= 2 && !full.is_empty(), "{} good, {} refused", good.len(), full.len());
        for answer in good {
            assert_eq!(answer.words(), scripted(&pcm));
        }
        for answer in full {
            answer.refused(503, "overloaded", None);
            let seconds: u32 = answer.header("retry-after").parse().expect("whole seconds");
            assert!((1..=60).contains(&seconds), "{seconds}");
        }
    });
}

/// The scripted engine takes bytes that are no audio for a second of speech, because test suites of client
/// libraries send such bytes. So what cannot be decoded is sent to a server with a real engine.
#[cfg(feature = "whisper")]
mod undecodable {
    use super::*;
    use crate::house::shared;
    use crate::recordings::{ffmpeg, recording};
    use crate::silence::Noise;

    fn refused(file: &[u8], code: &str) -> String {
        let began = Instant::now();
        let message = shared().transcribe(&Form::of(file)).refused(400, code, Some("file"));
        assert!(began.elapsed() < BOUND, "it took {:?}", began.elapsed());
        let next = shared().transcribe(&Form::of(&wav(&crate::sound::quiet(0.5))));
        assert_eq!(next.words(), "");
        message
    }

    #[test]
    fn text_and_pictures_that_call_themselves_recordings() {
        refused("This is a letter, and no recording.\n".repeat(500).as_bytes(), "unsupported_audio");
        refused(b"x", "unsupported_audio");
        refused(&vec![0; 100_000], "unsupported_audio");
        refused(b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:1/a.mp3\n", "unsupported_audio");
        let picture = ffmpeg_source("color=size=64x64", &["-frames:v", "1"], "png");
        refused(&picture, "unsupported_audio");
        let film = ffmpeg_source("color=size=64x64:duration=1", &["-c:v", "mpeg4"], "mp4");
        refused(&film, "unsupported_audio");
    }

    #[test]
    fn a_film_that_was_cut_short() {
        let mp4 = ffmpeg(&wav(&speech(5.0)), &["-c:a", "aac"], "mp4");
        let message = refused(&mp4[..mp4.len() / 2], "corrupt_audio");
        assert!(message.contains("moov"), "{message}");
        refused(&mp4[..40], "corrupt_audio");
        // With the index at its head there is something to hear before it ends: an answer, but no failure of ours.
        let indexed = ffmpeg(&wav(&speech(5.0)), &["-c:a", "aac", "-movflags", "+faststart"], "mp4");
        let answer = shared().transcribe(&Form::of(&indexed[..indexed.len() * 3 / 4]));
        assert!([200, 400].contains(&answer.status), "{answer:?}");
    }

    #[test]
    fn decoding_that_fails_in_the_middle() {
        let flac = recording("sentence-08-slt.flac");
        let mut broken = flac.clone();
        let middle = flac.len() / 2;
        broken[middle..middle + 4000].fill(0xA5);
        // What can be heard before and after is heard.
        let answer = shared().transcribe(&Form::of(&broken));
        let heard = answer.words();
        assert!(heard.starts_with("It was") && heard.ends_with("read."), "{heard}");
        // When nothing more can be, the beginning is not given away as if it were all.
        let mut hopeless = ffmpeg(&wav(&speech(60.0)), &["-c:a", "libvorbis"], "webm");
        let quarter = hopeless.len() / 4;
        let mut noise = Noise::new(1);
        hopeless[quarter..].fill_with(|| noise.byte());
        let answer = shared().transcribe(&Form::of(&hopeless).text("stream", "false"));
        answer.refused(400, "corrupt_audio", Some("file"));
        shared().settle();
    }
}
