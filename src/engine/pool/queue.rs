//! The queue: which waiting window comes next, and which running one makes room for it.
//!
//! Every worker may take whatever any worker may take, so one rule keeps entries from being forgotten: whatever
//! may have made an entry takeable while workers sleep wakes one of them, and one that takes an entry while more
//! are left wakes the next.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::measure::{self, Cost, Streams, Waits};
use super::model::Model;
use super::times::Times;
use super::{Lane, Load, PoolConfig};
use crate::engine::{Abort, Effort, EngineError, Request};
use crate::transcript::{Recognition, Samples};

/// A partial up to this long, in samples, is taken for the first of its utterance: pre-roll and a second of speech.
const OPENING: usize = 24_000;

/// What the holders of slots, the tickets and the workers have in common.
pub(super) struct Shared {
    pub(super) config: PoolConfig,
    state: Mutex<State>,
    /// There is something to take, or nothing will come any more.
    pub(super) work: Condvar,
    /// No more work will come, so there is nothing to watch.
    pub(super) watch: Condvar,
    /// The last worker has ended, or was lost.
    pub(super) ended: Condvar,
    /// Absent where nobody measures.
    pub(super) times: OnceLock<Times>,
}

impl Shared {
    pub(super) fn new(config: PoolConfig) -> Self {
        let state = Mutex::new(State::new(config));
        let (work, watch, ended) = (Condvar::new(), Condvar::new(), Condvar::new());
        Self { config, state, work, watch, ended, times: OnceLock::new() }
    }

    /// Every critical section is a few assignments, so the state is sound even if a thread died in one.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Pool::capacity`](super::Pool::capacity), for the model with this ledger.
    pub(super) fn capacity(&self, state: &State, ledger: usize) -> usize {
        let PoolConfig { workers, streams, .. } = self.config;
        streams.unwrap_or_else(|| {
            let others = state.ledgers.iter().enumerate().filter(|(at, _)| *at != ledger);
            let others = others.map(|(_, other)| (other.streams, other.costs.full));
            let own = state.ledgers.get(ledger).map(|own| own.costs.full).unwrap_or_default();
            measure::capacity(workers - state.hung(), own, others)
        })
    }

    /// What is going on, as seen by the model with this ledger.
    pub(super) fn load(&self, ledger: usize) -> Load {
        let now = Instant::now();
        let state = self.state();
        let cost = |of: fn(&Costs) -> Cost| of(&state.ledgers.get(ledger)?.costs).per_second();
        Load {
            workers: self.config.workers,
            busy: state.busy(),
            hung: state.hung(),
            slots: self.config.slots,
            slots_free: self.config.slots - state.slots_taken,
            streams: state.streams.count(),
            streams_max: self.capacity(&state, ledger),
            waiting: [0, 1, 2].map(|lane| state.lanes[lane].len()),
            wait_seconds: [0, 1, 2].map(|lane| state.waits[lane].recent(now)),
            cost_full: cost(|costs| costs.full),
            cost_draft: cost(|costs| costs.draft),
            ..state.done
        }
    }

    /// Waits for an entry and marks the worker busy with it. `None` once the pool is closed and the queue empty.
    pub(super) fn next(&self, worker: usize) -> Option<Task> {
        let mut state = self.state();
        loop {
            if let Some(entry) = state.take(worker) {
                let task = state.begin(worker, entry);
                self.release(state);
                return Some(task);
            }
            if state.closed {
                return None;
            }
            state.sleeping += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.sleeping -= 1;
        }
    }

    /// Books an answer and marks the worker idle; gives back whom to answer, unless that was done because it seemed
    /// to hang. Wakes another worker if that leaves something to take, for this one may have a recogniser to mend
    /// before it comes back.
    pub(super) fn settle(
        &self,
        worker: usize,
        answer: &Result<Recognition, EngineError>,
        wall: Duration,
    ) -> Option<Reply> {
        let mut state = self.state();
        let ran = state.running[worker].take();
        if let Some(ran) = &ran {
            state.yielded[worker] = ran.preempted;
            state.book(ran, answer, wall);
        }
        self.release(state);
        let ran = ran?;
        if ran.hangs() {
            tracing::warn!(worker, seconds = wall.as_secs(), "a worker that seemed to hang is back");
        }
        ran.reply
    }

    /// Unlocks, and wakes a worker if there is something that it may take. A woken worker passes this on.
    pub(super) fn release(&self, state: MutexGuard<'_, State>) {
        let wake = state.sleeping > 0 && state.has_work();
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    /// Takes no more work, tells running windows to stop and gives up those that wait.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        state.closed = true;
        self.watch.notify_all();
        state.running.iter().flatten().for_each(|running| running.abort.set());
        let waiting: Vec<Entry> = state.lanes.iter_mut().flat_map(|lane| lane.drain(..)).collect();
        state.done.withdrawn += waiting.len() as u64;
        let rehearsals: Vec<Entry> = state.own.iter_mut().flat_map(|own| own.drain(..)).collect();
        drop(state);
        self.work.notify_all();
        for entry in waiting.into_iter().chain(rehearsals) {
            let _ = entry.reply.send(Err(EngineError::Closed));
        }
    }
}

pub(super) struct State {
    pub(super) config: PoolConfig,
    /// In the order of [`Lane::ALL`]; each in the order of submission.
    pub(super) lanes: [VecDeque<Entry>; 3],
    /// By worker: what this one alone shall decode, before everything else.
    pub(super) own: Vec<VecDeque<Entry>>,
    /// How often in a row the batch lane was passed over although it had work that could have begun.
    passed_over: u32,
    /// By worker: what it decodes.
    pub(super) running: Vec<Option<Running>>,
    /// By worker: whether its last window was stopped for a final, which it therefore takes before all else.
    yielded: Vec<bool>,
    /// Windows that were begun.
    begun: u64,
    /// Workers that wait for something to take, those already woken for it included.
    pub(super) sleeping: usize,
    pub(super) slots_taken: usize,
    pub(super) streams: Streams,
    pub(super) next_id: u64,
    /// Workers whose thread has not ended.
    pub(super) alive: usize,
    pub(super) closed: bool,
    /// In the order of [`Lane::ALL`].
    pub(super) waits: [Waits; 3],
    /// What is known of each model, loaded or not. Only added to, so that a place in it stays the same model's.
    pub(super) ledgers: Vec<Ledger>,
    /// The counts since the start; the rest of it is filled in when somebody asks.
    pub(super) done: Load,
}

impl State {
    fn new(config: PoolConfig) -> Self {
        Self {
            config,
            lanes: Default::default(),
            own: std::iter::repeat_with(VecDeque::new).take(config.workers).collect(),
            passed_over: 0,
            running: std::iter::repeat_with(|| None).take(config.workers).collect(),
            yielded: vec![false; config.workers],
            begun: 0,
            sleeping: 0,
            slots_taken: 0,
            streams: Streams::new(Instant::now()),
            next_id: 0,
            alive: 0,
            closed: false,
            waits: Default::default(),
            ledgers: Vec::new(),
            done: Load::default(),
        }
    }

    /// The ledger of the model of this name: one that is loaded again costs what it did.
    pub(super) fn ledger(&mut self, name: &str) -> usize {
        self.ledgers.iter().position(|ledger| ledger.name == name).unwrap_or_else(|| {
            self.ledgers.push(Ledger { name: name.to_owned(), costs: Costs::default(), streams: 0 });
            self.ledgers.len() - 1
        })
    }

    /// In the order of submission; but a partial of somebody who has just begun to speak goes before those of others,
    /// who are reading already.
    pub(super) fn push(&mut self, lane: Lane, entry: Entry) {
        let queue = &mut self.lanes[lane as usize];
        match lane == Lane::Partial && entry.opens() {
            true => {
                let openings = queue.iter().take_while(|waiting| waiting.opens()).count();
                queue.insert(openings, entry);
            }
            false => queue.push_back(entry),
        }
        if lane == Lane::Final {
            self.make_room();
        }
    }

    /// Finals, partials, batch; but batch first when it was passed over too often.
    fn take(&mut self, worker: usize) -> Option<Entry> {
        if let Some(rehearsal) = self.own[worker].pop_front() {
            return Some(rehearsal);
        }
        let (batch_waits, partial_may_begin) = (self.batch_waits(), self.partial_may_begin());
        let [finals, partials, batch] = &mut self.lanes;
        // A place that a partial gave up is a final's, even if it is the turn of the batch lane. Partials only
        // begin when it is not, so that this cannot go on for ever.
        let owed_to_a_final = std::mem::take(&mut self.yielded[worker]) && !finals.is_empty();
        let turn_of_batch = batch_waits && self.passed_over >= self.config.patience && !owed_to_a_final;
        let partial =
            |partials: &mut VecDeque<Entry>| if partial_may_begin { partials.pop_front() } else { None };
        if !turn_of_batch && let Some(urgent) = finals.pop_front().or_else(|| partial(partials)) {
            self.passed_over = if batch_waits { self.passed_over.saturating_add(1) } else { 0 };
            return Some(urgent);
        }
        if !batch_waits {
            return None;
        }
        self.passed_over = 0;
        batch.pop_front()
    }

    /// Marks the worker busy. If it took something other than a final although one waits, that final now needs
    /// another place.
    fn begin(&mut self, worker: usize, entry: Entry) -> Task {
        let now = Instant::now();
        if let Purpose::Window(lane) = entry.purpose {
            self.waits[lane as usize].note(now, entry.age(now));
        }
        self.begun += 1;
        let audio = Samples(entry.request.pcm.len() as u64);
        let measured = match entry.purpose {
            Purpose::WarmUp => false,
            Purpose::Measurement => true,
            Purpose::Window(_) => measure::is_telling(audio, self.busy() + 1, self.config.workers),
        };
        let Entry { purpose, model, request, abort, reply, submitted, .. } = entry;
        self.running[worker] = Some(Running {
            purpose,
            abort: abort.clone(),
            reply: Some(reply),
            since: now,
            number: self.begun,
            audio,
            effort: request.effort,
            ledger: model.ledger,
            measured,
            preempted: false,
        });
        self.make_room();
        Task { purpose, model, request, abort, submitted }
    }

    /// Stops partials for the finals that wait, one for each that no worker is about to be free for; the one that
    /// began last has the least to lose. First words are spared where there are others: they are short, and eagerly
    /// awaited.
    fn make_room(&mut self) {
        let stops = |running: &&Running| running.abort.is_set() && !running.hangs();
        let stopping = self.running.iter().flatten().filter(stops).count();
        let coming = self.running.len() - self.busy() + stopping;
        for _ in coming..self.lanes[Lane::Final as usize].len() {
            let partials = self.running.iter_mut().flatten().filter(|running| running.may_be_stopped());
            let Some(last) =
                partials.max_by_key(|running| (running.audio.0 > OPENING as u64, running.number))
            else {
                return;
            };
            last.preempted = true;
            last.abort.set();
        }
    }

    fn book(&mut self, ran: &Running, answer: &Result<Recognition, EngineError>, wall: Duration) {
        if ran.hangs() {
            // It was booked when it was given up.
            return;
        }
        let (audio, wall) = (ran.audio.seconds(), wall.as_secs_f64());
        if answer.is_ok()
            && ran.measured
            && let Some(cost) = self.ledgers[ran.ledger].costs.of(ran.effort)
        {
            cost.note(audio, wall);
        }
        if !matches!(ran.purpose, Purpose::Window(_)) {
            return;
        }
        match answer {
            Ok(_) => {
                self.done.recognised += 1;
                self.done.audio_seconds += audio;
                self.done.wall_seconds += wall;
            }
            Err(EngineError::Aborted) if ran.preempted => self.done.preempted += 1,
            Err(EngineError::Aborted) => self.done.withdrawn += 1,
            Err(_) => self.done.failed += 1,
        }
    }

    /// Whether a worker that asked now would be given something from the lanes.
    pub(super) fn has_work(&self) -> bool {
        let [finals, partials, _] = &self.lanes;
        !finals.is_empty() || (!partials.is_empty() && self.partial_may_begin()) || self.batch_waits()
    }

    /// Whether the next partial, if there is one, may begin. While finals are decoded, partials take at most half of
    /// the other workers: cores share caches and more, so a guess beside a final makes the final later. First words
    /// are let in always.
    fn partial_may_begin(&self) -> bool {
        if self.lanes[Lane::Partial as usize].front().is_some_and(Entry::opens) {
            return true;
        }
        let running = |lane| {
            let is = move |running: &&Running| running.purpose == Purpose::Window(lane) && !running.hangs();
            self.running.iter().flatten().filter(is).count()
        };
        let (finals, partials) = (running(Lane::Final), running(Lane::Partial));
        finals == 0 || partials < (self.running.len() - self.hung() - finals) / 2
    }

    /// Whether there is batch work that may begin. One worker is kept free of it for the finals of live streams,
    /// if there are any of both; a closed pool will get no more of them.
    fn batch_waits(&self) -> bool {
        let is_batch =
            |running: &&Running| running.purpose == Purpose::Window(Lane::Batch) && !running.hangs();
        let workers = self.running.len() - self.hung();
        let keeps_room = self.streams.count() > 0 && workers > 1 && !self.closed;
        let most = workers - usize::from(keeps_room);
        !self.lanes[Lane::Batch as usize].is_empty()
            && self.running.iter().flatten().filter(is_batch).count() < most
    }

    /// An entry that still waits.
    pub(super) fn find(&mut self, lane: Lane, id: u64) -> Option<&mut Entry> {
        let at = self.position(lane, id)?;
        self.lanes[lane as usize].get_mut(at)
    }

    /// Takes out an entry that still waits.
    pub(super) fn withdraw(&mut self, lane: Lane, id: u64) -> Option<Entry> {
        let at = self.position(lane, id)?;
        self.done.withdrawn += 1;
        self.lanes[lane as usize].remove(at)
    }

    fn position(&self, lane: Lane, id: u64) -> Option<usize> {
        let queue = &self.lanes[lane as usize];
        match lane {
            Lane::Partial => queue.iter().position(|entry| entry.id == id),
            // Numbers only grow, so these lanes are sorted by them.
            Lane::Final | Lane::Batch => queue.binary_search_by_key(&id, |entry| entry.id).ok(),
        }
    }

    pub(super) fn busy(&self) -> usize {
        self.running.iter().flatten().count()
    }

    /// How many workers hang.
    pub(super) fn hung(&self) -> usize {
        self.running.iter().flatten().filter(|running| running.hangs()).count()
    }

    /// Whether nobody is left to do anything.
    pub(super) fn all_hang(&self) -> bool {
        self.hung() == self.running.len()
    }

    /// The time in which the work at hand should be done, in seconds.
    pub(super) fn retry_after(&self) -> u64 {
        let each = match self.done.recognised {
            0 => 1.0,
            count => self.done.wall_seconds / count as f64,
        };
        let windows = self.busy() + self.lanes.iter().map(VecDeque::len).sum::<usize>();
        // Past a minute the estimate is worth nothing.
        (windows as f64 * each / self.running.len() as f64).ceil().clamp(1.0, 60.0) as u64
    }
}

/// What is known of a model.
pub(super) struct Ledger {
    name: String,
    pub(super) costs: Costs,
    /// Live streams that it follows.
    pub(super) streams: usize,
}

/// What a second of audio costs at each effort.
#[derive(Default)]
pub(super) struct Costs {
    pub(super) full: Cost,
    pub(super) draft: Cost,
}

impl Costs {
    /// Where the cost of a window belongs; nowhere, where nobody waits for it: what is counted here decides how many
    /// live streams fit.
    fn of(&mut self, effort: Effort) -> Option<&mut Cost> {
        match effort {
            Effort::Live => Some(&mut self.full),
            Effort::Draft => Some(&mut self.draft),
            Effort::Full => None,
        }
    }
}

/// A window that waits.
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) purpose: Purpose,
    pub(super) model: Arc<Model>,
    pub(super) request: Request,
    pub(super) abort: Abort,
    pub(super) reply: Reply,
    pub(super) submitted: Instant,
}

/// Whoever waits for an answer.
pub(super) type Reply = oneshot::Sender<Result<Recognition, EngineError>>;

/// What a worker does.
pub(super) struct Task {
    pub(super) purpose: Purpose,
    pub(super) model: Arc<Model>,
    pub(super) request: Request,
    pub(super) abort: Abort,
    pub(super) submitted: Instant,
}

impl Entry {
    /// Whether it holds the first words of an utterance, by its length.
    fn opens(&self) -> bool {
        self.request.pcm.len() <= OPENING
    }

    /// How long it has waited. The clock may have been read before the lock was had.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.submitted)
    }
}

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Somebody's text.
    Window(Lane),
    /// Calibration: the first decoding of a recogniser is slower than the others, and is not measured.
    WarmUp,
    /// Calibration: what counts is the time it takes.
    Measurement,
}

/// A window that is being decoded.
pub(super) struct Running {
    pub(super) purpose: Purpose,
    pub(super) abort: Abort,
    /// Absent once it was answered for hanging.
    pub(super) reply: Option<Reply>,
    pub(super) since: Instant,
    /// Those that began later have higher ones.
    number: u64,
    pub(super) audio: Samples,
    effort: Effort,
    /// Of its model.
    pub(super) ledger: usize,
    /// Whether its cost counts.
    measured: bool,
    /// Whether it was stopped for a final.
    preempted: bool,
}

impl Running {
    /// Whether it was given up although it goes on.
    pub(super) fn hangs(&self) -> bool {
        self.reply.is_none()
    }

    fn may_be_stopped(&self) -> bool {
        self.purpose == Purpose::Window(Lane::Partial) && !self.abort.is_set()
    }
}
