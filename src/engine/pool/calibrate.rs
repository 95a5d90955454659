//! Measuring, before anybody is served, what audio costs on this machine.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::Pool;
use super::queue::{Entry, Purpose, Running, State};
use crate::engine::{Abort, DecodeOptions, Effort, EngineError, Request};
use crate::language::Language;
use crate::transcript::{RATE, Samples};

impl Pool {
    /// Has every worker decode `pcm` (16 kHz mono, a few seconds of speech) at the same time, so that what they
    /// take from each other is in the cost: as finals, then as a draft, after a warm-up that does not count.
    /// Admission of this model's streams rests on it until real windows outweigh it; without it, or after a failure,
    /// there may be as many as workers. Blocks: not for a thread that drives futures.
    pub fn calibrate(&self, pcm: Arc<[f32]>) -> Result<(), EngineError> {
        let first_second = pcm[..pcm.len().min(RATE as usize)].into();
        self.rehearse(Purpose::WarmUp, &self.rehearsal(first_second, Effort::Live))?;
        self.rehearse(Purpose::Measurement, &self.rehearsal(Arc::clone(&pcm), Effort::Live))?;
        self.rehearse(Purpose::Measurement, &self.rehearsal(pcm, Effort::Draft))
    }

    /// One request to each worker; returns when all have answered.
    fn rehearse(&self, purpose: Purpose, request: &Request) -> Result<(), EngineError> {
        let submitted = Instant::now();
        let mut state = self.shared().state();
        if state.closed {
            return Err(EngineError::Closed);
        }
        if state.all_hang() {
            return Err(EngineError::Hung);
        }
        let mut answers = Vec::with_capacity(state.own.len());
        let State { own, running, .. } = &mut *state;
        let hangs = |running: &Option<Running>| running.as_ref().is_some_and(Running::hangs);
        for (own, _) in own.iter_mut().zip(running).filter(|(_, running)| !hangs(running)) {
            let (reply, answer) = oneshot::channel();
            let (model, request, abort) = (Arc::clone(&self.model), request.clone(), Abort::default());
            own.push_back(Entry { id: 0, purpose, model, request, abort, reply, submitted });
            answers.push(answer);
        }
        drop(state);
        self.shared().work.notify_all();
        let heard: Vec<_> = answers.into_iter().map(oneshot::Receiver::blocking_recv).collect();
        // A reply is only ever lost with the worker that owed it.
        heard.into_iter().try_for_each(|answer| answer.unwrap_or(Err(EngineError::Closed)).map(drop))
    }

    fn rehearsal(&self, pcm: Arc<[f32]>, effort: Effort) -> Request {
        // All windows of a stream but the first know their language, so detecting it is not part of the cost.
        let language = Some(Language::ENGLISH).filter(|english| self.traits().languages.contains(english));
        Request {
            pcm,
            offset: Samples(0),
            effort,
            language,
            prior: None,
            options: Arc::new(DecodeOptions::default()),
        }
    }
}
