//! Tiny Whisper models in every form, with weights that all forms can hold exactly.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use serde_json::json;

use super::layout::{Planned, Shape, in_ctranslate2, in_transformers, plan};
use super::mel;
use super::tensors::Kind;
use super::tokens::bytes_of_letters;

/// One layer each, 32 wide; more encoder than decoder where it is distilled.
pub(in super::super) fn shape(vocab: u32, mels: u32, encoder_layers: u32) -> Shape {
    Shape {
        vocab,
        audio_ctx: 1500,
        width: 32,
        encoder_heads: 2,
        encoder_layers,
        text_ctx: 448,
        decoder_heads: 2,
        decoder_layers: 1,
        mels,
    }
}

/// Seven bits behind the point: exact in 16 bits of both kinds, and in 8 with a scale of 128.
pub(super) const SCALE: f32 = 128.0;

/// The values of a tensor, the same in every form.
pub(super) fn values(name: &str, count: u64) -> Vec<f32> {
    let mut state = name.bytes().fold(7_u32, |state, byte| state.wrapping_mul(31).wrapping_add(byte.into()));
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 24) as f32 - 128.0).max(-127.0) / SCALE
        })
        .collect()
}

/// The words of the tokens, in GPT-2's letters.
fn words(vocab: u32) -> Vec<String> {
    let mut letters: Vec<(char, u8)> = bytes_of_letters().into_iter().collect();
    letters.sort();
    let mut words: Vec<String> = letters.iter().map(|(letter, _)| letter.to_string()).collect();
    let end = if vocab >= 51_865 { 50_257 } else { 50_256 };
    words.extend((256..50_256).map(|id| format!("t{id}")));
    if end == 50_257 {
        words.push(String::new());
    }
    words.extend(["<|endoftext|>", "<|startoftranscript|>"].map(str::to_owned));
    let no_times = if vocab == 51_866 { 50_364 } else { end + 106 };
    words.extend((end + 2..no_times).map(|id| format!("<|x{id}|>")));
    words.push("<|notimestamps|>".to_owned());
    words.extend((no_times + 1..vocab).map(|id| format!("<|y{id}|>")));
    words
}

/// The ggml file that all forms lead to, with weights of 16 bits.
pub(in super::super) fn ggml(shape: &Shape) -> Vec<u8> {
    let mut file = b"lmgg".to_vec();
    let mut numbers = shape.head(1).to_vec();
    numbers.extend([shape.mels, 201]);
    file.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    file.extend(mel::filters(shape.mels as usize).iter().flat_map(|height| height.to_le_bytes()));
    file.extend(50_257_u32.to_le_bytes());
    let bytes = bytes_of_letters();
    for word in words(shape.vocab).iter().take(50_257) {
        let word: Vec<u8> = if word == "<|endoftext|>" {
            word.as_bytes().to_vec()
        } else {
            word.chars().map(|letter| bytes[&letter]).collect()
        };
        file.extend((word.len() as u32).to_le_bytes());
        file.extend(word);
    }
    for Planned { name, sizes } in plan(shape) {
        let whole = sizes.len() < 2
            || name.ends_with("positional_embedding")
            || name.ends_with("conv1.bias")
            || name.ends_with("conv2.bias");
        for number in [sizes.len() as u32, name.len() as u32, u32::from(!whole)] {
            file.extend(number.to_le_bytes());
        }
        file.extend(sizes.iter().rev().flat_map(|size| (*size as u32).to_le_bytes()));
        file.extend(name.as_bytes());
        let kind = if whole { Kind::F32 } else { Kind::F16 };
        file.extend(encode(&values(&name, sizes.iter().product()), kind));
    }
    file
}

pub(super) fn encode(values: &[f32], kind: Kind) -> Vec<u8> {
    match kind {
        Kind::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Kind::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        Kind::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        Kind::I8 => values.iter().map(|value| (value * SCALE).round() as i8 as u8).collect(),
        Kind::I16 => values.iter().flat_map(|value| ((value * SCALE).round() as i16).to_le_bytes()).collect(),
        Kind::Other => panic!("no weights"),
    }
}

fn sizes_elsewhere(planned: &Planned) -> Vec<u64> {
    let conv_bias = planned.sizes.last() == Some(&1);
    if conv_bias { planned.sizes[..1].to_vec() } else { planned.sizes.clone() }
}

/// The tables of safetensors files: name, type, sizes, bytes.
pub(super) type Table = Vec<(String, &'static str, Vec<u64>, Vec<u8>)>;

pub(super) fn table(shape: &Shape, kind: Kind, prefix: &str) -> Table {
    let dtype = match kind {
        Kind::F32 => "F32",
        Kind::F16 => "F16",
        _ => "BF16",
    };
    let tensor = |planned: Planned| {
        let values = values(&planned.name, planned.values());
        let name = format!("{prefix}{}", in_transformers(&planned.name));
        (name, dtype, sizes_elsewhere(&planned), encode(&values, kind))
    };
    plan(shape).into_iter().map(tensor).collect()
}

pub(super) fn safetensors(table: &Table) -> Vec<u8> {
    let mut head = serde_json::Map::new();
    head.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut data = Vec::new();
    for (name, dtype, sizes, bytes) in table {
        let from = data.len();
        data.extend(bytes);
        head.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": sizes, "data_offsets": [from, data.len()]}),
        );
    }
    let head = serde_json::to_vec(&head).expect("a table");
    [&(head.len() as u64).to_le_bytes()[..], &head, &data].concat()
}

pub(super) fn config(shape: &Shape) -> serde_json::Value {
    json!({
        "model_type": "whisper", "vocab_size": shape.vocab, "num_mel_bins": shape.mels, "d_model": shape.width,
        "encoder_layers": shape.encoder_layers, "encoder_attention_heads": shape.encoder_heads,
        "decoder_layers": shape.decoder_layers, "decoder_attention_heads": shape.decoder_heads,
        "encoder_ffn_dim": shape.width * 4, "decoder_ffn_dim": shape.width * 4,
        "max_source_positions": 1500, "max_target_positions": 448, "torch_dtype": "float16",
    })
}

pub(super) fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    fs::write(folder.join(name), bytes).expect("room for a file");
}

/// A folder as transformers writes it.
pub(in super::super) fn transformers(shape: &Shape, folder: &Path) {
    write(folder, "model.safetensors", safetensors(&table(shape, Kind::F16, "model.")));
    write(folder, "config.json", config(shape).to_string());
    write(folder, "generation_config.json", json!({"alignment_heads": [[0, 1]]}).to_string());
    tokenizer(shape.vocab, folder);
}

pub(super) fn tokenizer(vocab: u32, folder: &Path) {
    let words = words(vocab);
    let end = if vocab >= 51_865 { 50_257 } else { 50_256 };
    let text: BTreeMap<&str, usize> = words[..end].iter().map(String::as_str).zip(0..).collect();
    let added: Vec<_> =
        words.iter().enumerate().skip(end).map(|(id, word)| json!({"id": id, "content": word})).collect();
    let tokenizer = json!({"version": "1.0", "added_tokens": added, "model": {"type": "BPE", "vocab": text, "merges": []}});
    write(folder, "tokenizer.json", tokenizer.to_string());
}

pub(super) fn vocab_json(vocab: u32, folder: &Path) {
    let words = words(vocab);
    let (text, added) = words.split_at(50_258);
    let text: BTreeMap<&str, usize> = text.iter().map(String::as_str).zip(0..).collect();
    let added: BTreeMap<&str, usize> = added.iter().map(String::as_str).zip(50_258..).collect();
    write(folder, "vocab.json", json!(text).to_string());
    write(folder, "added_tokens.json", json!(added).to_string());
    write(folder, "merges.txt", "#version: 0.2\n");
}

pub(super) fn vocabulary(vocab: u32, folder: &Path, name: &str) {
    let words = words(vocab);
    let text = if name.ends_with("json") { json!(words).to_string() } else { words.join("\n") + "\n" };
    write(folder, name, text);
}

/// The variables of a CTranslate2 file, by name.
pub(super) type Variables = BTreeMap<String, (Kind, Vec<u64>, Vec<u8>)>;

pub(super) fn variables(shape: &Shape, kind: Kind) -> Variables {
    let mut all = Variables::new();
    for planned in plan(shape) {
        let (name, part, parts) = in_ctranslate2(&planned.name);
        let quantised = matches!(kind, Kind::I8 | Kind::I16)
            && planned.name.ends_with(".weight")
            && planned.sizes.len() == 2;
        let kind = match kind {
            Kind::I8 | Kind::I16 if !quantised => Kind::F32,
            kind => kind,
        };
        let mut sizes = sizes_elsewhere(&planned);
        let rows = sizes[0];
        sizes[0] *= parts;
        let length = (sizes.iter().product::<u64>() * kind.bytes()) as usize;
        if quantised {
            let (scales, count) = if kind == Kind::I8 { (rows * parts, rows * parts) } else { (1, 1) };
            let bytes = encode(&vec![SCALE; scales as usize], Kind::F32);
            let sizes = if kind == Kind::I8 { vec![count] } else { Vec::new() };
            all.insert(format!("{name}_scale"), (Kind::F32, sizes, bytes));
        }
        let bytes = encode(&values(&planned.name, planned.values()), kind);
        let variable = all.entry(name).or_insert_with(|| (kind, sizes, vec![0; length]));
        let at = bytes.len() * part as usize;
        variable.2[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    for half in ["encoder", "decoder"] {
        all.insert(format!("{half}/num_heads"), (Kind::I16, Vec::new(), 2_i16.to_le_bytes().to_vec()));
    }
    all.insert("decoder/pre_norm".to_owned(), (Kind::I8, Vec::new(), vec![1]));
    all
}

pub(super) fn ctranslate2(variables: &Variables) -> Vec<u8> {
    let mut file = 6_u32.to_le_bytes().to_vec();
    let text = |file: &mut Vec<u8>, text: &str| {
        file.extend((text.len() as u16 + 1).to_le_bytes());
        file.extend(text.as_bytes());
        file.push(0);
    };
    text(&mut file, "WhisperSpec");
    file.extend(3_u32.to_le_bytes());
    file.extend((variables.len() as u32).to_le_bytes());
    for (name, (kind, sizes, bytes)) in variables {
        text(&mut file, name);
        file.push(sizes.len() as u8);
        file.extend(sizes.iter().flat_map(|size| (*size as u32).to_le_bytes()));
        file.push(match kind {
            Kind::F32 => 0,
            Kind::I8 => 1,
            Kind::I16 => 2,
            Kind::F16 => 4,
            Kind::Bf16 => 5,
            Kind::Other => 3,
        });
        file.extend((bytes.len() as u32).to_le_bytes());
        file.extend(bytes);
    }
    file.extend(1_u32.to_le_bytes());
    text(&mut file, "decoder/projection/weight");
    text(&mut file, "decoder/embeddings/weight");
    file
}

/// A folder as faster-whisper uses it.
pub(in super::super) fn faster_whisper(shape: &Shape, folder: &Path) {
    write(folder, "model.bin", ctranslate2(&variables(shape, Kind::F16)));
    write(folder, "config.json", json!({"alignment_heads": [[0, 1]], "lang_ids": [1]}).to_string());
    vocabulary(shape.vocab, folder, "vocabulary.json");
}
