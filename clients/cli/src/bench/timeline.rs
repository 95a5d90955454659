//! What one stream hears: the recordings in an order of its own, over and over, with pauses between them.
//!
//! A pause is 0.8 to 2 s of silence with noise of one or two steps, as an open microphone has it. The same number
//! always gives the same timeline. Pure.

use super::recordings::{RATE, Recording};

/// Pauses, in samples.
const SHORTEST: u64 = RATE as u64 * 8 / 10;
const LONGEST: u64 = RATE as u64 * 2;

/// A recording's place on the stream's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Which recording.
    pub(crate) recording: usize,
    /// Its first sample.
    pub(crate) start: u64,
    /// Behind its last sample.
    pub(crate) end: u64,
}

/// The source of one stream's samples.
#[derive(Debug)]
pub(crate) struct Timeline {
    dice: Dice,
    /// Recordings still to come in this round.
    round: Vec<usize>,
    now: Now,
    at: u64,
    /// Every recording that was begun.
    pub(crate) placed: Vec<Placed>,
    last: bool,
}

#[derive(Clone, Copy, Debug)]
enum Now {
    Pause { left: u64 },
    Speech { recording: usize, from: usize },
    Over,
}

impl Timeline {
    pub(crate) fn new(number: u64) -> Self {
        let mut dice = Dice(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let now = Now::Pause { left: dice.between(SHORTEST / 2, SHORTEST) };
        Self { dice, round: Vec::new(), now, at: 0, placed: Vec::new(), last: false }
    }

    /// Begins no further recording: the one that plays is finished, and a last pause follows.
    pub(crate) fn finish(&mut self) {
        if !self.last && matches!(self.now, Now::Pause { .. }) {
            self.now = Now::Pause { left: LONGEST };
        }
        self.last = true;
    }

    /// The next samples, as bytes. Shorter than asked for only at the end, and then empty.
    pub(crate) fn next(&mut self, recordings: &[Recording], samples: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 * samples);
        let mut wanted = samples as u64;
        while wanted > 0 && !matches!(self.now, Now::Over) {
            wanted -= self.some(recordings, wanted, &mut bytes);
        }
        bytes
    }

    /// Writes at most so many samples and says how many there were.
    fn some(&mut self, recordings: &[Recording], wanted: u64, bytes: &mut Vec<u8>) -> u64 {
        let written = match &mut self.now {
            Now::Pause { left } => {
                let count = wanted.min(*left);
                *left -= count;
                bytes.extend((0..count).flat_map(|_| self.dice.noise().to_le_bytes()));
                if *left == 0 {
                    self.now = if self.last { Now::Over } else { self.begin(recordings, self.at + count) };
                }
                count
            }
            Now::Speech { recording, from } => {
                let rest = &recordings[*recording].samples[*from..];
                let count = rest.len().min(wanted as usize);
                bytes.extend(rest[..count].iter().flat_map(|sample| sample.to_le_bytes()));
                *from += count;
                if count == rest.len() {
                    let left = if self.last { LONGEST } else { self.dice.between(SHORTEST, LONGEST) };
                    self.now = Now::Pause { left };
                }
                count as u64
            }
            Now::Over => 0,
        };
        self.at += written;
        written
    }

    fn begin(&mut self, recordings: &[Recording], start: u64) -> Now {
        if self.round.is_empty() {
            self.round = (0..recordings.len()).collect();
        }
        let pick = self.dice.between(0, self.round.len() as u64 - 1) as usize;
        let recording = self.round.swap_remove(pick);
        let end = start + recordings[recording].samples.len() as u64;
        self.placed.push(Placed { recording, start, end });
        Now::Speech { recording, from: 0 }
    }
}

/// A small generator of numbers (xorshift); nothing here needs a good one.
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Both ends included.
    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    pub(crate) fn noise(&mut self) -> i16 {
        self.between(0, 4) as i16 - 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recordings() -> Vec<Recording> {
        [1_000_i16, 2_000, 3_000]
            .map(|value| Recording { samples: vec![value; value as usize], ..Recording::default() })
            .into()
    }

    #[test]
    fn every_recording_is_heard_once_a_round_with_pauses_between() {
        let recordings = recordings();
        let mut timeline = Timeline::new(3);
        let mut bytes = Vec::new();
        while timeline.placed.len() < 7 {
            bytes.extend(timeline.next(&recordings, 320));
        }
        let samples: Vec<i16> = bytes.chunks_exact(2).map(|s| i16::from_le_bytes([s[0], s[1]])).collect();
        for round in timeline.placed[..6].chunks(3) {
            let mut heard: Vec<usize> = round.iter().map(|placed| placed.recording).collect();
            heard.sort_unstable();
            assert_eq!(heard, [0, 1, 2]);
        }
        for pair in timeline.placed.windows(2) {
            assert!((SHORTEST..=LONGEST).contains(&(pair[1].start - pair[0].end)), "{pair:?}");
        }
        for placed in &timeline.placed[..6] {
            let value = recordings[placed.recording].samples[0];
            let (start, end) = (placed.start as usize, placed.end as usize);
            assert!(samples[start..end].iter().all(|sample| *sample == value));
            assert!(samples[start - 1].abs() <= 2 && samples[end].abs() <= 2, "noise around it");
        }
    }

    #[test]
    fn a_timeline_ends_with_a_whole_recording_and_a_pause() {
        let recordings = recordings();
        let mut timeline = Timeline::new(9);
        while timeline.placed.is_empty() {
            assert_eq!(timeline.next(&recordings, 320).len(), 640);
        }
        timeline.finish();
        while !timeline.next(&recordings, 320).is_empty() {}
        assert_eq!(timeline.placed.len(), 1);
        assert_eq!(timeline.at, timeline.placed[0].end + LONGEST);
    }

    #[test]
    fn streams_have_orders_of_their_own_and_keep_them() {
        let recordings: Vec<Recording> =
            vec![Recording { samples: vec![1; 160], ..Recording::default() }; 12];
        let order = |number| {
            let mut timeline = Timeline::new(number);
            timeline.next(&recordings, 40 * RATE);
            timeline.placed.iter().map(|placed| placed.recording).collect::<Vec<_>>()
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }
}
