//! `api token`: makes a scope token, for trying the service with curl.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use jiff::Timestamp;
use lexopt::{Arg, ValueExt};

use crate::auth::is_subject;
use crate::auth::scope_token::{Claims, MAX_LIFETIME, sign};
use crate::config::{Config, Operation};
use crate::scope::{ProcessName, Scope};
use crate::starts::IdempotencyKey;

/// The usage of `api token`.
pub const USAGE: &str = "api token SCOPE... [--operations start,read] [--minutes 15] [--process NAME] [--key KEY] [--subject NAME]";
const DEFAULT_MINUTES: u64 = 15;

/// Makes a scope token with the secret of these settings.
pub fn mint(
    config: &Config,
    arguments: impl IntoIterator<Item = OsString>,
) -> anyhow::Result<String> {
    let claims = claims(arguments).with_context(|| format!("usage: {USAGE}"))?;
    Ok(sign(&config.auth.jwt.secret, &claims)?)
}

fn claims(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<Claims> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut scopes, mut processes) = (Vec::new(), Vec::new());
    let mut operations = vec![Operation::Start, Operation::Read];
    let (mut minutes, mut key, mut sub) = (DEFAULT_MINUTES, None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Value(scope) => scopes.push(scope.parse_with(str::parse::<Scope>)?.to_string()),
            Arg::Long("operations") => operations = parser.value()?.parse_with(list)?,
            // A text that is not a number becomes 0, which is not allowed either.
            Arg::Long("minutes") => minutes = parser.value()?.parse().unwrap_or_default(),
            Arg::Long("process") => {
                let process = parser.value()?.string()?;
                ensure!(
                    ProcessName::new(&process).is_some(),
                    "`{process}` is not the name of a process"
                );
                processes.push(process);
            }
            Arg::Long("key") => key = Some(parser.value()?.string()?),
            Arg::Long("subject") => sub = Some(parser.value()?.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    ensure!(!scopes.is_empty(), "name the scopes that the token is for");
    let lifetime = Duration::from_secs(minutes.saturating_mul(60));
    ensure!(
        !lifetime.is_zero() && lifetime <= MAX_LIFETIME,
        "--minutes must be 1 to 1440"
    );
    if let Some(key) = &key
        && IdempotencyKey::parse(key).is_none()
    {
        bail!("--key must be 1 to 128 letters, digits or . _ : ~ -");
    }
    ensure!(
        sub.as_deref().is_none_or(is_subject),
        "--subject must be a text without control characters"
    );
    let now = Timestamp::now().as_second() as f64;
    Ok(Claims {
        scopes,
        operations,
        exp: now + lifetime.as_secs_f64(),
        iat: Some(now),
        processes: Some(processes).filter(|processes| !processes.is_empty()),
        key,
        sub,
    })
}

fn list(text: &str) -> Result<Vec<Operation>, String> {
    let operation = |name: &str| match name.trim() {
        "start" => Ok(Operation::Start),
        "read" => Ok(Operation::Read),
        "cancel" => Ok(Operation::Cancel),
        other => Err(format!(
            "`{other}` is not an operation: list start, read, cancel"
        )),
    };
    text.split(',').map(operation).collect()
}
