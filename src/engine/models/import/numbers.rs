//! How weights are written in a ggml file: whole numbers of 32 values become blocks, as ggml's own quantiser makes
//! them.
//!
//! Which tensors are quantised is the rule of whisper.cpp's `quantize`: those of two dimensions, but for the biases
//! of the convolutions and the positional embeddings.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// How the weights of a model are to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Numbers {
    /// 32 bits each
    #[value(name = "f32")]
    F32,
    /// 16 bits each, as models are published
    #[value(name = "f16")]
    F16,
    /// 8.5 bits each
    #[value(name = "q8_0")]
    Q8_0,
    /// 6 bits each
    #[value(name = "q5_1")]
    Q5_1,
    /// 5.5 bits each
    #[value(name = "q5_0")]
    Q5_0,
    /// 5 bits each
    #[value(name = "q4_1")]
    Q4_1,
    /// 4.5 bits each
    #[value(name = "q4_0")]
    Q4_0,
}

/// ggml's version of the blocks, which the number format in the head says beside the format.
const BLOCKS_VERSION: u32 = 2;

/// How many values are a block.
pub(super) const BLOCK: usize = 32;

impl Numbers {
    const ALL: [Self; 7] = [Self::F32, Self::F16, Self::Q8_0, Self::Q5_1, Self::Q5_0, Self::Q4_1, Self::Q4_0];

    /// As it is written in the names of models.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q5_1 => "q5_1",
            Self::Q5_0 => "q5_0",
            Self::Q4_1 => "q4_1",
            Self::Q4_0 => "q4_0",
        }
    }

    /// The one that a model's name ends with: `base-q5_1`.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let (_, ending) = name.rsplit_once('-')?;
        Self::ALL.into_iter().find(|numbers| numbers.name() == ending)
    }

    fn is_quantised(self) -> bool {
        !matches!(self, Self::F32 | Self::F16)
    }

    /// The number in a file's head.
    pub(super) fn in_head(self) -> u32 {
        let format = match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 7,
            Self::Q5_0 => 8,
            Self::Q5_1 => 9,
        };
        if self.is_quantised() { BLOCKS_VERSION * 1000 + format } else { format }
    }

    /// The number in a tensor's head.
    pub(super) fn in_tensor(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
        }
    }

    /// How a tensor of a model with these numbers is written.
    pub(super) fn of_tensor(self, name: &str, dimensions: usize) -> Self {
        const WHOLE: [&str; 4] = [
            "encoder.conv1.bias",
            "encoder.conv2.bias",
            "encoder.positional_embedding",
            "decoder.positional_embedding",
        ];
        if dimensions < 2 || WHOLE.contains(&name) || self == Self::F32 {
            Self::F32
        } else if dimensions == 2 {
            self
        } else {
            Self::F16
        }
    }

    /// How many bytes so many values take.
    pub(super) fn bytes(self, values: u64) -> u64 {
        let blocks = values / BLOCK as u64;
        match self {
            Self::F32 => values * 4,
            Self::F16 => values * 2,
            Self::Q8_0 => blocks * 34,
            Self::Q5_1 => blocks * 24,
            Self::Q5_0 => blocks * 22,
            Self::Q4_1 => blocks * 20,
            Self::Q4_0 => blocks * 18,
        }
    }

    /// Appends values; whole blocks of them where they are quantised.
    pub(in crate::engine) fn write(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F32 => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::F16 => {
                let mut halves = vec![f16::ZERO; values.len()];
                halves.convert_from_f32_slice(values);
                out.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
            }
            _ => {
                for block in values.as_chunks::<BLOCK>().0 {
                    self.block(block, out);
                }
            }
        }
    }

    /// The sums are those of ggml's reference code, step by step, so that the blocks are the same.
    fn block(self, values: &[f32; BLOCK], out: &mut Vec<u8>) {
        let inverse = |step: f32| if step == 0.0 { 0.0 } else { 1.0 / step };
        match self {
            Self::Q8_0 => {
                let step = values.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / 127.0;
                let inverse = inverse(step);
                out.extend(f16::from_f32(step).to_le_bytes());
                out.extend(values.iter().map(|value| (value * inverse).round() as i8 as u8));
            }
            Self::Q4_0 | Self::Q5_0 => {
                let levels: f32 = if self == Self::Q4_0 { 8.0 } else { 16.0 };
                let farthest = |most: f32, value: &f32| if value.abs() > most.abs() { *value } else { most };
                let step = values.iter().fold(0.0, farthest) / -levels;
                let inverse = inverse(step);
                out.extend(f16::from_f32(step).to_le_bytes());
                let most = 2 * levels as u8 - 1;
                let quants = values.map(|value| ((value * inverse + (levels + 0.5)) as u8).min(most));
                pack(&quants, self == Self::Q5_0, out);
            }
            _ => {
                let most: u8 = if self == Self::Q4_1 { 15 } else { 31 };
                let least = values.iter().copied().fold(f32::MAX, f32::min);
                let step = (values.iter().copied().fold(f32::MIN, f32::max) - least) / f32::from(most);
                let inverse = inverse(step);
                out.extend(f16::from_f32(step).to_le_bytes());
                out.extend(f16::from_f32(least).to_le_bytes());
                let quants = values.map(|value| (((value - least) * inverse + 0.5) as u8).min(most));
                pack(&quants, self == Self::Q5_1, out);
            }
        }
    }
}

/// The fifth bits of all values, where there are any, then the lower four of a value of each half in a byte.
fn pack(quants: &[u8; BLOCK], fifth: bool, out: &mut Vec<u8>) {
    if fifth {
        let bits = quants.iter().enumerate().map(|(place, quant)| u32::from(quant >> 4 & 1) << place);
        out.extend(bits.sum::<u32>().to_le_bytes());
    }
    let (first, second) = quants.split_at(BLOCK / 2);
    out.extend(first.iter().zip(second).map(|(low, high)| low & 15 | high << 4));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that are spread like weights, and are the same every time.
    fn values() -> Vec<f32> {
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..64 * BLOCK).map(|n| if n < BLOCK { 0.0 } else { random() * random() }).collect()
    }

    #[test]
    fn quantised_values_are_near_what_they_were() {
        for (numbers, levels) in [
            (Numbers::Q8_0, 254.0),
            (Numbers::Q5_1, 31.0),
            (Numbers::Q5_0, 31.0),
            (Numbers::Q4_1, 15.0),
            (Numbers::Q4_0, 15.0),
        ] {
            let values = values();
            let mut written = Vec::new();
            numbers.write(&values, &mut written);
            assert_eq!(written.len() as u64, numbers.bytes(values.len() as u64));
            for (block, bytes) in values.chunks(BLOCK).zip(written.chunks(written.len() / 64)) {
                let read = read(numbers, bytes);
                let range = block.iter().fold(0.0_f32, |most, value| most.max(value.abs())) * 2.0;
                for (value, read) in block.iter().zip(read) {
                    assert!(
                        (value - read).abs() <= range / levels * 1.02 + 1e-6,
                        "{numbers:?} {value} {read}"
                    );
                }
            }
        }
    }

    /// A block, as the engine reads it.
    fn read(numbers: Numbers, bytes: &[u8]) -> Vec<f32> {
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
        let step = half(0);
        if numbers == Numbers::Q8_0 {
            return bytes[2..].iter().map(|quant| f32::from(quant.cast_signed()) * step).collect();
        }
        let least = match numbers {
            Numbers::Q4_0 => -8.0 * step,
            Numbers::Q5_0 => -16.0 * step,
            _ => half(2),
        };
        let at = if matches!(numbers, Numbers::Q4_1 | Numbers::Q5_1) { 4 } else { 2 };
        let five = matches!(numbers, Numbers::Q5_0 | Numbers::Q5_1);
        let bits =
            if five { u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) } else { 0 };
        let nibbles = &bytes[at + if five { 4 } else { 0 }..];
        (0..BLOCK)
            .map(|n| {
                let nibble = if n < 16 { nibbles[n] & 15 } else { nibbles[n - 16] >> 4 };
                let quant = u32::from(nibble) | (bits >> n & 1) << 4;
                quant as f32 * step + least
            })
            .collect()
    }

    #[test]
    fn what_is_quantised_is_what_the_engines_own_tool_quantises() {
        for (name, dimensions, numbers) in [
            ("decoder.token_embedding.weight", 2, Numbers::Q5_1),
            ("encoder.blocks.0.attn.query.weight", 2, Numbers::Q5_1),
            ("encoder.blocks.0.attn.query.bias", 1, Numbers::F32),
            ("encoder.conv1.weight", 3, Numbers::F16),
            ("encoder.conv1.bias", 2, Numbers::F32),
            ("decoder.positional_embedding", 2, Numbers::F32),
        ] {
            assert_eq!(Numbers::Q5_1.of_tensor(name, dimensions), numbers, "{name}");
        }
        assert_eq!(Numbers::F32.of_tensor("encoder.conv1.weight", 3), Numbers::F32);
        assert_eq!(Numbers::of_name("base.en-q5_1"), Some(Numbers::Q5_1));
        assert_eq!((Numbers::of_name("large-v3"), Numbers::of_name("base")), (None, None));
    }
}
