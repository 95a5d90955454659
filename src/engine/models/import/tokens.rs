//! The words of the tokens, from whichever tokenizer lies beside the weights.
//!
//! Whisper's tokens are those of GPT-2, where each byte is written as a letter. A ggml file holds the bytes of the
//! tokens that stand for text; the engine knows the others by their numbers. So a tokenizer with another number for
//! `<|endoftext|>` would make nonsense of every word, and is refused.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::super::ModelError;
use super::bad;
use super::files::{read_json, read_small};

/// `tokenizer.json`, as far as it is needed.
#[derive(Deserialize)]
struct Tokenizer {
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
}

/// The bytes of each text token in order, and the files they were read from.
pub(super) fn read(folder: &Path, vocab: u32) -> Result<(Vec<Vec<u8>>, Vec<PathBuf>), ModelError> {
    let mut ids: HashMap<String, u32>;
    let mut files = Vec::new();
    let found = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    let listed = |words: Vec<String>| words.into_iter().zip(0..).collect();
    if let Some(path) = found("tokenizer.json") {
        let tokenizer: Tokenizer = read_json(&path)?;
        ids = tokenizer.model.vocab;
        ids.extend(tokenizer.added_tokens.into_iter().map(|added| (added.content, added.id)));
        files.push(path);
    } else if let Some(path) = found("vocab.json") {
        ids = read_json(&path)?;
        files.push(path);
        if let Some(path) = found("added_tokens.json") {
            let added: HashMap<String, u32> = read_json(&path)?;
            ids.extend(added);
            files.push(path);
        }
    } else if let Some(path) = found("vocabulary.json") {
        ids = listed(read_json(&path)?);
        files.push(path);
    } else if let Some(path) = found("vocabulary.txt") {
        let text = String::from_utf8(read_small(&path)?).map_err(|_| bad(&path, "it is not UTF-8"))?;
        ids = listed(text.strip_suffix('\n').unwrap_or(&text).split('\n').map(str::to_owned).collect());
        files.push(path);
    } else {
        let names = "tokenizer.json, vocab.json, vocabulary.json or vocabulary.txt";
        return Err(bad(folder, format!("it has no tokenizer: one of {names} must be in it")));
    }
    let tokens = tokens(&ids, vocab)
        .map_err(|why| bad(&files[0], format!("it is not the tokenizer of this model: {why}")))?;
    Ok((tokens, files))
}

/// Puts the words in order, as far as they stand for text.
fn tokens(ids: &HashMap<String, u32>, vocab: u32) -> Result<Vec<Vec<u8>>, String> {
    const END: &str = "<|endoftext|>";
    let multilingual = vocab >= 51_865;
    let end = if multilingual { 50_257 } else { 50_256 };
    // From large-v3 on there is one language more in front of it.
    let no_times = if vocab == 51_866 { 50_364 } else { end + 106 };
    for (special, wanted, needed) in
        [(END, end, true), ("<|startoftranscript|>", end + 1, false), ("<|notimestamps|>", no_times, false)]
    {
        match ids.get(special) {
            Some(id) if *id == wanted => {}
            None if !needed => {}
            Some(id) => return Err(format!("{special} is its token {id} and not {wanted}")),
            None => return Err(format!("it has no {special}")),
        }
    }
    let mut words = vec![None; end as usize];
    for (word, id) in ids {
        if let Some(place) = words.get_mut(*id as usize) {
            *place = Some(word);
        }
    }
    let bytes = bytes_of_letters();
    let mut tokens = Vec::with_capacity(words.len() + 1);
    for (id, word) in words.iter().enumerate() {
        let word = word.ok_or_else(|| format!("it has no token {id}"))?;
        let token: Option<Vec<u8>> = word.chars().map(|letter| bytes.get(&letter).copied()).collect();
        tokens.push(token.ok_or_else(|| format!("its token {id} is not written in GPT-2's letters"))?);
    }
    // They begin with the bytes themselves, in the order of the letters.
    if let Some(id) = (0..256).find(|id| tokens[*id].len() != 1) {
        return Err(format!("its token {id} is not a byte"));
    }
    if !multilingual {
        // The files of the English models name this one as well.
        tokens.push(END.as_bytes().to_vec());
    }
    Ok(tokens)
}

/// GPT-2's letters: printable bytes stand for themselves, the others follow from 256 on.
pub(super) fn bytes_of_letters() -> HashMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others = (0..=255_u8).filter(|byte| !printable(byte)).zip(256_u32..);
    let others = others.filter_map(|(byte, letter)| Some((char::from_u32(letter)?, byte)));
    (0..=255).filter(printable).map(|byte| (char::from(byte), byte)).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_letter() {
        let bytes = bytes_of_letters();
        let all: std::collections::BTreeSet<u8> = bytes.values().copied().collect();
        assert_eq!((bytes.len(), all.len()), (256, 256));
        assert_eq!((bytes[&'!'], bytes[&'\u{120}'], bytes[&'\u{10a}']), (b'!', b' ', b'\n'));
    }
}
