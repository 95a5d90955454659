//! A request's body on its way in: metered, and heard out.
//!
//! Metered, because the reader of forms takes in all there is before it looks at any of it, and keeps what it cannot
//! make sense of yet (a part's head without an end, say): it gets one frame at a time, so much per question, and
//! not a byte more. Heard out, because a client that is cut off while it
//! sends mostly shows its user a broken connection in place of our answer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use hyper::body::{Frame, SizeHint};

/// The most that may come in between two calls of [`Intake::allow`]. No honest head of a part is larger, and no
/// frame.
const ALLOWANCE: u64 = 1 << 20;
/// How much, and for how long, a client is listened to that has its answer already.
const COURTESY: (u64, Duration) = (64 << 20, Duration::from_secs(3));

/// One body. Clones are the same one.
#[derive(Clone)]
pub(super) struct Intake(Arc<Mutex<State>>);

struct State {
    body: Body,
    allowed: u64,
    /// Whether a frame has just been given out, so that it is time to look at it.
    breath: bool,
    /// Whether the client sends without being asked to, or has been asked.
    sending: bool,
    /// Whether somebody reads it beside the answer.
    taken_over: bool,
}

impl Intake {
    pub(super) fn new(body: Body, headers: &HeaderMap) -> Self {
        let sending = !headers.contains_key(header::EXPECT);
        let state = State { body, allowed: ALLOWANCE, breath: false, sending, taken_over: false };
        Self(Arc::new(Mutex::new(state)))
    }

    /// What a handler reads.
    pub(super) fn body(&self) -> Body {
        Body::new(self.clone())
    }

    /// Lets the next bytes in.
    pub(super) fn allow(&self) {
        self.state().allowed = ALLOWANCE;
    }

    /// The body goes on being read after the answer has begun: there is nobody to hear out.
    pub(super) fn take_over(&self) {
        self.state().taken_over = true;
    }

    /// Takes what still comes after the answer, and forgets it.
    pub(super) fn hear_out(self) {
        let State { sending, taken_over, .. } = *self.state();
        if !sending || taken_over || self.is_end_stream() {
            return;
        }
        tokio::spawn(tokio::time::timeout(COURTESY.1, async move {
            self.state().allowed = COURTESY.0;
            let mut rest = self.body().into_data_stream();
            while let Some(Ok(_)) = rest.next().await {}
        }));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpBody for Intake {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut state = self.state();
        if state.allowed == 0 {
            return Poll::Ready(Some(Err(axum::Error::new("more than a part of a form may hold"))));
        }
        if std::mem::take(&mut state.breath) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        state.sending = true;
        let frame = ready!(Pin::new(&mut state.body).poll_frame(context));
        let length = frame.iter().flatten().filter_map(Frame::data_ref).map(Bytes::len).sum::<usize>();
        state.allowed = state.allowed.saturating_sub(length as u64);
        state.breath = true;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.state().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        HttpBody::size_hint(&self.state().body)
    }
}
