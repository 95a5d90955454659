//! Ahead of the finals: what is being said, and the final of an utterance that seems to be over.
//!
//! Contract: all of this may be withdrawn or be wrong, and none of it changes what becomes final, but for words that
//! were promised. Deliberately absent: when a word is promised, which is `agree`'s business.

use super::agree::Agreement;
use super::window::Cut;
use super::{GapReason, Output, Pending, Recognition, Session, Window, WindowId, WindowKind, guard};
use crate::transcript::{Event, Hypothesis, Phrase, Samples, Span, Word};

/// Speech before the first partial, counted from where its start was decided.
pub(super) const FIRST_PARTIAL: Samples = Samples::from_millis(320);
/// How soon a partial is asked for again that was not answered.
pub(super) const AGAIN: Samples = Samples::from_millis(100);
/// How often partials are asked for if nobody says otherwise.
pub(super) const STEP: Samples = Samples::from_millis(500);

/// While a pause lasts, the audio of the utterance's last window is known before the endpoint is: it is decoded in
/// the meantime. If nobody speaks on it is the final, sooner; if somebody does, it was a partial.
pub(super) struct Early {
    pub(super) id: WindowId,
    pub(super) cut: Cut,
    pub(super) answer: Option<Result<Recognition, GapReason>>,
}

/// What the reader sees of an utterance apart from its finals.
pub(super) struct Shown {
    pub(super) utterance: u32,
    pub(super) agreement: Agreement,
    /// Whether the last partial that was told had words, and no final has come since.
    pub(super) visible: bool,
}

impl Session {
    /// Asks for what is not certain yet: the final of an utterance that seems to be over, or what is being said.
    pub(super) fn look_ahead(&mut self) {
        let Some(live) = self.config.live else { return };
        let (out, limit, settled) = (self.out(), self.limit(), self.endpointer.settled(self.judged));
        let Some(utterance) = &mut self.open else { return };
        let end = settled.unwrap_or(self.judged);
        let cut = utterance.cutter.rest(end, &self.config.window);
        if let Some(early) = &utterance.early
            && early.cut != cut
            && let Some(Early { id, answer: None, .. }) = utterance.early.take()
        {
            self.outputs.push_back(Output::Withdraw(id));
        }
        if cut.owned.is_empty() {
            return;
        }
        if settled.is_some() {
            if utterance.early.is_none() && out < limit && self.windows.iter().all(Pending::is_asked) {
                let (pcm, id) = (self.timeline.copy(cut.heard), self.new_id());
                self.withdraw_partial();
                let (span, parts, language) = (cut.heard, vec![cut.heard], self.language);
                let window = Window { id, kind: WindowKind::Final, span, pcm, parts, language };
                self.outputs.push_back(Output::Recognize(window));
                if let Some(utterance) = &mut self.open {
                    utterance.early = Some(Early { id, cut, answer: None });
                }
            }
            return;
        }
        // While a final of the stream is out, nobody knows what a hypothesis would go on from.
        if live.partials && self.judged >= utterance.due && self.windows.is_empty() {
            utterance.due = self.judged + self.step;
            let (pcm, id) = (self.timeline.copy(cut.heard), self.new_id());
            let (span, parts, language) = (cut.heard, vec![cut.heard], self.language);
            let window = Window { id, kind: WindowKind::Partial, span, pcm, parts, language };
            self.outputs.push_back(match self.partial.is_empty() {
                true => Output::Recognize(window),
                false => Output::Refresh(window),
            });
            self.partial.push((id, end));
        }
    }

    pub(super) fn withdraw_partial(&mut self) {
        if let Some((id, _)) = self.partial.first() {
            self.outputs.push_back(Output::Withdraw(*id));
        }
        self.partial.clear();
    }

    /// Takes what was heard of the open utterance up to `heard` for what is being said.
    pub(super) fn suppose(&mut self, recognition: Recognition, heard: Samples) {
        let partials = self.config.live.is_some_and(|live| live.partials);
        let (Some(utterance), Some(shown)) = (&self.open, self.shown.back_mut()) else { return };
        if !partials || !self.windows.is_empty() || shown.utterance != utterance.number {
            return;
        }
        let cut = utterance.cutter.rest(heard, &self.config.window);
        let first = cut.heard.start == cut.owned.start;
        let mut phrases = self.stitcher.clone().own(recognition, cut, first, true);
        guard::guard(&mut phrases);
        let mut words: Vec<Word> = phrases.into_iter().flat_map(|phrase| phrase.words).collect();
        if !first {
            words.drain(..self.stitcher.repeated(&words));
        }
        if shown.agreement.hear(words, heard) {
            let event = shown.tell(heard);
            self.outputs.extend(event);
        }
    }

    /// After a final: shows what is still open of its utterance, or takes away what no final has replaced.
    pub(super) fn show_rest(&mut self, utterance: u32, last: bool, told: bool) {
        let Some(n) = self.shown.iter().position(|shown| shown.utterance == utterance) else { return };
        let shown = &mut self.shown[n];
        shown.visible &= !told;
        let event = shown.tell(self.judged);
        self.outputs.extend(event);
        if last {
            self.shown.remove(n);
        }
    }
}

impl Shown {
    fn tell(&mut self, heard: Samples) -> Option<Output> {
        let (stable, tentative) = (self.agreement.stable(), self.agreement.tentative());
        let first = stable.iter().chain(tentative).map(|word| word.span.start).next();
        let was = std::mem::replace(&mut self.visible, first.is_some());
        if first.is_none() && !was {
            return None;
        }
        let span = Span::new(first.unwrap_or(heard), heard);
        let (stable, tentative) = (stable.to_vec(), tentative.to_vec());
        let hypothesis = Hypothesis { utterance: self.utterance, stable, tentative, span };
        Some(Output::Event(Event::Partial(hypothesis)))
    }
}

/// Whoever reads live gets one final per window: what was promised may run across the phrases.
pub(super) fn join(phrases: &mut Vec<Phrase>) {
    let mut rest = phrases.drain(1.min(phrases.len())..).collect::<Vec<_>>();
    if let Some(first) = phrases.first_mut() {
        for phrase in &mut rest {
            first.words.append(&mut phrase.words);
            first.temperature = first.temperature.max(phrase.temperature);
        }
    }
}
