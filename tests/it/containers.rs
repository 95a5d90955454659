//! Every container and codec that the API names, made by ffmpeg from one recording, gives the words of the recording,
//! whatever the file is called. The bytes decide.

use crate::client::Form;
use crate::house::{TestHouse, shared};
use crate::recordings::{ffmpeg, recording};

/// A recording that the model hears exactly, and also when a codec or a narrow line has been at it.
const RECORDING: &str = "sentence-12-awb.flac";
const WORDS: &str = "the children were playing in the snow when their father came back";

/// A picture beside the sound, as in a film.
const PICTURE: [&str; 8] =
    ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=5", "-shortest", "-pix_fmt", "yuv420p", "-y"];

/// Letters and nothing else: a codec may well cost a comma.
fn letters(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
    spaced.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn heard(name: &str, file: &[u8]) -> String {
    let form = Form::new().text("model", "whisper-1").file(name, file);
    letters(&shared().transcribe(&form).words())
}

/// Makes the file, sends it under a name that lies, and compares the words.
fn check(extension: &str, arguments: &[&str]) {
    let file = ffmpeg(&recording(RECORDING), arguments, extension);
    let lie = if extension == "mp3" { "speech.wav" } else { "speech.mp3" };
    assert_eq!(heard(lie, &file), WORDS, "{extension} by {arguments:?}");
}

#[test]
fn the_recording_itself() {
    assert_eq!(heard(RECORDING, &recording(RECORDING)), WORDS);
    check("flac", &[]);
    check("flac", &["-ar", "48000", "-ac", "2", "-sample_fmt", "s32"]);
}

#[test]
fn wav_of_every_width() {
    for codec in
        ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_mulaw", "pcm_alaw"]
    {
        check("wav", &["-c:a", codec]);
    }
    check("wav", &["-ar", "44100", "-ac", "2"]);
    check("wav", &["-ar", "8000", "-c:a", "pcm_mulaw"]);
    // As written into a pipe, with lengths that were never filled in.
    let piped = ffmpeg(&recording(RECORDING), &["-f", "wav", "-flush_packets", "1"], "wav");
    let mut unfinished = piped.clone();
    unfinished[4..8].fill(0xFF);
    assert_eq!(heard("speech.wav", &unfinished), WORDS);
}

#[test]
fn mpeg_audio_under_all_its_names() {
    check("mp3", &["-b:a", "96k"]);
    check("mp3", &["-q:a", "4", "-ar", "44100", "-ac", "2"]);
    check("mpga", &["-f", "mp3", "-b:a", "64k"]);
    check("mpeg", &["-f", "mp3", "-b:a", "64k"]);
    check("mpeg", &["-f", "mp2", "-ar", "44100", "-b:a", "192k"]);
}

#[test]
fn aac_bare_and_in_mp4() {
    check("aac", &["-f", "adts", "-b:a", "96k"]);
    check("m4a", &["-b:a", "96k"]);
    check("m4a", &["-c:a", "alac"]);
    check("mp4", &["-b:a", "96k"]);
    check("mp4", &["-b:a", "96k", "-movflags", "frag_keyframe+empty_moov"]);
    check("mp4", &[&PICTURE[..], &["-c:v", "mpeg4", "-b:a", "96k"]].concat());
    check("mp4", &[&PICTURE[..], &["-c:v", "mpeg4", "-b:a", "96k", "-movflags", "+faststart"]].concat());
}

#[test]
fn ogg_opus_and_webm() {
    check("ogg", &["-c:a", "libvorbis", "-q:a", "5"]);
    check("oga", &["-f", "ogg", "-c:a", "libvorbis", "-q:a", "5"]);
    check("oga", &["-f", "ogg", "-c:a", "flac"]);
    check("ogg", &["-c:a", "libopus", "-b:a", "64k"]);
    check("opus", &["-c:a", "libopus", "-b:a", "48k"]);
    check("webm", &["-c:a", "libopus", "-b:a", "48k"]);
    check("webm", &["-c:a", "libvorbis", "-q:a", "5"]);
    check("webm", &[&PICTURE[..], &["-c:v", "libvpx", "-c:a", "libopus", "-b:a", "48k"]].concat());
    // As a browser records it: a stream that nobody went back to.
    check("webm", &["-f", "webm", "-live", "1", "-c:a", "libopus", "-b:a", "48k"]);
}

#[test]
fn what_else_the_decoders_read() {
    check("caf", &["-c:a", "pcm_s16be"]);
    check("aiff", &[]);
    check("mka", &["-c:a", "flac"]);
}

#[test]
fn ffmpeg_reads_the_rest_where_it_is_allowed() {
    let source = recording(RECORDING);
    let allowed = TestHouse::bundled(&["--ffmpeg", "--workers", "1", "--threads", "2"]);
    let film =
        ["-f", "mpeg", "-c:v", "mpeg1video", "-r", "25", "-c:a", "mp2", "-ar", "44100", "-b:a", "192k"];
    let program_stream = [&PICTURE[..], &film].concat();
    let transport_stream = ["-f", "mpegts", "-b:a", "96k"];
    for (extension, arguments) in
        [("mpeg", &program_stream[..]), ("ts", &transport_stream), ("au", &[]), ("wv", &[]), ("avi", &[])]
    {
        let file = ffmpeg(&source, arguments, extension);
        let form = Form::new().text("model", "whisper-1").file("speech.mp3", &file);
        assert_eq!(letters(&allowed.transcribe(&form).words()), WORDS, "{extension}");
        let message = shared().transcribe(&form).refused(400, "unsupported_audio", Some("file"));
        assert!(message.contains("ffmpeg"), "{message}");
    }
    // What is no recording is none for ffmpeg either.
    let text = Form::of(&b"A letter. ".repeat(300));
    allowed.transcribe(&text).refused(400, "unsupported_audio", Some("file"));
}
