//! Is this file a model, and which?
//!
//! The engine trusts its files: a wrong number format, an unknown tensor type or an absurd size ends the process,
//! and a file without tensors counts as "empty, for testing". So the whole table of contents is walked first, which
//! costs milliseconds even for the largest model, because the weights themselves are skipped: every tensor must be
//! of a known kind, there must be exactly as many as the model's shape asks for, and the last must end with the
//! file.
//!
//! Deliberately absent: the weights' values; a SHA-256 at download time vouches for those.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::Path;

use super::catalogue::{self, AlignmentHeads, Preset};
use super::{ModelError, entries};

/// What the head of a ggml Whisper file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Tokens: 51,864 for English only, more for many languages.
    pub vocab: u32,
    /// Encoder positions, 50 per second.
    pub audio_ctx: u32,
    /// How wide the layers are.
    pub width: u32,
    /// Attention heads in an encoder layer.
    pub heads: u32,
    /// Attention heads in a decoder layer.
    pub text_heads: u32,
    /// Encoder layers.
    pub encoder_layers: u32,
    /// Decoder positions.
    pub text_ctx: u32,
    /// Decoder layers.
    pub decoder_layers: u32,
    /// Mel bands: 80, or 128 since large-v3.
    pub mels: u32,
    /// How the weights are written: `f16`, `q5_0`, …
    pub numbers: &'static str,
}

impl Header {
    /// Whether it knows other languages than English.
    pub fn multilingual(&self) -> bool {
        self.vocab >= 51_865
    }

    /// How many languages it was made for: 1, 99, or 100 since large-v3.
    pub fn languages(&self) -> usize {
        match self.vocab {
            ..51_865 => 1,
            51_865 => 99,
            _ => 100,
        }
    }

    /// About how much memory one recogniser takes beside the weights, in bytes, when it decodes with so many
    /// candidates at once: what the decoder remembers of its tokens and of the audio, and the largest intermediate
    /// results of both halves. What is reserved and never touched is counted too, so this is rather too much.
    pub fn recognizer_bytes(&self, candidates: u32) -> u64 {
        let [width, heads, layers, vocab, audio, text] =
            [self.width, self.heads, self.decoder_layers, self.vocab, self.audio_ctx, self.text_ctx]
                .map(u64::from);
        // The engine copies the memory of a token for every candidate, and keeps two more to move them around.
        let copies = if candidates > 1 { u64::from(candidates) + 2 } else { 1 };
        // Two matrices of halves per layer and position; positions are rounded up to 256.
        let memory = |positions: u64| 2 * 2 * width * layers * positions.next_multiple_of(256);
        let encoding = 4 * audio * (heads * audio + 8 * width);
        // Prompts may fill half of the text positions, and are decoded in one go.
        let decoding = 4 * (text / 2) * vocab;
        memory(text) * copies + memory(audio) + encoding + decoding
    }

    /// The published model of this shape, such as `base.en`. What was fine-tuned from it has the same shape;
    /// large-v1 and large-v2 cannot be told apart and count as large-v2.
    pub fn class(&self) -> Option<&'static str> {
        let english = !self.multilingual();
        Some(match (self.width, self.encoder_layers, self.decoder_layers, self.mels) {
            (384, 4, 4, 80) if english => "tiny.en",
            (384, 4, 4, 80) => "tiny",
            (512, 6, 6, 80) if english => "base.en",
            (512, 6, 6, 80) => "base",
            (768, 12, 12, 80) if english => "small.en",
            (768, 12, 12, 80) => "small",
            (1024, 24, 24, 80) if english => "medium.en",
            (1024, 24, 24, 80) => "medium",
            (1280, 32, 32, 80) => "large-v2",
            (1280, 32, 32, 128) => "large-v3",
            (1280, 32, 4, 128) => "large-v3-turbo",
            (1280, 32, 2, 128) => "distil-large-v3",
            (256, 4, 3, 80) if english => super::BUNDLED_NAME,
            _ => return None,
        })
    }

    /// How to decode it: as the published model of its shape, else as OpenAI's weights are decoded. A shape with few
    /// decoder layers beside a full encoder is a distilled one, and those were not taught to translate.
    pub fn preset(&self) -> Preset {
        let class = self.class();
        if class == Some(super::BUNDLED_NAME) {
            return catalogue::bundled_preset();
        }
        let twin = class.and_then(|class| entries().iter().find(|entry| entry.name == class));
        let heads: Option<AlignmentHeads> = twin.and_then(|entry| entry.preset.heads.clone());
        let distilled = self.decoder_layers * 2 <= self.encoder_layers;
        catalogue::openai_preset(self.languages(), self.multilingual() && !distilled, heads)
    }
}

/// Why a file is not a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadModel {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// llama.cpp's format.
    #[error("it is a GGUF file, and whisper.cpp reads its own ggml format (ggml-*.bin) only")]
    Gguf,
    /// Transformers' format.
    #[error("it is a safetensors file; whisper.cpp's ggml format (ggml-*.bin) is needed")]
    Safetensors,
    /// A zip archive, such as PyTorch writes.
    #[error("it is a zip archive (PyTorch weights?); whisper.cpp's ggml format (ggml-*.bin) is needed")]
    Zip,
    /// Still compressed.
    #[error("it is compressed; unpack it first")]
    Compressed,
    /// What git leaves where a large file was not fetched.
    #[error("it is a Git LFS pointer and not the model itself; fetch it with `git lfs pull`")]
    LfsPointer,
    /// A web page, which is what a login portal answers with.
    #[error("it is a web page and not a model; something on the network answered in the hub's place")]
    WebPage,
    /// Anything else.
    #[error("it is not a whisper.cpp model")]
    Foreign,
    /// The head holds a number that no Whisper model has.
    #[error("its header is not that of a Whisper model: {0}")]
    Header(String),
    /// It ends too early.
    #[error("it is incomplete: {0}")]
    Incomplete(String),
    /// It goes on too long, or a tensor is not what it should be.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
}

/// Checks a file. Reads its table of contents, not its weights.
pub fn inspect(path: &Path) -> Result<Header, ModelError> {
    Ok(contents(path)?.header)
}

/// What is in a file, and where.
pub(super) struct Contents {
    pub(super) header: Header,
    /// Where the tensors begin, behind the filters and the vocabulary.
    pub(super) start: u64,
    pub(super) tensors: Vec<Tensor>,
}

/// A tensor of a file.
pub(super) struct Tensor {
    pub(super) name: Vec<u8>,
    /// The innermost dimension first.
    pub(super) sizes: Vec<u32>,
    /// How its numbers are written: `f16`, `q5_0`, …
    pub(super) numbers: &'static str,
    /// Where its values begin, and how many bytes they are.
    pub(super) at: u64,
    bytes: u64,
}

/// Checks a file like [`inspect`], and returns its whole table of contents.
pub(super) fn contents(path: &Path) -> Result<Contents, ModelError> {
    let file = File::open(path).map_err(ModelError::io(path))?;
    let length = file.metadata().map_err(ModelError::io(path))?.len();
    walk(BufReader::new(file), length)
        .map_err(|reason| ModelError::NotAModel { path: path.to_path_buf(), reason })
}

/// Checks a model in memory.
pub fn inspect_bytes(bytes: &[u8]) -> Result<Header, BadModel> {
    Ok(walk(BufReader::new(Cursor::new(bytes)), bytes.len() as u64)?.header)
}

/// A way of writing numbers: `values` of them in `bytes`.
struct Numbers {
    /// The id in the header.
    file: u32,
    /// The id before a tensor.
    tensor: u32,
    name: &'static str,
    values: u64,
    bytes: u64,
}

const fn numbers(file: u32, tensor: u32, name: &'static str, values: u64, bytes: u64) -> Numbers {
    Numbers { file, tensor, name, values, bytes }
}

/// What the engine can compute with.
const KNOWN: [Numbers; 13] = [
    numbers(0, 0, "f32", 1, 4),
    numbers(1, 1, "f16", 1, 2),
    numbers(24, 30, "bf16", 1, 2),
    numbers(2, 2, "q4_0", 32, 18),
    numbers(3, 3, "q4_1", 32, 20),
    numbers(8, 6, "q5_0", 32, 22),
    numbers(9, 7, "q5_1", 32, 24),
    numbers(7, 8, "q8_0", 32, 34),
    numbers(10, 10, "q2_k", 256, 84),
    numbers(11, 11, "q3_k", 256, 110),
    numbers(12, 12, "q4_k", 256, 144),
    numbers(13, 13, "q5_k", 256, 176),
    numbers(14, 14, "q6_k", 256, 210),
];

const MAGIC: u32 = 0x6767_6d6c;

fn walk<R: Read + Seek>(reader: BufReader<R>, length: u64) -> Result<Contents, BadModel> {
    let mut walk = Walk { reader, at: 0, length };
    walk.magic()?;
    let (header, width_of) = walk.shape()?;
    walk.filters(&header)?;
    walk.vocabulary(&header)?;
    let start = walk.at;
    let tensors = walk.tensors(&header, width_of)?;
    Ok(Contents { header, start, tensors })
}

/// What the eleven numbers of a head say, if a Whisper model can have them.
pub(super) fn shape(head: [u32; 11]) -> Result<Header, BadModel> {
    numbers_of(head).map(|(header, _)| header)
}

fn numbers_of(head: [u32; 11]) -> Result<(Header, &'static Numbers), BadModel> {
    let [vocab, audio_ctx, width, heads, encoder_layers, text_ctx, text_width, text_heads, ..] = head;
    let [.., decoder_layers, mels, format] = head;
    let check = |holds: bool, what: &str, value: u32| {
        if holds { Ok(()) } else { Err(BadModel::Header(format!("{what} {value}"))) }
    };
    // The engine derives the number of languages from this one and looks them up without asking.
    check((51_864..=51_866).contains(&vocab), "vocabulary size", vocab)?;
    check(audio_ctx == 1500, "audio context", audio_ctx)?;
    check((64..=4096).contains(&text_ctx), "text context", text_ctx)?;
    check((32..=4096).contains(&width), "width", width)?;
    check(text_width == width, "decoder width", text_width)?;
    for heads in [heads, text_heads] {
        check((1..=64).contains(&heads) && width % heads == 0, "number of attention heads", heads)?;
    }
    check((1..=64).contains(&encoder_layers), "number of encoder layers", encoder_layers)?;
    check((1..=64).contains(&decoder_layers), "number of decoder layers", decoder_layers)?;
    check(mels == 80 || mels == 128, "number of mel bands", mels)?;
    // Above 1000 the version of the quantisation is in there too.
    let known = KNOWN.iter().find(|known| known.file == format % 1000);
    let written = known.ok_or_else(|| BadModel::Header(format!("number format {format}")))?;
    check(u64::from(width) % written.values == 0, "width", width)?;
    let header = Header {
        vocab,
        audio_ctx,
        width,
        heads,
        text_heads,
        encoder_layers,
        text_ctx,
        decoder_layers,
        mels,
        numbers: written.name,
    };
    Ok((header, written))
}

struct Walk<R> {
    reader: BufReader<R>,
    at: u64,
    length: u64,
}

impl<R: Read + Seek> Walk<R> {
    fn magic(&mut self) -> Result<(), BadModel> {
        let mut head = Vec::new();
        Read::by_ref(&mut self.reader).take(64).read_to_end(&mut head).map_err(unreadable)?;
        if head.starts_with(&MAGIC.to_le_bytes()) {
            self.reader.seek(std::io::SeekFrom::Start(4)).map_err(unreadable)?;
            self.at = 4;
            return Ok(());
        }
        let text = String::from_utf8_lossy(&head).trim_start().to_ascii_lowercase();
        Err(match &head[..] {
            [] => BadModel::Empty,
            [b'G', b'G', b'U', b'F', ..] => BadModel::Gguf,
            [b'P', b'K', 3, 4, ..] => BadModel::Zip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x1f, 0x8b, ..] => BadModel::Compressed,
            // Eight bytes of length, then a JSON object.
            [_, _, _, _, _, _, _, _, b'{', b'"', ..] => BadModel::Safetensors,
            _ if text.starts_with("version https://git-lfs") => BadModel::LfsPointer,
            _ if text.starts_with("<!doctype") || text.starts_with("<html") => BadModel::WebPage,
            _ => BadModel::Foreign,
        })
    }

    /// The eleven numbers of the head, and how the weights are written.
    fn shape(&mut self) -> Result<(Header, &'static Numbers), BadModel> {
        let mut head = [0; 11];
        for number in &mut head {
            *number = self.number("its header")?;
        }
        numbers_of(head)
    }

    fn filters(&mut self, header: &Header) -> Result<(), BadModel> {
        let (bands, bins) = (self.number("its mel filters")?, self.number("its mel filters")?);
        if bands != header.mels || bins != 201 {
            return Err(BadModel::Header(format!("mel filters of {bands} by {bins}")));
        }
        self.skip(u64::from(bands) * u64::from(bins) * 4, "its mel filters")
    }

    fn vocabulary(&mut self, header: &Header) -> Result<(), BadModel> {
        let words = self.number("its vocabulary")?;
        if words > header.vocab {
            return Err(BadModel::Header(format!("vocabulary of {words} words")));
        }
        for _ in 0..words {
            let letters = self.number("its vocabulary")?;
            if letters > 4096 {
                return Err(BadModel::Damaged(format!("a word of {letters} letters")));
            }
            self.skip(u64::from(letters), "its vocabulary")?;
        }
        Ok(())
    }

    fn tensors(&mut self, header: &Header, written: &Numbers) -> Result<Vec<Tensor>, BadModel> {
        let (encoder, decoder) = (u64::from(header.encoder_layers), u64::from(header.decoder_layers));
        let wanted = 11 + 15 * encoder + 24 * decoder;
        let mut names = HashSet::new();
        let mut tensors = Vec::new();
        let mut weights = 0;
        while self.at < self.length {
            let tensor = self.tensor()?;
            weights += tensor.bytes;
            let new = names.insert(tensor.name.clone());
            tensors.push(tensor);
            if !new || names.len() as u64 > wanted {
                return Err(BadModel::Damaged("it holds more tensors than its shape asks for".to_owned()));
            }
        }
        if (names.len() as u64) < wanted {
            return Err(BadModel::Incomplete(format!("{} of {wanted} tensors", names.len())));
        }
        // The embedding and the large matrices of the layers alone; the engine compares each tensor in detail, but
        // it makes room for them first.
        let width = u64::from(header.width);
        let values = width * u64::from(header.vocab) + width * width * (12 * encoder + 16 * decoder);
        if weights < values / written.values * written.bytes {
            return Err(BadModel::Damaged("its tensors are smaller than its shape asks for".to_owned()));
        }
        Ok(tensors)
    }

    /// Reads one tensor's head and skips its values.
    fn tensor(&mut self) -> Result<Tensor, BadModel> {
        const WHERE: &str = "the head of a tensor";
        let (dimensions, letters, kind) = (self.number(WHERE)?, self.number(WHERE)?, self.number(WHERE)?);
        let damaged = |what: &str| Err(BadModel::Damaged(format!("a tensor with {what}")));
        if !(1..=3).contains(&dimensions) {
            return damaged("an impossible number of dimensions");
        }
        if !(1..=128).contains(&letters) {
            return damaged("an impossible name");
        }
        let Some(kind) = KNOWN.iter().find(|known| known.tensor == kind) else {
            return damaged("an unknown number format");
        };
        let mut values = 1;
        let mut sizes = Vec::new();
        for dimension in 0..dimensions {
            sizes.push(self.number(WHERE)?);
            let size = u64::from(sizes[dimension as usize]);
            // The engine counts values in 32 bits with a sign.
            if size == 0 || values * size > 0x7fff_ffff || (dimension == 0 && size % kind.values != 0) {
                return damaged("an impossible size");
            }
            values *= size;
        }
        let mut name = vec![0; letters as usize];
        self.room(u64::from(letters), WHERE)?;
        self.reader.read_exact(&mut name).map_err(unreadable)?;
        self.at += u64::from(letters);
        let bytes = values / kind.values * kind.bytes;
        let at = self.at;
        self.skip(bytes, "its weights")?;
        Ok(Tensor { name, sizes, numbers: kind.name, at, bytes })
    }

    fn number(&mut self, place: &str) -> Result<u32, BadModel> {
        self.room(4, place)?;
        let mut bytes = [0; 4];
        self.reader.read_exact(&mut bytes).map_err(unreadable)?;
        self.at += 4;
        Ok(u32::from_le_bytes(bytes))
    }

    fn skip(&mut self, bytes: u64, place: &str) -> Result<(), BadModel> {
        self.room(bytes, place)?;
        self.reader.seek_relative(bytes.cast_signed()).map_err(unreadable)?;
        self.at += bytes;
        Ok(())
    }

    fn room(&self, bytes: u64, place: &str) -> Result<(), BadModel> {
        if bytes > self.length - self.at {
            return Err(BadModel::Incomplete(format!("it ends within {place}, after {} bytes", self.length)));
        }
        Ok(())
    }
}

fn unreadable(error: std::io::Error) -> BadModel {
    BadModel::Unreadable(error.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The head of a model: the eleven numbers, filters, two words.
    fn head(shape: [u32; 11]) -> Vec<u8> {
        let mut file = MAGIC.to_le_bytes().to_vec();
        for number in shape {
            file.extend(number.to_le_bytes());
        }
        for number in [shape[9], 201] {
            file.extend(number.to_le_bytes());
        }
        file.resize(file.len() + shape[9] as usize * 201 * 4, 0);
        for number in [2, 1] {
            file.extend(u32::to_le_bytes(number));
        }
        file.push(b'a');
        file.extend(0_u32.to_le_bytes());
        file
    }

    fn tensor(file: &mut Vec<u8>, name: &str, kind: u32, sizes: &[u32], bytes: usize) {
        for number in [sizes.len() as u32, name.len() as u32, kind] {
            file.extend(number.to_le_bytes());
        }
        for size in sizes {
            file.extend(size.to_le_bytes());
        }
        file.extend(name.as_bytes());
        file.resize(file.len() + bytes, 7);
    }

    const TINY: [u32; 11] = [51_864, 1500, 32, 2, 1, 448, 32, 2, 1, 80, 2];

    /// A whole file of the smallest shape: one layer each, 32 wide, q4_0, about a megabyte.
    pub(in super::super) fn model() -> Vec<u8> {
        let mut file = head(TINY);
        tensor(&mut file, "decoder.token_embedding.weight", 2, &[32, 51_864 + 1024], (51_864 + 1024) * 18);
        for index in 1..50 {
            tensor(&mut file, &format!("tensor {index}"), 0, &[2, 2], 16);
        }
        file
    }

    #[test]
    fn a_whole_model_passes_and_tells_its_shape() {
        let header = inspect_bytes(&model()).expect("the file is whole");
        assert_eq!((header.width, header.encoder_layers, header.mels, header.numbers), (32, 1, 80, "q4_0"));
        assert!(!header.multilingual() && header.languages() == 1 && header.class().is_none());
        assert!(header.preset().whole_context);
    }

    #[test]
    fn no_cut_file_passes() {
        let whole = model();
        let cuts = (0..2000)
            .step_by(7)
            .chain((2000..whole.len()).step_by(9973))
            .chain(whole.len() - 200..whole.len());
        for cut in cuts {
            let bad = inspect_bytes(&whole[..cut]).expect_err("a cut file is not a model");
            assert!(
                matches!(bad, BadModel::Empty | BadModel::Foreign | BadModel::Incomplete(_)),
                "{cut}: {bad}"
            );
        }
        let mut longer = whole;
        longer.push(0);
        assert!(inspect_bytes(&longer).is_err());
    }

    #[test]
    fn a_head_without_weights_is_no_model() {
        assert!(matches!(inspect_bytes(&head(TINY)), Err(BadModel::Incomplete(_))));
    }

    #[test]
    fn impossible_numbers_are_refused() {
        for (place, value) in [
            (0, 51_863),
            (0, 60_000),
            (1, 0),
            (1, u32::MAX),
            (2, 33),
            (2, 0),
            (2, 1 << 20),
            (3, 0),
            (3, 5),
            (4, 0),
            (4, 1 << 30),
            (5, 0),
            (6, 64),
            (7, 3),
            (8, 65),
            (9, 81),
            (10, 4),
            (10, 15),
            (10, u32::MAX),
        ] {
            let mut file = model();
            file[4 + place * 4..8 + place * 4].copy_from_slice(&u32::to_le_bytes(value));
            let bad = inspect_bytes(&file).expect_err("no Whisper model has that");
            assert!(matches!(bad, BadModel::Header(_)), "{place} {value}: {bad}");
        }
        let first = head(TINY).len();
        for (place, value) in
            [(0, 0), (0, 4), (1, 0), (1, u32::MAX), (2, 4), (2, 99), (3, 0), (3, 33), (4, u32::MAX)]
        {
            let mut file = model();
            let at = first + place * 4;
            file[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            assert!(inspect_bytes(&file).is_err(), "{place} {value}");
        }
    }

    #[test]
    fn a_shape_too_large_for_the_file_is_refused() {
        let mut shape = TINY;
        (shape[2], shape[6]) = (64, 64);
        let mut file = head(shape);
        for index in 0..50 {
            tensor(&mut file, &format!("tensor {index}"), 0, &[2, 2], 16);
        }
        assert!(matches!(inspect_bytes(&file), Err(BadModel::Damaged(_))));
    }

    #[test]
    fn other_files_are_named() {
        let safetensors = [&[9, 0, 0, 0, 0, 0, 0, 0][..], b"{\"__metadata__\":{}}"].concat();
        for (bytes, bad) in [
            (&b""[..], BadModel::Empty),
            (b"GGUF\x03\0\0\0", BadModel::Gguf),
            (&safetensors, BadModel::Safetensors),
            (b"PK\x03\x04rest", BadModel::Zip),
            (b"\x28\xb5\x2f\xfd....", BadModel::Compressed),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", BadModel::LfsPointer),
            (b"\n<!DOCTYPE html><html>", BadModel::WebPage),
            (b"hello, this is a text", BadModel::Foreign),
        ] {
            assert_eq!(inspect_bytes(bytes).expect_err("not a model"), bad);
        }
    }

    #[test]
    fn recognisers_take_about_what_the_engine_says_it_allocates() {
        // Encoder and decoder, 80 or 128 bands, as OpenAI published them.
        let header = |vocab, width, heads, encoder_layers, decoder_layers, mels| Header {
            vocab,
            audio_ctx: 1500,
            width,
            heads,
            text_heads: heads,
            encoder_layers,
            text_ctx: 448,
            decoder_layers,
            mels,
            numbers: "f16",
        };
        let megabytes = |header: Header, candidates| header.recognizer_bytes(candidates) / 1_000_000;
        let (base, large) = (header(51_865, 512, 8, 6, 6, 80), header(51_866, 1280, 20, 32, 32, 128));
        assert!((140..220).contains(&megabytes(base.clone(), 1)), "{}", megabytes(base.clone(), 1));
        assert!(megabytes(base.clone(), 5) > megabytes(base, 1) + 30);
        assert!((900..1600).contains(&megabytes(large.clone(), 5)), "{}", megabytes(large, 5));
    }

    #[test]
    fn published_shapes_are_recognised() {
        let header = |vocab, width, heads, encoder_layers, decoder_layers, mels| Header {
            vocab,
            audio_ctx: 1500,
            width,
            heads,
            text_heads: heads,
            encoder_layers,
            text_ctx: 448,
            decoder_layers,
            mels,
            numbers: "f16",
        };
        for (header, class) in [
            (header(51_864, 384, 6, 4, 4, 80), "tiny.en"),
            (header(51_865, 512, 8, 6, 6, 80), "base"),
            (header(51_865, 1280, 20, 32, 32, 80), "large-v2"),
            (header(51_866, 1280, 20, 32, 32, 128), "large-v3"),
            (header(51_866, 1280, 20, 32, 4, 128), "large-v3-turbo"),
        ] {
            assert_eq!(header.class(), Some(class));
            let published = super::super::find(class).expect("published models are in the catalogue");
            assert_eq!(header.preset(), published.preset, "{class}");
        }
        let bundled = header(51_864, 256, 4, 4, 3, 80);
        assert_eq!(bundled.preset(), catalogue::bundled_preset());
        assert!(!header(51_866, 1280, 20, 32, 2, 128).preset().translates);
    }
}
