//! The identity tokens of the metadata server, and the key that they are signed with.

use std::fmt;
use std::io;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

use crate::site::default_account;

/// This private key is public, because it is part of the emulator's source. A token signed with it proves nothing,
/// and only a program under test may accept one.
const WORTHLESS_KEY: &[u8] = include_bytes!("../../data/worthless-key.pk8");
const KEY_ID: &str = "emulator-worthless-key";
/// Google's issuer, which programs under test compare.
const ISSUER: &str = "https://accounts.google.com";
/// The unique id of the service account; Google's have 21 digits too.
const ACCOUNT_ID: &str = "100000000000000000001";
const LIFETIME_SECONDS: i64 = 3600;

/// Signs identity tokens.
pub(crate) struct Identity(RsaKeyPair);

impl Identity {
    pub(crate) fn new() -> io::Result<Self> {
        RsaKeyPair::from_pkcs8(WORTHLESS_KEY)
            .map(Self)
            .map_err(|error| {
                io::Error::other(format!("the key for identity tokens is invalid: {error}"))
            })
    }

    /// A token that identifies the service account to `audience`.
    pub(crate) fn token(&self, audience: &str) -> io::Result<String> {
        let now = Timestamp::now().as_second();
        let header = json!({ "alg": "RS256", "kid": KEY_ID, "typ": "JWT" });
        let claims = json!({
            "aud": audience,
            "azp": ACCOUNT_ID,
            "email": default_account(),
            "email_verified": true,
            "exp": now + LIFETIME_SECONDS,
            "iat": now,
            "iss": ISSUER,
            "sub": ACCOUNT_ID,
        });
        let message = format!(
            "{}.{}",
            encoded(header.to_string()),
            encoded(claims.to_string())
        );
        let mut signature = vec![0; self.0.public().modulus_len()];
        self.0
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message.as_bytes(),
                &mut signature,
            )
            .map_err(|_| io::Error::other("the identity token could not be signed"))?;
        Ok(format!("{message}.{}", encoded(signature)))
    }

    /// The public key as a JSON Web Key Set, which verifies the tokens.
    pub(crate) fn key_set(&self) -> Value {
        let key: PublicKeyComponents<Vec<u8>> = self.0.public().into();
        json!({ "keys": [{
            "alg": "RS256", "e": encoded(key.e), "kid": KEY_ID, "kty": "RSA", "n": encoded(key.n), "use": "sig",
        }] })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
