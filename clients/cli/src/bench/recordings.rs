//! What the streams say: recordings as 16 kHz samples, what is spoken in them, and where.
//!
//! Where speech is, is measured and not recognised: a window of 20 ms is loud if its level is within 35 dB of the
//! level that 95 % of the recording's windows do not exceed; three loud windows in a row (10 ms apart) make a
//! stretch; stretches with less than 200 ms between them are one. A stretch begins with the first sample of its
//! first window and ends with the last sample of its last. The rule fits clean recordings with silence around them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use whisperwire_protocol::stream::Encoding;

use crate::feed::{self, Feed};

/// Samples per second.
pub(crate) const RATE: usize = 16_000;
const WINDOW: usize = RATE / 50;
const HOP: usize = RATE / 100;
const BELOW_LOUD: f64 = 35.0;
const LEAST_WINDOWS: usize = 3;
const JOINED: usize = RATE / 5;

/// One recording.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recording {
    pub(crate) name: String,
    pub(crate) samples: Vec<i16>,
    /// What is said, where that is known.
    pub(crate) text: Option<String>,
    /// Where somebody speaks, in samples.
    pub(crate) speech: Vec<Range<usize>>,
}

/// An entry of the file that says what is spoken.
#[derive(Deserialize)]
struct Reference {
    file: String,
    text: String,
}

/// All WAV and FLAC files of a folder with this in their name, in order. `refs` is a JSON list of `{"file", "text"}`; without it, the
/// folder's own `manifest.json` if there is one.
pub(crate) async fn load(
    folder: &Path,
    pattern: &str,
    refs: Option<&Path>,
) -> anyhow::Result<Vec<Recording>> {
    let mut texts = references(folder, refs)?;
    let listed = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = listed.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !["wav", "flac"].contains(&ending.to_ascii_lowercase().as_str()) || !name.contains(pattern) {
            continue;
        }
        let samples = samples(&file).await.with_context(|| file.display().to_string())?;
        let speech = stretches(&samples);
        if !speech.is_empty() {
            all.push(Recording { text: texts.remove(&name), name, samples, speech });
        }
    }
    if all.is_empty() {
        bail!("{} holds no such WAV or FLAC file with speech.", folder.display());
    }
    Ok(all)
}

fn references(folder: &Path, refs: Option<&Path>) -> anyhow::Result<HashMap<String, String>> {
    let own = folder.join("manifest.json");
    let file = refs.unwrap_or(&own);
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(_) if refs.is_none() => return Ok(HashMap::new()),
        Err(wrong) => bail!("{}: {wrong}", file.display()),
    };
    let list: Vec<Reference> = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    Ok(list.into_iter().map(|entry| (entry.file, entry.text)).collect())
}

/// Decoded here where that gives 16 kHz, else by ffmpeg.
async fn samples(file: &Path) -> anyhow::Result<Vec<i16>> {
    let fits = |feed: &Feed| {
        let settings = &feed.settings;
        settings.sample_rate == Some(RATE as u32) && settings.encoding == Some(Encoding::PcmS16le)
    };
    let mut feed = match Feed::decoded(file, None)?.filter(fits) {
        Some(feed) => feed,
        None => feed::ffmpeg(file, None)
            .context("ffmpeg is needed for recordings that are not 16,000 samples per second")?,
    };
    let channels = i32::from(feed.settings.channels.unwrap_or(1).max(1));
    let mut bytes = Vec::new();
    while let Some(chunk) = feed.take().await {
        bytes.extend(chunk?);
    }
    let samples = bytes.chunks_exact(2 * channels as usize).map(|frame| {
        let sum: i32 = frame.chunks_exact(2).map(|s| i32::from(i16::from_le_bytes([s[0], s[1]]))).sum();
        (sum / channels) as i16
    });
    Ok(samples.collect())
}

/// See the top of this file.
pub(crate) fn stretches(samples: &[i16]) -> Vec<Range<usize>> {
    let levels: Vec<f64> = samples.windows(WINDOW).step_by(HOP).map(level).collect();
    let mut sorted = levels.clone();
    sorted.sort_by(f64::total_cmp);
    let Some(&loud) = sorted.get(sorted.len() * 95 / 100) else { return Vec::new() };
    let is_loud = |level: &f64| *level > loud - BELOW_LOUD && *level > -80.0;
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for run in levels.chunk_by(|one, next| is_loud(one) == is_loud(next)) {
        let stretch = at * HOP..(at + run.len() - 1) * HOP + WINDOW;
        at += run.len();
        if run.len() < LEAST_WINDOWS || !is_loud(&run[0]) {
            continue;
        }
        match found.last_mut() {
            Some(last) if stretch.start < last.end + JOINED => last.end = stretch.end,
            _ => found.push(stretch),
        }
    }
    found
}

/// In dB below full scale.
fn level(window: &[i16]) -> f64 {
    let sum: f64 = window.iter().map(|s| (f64::from(*s) / 32_768.0).powi(2)).sum();
    10.0 * (sum / window.len() as f64 + 1e-12).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tone with these amplitudes, each for so many milliseconds.
    pub(crate) fn tone(parts: &[(usize, f64)]) -> Vec<i16> {
        let mut out = Vec::new();
        for (milliseconds, amplitude) in parts {
            out.extend((0..milliseconds * RATE / 1000).map(|n| ((n as f64 * 0.7).sin() * amplitude) as i16));
        }
        out
    }

    #[test]
    fn speech_is_where_it_is_loud() {
        let samples = tone(&[(500, 3.0), (1_000, 8_000.0), (600, 3.0), (700, 4_000.0), (300, 3.0)]);
        let found = stretches(&samples);
        assert_eq!(found.len(), 2);
        for (found, wanted) in found.iter().zip([8_000..24_000, 33_600..44_800]) {
            assert!(found.start.abs_diff(wanted.start) <= WINDOW, "{found:?}");
            assert!(found.end.abs_diff(wanted.end) <= WINDOW, "{found:?}");
        }
    }

    #[test]
    fn short_pauses_join_and_clicks_do_not_count() {
        let samples =
            tone(&[(500, 0.0), (400, 8_000.0), (150, 0.0), (400, 8_000.0), (900, 0.0), (5, 8_000.0)]);
        assert_eq!(stretches(&samples).len(), 1);
        assert!(stretches(&tone(&[(1_000, 0.0)])).is_empty(), "silence has no speech");
        assert!(stretches(&[]).is_empty());
    }

    #[tokio::test]
    async fn the_recordings_of_the_repository_are_read() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/audio"));
        let all = load(folder, "", None).await.expect("recordings");
        assert!(all.iter().all(|recording| recording.text.is_some()), "each has its text");
        let first = all.iter().find(|one| one.name == "sentence-01-slt.flac").expect("it is there");
        assert_eq!(first.samples.len(), 88_480);
        let (start, end) = (first.speech[0].start, first.speech.last().expect("speech").end);
        assert!((9_000..11_000).contains(&start) && (75_000..78_000).contains(&end), "{start} {end}");
        assert_eq!(load(folder, "06-kal", None).await.expect("one recording").len(), 1);
        assert!(load(Path::new("src"), "", None).await.is_err(), "no recordings there");
        assert!(load(folder, "", Some(Path::new("nowhere.json"))).await.is_err());
    }
}
