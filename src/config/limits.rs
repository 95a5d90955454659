//! Who may use the server, how much, and from whose pages.

use std::path::PathBuf;

use clap::Args;

use super::{Bad, ConfigError};
use crate::http::{KeysFile, Network, Origins, Quotas, Rates};

#[derive(Debug, Args)]
#[command(next_help_heading = "Keys and limits")]
pub(super) struct LimitFlags {
    /// A file of keys with names and limits of their own, read again on SIGHUP
    #[arg(long, env = "WHISPERWIRE_API_KEYS_FILE")]
    api_keys_file: Option<PathBuf>,
    /// Requests per key, or without keys per address, such as 10/minute,50/hour
    #[arg(long, env = "WHISPERWIRE_RATE_LIMITS")]
    rate_limits: Option<Rates>,
    /// Seconds of audio per key, or without keys per address, such as 3600/hour
    #[arg(long, env = "WHISPERWIRE_AUDIO_LIMITS")]
    audio_limits: Option<Rates>,
    /// Live streams that a key, or without keys an address, may have open at once
    #[arg(long, env = "WHISPERWIRE_MAX_STREAMS_PER_KEY", value_parser = clap::value_parser!(u32).range(1..))]
    max_streams_per_key: Option<u32>,
    /// Origins of pages that may use the server, such as `https://example.com`, with commas between them; * for all
    #[arg(long, env = "WHISPERWIRE_ALLOWED_ORIGINS", value_delimiter = ',')]
    allowed_origins: Vec<String>,
    /// Proxies whose X-Forwarded-For says where a request comes from, as addresses or networks with commas between
    #[arg(long, env = "WHISPERWIRE_TRUST_PROXY", value_delimiter = ',')]
    trust_proxy: Vec<Network>,
}

/// What the flags come to.
pub(super) struct LimitConfig {
    pub(super) keys_file: Option<KeysFile>,
    pub(super) quotas: Quotas,
    pub(super) origins: Origins,
    pub(super) proxies: Vec<Network>,
}

impl LimitFlags {
    pub(super) fn config(self) -> Bad<LimitConfig> {
        let bad = |flag: &str| {
            let flag = flag.to_owned();
            move |why: String| ConfigError::Bad(format!("{flag} {why}"))
        };
        let keys_file = self.api_keys_file.as_deref().map(KeysFile::read).transpose();
        Ok(LimitConfig {
            keys_file: keys_file.map_err(bad("--api-keys-file"))?,
            quotas: Quotas {
                requests: self.rate_limits,
                streams: self.max_streams_per_key,
                audio: self.audio_limits,
            },
            origins: Origins::of(&self.allowed_origins).map_err(bad("--allowed-origins"))?,
            proxies: self.trust_proxy,
        })
    }
}

/// A size: bytes, or with a unit such as `25MB` or `1.5GiB`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || "must be a number of bytes, or a size such as 25MB or 2GiB".to_owned();
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = (number * unit as f64).round();
    if (1.0..=1e15).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("26214400", 26_214_400),
            ("25MB", 25_000_000),
            ("25 mib", 26_214_400),
            ("1.5g", 1_500_000_000),
            ("512b", 512),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MB", "25 apples", "-1", "0", "1e30", "1.2.3MB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
