//! An issuer of tokens, for the tests. Its key is made anew each time.

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use serde_json::{Value, json};

pub(crate) struct SigningKey {
    key: EncodingKey,
    kid: &'static str,
}

impl SigningKey {
    pub(crate) fn new(kid: &'static str) -> Self {
        let pem = KeyPair::generate_for(&PKCS_RSA_SHA256)
            .unwrap()
            .serialize_pem();
        let key = EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap();
        Self { key, kid }
    }

    /// What the issuer publishes.
    pub(crate) fn public(&self) -> JwkSet {
        let mut key = Jwk::from_encoding_key(&self.key, Algorithm::RS256).unwrap();
        key.common.key_id = Some(self.kid.to_owned());
        JwkSet { keys: vec![key] }
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = Header {
            kid: Some(self.kid.to_owned()),
            ..Header::new(Algorithm::RS256)
        };
        encode(&header, claims, &self.key).unwrap()
    }
}

/// A token that anybody can write.
pub(crate) fn unsigned(alg: &str, claims: &Value) -> String {
    use base64::Engine;
    let part =
        |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({ "alg": alg, "kid": "k1", "typ": "JWT" });
    format!("{}.{}.", part(&header), part(claims))
}

/// A token that is signed with a secret which several parties know.
#[allow(dead_code)] // not in every example
pub(crate) fn signed_with(secret: &str, claims: &Value) -> String {
    let header = Header {
        kid: Some("k1".to_owned()),
        ..Header::new(Algorithm::HS256)
    };
    encode(
        &header,
        claims,
        &EncodingKey::from_secret(secret.as_bytes()),
    )
    .unwrap()
}
