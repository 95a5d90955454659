//! What a receiver recognises us by: the secret both know, and the signature made with it.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;
use uuid::Uuid;

/// What stands before a secret that is written in base64.
const PREFIX: &str = "whsec_";
/// Nobody needs more, and each is kept with its job.
const LONGEST: usize = 512;
/// Padded base64. Bits beyond the last byte are ignored, as verifiers ignore them.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// What signs the deliveries of one webhook: `whsec_` and base64, or any other text, whose bytes are the key.
///
/// The text is kept as it came, because the receiver has it so. Short secrets are taken, since verifiers take them
/// and people bring theirs along; who leaves the choice to us gets 244 random bits.
#[derive(Clone)]
pub struct Secret {
    text: String,
    key: Vec<u8>,
}

/// Why a text is no secret. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadSecret {
    /// There is nothing to sign with.
    #[error("a webhook secret must not be empty")]
    Empty,
    /// More than anybody needs.
    #[error("a webhook secret may have at most {LONGEST} bytes")]
    TooLong,
    /// It says it is base64 and is not. Verifiers differ in what they make of such a text, so none may meet it.
    #[error("what follows whsec_ in a webhook secret must be base64 with its padding")]
    Base64,
}

impl Secret {
    /// A new one, in the form of the Standard Webhooks.
    pub fn generate() -> Self {
        let key = [Uuid::new_v4(), Uuid::new_v4()].map(Uuid::into_bytes).concat();
        Self { text: format!("{PREFIX}{}", STANDARD.encode(&key)), key }
    }

    /// The text, for whoever keeps it or hands it back to its owner.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, BadSecret> {
        if text.len() > LONGEST {
            return Err(BadSecret::TooLong);
        }
        let key = match text.strip_prefix(PREFIX) {
            Some(encoded) => LENIENT.decode(encoded).map_err(|_| BadSecret::Base64)?,
            None => text.as_bytes().to_vec(),
        };
        if key.is_empty() {
            return Err(BadSecret::Empty);
        }
        Ok(Self { text: text.to_owned(), key })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The value of `webhook-signature` for a body that is sent under this id at this time, in Unix seconds.
pub fn sign(secret: &Secret, id: &str, timestamp: i64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.key).expect("HMAC takes keys of any length");
    for part in [id, ".", &timestamp.to_string(), ".", body] {
        mac.update(part.as_bytes());
    }
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}
