//! Stretches of the timeline that were concealed instead of decoded, until they are told.

use std::collections::VecDeque;

use crate::transcript::Span;

/// Spans in order of time; neighbours are one.
#[derive(Default)]
pub(super) struct Lost(VecDeque<Span>);

impl Lost {
    /// One more stretch, behind all others.
    pub(super) fn push(&mut self, span: Span) {
        match self.0.back_mut() {
            Some(last) if last.end == span.start => last.end = span.end,
            _ => self.0.push_back(span),
        }
    }

    /// Whether anything lies inside of a span.
    pub(super) fn any(&self, within: Span) -> bool {
        self.0.iter().any(|lost| lost.start < within.end && lost.end > within.start)
    }

    /// Takes out what lies inside of a span, cut at its edges, and forgets what lies before it.
    pub(super) fn take(&mut self, within: Span) -> Vec<Span> {
        let mut taken = Vec::new();
        while let Some(first) = self.0.front_mut().filter(|first| first.start < within.end) {
            let inside = Span::new(first.start.max(within.start), first.end.min(within.end));
            if !inside.is_empty() {
                taken.push(inside);
            }
            if first.end > within.end {
                first.start = within.end;
                break;
            }
            self.0.pop_front();
        }
        taken
    }
}
