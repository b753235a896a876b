//! The JSON Web Tokens (RFC 7519, HS256) that the fake signs and checks.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac_sha256::HMAC;
use serde::{Deserialize, Serialize};

/// The claims of the fake's tokens.
#[derive(Serialize, Deserialize)]
pub(crate) struct Claims {
    /// The user's id, or the e-mail address in the API without ids.
    pub(crate) sub: String,
    pub(crate) email: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Seconds since 1970.
    pub(crate) iat: u64,
    /// Seconds since 1970.
    pub(crate) exp: u64,
    pub(crate) jti: String,
    /// The id of the account.
    pub(crate) iss: String,
}

/// The key of one fake.
pub(crate) struct Key(Vec<u8>);

impl Key {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    pub(crate) fn sign(&self, claims: &Claims) -> String {
        let claims = serde_json::to_vec(claims).expect("strings and numbers can be written");
        let signed = format!(
            "{}.{}",
            BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#),
            BASE64_URL_SAFE_NO_PAD.encode(claims),
        );
        let signature = HMAC::mac(signed.as_bytes(), &self.0);
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    /// Returns the claims of a token, if this key signed it.
    pub(crate) fn verify(&self, token: &str) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
        // Not in constant time: a fake has nothing to protect.
        if HMAC::mac(signed.as_bytes(), &self.0)[..] != signature {
            return None;
        }
        let (_header, claims) = signed.split_once('.')?;
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_that_signed_a_token_verifies_it() {
        let claims = Claims {
            sub: "u1".into(),
            email: "ada@example.com".into(),
            name: None,
            iat: 1,
            exp: 2,
            jti: "j".into(),
            iss: "acc".into(),
        };
        let token = Key::new(b"one").sign(&claims);
        assert_eq!(Key::new(b"one").verify(&token).expect("its own").sub, "u1");
        assert!(Key::new(b"two").verify(&token).is_none());
        let altered = token.replacen('.', ".A", 1);
        assert!(Key::new(b"one").verify(&altered).is_none());
        assert!(Key::new(b"one").verify("").is_none());
    }
}
