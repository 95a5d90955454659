//! The WebRTC project's detector. It answers yes or no per 10 ms and is easily fooled by one of them, so the
//! probability is the share of yes among the last 200 ms.

use std::collections::VecDeque;

use super::{FRAME, Vad};

/// 10 ms, the shortest piece the detector takes.
const STEP: usize = 160;
/// 200 ms of answers.
const VOTERS: usize = 20;

pub(super) struct Webrtc {
    detector: Detector,
    /// What did not fill a step yet.
    rest: Vec<i16>,
    votes: VecDeque<bool>,
}

impl Webrtc {
    pub(super) fn new() -> Self {
        let detector = webrtc_vad::Vad::new_with_rate_and_mode(
            webrtc_vad::SampleRate::Rate16kHz,
            webrtc_vad::VadMode::Aggressive,
        );
        Self { detector: Detector(detector), rest: Vec::new(), votes: VecDeque::with_capacity(VOTERS + 1) }
    }
}

impl Vad for Webrtc {
    fn probability(&mut self, frame: &[f32; FRAME]) -> f32 {
        self.rest.extend(frame.iter().map(|x| (x.clamp(-1.0, 1.0) * f32::from(i16::MAX)) as i16));
        let whole = self.rest.len() / STEP * STEP;
        for step in self.rest[..whole].chunks_exact(STEP) {
            // The only error is a step of the wrong length, and that is a constant.
            self.votes.push_back(self.detector.0.is_voice_segment(step).unwrap_or(false));
        }
        self.rest.drain(..whole);
        while self.votes.len() > VOTERS {
            self.votes.pop_front();
        }
        let yes = self.votes.iter().filter(|vote| **vote).count();
        yes as f32 / VOTERS as f32
    }
}

struct Detector(webrtc_vad::Vad);

#[expect(unsafe_code, reason = "the crate holds a raw pointer and so is not Send by default")]
// SAFETY: the pointer is to a heap object that this value owns alone; the C code keeps no global or thread-local
// state and only ever touches that object.
unsafe impl Send for Detector {}
