//! What the windows said, told in the order of the timeline.

use super::ahead::join;
use super::pack::{self, Part};
use super::window::Cut;
use super::{ENOUGH, Output, Pending, Progress, SURE, Session, certainty, guard};
use crate::transcript::{Event, Gap, GapReason, Phrase, Recognition, Samples, Segment, Span};

impl Session {
    /// Tells what the oldest windows said, as long as they are done.
    pub(super) fn release(&mut self) {
        while self.windows.front().is_some_and(Pending::is_done) {
            let Some(window) = self.windows.pop_front() else { return };
            let Pending { utterance, cut, parts, certain, first, last, done, flushed, gaps, .. } = window;
            let Progress::Done(result) = window.state else { return };
            let failure = result.as_ref().err().copied();
            let heard = result.unwrap_or_default();
            let said =
                utterance.and_then(|number| self.tell(number, cut, &parts, (first, last, certain), heard));
            let owned = match parts[..] {
                [] => vec![cut.owned],
                _ => pack::owned(&parts, cut.owned),
            };
            self.account.decoded += owned.iter().map(|span| span.len().0).sum::<u64>();
            match failure {
                Some(reason) if !parts.is_empty() => {
                    for span in owned {
                        self.account.decoded -= span.len().0;
                        self.tell_gap(span, reason);
                    }
                    self.stitcher.forget();
                }
                // What was promised before the window failed has been told, so it is not lost.
                Some(reason) => {
                    let start = said.unwrap_or(cut.owned.start).clamp(cut.owned.start, cut.owned.end);
                    self.account.decoded -= (cut.owned.end - start).0;
                    self.tell_gap(Span::new(start, cut.owned.end), reason);
                    self.stitcher.forget();
                }
                None => {
                    for gap in gaps {
                        // Lost silence was never counted as decoded.
                        self.account.decoded -= if utterance.is_some() { gap.len().0 } else { 0 };
                        self.tell_gap(gap, GapReason::Corrupt);
                    }
                }
            }
            if let Some(number) = utterance {
                self.show_rest(number, last, said.is_some());
            }
            for utterance in done {
                self.outputs.push_back(Output::Event(Event::UtteranceDone { utterance }));
            }
            if flushed {
                let at = cut.heard.end;
                self.outputs.push_back(Output::Event(Event::Flushed { at }));
            }
        }
    }

    /// Tells a window's own words; where the last of them ends.
    fn tell(
        &mut self,
        utterance: u32,
        cut: Cut,
        parts: &[Part],
        (first, last, certain): (bool, bool, bool),
        recognition: Recognition,
    ) -> Option<Samples> {
        let (language, sure) = (recognition.language, recognition.certainty);
        let mut phrases = self.stitcher.own(pack::unpack(recognition, parts), cut, first, last);
        self.stitcher.told(&phrases);
        guard::guard(&mut phrases);
        if !certain && !certainty::is_sure(&phrases) {
            phrases.clear();
        }
        if let Some(shown) = self.shown.iter_mut().find(|shown| shown.utterance == utterance) {
            if shown.agreement.settle(&mut phrases, cut.owned, last) {
                self.overruled += 1;
                self.stitcher.told(&phrases);
            }
            join(&mut phrases);
        }
        let enough = sure.is_none_or(|sure| sure >= SURE) || cut.owned.len() >= ENOUGH;
        if !phrases.is_empty() && enough {
            self.language = self.language.or(language);
        }
        let mut said = None;
        for Phrase { words, temperature, no_speech } in phrases {
            let (Some(head), Some(tail)) = (words.first(), words.last()) else { continue };
            let span = Span::new(head.span.start, tail.span.end);
            said = Some(span.end);
            let utterance = pack::utterance_at(parts, span.start).unwrap_or(utterance);
            let segment = Segment {
                utterance,
                span,
                words,
                temperature,
                no_speech,
                language: language.or(self.language),
            };
            self.outputs.push_back(Output::Event(Event::Final(segment)));
        }
        said
    }

    fn tell_gap(&mut self, span: Span, reason: GapReason) {
        self.account.lost += span.len().0;
        self.outputs.push_back(Output::Event(Event::Gap(Gap { span, reason })));
    }
}
