//! What the engine calls back while it works on a window, and what keeps it from ending the process.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

use whisper_rs::FullParams;
use whisper_rs::whisper_rs_sys as sys;

use super::super::Abort;

/// One call's callbacks.
///
/// Word times from the cross attention are computed over the audio up to the last timestamp the decoder wrote, and
/// an assertion wants at least 8 positions (160 ms) there. So the decoder may not write the timestamps below that,
/// and a second pass over what a failed first one left, which could be as short, is refused.
pub(super) struct Guard<'a> {
    abort: &'a Abort,
    first_timestamp: c_int,
    passes: AtomicU32,
}

/// Timestamps from 20 ms up to this many times 20 ms are not written.
const BARRED_TIMESTAMPS: c_int = 9;

impl<'a> Guard<'a> {
    pub(super) fn new(abort: &'a Abort, first_timestamp: c_int) -> Self {
        Self { abort, first_timestamp, passes: AtomicU32::new(0) }
    }

    /// The guard must outlive the call the parameters are used in; it lives in the same stack frame.
    #[expect(unsafe_code, reason = "the safe abort closure of the wrapper is unsound")]
    pub(super) fn install(&self, parameters: &mut FullParams<'_, '_>) {
        let user_data = std::ptr::from_ref(self).cast_mut().cast::<c_void>();
        // SAFETY: the callbacks match the C signatures, cast the pointer back to `Guard`, only read through it or
        // touch its atomic, and never unwind; the guard outlives the call.
        unsafe {
            parameters.set_abort_callback(Some(aborted));
            parameters.set_abort_callback_user_data(user_data);
            parameters.set_start_encoder_callback(Some(begin_pass));
            parameters.set_start_encoder_callback_user_data(user_data);
            parameters.set_filter_logits_callback(Some(bar_timestamps));
            parameters.set_filter_logits_callback_user_data(user_data);
        }
    }
}

#[expect(unsafe_code, reason = "called from C")]
unsafe extern "C" fn aborted(guard: *mut c_void) -> bool {
    // SAFETY: `install` passed a pointer to a live guard.
    let guard = unsafe { &*guard.cast::<Guard<'_>>() };
    guard.abort.is_set()
}

#[expect(unsafe_code, reason = "called from C")]
unsafe extern "C" fn begin_pass(
    _: *mut sys::whisper_context,
    _: *mut sys::whisper_state,
    guard: *mut c_void,
) -> bool {
    // SAFETY: `install` passed a pointer to a live guard.
    let guard = unsafe { &*guard.cast::<Guard<'_>>() };
    guard.passes.fetch_add(1, Ordering::Relaxed) == 0 && !guard.abort.is_set()
}

#[expect(unsafe_code, reason = "called from C")]
unsafe extern "C" fn bar_timestamps(
    _: *mut sys::whisper_context,
    _: *mut sys::whisper_state,
    _: *const sys::whisper_token_data,
    _: c_int,
    logits: *mut f32,
    guard: *mut c_void,
) {
    // SAFETY: `install` passed a pointer to a live guard, and the engine passes one logit per token of the
    // vocabulary, of which the timestamps are the last 1,501.
    unsafe {
        let guard = &*guard.cast::<Guard<'_>>();
        let first = logits.offset(guard.first_timestamp as isize + 1);
        std::slice::from_raw_parts_mut(first, BARRED_TIMESTAMPS as usize).fill(f32::NEG_INFINITY);
    }
}
