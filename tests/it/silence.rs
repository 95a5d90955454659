//! What is not speech gives no words: not silence, not noise, not keys, not music. With the bundled model and each
//! detector, because a detector alone does not decide it; the guards behind it have a say too.

use std::f32::consts::TAU;

use crate::client::Form;
use crate::house::TestHouse;
use crate::sound::{RATE, quiet, wav};

const SECONDS: usize = 10;

#[test]
fn earshot_and_the_guards_hear_no_words_in_what_is_not_speech() {
    nothing_is_heard("earshot");
}

#[test]
fn webrtc_and_the_guards_hear_no_words_in_what_is_not_speech() {
    nothing_is_heard("webrtc");
}

#[test]
fn loudness_and_the_guards_hear_no_words_in_what_is_not_speech() {
    nothing_is_heard("energy");
}

fn nothing_is_heard(vad: &str) {
    let house = TestHouse::bundled(&["--vad", vad, "--workers", "2", "--threads", "1"]);
    let mut invented = Vec::new();
    for (name, pcm) in sounds() {
        let answer = house.transcribe(&Form::of(&wav(&pcm)));
        let text = answer.words();
        if !text.is_empty() {
            invented.push(format!("{name}: {text:?}"));
        }
    }
    assert!(invented.is_empty(), "{vad} let through:\n{}", invented.join("\n"));
}

fn sounds() -> Vec<(String, Vec<f32>)> {
    let mut sounds = vec![
        ("silence".to_owned(), quiet(SECONDS as f64)),
        ("white noise at -20 dB".to_owned(), white_noise(1, -20.0)),
        ("white noise at -40 dB".to_owned(), white_noise(2, -40.0)),
        ("hum of the mains".to_owned(), made(|t| 0.1 * tone(50.0, t) + 0.05 * tone(150.0, t))),
        ("chords with vibrato".to_owned(), made(chords)),
        ("an arpeggio".to_owned(), made(arpeggio)),
        ("a whistled melody".to_owned(), made(melody)),
        ("an organ".to_owned(), made(organ)),
        ("drums".to_owned(), drums()),
    ];
    sounds.extend((0..3).map(|seed| (format!("keyboard clicks {seed}"), clicks(seed))));
    sounds
}

fn made(at: impl Fn(f32) -> f32) -> Vec<f32> {
    (0..SECONDS * RATE).map(|n| at(n as f32 / RATE as f32)).collect()
}

fn white_noise(seed: u64, decibels: f32) -> Vec<f32> {
    let mut noise = Noise::new(seed);
    let loudness = 3.0 * 10.0_f32.powf(decibels / 20.0);
    (0..SECONDS * RATE).map(|_| loudness * noise.sample()).collect()
}

/// Four to nine keys a second: each a burst of a few milliseconds when it goes down and a softer one when it comes
/// up, of noise that rings in the body of the keyboard.
fn clicks(seed: u64) -> Vec<f32> {
    let mut noise = Noise::new(seed);
    let mut pcm = quiet(SECONDS as f64);
    let mut at = 0.2;
    while at < SECONDS as f32 - 0.3 {
        let (hertz, loudness) = (1500.0 + 2500.0 * noise.share(), 0.15 + 0.35 * noise.share());
        let up = at + 0.06 + 0.05 * noise.share();
        for (start, loudness) in [(at, loudness), (up, loudness * 0.4)] {
            let first = (start * RATE as f32) as usize;
            for (n, sample) in pcm[first..first + RATE / 50].iter_mut().enumerate() {
                let t = n as f32 / RATE as f32;
                *sample += loudness * (-t / 0.003).exp() * (noise.sample() + 0.5 * tone(hertz, t));
            }
        }
        at += 0.11 + 0.14 * noise.share();
    }
    pcm
}

/// A chord every two seconds: three notes of five harmonics each, swaying as strings do.
fn chords(t: f32) -> f32 {
    const CHORDS: [[f32; 3]; 5] = [
        [261.6, 329.6, 392.0],
        [220.0, 261.6, 329.6],
        [174.6, 220.0, 261.6],
        [196.0, 246.9, 293.7],
        [261.6, 329.6, 523.3],
    ];
    let chord = CHORDS[(t / 2.0) as usize % CHORDS.len()];
    let since = t % 2.0;
    let envelope = (since / 0.1).min(1.0) * ((2.0 - since) / 0.3).min(1.0);
    let sway = 0.006 * (TAU * 5.5 * t).sin() / 5.5;
    0.07 * envelope * chord.iter().map(|hertz| harmonics(*hertz, 5, t + sway)).sum::<f32>()
}

/// Five plucked notes a second.
fn arpeggio(t: f32) -> f32 {
    const NOTES: [f32; 8] = [220.0, 277.2, 329.6, 440.0, 554.4, 440.0, 329.6, 277.2];
    let note = NOTES[(t * 5.0) as usize % NOTES.len()];
    0.2 * (-(t % 0.2) / 0.12).exp() * harmonics(note, 6, t)
}

/// One pure tone that glides from note to note.
fn melody(t: f32) -> f32 {
    const NOTES: [f32; 6] = [880.0, 987.8, 1046.5, 1174.7, 987.8, 784.0];
    let note = NOTES[(t * 1.5) as usize % NOTES.len()];
    let breath = (TAU * 0.75 * t).sin().abs().sqrt();
    0.2 * breath * tone(note, t + 0.004 * (TAU * 5.0 * t).sin() / 5.0)
}

/// One long low chord whose loudness swings.
fn organ(t: f32) -> f32 {
    let swing = 0.8 + 0.2 * (TAU * 4.0 * t).sin();
    0.06 * swing * [110.0, 164.8, 220.0].iter().map(|hertz| harmonics(*hertz, 8, t)).sum::<f32>()
}

/// 120 beats a minute: a bass drum that falls in pitch, a snare of noise on every other beat, and a hat in between.
fn drums() -> Vec<f32> {
    let mut noise = Noise::new(9);
    made(|t| {
        let beat = t % 0.5;
        (-beat / 0.08).exp() * (TAU * 60.0 * beat + 8.0 * (1.0 - (-beat / 0.03).exp())).sin()
    })
    .iter()
    .enumerate()
    .map(|(n, bass)| {
        let t = n as f32 / RATE as f32;
        let (snare, hat) = ((t + 0.5) % 1.0, (t + 0.25) % 0.5);
        let rattle = noise.sample();
        0.4 * bass + 0.3 * (-snare / 0.05).exp() * rattle + 0.1 * (-hat / 0.02).exp() * rattle
    })
    .collect()
}

fn harmonics(hertz: f32, count: usize, t: f32) -> f32 {
    (1..=count).map(|k| tone(hertz * k as f32, t) / k as f32).sum()
}

fn tone(hertz: f32, t: f32) -> f32 {
    (TAU * (hertz * t).fract()).sin()
}

/// Numbers without a pattern, the same in every run.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// Between 0 and 1.
    pub(crate) fn share(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// Between -1 and 1, more often in the middle: with a root mean square of a third.
    pub(crate) fn sample(&mut self) -> f32 {
        (self.share() + self.share() + self.share()) * (2.0 / 3.0) - 1.0
    }
}
