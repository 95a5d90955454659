//! Which weights these are, whatever their file is called and whoever has it.

use std::io::{self, Read, Seek, SeekFrom};

use sha2::{Digest, Sha256};

/// How many places of a file are looked at.
const PLACES: u64 = 64;
/// How much is looked at in each, in bytes.
const SAMPLE: u64 = 64 << 10;

/// A hash of the length and of samples from the beginning to the end: gigabytes in an instant. Training moves all of
/// the weights and conversion all of the file, so two models differ in the samples too.
pub fn fingerprint(mut weights: impl Read + Seek) -> io::Result<String> {
    let length = weights.seek(SeekFrom::End(0))?;
    let mut hash = Sha256::new_with_prefix(length.to_le_bytes());
    let mut sample = Vec::new();
    for place in 0..PLACES {
        // The last sample ends with the file.
        let start = length.saturating_sub(SAMPLE) / (PLACES - 1) * place;
        let start = if place == PLACES - 1 { length.saturating_sub(SAMPLE) } else { start };
        weights.seek(SeekFrom::Start(start))?;
        sample.clear();
        weights.by_ref().take(SAMPLE).read_to_end(&mut sample)?;
        hash.update(&sample);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn another_length_or_another_sample_is_another_model() {
        let print = |bytes: &[u8]| fingerprint(Cursor::new(bytes)).expect("memory can be read");
        let weights: Vec<u8> =
            (0..10 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let first = print(&weights);
        assert_eq!(print(&weights), first);
        assert_ne!(print(&weights[..weights.len() - 1]), first);
        for place in [0, weights.len() - 1] {
            let mut other = weights.clone();
            other[place] ^= 1;
            assert_ne!(print(&other), first, "{place}");
        }
        // Another training changes everything.
        let other: Vec<u8> = weights.iter().map(|byte| byte ^ 1).collect();
        assert_ne!(print(&other), first);
        assert_ne!(print(b""), print(b"a"));
    }
}
