//! Silero's network, version 6, from an ONNX file that the operator brings. It scores 32 ms at a time and remembers
//! what came before: two states, and the last 64 samples.

use std::fmt;
use std::io::Cursor;
use std::sync::Arc;

use tract_onnx::prelude::*;

use super::{FRAME, Vad};

/// Samples of the frame before that the network hears with each frame.
const CONTEXT: usize = 64;
/// The width of its states.
const WIDTH: usize = 128;

/// The loaded network, shared by all streams.
#[derive(Clone)]
pub struct Silero(Arc<Runnable>);

type Runnable = TypedRunnableModel;

impl Silero {
    /// Reads the ONNX file; the error is one clause.
    pub fn load(onnx: &[u8]) -> Result<Self, String> {
        let build = || -> TractResult<Arc<Runnable>> {
            let state = || f32::fact([1, 1, WIDTH]).into();
            let model = tract_onnx::onnx()
                // The file's own symbolic shapes stand against the fixed ones.
                .with_ignore_output_shapes(true)
                .with_ignore_value_info(true)
                .model_for_read(&mut Cursor::new(onnx))?
                .with_input_fact(0, f32::fact([1, CONTEXT + FRAME]).into())?
                .with_input_fact(1, state())?
                .with_input_fact(2, state())?
                .into_optimized()?
                .into_runnable()?;
            Ok(model)
        };
        let foreign = |error: &dyn fmt::Display| format!("it is not Silero's network, version 6 ({error})");
        // A file that a stranger made may bring the parser down.
        let built = std::panic::catch_unwind(std::panic::AssertUnwindSafe(build));
        let silero =
            Self(built.map_err(|_| foreign(&"it cannot be read"))?.map_err(|error| foreign(&error))?);
        let mut memory = Memory::default();
        silero.score(&mut memory, &[0.0; FRAME]).map_err(|error| foreign(&error))?;
        Ok(silero)
    }

    /// A detector for one stream.
    pub(super) fn detector(&self) -> Box<dyn Vad> {
        Box::new(Detector { network: self.clone(), memory: Memory::default() })
    }

    fn score(&self, memory: &mut Memory, frame: &[f32; FRAME]) -> TractResult<f32> {
        let mut heard = memory.context.to_vec();
        heard.extend(frame.iter().map(|x| x.clamp(-1.0, 1.0)));
        memory.context.copy_from_slice(&heard[FRAME..]);
        let input = Tensor::from_shape(&[1, CONTEXT + FRAME], &heard)?;
        let state = |values: &[f32]| Tensor::from_shape(&[1, 1, WIDTH], values);
        let (h, c) = (state(&memory.h)?, state(&memory.c)?);
        let told = self.0.run(tvec![input.into(), h.into(), c.into()])?;
        let values = |n: usize| -> TractResult<Vec<f32>> {
            let tensor = told.get(n).ok_or_else(|| TractError::msg("an output is missing"))?;
            Ok(tensor.cast_to::<f32>()?.to_plain_array_view::<f32>()?.iter().copied().collect())
        };
        let (probability, h, c) = (values(0)?, values(1)?, values(2)?);
        if probability.len() != 1 || h.len() != WIDTH || c.len() != WIDTH {
            return Err(TractError::msg("its outputs have other shapes"));
        }
        (memory.h, memory.c) = (h, c);
        Ok(probability[0])
    }
}

impl fmt::Debug for Silero {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Silero")
    }
}

/// What the network remembers of a stream.
struct Memory {
    context: [f32; CONTEXT],
    h: Vec<f32>,
    c: Vec<f32>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { context: [0.0; CONTEXT], h: vec![0.0; WIDTH], c: vec![0.0; WIDTH] }
    }
}

struct Detector {
    network: Silero,
    memory: Memory,
}

impl Vad for Detector {
    fn probability(&mut self, frame: &[f32; FRAME]) -> f32 {
        // It has run once when it was loaded, and every frame has the same shape.
        self.network.score(&mut self.memory, frame).unwrap_or(0.0).clamp(0.0, 1.0)
    }

    fn certain(&self) -> Option<f32> {
        Some(0.9)
    }
}
