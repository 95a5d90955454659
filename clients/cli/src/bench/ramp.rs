//! How many streams a server bears: one step after another, each with some streams more.
//!
//! A step is good if the server took all its streams and p95 of the final after the endpoint decision, over what
//! ended within the step, is within the bound. An utterance whose final is still awaited counts with the time that
//! it has waited. The first quarter of a step is not looked at, so that streams that have just begun do not make it
//! look better than it is. A step in which fewer utterances ended than are needed is lengthened, up to three times.
//! The answer is the streams of the last good step.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::figures::Summary;
use super::report::line;
use super::swarm::Swarm;

/// How to climb.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ramp {
    pub(crate) bound: Duration,
    /// Streams per step.
    pub(crate) step: usize,
    pub(crate) step_time: Duration,
    /// Where to stop anyway.
    pub(crate) most: usize,
    /// Utterances that a step needs.
    pub(crate) least: usize,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Step {
    pub(crate) streams: usize,
    pub(crate) refused: usize,
    /// In milliseconds; nothing where no utterance ended.
    pub(crate) final_after_endpoint_decision: Option<Summary>,
    pub(crate) final_after_speech_ends: Option<Summary>,
    pub(crate) first_text_after_speech_starts: Option<Summary>,
    pub(crate) partial_interval: Option<Summary>,
}

/// Why it went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// Finals came too late.
    Bound,
    /// The server took no more streams.
    Refusal,
    /// No utterance ended within a step, so that nothing can be said.
    Nothing,
    /// No more were to be tried.
    Most,
}

/// The result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Found {
    /// The most streams within the bound; 0 where even the first step was bad.
    pub(crate) streams: usize,
    pub(crate) ended_by: End,
    pub(crate) steps: Vec<Step>,
}

impl Ramp {
    /// Adds streams to the swarm until something gives. `tell` hears of every step.
    pub(crate) async fn climb(
        &self,
        swarm: &mut Swarm,
        mut tell: impl FnMut(&str) -> std::io::Result<()>,
    ) -> anyhow::Result<Found> {
        let mut steps = Vec::new();
        loop {
            let begun = Instant::now();
            let more = self.step.min(self.most - swarm.streams.len());
            let taken = swarm.add(more, self.step_time / 8).await;
            sleep(self.step_time.saturating_sub(begun.elapsed())).await;
            let look = |swarm: &Swarm| swarm.figures(Some((begun + self.step_time / 4, Instant::now())));
            let mut figures = look(swarm);
            while figures.after_stop.len() < self.least && begun.elapsed() < self.step_time * 3 {
                sleep(self.step_time / 8).await;
                figures = look(swarm);
            }
            let step = Step {
                streams: swarm.streams.len(),
                refused: more - taken,
                final_after_endpoint_decision: Summary::of_seconds(&figures.after_stop),
                final_after_speech_ends: Summary::of_seconds(&figures.after_speech),
                first_text_after_speech_starts: Summary::of_seconds(&figures.first_text),
                partial_interval: Summary::of_seconds(&figures.intervals),
            };
            tell(&step.sentence())?;
            steps.push(step);
            if let Some(found) = self.judge(&steps) {
                return Ok(found);
            }
        }
    }

    /// The result, if these steps are all that is needed.
    fn judge(&self, steps: &[Step]) -> Option<Found> {
        let last = steps.last()?;
        let good = last.final_after_endpoint_decision.map(|it| it.p95 <= self.bound.as_secs_f64() * 1000.0);
        let ended_by = match good {
            Some(false) => End::Bound,
            None => End::Nothing,
            Some(true) if last.refused > 0 => End::Refusal,
            Some(true) if last.streams >= self.most => End::Most,
            Some(true) => return None,
        };
        // A step whose new streams were refused still shows that those before them are served well.
        let streams = match good {
            Some(true) => last.streams,
            _ => steps.iter().rev().nth(1).map_or(0, |step| step.streams),
        };
        Some(Found { streams, ended_by, steps: steps.to_vec() })
    }
}

impl Step {
    fn sentence(&self) -> String {
        let Self { streams, refused, .. } = self;
        match self.final_after_endpoint_decision {
            Some(it) => format!(
                "{streams} streams ({refused} refused): final p50 {} ms, p95 {} ms of {}",
                it.p50, it.p95, it.count
            ),
            None => format!("{streams} streams ({refused} refused): no utterance ended"),
        }
    }
}

impl Found {
    /// Lines for people.
    pub(crate) fn table(&self, bound: Duration) -> String {
        let mut out = format!(
            "{:>8}{:>9}{:>8}{:>12}{:>12}{:>16}{:>18}{:>18}\n",
            "streams",
            "refused",
            "finals",
            "final p50",
            "final p95",
            "speech end p95",
            "first text p95",
            "interval p50"
        );
        for step in &self.steps {
            let of = |summary: Option<Summary>, pick: fn(Summary) -> f64| {
                summary.map_or("-".to_owned(), |summary| format!("{:.0}", pick(summary)))
            };
            let last = step.final_after_endpoint_decision;
            out += &format!(
                "{:>8}{:>9}{:>8}{:>12}{:>12}{:>16}{:>18}{:>18}\n",
                step.streams,
                step.refused,
                last.map_or(0, |summary| summary.count),
                of(last, |it| it.p50),
                of(last, |it| it.p95),
                of(step.final_after_speech_ends, |it| it.p95),
                of(step.first_text_after_speech_starts, |it| it.p95),
                of(step.partial_interval, |it| it.p50),
            );
        }
        let why = match self.ended_by {
            End::Bound => "with more, finals came later",
            End::Refusal => "with more, the server refused",
            End::Nothing => "then no utterance ended within a step",
            End::Most => "more were not tried",
        };
        let what = format!("{} streams within {} ms at p95; {why}", self.streams, bound.as_millis());
        line(&mut out, "found", &what);
        out
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use whisperwire_client::live::LiveClient;

    use super::*;
    use crate::bench::house::House;

    const RAMP: Ramp = Ramp {
        bound: Duration::from_millis(300),
        step: 2,
        step_time: Duration::from_secs(3),
        most: 12,
        least: 2,
    };

    fn step(streams: usize, refused: usize, p95: f64) -> Step {
        let summary = Summary { count: 9, p95, ..Summary::default() };
        Step {
            streams,
            refused,
            final_after_endpoint_decision: (p95 > 0.0).then_some(summary),
            final_after_speech_ends: None,
            first_text_after_speech_starts: None,
            partial_interval: None,
        }
    }

    fn judged(steps: &[Step]) -> Option<(usize, End)> {
        RAMP.judge(steps).map(|found| (found.streams, found.ended_by))
    }

    #[test]
    fn the_last_good_step_counts() {
        assert_eq!(judged(&[step(2, 0, 100.0)]), None);
        assert_eq!(judged(&[step(2, 0, 100.0), step(4, 0, 301.0)]), Some((2, End::Bound)));
        assert_eq!(judged(&[step(2, 0, 900.0)]), Some((0, End::Bound)));
        assert_eq!(judged(&[step(2, 0, 100.0), step(3, 1, 200.0)]), Some((3, End::Refusal)));
        assert_eq!(judged(&[step(2, 0, 100.0), step(3, 1, 400.0)]), Some((2, End::Bound)));
        assert_eq!(judged(&[step(2, 0, 100.0), step(4, 0, 0.0)]), Some((2, End::Nothing)));
        assert_eq!(judged(&[step(12, 0, 100.0)]), Some((12, End::Most)));
    }

    async fn climbed(house: House) -> Found {
        let recordings = Arc::new(house.recordings());
        let mock = house.open().await;
        let client = LiveClient::new(&mock.address, None).expect("an address");
        let mut swarm = Swarm::new(client, recordings, Duration::from_millis(20));
        // Far from both ways of the house, so that a busy machine does not matter.
        let ramp = Ramp { bound: Duration::from_millis(500), ..RAMP };
        let found = ramp.climb(&mut swarm, |_| Ok(())).await.expect("nothing to write");
        swarm.cut(Duration::from_secs(10)).await;
        assert!(found.table(ramp.bound).lines().count() == found.steps.len() + 2);
        found
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_gets_slow_is_found_out() {
        let house = House { slots: 100, fast: 4, slow: Duration::from_millis(900), ..House::default() };
        let found = climbed(house).await;
        assert_eq!((found.streams, found.ended_by), (4, End::Bound), "{found:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_refuses_is_left_in_peace() {
        let found = climbed(House { slots: 3, ..House::default() }).await;
        assert_eq!((found.streams, found.ended_by), (3, End::Refusal), "{found:?}");
        assert_eq!(found.steps.last().map(|step| step.refused), Some(1));
    }
}
