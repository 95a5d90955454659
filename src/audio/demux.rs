//! The built-in decoders: symphonia with libopus, asked one packet at a time.
//!
//! The contract: every question to a demuxer or decoder is metered (see `source`) and fenced, so that a panic in
//! there is a damaged file out here. Packets that do not decode become silence of their stated length, so that
//! what follows keeps its time; after [`MOST_MISSES`] in a row the file is given up. A stream that ends without
//! its proper end simply ends.
//!
//! Deliberately absent: seeking, metadata, video.

use std::fs::File;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::CodecRegistry;
use symphonia::core::errors::{Error, Result as Answer};
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::well_known::{
    FORMAT_ID_ADTS, FORMAT_ID_FLAC, FORMAT_ID_ISOMP4, FORMAT_ID_MKV, FORMAT_ID_MP1, FORMAT_ID_MP2,
    FORMAT_ID_MP3,
};
use symphonia::core::formats::{FormatId, FormatOptions, FormatReader, Track};
use symphonia::core::io::{MediaSource, MediaSourceStream, ReadBytes, SeekBuffered};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, Timestamp};

use super::fragments::Fragments;
use super::resample::Resampler;
use super::sniff::{self, Look};
use super::source::{Inflow, Meter, Source};
use super::{AudioError, Limits};
use crate::transcript::{RATE, Samples};

/// Undecodable packets in a row after which a file is given up.
const MOST_MISSES: u32 = 100;

/// The most frames that a container may announce for one packet, because decoders allocate for it.
const MOST_FRAMES: u64 = 1 << 18;

/// The longest silence that stands in for what is missing, in seconds. A longer jump of the time stamps is taken
/// for what it mostly is, another clock.
const LONGEST_GAP: f64 = 10.0;

/// The shortest jump that is taken for missing packets: time stamps are rounded, and encoders start late.
const SHORTEST_GAP: f64 = 0.1;

static CODECS: LazyLock<CodecRegistry> = LazyLock::new(|| {
    let mut codecs = CodecRegistry::new();
    symphonia::default::register_enabled_codecs(&mut codecs);
    codecs.register_audio_decoder::<symphonia_adapter_libopus::OpusDecoder>();
    codecs
});

/// One audio track of one file being decoded.
pub(super) struct Demuxed {
    /// Nothing only after a failed [`Demuxed::begin_again`].
    reader: Option<Box<dyn FormatReader>>,
    meter: Arc<Meter>,
    limits: Limits,
    voice: Voice,
    resampler: Option<Resampler>,
    /// Makes the resampler.
    pace: Pace,
    /// Where the next portion of a fragmented MP4 comes from.
    later: Option<Fragments>,
    /// Undecodable packets in a row.
    misses: u32,
    /// Whether anything was decoded at all.
    heard: bool,
    /// Where the next packet should begin on the track's own clock, in seconds.
    expected: Option<f64>,
    interleaved: Vec<f32>,
    mono: Vec<f32>,
}

/// Whether somebody waits for the sound.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    File,
    Live,
}

/// The track that is listened to, with its decoder.
struct Voice {
    track: Track,
    parameters: AudioCodecParameters,
    decoder: Box<dyn AudioDecoder>,
    /// For MPEG audio, how many frames its tag declares to be padding at the end.
    mpeg_padding: Option<u64>,
}

impl Demuxed {
    /// Finds out what the file is and prepares to decode its first readable audio track.
    pub(super) fn open(mut file: File, look: Look, limits: Limits) -> Result<Self, AudioError> {
        let meter = Arc::new(Meter::default());
        let length = file.metadata()?.len();
        let mut seekable = true;
        let reader = loop {
            let (file, end, patches) = (file.try_clone()?, look.end, look.patches.clone());
            let meter = Arc::clone(&meter);
            meter.next_call();
            let answer =
                probe(buffered(Source { file, length, end, patches, meter, seekable, position: 0 }))?;
            match answer {
                // Demuxers that may seek look at the end first and give up when it was cut off. Read as a stream,
                // the same file tells all that is left of it.
                Err(_) if seekable && look.streamable => seekable = false,
                answer => break answer.map_err(unreadable)?,
            }
        };
        let weak = [FORMAT_ID_MP1, FORMAT_ID_MP2, FORMAT_ID_MP3, FORMAT_ID_ADTS];
        if weak.contains(&reader.format_info().format) && !sniff::has_frames(&mut file, length)? {
            return Err(AudioError::Unsupported("no known audio format was recognised".to_owned()));
        }
        let opened = Self::listen(reader, meter, limits, Pace::File)?;
        opened.refuse_long_claims()?;
        Ok(opened)
    }

    /// The same for a stream, of which so much is read as it takes to know its tracks.
    pub(super) fn follow(mut stream: Inflow, limits: Limits) -> Result<Self, AudioError> {
        let meter = stream.meter();
        meter.next_call();
        if stream.ahead().get(4..8) == Some(b"ftyp") {
            let fragments = Fragments::new(stream);
            let later = fragments.handle();
            let reader = probe(buffered(fragments))?.map_err(unreadable)?;
            return Ok(Self { later: Some(later), ..Self::listen(reader, meter, limits, Pace::Live)? });
        }
        let reader = probe(buffered(stream))?.map_err(unreadable)?;
        Self::listen(reader, meter, limits, Pace::Live)
    }

    fn listen(
        reader: Box<dyn FormatReader>,
        meter: Arc<Meter>,
        limits: Limits,
        pace: Pace,
    ) -> Result<Self, AudioError> {
        let voice = Voice::choose(reader.as_ref(), &limits)?;
        Ok(Self {
            reader: Some(reader),
            meter,
            limits,
            voice,
            resampler: None,
            pace,
            later: None,
            misses: 0,
            heard: false,
            expected: None,
            interleaved: Vec::new(),
            mono: Vec::new(),
        })
    }

    /// How long the container says the audio is, as a length of the output.
    pub(super) fn length_hint(&self) -> Option<Samples> {
        let track = &self.voice.track;
        let media = self.reader.as_ref()?.media_info();
        let of_track = track.time_base.zip(track.duration);
        let (base, duration) = of_track.or_else(|| media.time_base.zip(media.duration))?;
        let seconds = base.calc_duration(duration)?.as_secs_f64();
        (seconds > 0.0).then(|| Samples::from_seconds(seconds))
    }

    /// Decodes until at least `least` samples were appended to `out`, or to the end. `false` at the end. The
    /// deadline is for us alone: it moves on while a stream is waited for.
    pub(super) fn read(
        &mut self,
        least: usize,
        deadline: Instant,
        out: &mut Vec<f32>,
    ) -> Result<bool, AudioError> {
        let target = out.len() + least;
        let waited = self.meter.waited();
        while out.len() < target {
            // Tables can be built that take a demuxer longer from packet to packet, or that name endless packets
            // without a sound in them.
            if Instant::now() >= deadline + (self.meter.waited() - waited) {
                return Err(AudioError::Corrupt("it takes longer to read than to listen to".to_owned()));
            }
            self.meter.next_call();
            let Some(reader) = &mut self.reader else { return Ok(false) };
            let packet = match fenced(|| reader.next_packet())? {
                Ok(Some(packet)) => packet,
                Ok(None) | Err(Error::IoError(_)) if self.go_on()? => continue,
                Ok(None) => return self.finish(None, out),
                Err(Error::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                    return self.finish(Some("it ends before its audio begins"), out);
                }
                // The next link of a chained stream, with tracks of its own.
                Err(Error::ResetRequired) => {
                    if let Some(reader) = &self.reader {
                        self.voice = Voice::choose(reader.as_ref(), &self.limits)?;
                    }
                    self.expected = None;
                    continue;
                }
                Err(Error::DecodeError(what)) if self.begins_again(what) => {
                    self.begin_again()?;
                    continue;
                }
                Err(Error::DecodeError(what) | Error::LimitError(what)) => {
                    self.miss(None, what, out)?;
                    continue;
                }
                Err(error) => return Err(unreadable(error)),
            };
            if packet.track_id == self.voice.track.id {
                self.hear(packet, out)?;
            }
        }
        Ok(true)
    }

    /// The next portion of a stream that was cut into portions, for the decoder that there is.
    fn go_on(&mut self) -> Result<bool, AudioError> {
        let Some(portion) = self.later.as_ref().and_then(Fragments::next) else { return Ok(false) };
        self.reader = Some(probe(buffered(portion))?.map_err(unreadable)?);
        Ok(true)
    }

    /// A browser's recorder that was stopped and started again within one stream, which the demuxer takes for an
    /// element that does not belong there.
    fn begins_again(&self, what: &str) -> bool {
        what.contains("unexpected element") && self.format() == Some(FORMAT_ID_MKV)
    }

    fn begin_again(&mut self) -> Result<(), AudioError> {
        const EBML: [u8; 4] = *b"\x1a\x45\xdf\xa3";
        let Some(reader) = self.reader.take() else { return Ok(()) };
        let mut stream = reader.into_inner();
        let header = fenced(|| Ok(stream.read_quad_bytes()?))?.map_err(unreadable)?;
        if header != EBML {
            return Err(AudioError::Corrupt("it goes on with something else in its middle".to_owned()));
        }
        stream.seek_buffered_rel(-(EBML.len() as isize));
        let reader = probe(stream)?.map_err(unreadable)?;
        self.voice = Voice::choose(reader.as_ref(), &self.limits)?;
        self.reader = Some(reader);
        self.expected = None;
        Ok(())
    }

    fn format(&self) -> Option<FormatId> {
        self.reader.as_ref().map(|reader| reader.format_info().format)
    }

    fn hear(&mut self, mut packet: Packet, out: &mut Vec<f32>) -> Result<(), AudioError> {
        self.voice.correct_trim(&mut packet);
        self.bridge(&packet, out)?;
        let (rate, channels) = match self.decode(&packet)? {
            Ok(signal) => signal,
            Err(Error::DecodeError(_) | Error::ResetRequired) if self.heard && self.voice.is_mpeg() => {
                // Files joined end to end change their rate or channels, which this decoder refuses: a new one
                // does not know the old signal.
                self.voice.renew()?;
                match self.decode(&packet)? {
                    Ok(signal) => signal,
                    Err(error) => return self.miss(Some(packet.dur), reason(&error), out),
                }
            }
            Err(Error::Unsupported(what)) if !self.heard => {
                return Err(AudioError::Unsupported(what.to_owned()));
            }
            Err(error) => return self.miss(Some(packet.dur), reason(&error), out),
        };
        self.misses = 0;
        if self.interleaved.is_empty() {
            return Ok(());
        }
        self.limits.check(rate, channels)?;
        self.heard = true;
        self.mono.clear();
        let share = 1.0 / channels as f32;
        let frames = self.interleaved.chunks_exact(channels);
        self.mono.extend(frames.map(|frame| frame.iter().copied().map(sane).sum::<f32>() * share));
        let length = self.mono.len() as f64 / f64::from(rate);
        let audible = packet.pts.saturating_add(packet.trim_start);
        self.expected = self.voice.seconds(audible).map(|begin| begin + length);
        self.deliver(rate, out)
    }

    /// Silence for packets that never arrived: a lost page, a muted microphone. What follows keeps its time.
    fn bridge(&mut self, packet: &Packet, out: &mut Vec<f32>) -> Result<(), AudioError> {
        let times = self.expected.zip(self.voice.seconds(packet.pts));
        match times.map(|(expected, begin)| begin - expected) {
            Some(gap) if (SHORTEST_GAP..LONGEST_GAP).contains(&gap) => self.hush(gap, out),
            _ => Ok(()),
        }
    }

    /// Puts silence in, in the signal that is being heard.
    fn hush(&mut self, seconds: f64, out: &mut Vec<f32>) -> Result<(), AudioError> {
        let Some(rate) = self.resampler.as_ref().map(Resampler::rate) else { return Ok(()) };
        self.mono.clear();
        self.mono.resize((seconds * f64::from(rate)) as usize, 0.0);
        self.deliver(rate, out)
    }

    /// One packet into `interleaved`; its rate and number of channels.
    fn decode(&mut self, packet: &Packet) -> Result<Answer<(u32, usize)>, AudioError> {
        let (decoder, interleaved) = (&mut self.voice.decoder, &mut self.interleaved);
        interleaved.clear();
        fenced(|| {
            let buffer = decoder.decode(packet)?;
            buffer.copy_to_vec_interleaved(interleaved);
            Ok((buffer.spec().rate(), buffer.spec().channels().count()))
        })
    }

    /// Sends `mono` on its way, through a new resampler when the rate is not what it was.
    fn deliver(&mut self, rate: u32, out: &mut Vec<f32>) -> Result<(), AudioError> {
        if let Some(old) = self.resampler.as_mut().filter(|resampler| resampler.rate() != rate) {
            old.finish(out);
            self.resampler = None;
        }
        if self.resampler.is_none() {
            self.resampler = match self.pace {
                Pace::File => Resampler::new(rate),
                Pace::Live => Resampler::live(rate),
            };
        }
        let resampler = self.resampler.as_mut();
        let no_rate = || AudioError::Corrupt("it names no sample rate".to_owned());
        resampler.ok_or_else(no_rate)?.push(&self.mono, out);
        Ok(())
    }

    /// A packet is lost. What came before it keeps its place, what comes after it too.
    fn miss(&mut self, length: Option<Duration>, what: &str, out: &mut Vec<f32>) -> Result<(), AudioError> {
        self.misses += 1;
        if self.misses >= MOST_MISSES {
            return Err(AudioError::Corrupt(format!(
                "{MOST_MISSES} packets in a row do not decode ({what})"
            )));
        }
        if let Some((length, base)) = length.zip(self.voice.track.time_base) {
            let seconds = base.calc_duration_saturating(length).as_secs_f64().clamp(0.0, LONGEST_GAP);
            self.expected = self.expected.map(|expected| expected + seconds);
            self.hush(seconds, out)?;
        }
        Ok(())
    }

    /// Flushes at the end; `fault` says what was wrong with it, should there have been nothing before it.
    fn finish(&mut self, fault: Option<&str>, out: &mut Vec<f32>) -> Result<bool, AudioError> {
        if let Some(resampler) = &mut self.resampler {
            resampler.finish(out);
        }
        match fault {
            _ if self.heard => Ok(false),
            None if self.misses == 0 => Ok(false),
            None => Err(AudioError::Corrupt("no part of it could be decoded".to_owned())),
            Some(fault) => Err(AudioError::Corrupt(fault.to_owned())),
        }
    }

    /// Hours of silence fit into a few kilobytes. Where the container counts its samples exactly, a claim beyond
    /// the limit saves decoding all of it; other containers guess, and are only stopped on the way.
    fn refuse_long_claims(&self) -> Result<(), AudioError> {
        let limit = self.limits.duration;
        let exact = self.format().is_some_and(|format| [FORMAT_ID_FLAC, FORMAT_ID_ISOMP4].contains(&format));
        let margin = Samples(limit.0 / 50) + Samples::from_millis(1000);
        match self.length_hint() {
            Some(claim) if exact && claim > limit + margin => Err(AudioError::TooLong { limit }),
            _ => Ok(()),
        }
    }
}

impl Voice {
    /// The first audio track that a decoder at hand accepts.
    fn choose(reader: &dyn FormatReader, limits: &Limits) -> Result<Self, AudioError> {
        let mut refusal = AudioError::Unsupported("the file holds no audio track".to_owned());
        for track in reader.tracks() {
            let Some(CodecParameters::Audio(parameters)) = &track.codec_params else { continue };
            let rate = parameters.sample_rate.unwrap_or(RATE);
            let channels = parameters.channels.as_ref().map_or(1, |channels| channels.count());
            let decoder = limits.check(rate, channels).and_then(|()| make_decoder(parameters));
            match decoder {
                Ok(decoder) => {
                    let padding = u64::from(track.padding.unwrap_or(0));
                    let format = reader.format_info().format;
                    let mpeg = [FORMAT_ID_MP1, FORMAT_ID_MP2, FORMAT_ID_MP3].contains(&format);
                    return Ok(Self {
                        track: track.clone(),
                        parameters: parameters.clone(),
                        decoder,
                        mpeg_padding: mpeg.then_some(padding),
                    });
                }
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// A time stamp of the track in seconds.
    fn seconds(&self, stamp: Timestamp) -> Option<f64> {
        Some(self.track.time_base?.calc_time(stamp)?.as_secs_f64())
    }

    fn is_mpeg(&self) -> bool {
        self.mpeg_padding.is_some()
    }

    fn renew(&mut self) -> Result<(), AudioError> {
        self.decoder = make_decoder(&self.parameters)?;
        Ok(())
    }

    /// An MPEG stream is cut where the demuxer believes that it ends, and for files without a tag, or joined
    /// end to end, that belief is a guess. Only the padding that a tag declares is cut off.
    fn correct_trim(&mut self, packet: &mut Packet) {
        if let Some(left) = &mut self.mpeg_padding {
            let cut = packet.trim_end.get().min(packet.dur.get()).min(*left);
            *left -= cut;
            packet.trim_end = Duration::new(cut);
        }
    }
}

fn make_decoder(parameters: &AudioCodecParameters) -> Result<Box<dyn AudioDecoder>, AudioError> {
    if parameters.max_frames_per_packet.is_some_and(|frames| frames > MOST_FRAMES) {
        return Err(AudioError::Corrupt("its packets claim to be impossibly long".to_owned()));
    }
    let made = fenced(|| CODECS.make_audio_decoder(parameters, &AudioDecoderOptions::default()))?;
    made.map_err(unreadable)
}

fn buffered(source: impl MediaSource + 'static) -> MediaSourceStream<'static> {
    MediaSourceStream::new(Box::new(source), Default::default())
}

fn probe(stream: MediaSourceStream<'static>) -> Result<Answer<Box<dyn FormatReader>>, AudioError> {
    let (format, metadata) = (FormatOptions::default(), MetadataOptions::default());
    fenced(|| symphonia::default::get_probe().probe(&Hint::new(), stream, format, metadata))
}

/// Asks a question of code that parses a stranger's bytes. Whatever it held is not used again after a panic.
fn fenced<T>(question: impl FnOnce() -> Answer<T>) -> Result<Answer<T>, AudioError> {
    catch_unwind(AssertUnwindSafe(question))
        .map_err(|_| AudioError::Corrupt("the decoder cannot make sense of it".to_owned()))
}

/// What an answer means for the whole file when there is no next packet to try.
fn unreadable(error: Error) -> AudioError {
    match error {
        Error::IoError(error) => match error.kind() {
            ErrorKind::UnexpectedEof => AudioError::Corrupt("it ends before its audio begins".to_owned()),
            ErrorKind::QuotaExceeded => {
                AudioError::Corrupt("its parts are too large or refer to the same bytes too often".to_owned())
            }
            ErrorKind::OutOfMemory | ErrorKind::InvalidInput => {
                AudioError::Corrupt("its lengths are impossible".to_owned())
            }
            _ => AudioError::Io(error),
        },
        Error::Unsupported(what) if what.contains("missing moov") => {
            AudioError::Corrupt("the MP4 index (moov) is missing; the file was probably cut short".to_owned())
        }
        Error::Unsupported(what) if what.contains("no suitable format reader") => {
            AudioError::Unsupported("no known audio format was recognised".to_owned())
        }
        Error::Unsupported(what) => AudioError::Unsupported(what.to_owned()),
        other => AudioError::Corrupt(reason(&other).to_owned()),
    }
}

/// The decoder's own words; they are constants and hold nothing of the file.
fn reason(error: &Error) -> &'static str {
    match error {
        Error::DecodeError(what) | Error::LimitError(what) | Error::Unsupported(what) => what,
        Error::IoError(_) => "it ends inside of a packet",
        Error::SeekError(_) => "it points to places that do not exist",
        _ => "it changes its signal in the middle",
    }
}

/// Samples that are no number become silence, the others stay within full scale.
pub(super) fn sane(sample: f32) -> f32 {
    if sample.is_finite() { sample.clamp(-1.0, 1.0) } else { 0.0 }
}
