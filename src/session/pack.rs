//! Windows of files: speech of several utterances together, with the long silences between them left out.
//!
//! A model that can hear half a minute hears a sentence better with its neighbors than alone, and a window costs the
//! same however full it is. Short silences stay, because a pause is part of what is said. A full window ends in the
//! longest pause of its second half; only speech without a pause is cut inside, at its quietest moment, with an overlap.

use super::window::{Cut, Timeline, WindowConfig};
use super::{Pending, Progress, Session};
use crate::transcript::{Phrase, Recognition, Samples, Span, Word};

/// How speech is packed.
#[derive(Clone, Debug, PartialEq)]
pub struct PackConfig {
    /// Silence that is shorter than this stays in the window.
    pub keep: Samples,
    /// How far back from a full window's end the quietest moment is searched, where there is no pause.
    pub search: Samples,
}

impl Default for PackConfig {
    fn default() -> Self {
        Self { keep: Samples::from_millis(2_000), search: Samples::from_millis(5_000) }
    }
}

/// A stretch of a window's audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Where it lies on the timeline.
    pub(super) span: Span,
    /// Whose speech it is.
    pub(super) utterance: u32,
}

/// A window's audio, ready to be decoded.
pub(super) struct Packed {
    pub(super) pcm: Vec<f32>,
    pub(super) parts: Vec<Part>,
    /// The part of the timeline whose words are the window's own.
    pub(super) owned: Span,
    /// Whether it begins beside a pause, so that no neighbor heard its first words.
    pub(super) first: bool,
    /// Whether it ends in a pause, so that no neighbor hears its last words.
    pub(super) last: bool,
    /// The utterances that end with it.
    pub(super) done: Vec<u32>,
}

/// A part that is over, and its audio.
struct Piece {
    part: Part,
    pcm: Vec<f32>,
    /// The silence behind its speech, whether it is part of it or left out; nothing where somebody speaks on.
    pause: Option<Samples>,
}

/// Where the newest part stands.
enum Tail {
    Nothing,
    /// Somebody speaks.
    Open(Part),
    /// Nobody does, since the part's end; too short a time to leave the silence out.
    Resting(Part),
}

/// Gathers one window.
pub(super) struct Packer {
    pieces: Vec<Piece>,
    tail: Tail,
    /// Where the own part of the window begins, if that is not where its audio begins.
    seam: Option<Samples>,
}

impl Packer {
    pub(super) fn new() -> Self {
        Self { pieces: Vec::new(), tail: Tail::Nothing, seam: None }
    }

    /// Whether speech that was decided to have begun by `now` goes on where it was, silence and all.
    pub(super) fn rests(&self) -> bool {
        matches!(self.tail, Tail::Resting(_))
    }

    /// Whether there is room for it, and for the silence before it.
    pub(super) fn has_room(&self, now: Samples, max: Samples) -> bool {
        let tail = match &self.tail {
            Tail::Open(part) | Tail::Resting(part) => now - part.span.start,
            Tail::Nothing => Samples(0),
        };
        self.kept() + tail < max
    }

    /// Speech begins.
    pub(super) fn start(&mut self, timeline: &Timeline, at: Samples, utterance: u32) {
        let begins = match std::mem::replace(&mut self.tail, Tail::Nothing) {
            Tail::Resting(part) | Tail::Open(part) => {
                // The pause stays, at the end of what was said before it.
                let span = Span::new(part.span.start, at);
                self.keep(timeline, Part { span, ..part }, Some(at - part.span.end));
                at
            }
            Tail::Nothing => at,
        };
        self.tail = Tail::Open(Part { span: Span::new(begins, begins), utterance });
    }

    /// Speech ends.
    pub(super) fn stop(&mut self, at: Samples) {
        if let Tail::Open(part) = &self.tail {
            let span = Span::new(part.span.start, at.max(part.span.start));
            self.tail = Tail::Resting(Part { span, ..*part });
        }
    }

    /// Time has passed: a silence that has become too long is left out.
    pub(super) fn pass(&mut self, timeline: &Timeline, now: Samples, config: &PackConfig) {
        if let Tail::Resting(part) = self.tail
            && now - part.span.end >= config.keep
        {
            self.tail = Tail::Nothing;
            self.keep(timeline, part, Some(config.keep));
        }
    }

    fn keep(&mut self, timeline: &Timeline, part: Part, pause: Option<Samples>) {
        self.pieces.push(Piece { part, pcm: timeline.copy(part.span).to_vec(), pause });
    }

    /// Audio before this position will never be asked for again.
    pub(super) fn needs_from(&self) -> Option<Samples> {
        match &self.tail {
            Tail::Nothing => None,
            Tail::Open(part) | Tail::Resting(part) => Some(part.span.start),
        }
    }

    /// How much audio there is of parts that are over.
    fn kept(&self) -> Samples {
        Samples(self.pieces.iter().map(|piece| piece.part.span.len().0).sum())
    }

    /// A full window, once there is enough.
    pub(super) fn full(
        &mut self,
        timeline: &Timeline,
        now: Samples,
        config: &WindowConfig,
    ) -> Option<Packed> {
        let Tail::Open(open) = self.tail else { return None };
        let end = open.span.start + config.max.saturating_sub(self.kept());
        if now < end {
            return None;
        }
        match self.longest_pause(config.max) {
            Some(count) => {
                let rest = self.pieces.split_off(count);
                let pieces = std::mem::replace(&mut self.pieces, rest);
                Some(self.pack(pieces, true, None))
            }
            None => {
                let search = config.pack.as_ref().map_or(config.search, |pack| pack.search);
                let reach = config.reach();
                let latest = end.saturating_sub(reach);
                let owned = self.seam.unwrap_or(open.span.start).max(open.span.start);
                let earliest = latest.saturating_sub(search).max(owned + reach).min(latest);
                let seam = timeline.quietest(Span::new(earliest, latest));
                let span = Span::new(open.span.start, seam + reach);
                self.keep(timeline, Part { span, ..open }, None);
                let start = seam.saturating_sub(reach).max(open.span.start);
                self.tail = Tail::Open(Part { span: Span::new(start, start), ..open });
                let pieces = std::mem::take(&mut self.pieces);
                Some(self.pack(pieces, false, Some(seam)))
            }
        }
    }

    /// How many pieces stand before the longest pause of the window's second half; of equals, the later one.
    fn longest_pause(&self, max: Samples) -> Option<usize> {
        let mut length = 0;
        let mut longest = None;
        for (n, piece) in self.pieces.iter().enumerate() {
            length += piece.part.span.len().0;
            if length * 2 >= max.0 && piece.pause >= longest.map_or(Some(Samples(0)), |(pause, _)| pause) {
                longest = Some((piece.pause, n + 1));
            }
        }
        longest.map(|(_, count)| count)
    }

    /// Whatever there is, up to its end.
    pub(super) fn rest(&mut self, timeline: &Timeline) -> Option<Packed> {
        match std::mem::replace(&mut self.tail, Tail::Nothing) {
            Tail::Open(part) | Tail::Resting(part) => self.keep(timeline, part, Some(Samples(0))),
            Tail::Nothing => {}
        }
        let pieces = std::mem::take(&mut self.pieces);
        (!pieces.is_empty()).then(|| self.pack(pieces, true, None))
    }

    fn pack(&mut self, pieces: Vec<Piece>, last: bool, seam: Option<Samples>) -> Packed {
        let parts: Vec<Part> = pieces.iter().map(|piece| piece.part).collect();
        let done =
            pieces.iter().filter(|piece| piece.pause.is_some()).map(|piece| piece.part.utterance).collect();
        let (start, end) = (parts[0].span.start, parts[parts.len() - 1].span.end);
        let begins = std::mem::replace(&mut self.seam, seam);
        let owned = begins.unwrap_or(start);
        let owned = Span::new(owned, seam.unwrap_or(end).max(owned));
        let mut pcm: Vec<f32> = pieces.into_iter().flat_map(|piece| piece.pcm).collect();
        turn_up(&mut pcm);
        Packed { pcm, parts, owned, first: begins.is_none(), last, done }
    }
}

/// 100 ms.
const BLOCK: usize = 1_600;
/// The loudest block so near, on both sides, tells how loud somebody speaks: half a second.
const NEAR: usize = 5;
/// Speech that is further below the loudest of its window than this, in power, is brought up to it: 15 dB. A model that
/// hears both at once passes over the quiet side of a call.
const TOO_QUIET: f32 = 0.03;
/// What is further below than this is no speech: 37 dB.
const SILENCE: f32 = 2e-4;

/// Turns up who is much quieter than the loudest in a window.
fn turn_up(pcm: &mut [f32]) {
    let power: Vec<f32> = pcm
        .chunks(BLOCK)
        .map(|block| block.iter().map(|x| x * x).sum::<f32>() / block.len() as f32)
        .collect();
    let loudest = power.iter().copied().fold(0.0, f32::max);
    let gain = |n: usize| {
        let near = &power[n.saturating_sub(NEAR)..(n + NEAR + 1).min(power.len())];
        let level = near.iter().copied().fold(0.0, f32::max) / loudest;
        if (SILENCE..TOO_QUIET).contains(&level) { (TOO_QUIET / level).sqrt() } else { 1.0 }
    };
    let gains: Vec<f32> = (0..power.len()).map(gain).collect();
    for (n, block) in pcm.chunks_mut(BLOCK).enumerate() {
        let (from, to) = (gains[n], gains.get(n + 1).copied().unwrap_or(gains[n]));
        let step = (to - from) / block.len() as f32;
        block
            .iter_mut()
            .enumerate()
            .for_each(|(at, x)| *x = (*x * (from + step * at as f32)).clamp(-1.0, 1.0));
    }
}

impl Session {
    /// A silence of which some was lost is told between windows, so it ends one.
    pub(super) fn start_packed(&mut self, at: Samples, utterance: u32) {
        let room = |packer: &Packer| packer.has_room(self.judged, self.config.window.max);
        if self.lost.any(Span::new(Samples(0), at)) || !self.packer.as_ref().is_some_and(room) {
            self.cut_rest();
        }
        if !self.packer.as_ref().is_some_and(Packer::rests) {
            self.pass_silence(at);
        }
        if let Some(packer) = &mut self.packer {
            packer.start(&self.timeline, at, utterance);
        }
    }

    /// Closes the window of a file that is being gathered.
    pub(super) fn cut_rest(&mut self) {
        if let Some(packed) = self.packer.as_mut().and_then(|packer| packer.rest(&self.timeline)) {
            self.cut_packed(packed);
        }
    }

    pub(super) fn cut_packed(&mut self, packed: Packed) {
        let Packed { pcm, parts, owned, first, last, done } = packed;
        let (start, end) = (parts[0].span.start, parts[parts.len() - 1].span.end);
        let cut = Cut { heard: Span::new(start, end), owned };
        let gaps = self.lost.take(owned);
        let (id, utterance) = (self.new_id(), Some(parts[0].utterance));
        let certain = self.certainty.cut(last);
        let state = match self::owned(&parts, owned)[..] {
            [] => Progress::Done(Ok(Recognition::default())),
            _ => Progress::Waiting(pcm.into()),
        };
        self.covered = self.covered.max(owned.end);
        self.windows.push_back(Pending {
            id,
            utterance,
            cut,
            parts,
            certain,
            first,
            last,
            done,
            flushed: false,
            gaps,
            state,
        });
    }
}

/// The stretches of a window's own part that were heard: neighbors are one.
pub(super) fn owned(parts: &[Part], owned: Span) -> Vec<Span> {
    let mut stretches: Vec<Span> = Vec::new();
    for part in parts {
        let span = Span::new(part.span.start.max(owned.start), part.span.end.min(owned.end));
        match stretches.last_mut() {
            _ if span.is_empty() => {}
            Some(before) if before.end == span.start => before.end = span.end,
            _ => stretches.push(span),
        }
    }
    stretches
}

/// Whose speech stands at a position.
pub(super) fn utterance_at(parts: &[Part], at: Samples) -> Option<u32> {
    let part = parts.iter().rev().find(|part| part.span.start <= at).or(parts.first());
    part.map(|part| part.utterance)
}

/// Puts what was heard in a window back to where it was said. A phrase over a silence that was left out becomes two.
pub(super) fn unpack(recognition: Recognition, parts: &[Part]) -> Recognition {
    let Some(first) = parts.first() else { return recognition };
    let base = first.span.start;
    let mut phrases = Vec::with_capacity(recognition.phrases.len());
    for phrase in recognition.phrases {
        let (temperature, no_speech) = (phrase.temperature, phrase.no_speech);
        let mut open: Vec<Word> = Vec::new();
        for mut word in phrase.words {
            word.span = put_back(word.span, parts, base);
            let apart = open.last().is_some_and(|before| {
                let run = |at: Samples| stretch(parts, at);
                run(before.span.midpoint()) != run(word.span.midpoint())
            });
            if apart {
                phrases.push(Phrase { words: std::mem::take(&mut open), temperature, no_speech });
            }
            open.push(word);
        }
        phrases.push(Phrase { words: open, temperature, no_speech });
    }
    Recognition { phrases, ..recognition }
}

/// Which of the unbroken stretches a position lies in.
fn stretch(parts: &[Part], at: Samples) -> usize {
    let breaks = parts.windows(2).filter(|pair| pair[0].span.end != pair[1].span.start);
    breaks.filter(|pair| pair[1].span.start <= at).count()
}

/// Where a span of the window lies on the timeline: with the part that holds most of it.
fn put_back(span: Span, parts: &[Part], base: Samples) -> Span {
    let (from, to) = ((span.start - base).0, (span.end - base).0);
    let mut passed = 0;
    let mut best: Option<(u64, Span)> = None;
    // Neighbors on the timeline are one stretch, in which a word may lie across the seam.
    for stretch in owned(parts, Span::new(Samples(0), Samples(u64::MAX))) {
        let length = stretch.len().0;
        let (start, end) = (from.clamp(passed, passed + length), to.clamp(passed, passed + length));
        let there = Span::new(stretch.start + Samples(start - passed), stretch.start + Samples(end - passed));
        let inside = end - start;
        if best.is_none_or(|(most, _)| inside > most)
            || (inside == 0 && from >= passed && best.is_none_or(|(most, _)| most == 0))
        {
            best = Some((inside, there));
        }
        passed += length;
    }
    best.map_or(span, |(_, there)| there)
}
