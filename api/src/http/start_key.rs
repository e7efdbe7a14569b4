//! Finds the idempotency key of a start: that of the caller's token, that of the header, or one made of Google's headers.

use axum::http::HeaderMap;
use ring::digest::{Context, SHA256};

use crate::auth::Caller;
use crate::http::extract::idempotency_key;
use crate::http::problem::{Kind, Problem};
use crate::starts::IdempotencyKey;

/// Separates the texts that are hashed. No header's value contains it.
const SEPARATOR: &[u8] = b"\n";

/// A key and its owner.
pub struct StartKey {
    pub key: IdempotencyKey,
    /// The owner: equal keys of different owners are different keys.
    pub owner: String,
}

/// The key of the start, if it has one. If the token names a key, every start has that key, and a different one is refused.
/// `from_google` says whether a key is made of the headers of Cloud Scheduler and Cloud Tasks.
pub fn start_key(
    headers: &HeaderMap,
    caller: &Caller,
    from_google: bool,
) -> Result<Option<StartKey>, Problem> {
    let sent = idempotency_key(headers)?;
    if let Some(key) = &caller.key {
        return of_token(key, sent, caller).map(Some);
    }
    let key = match sent {
        None if from_google => google_key(headers)?,
        sent => sent,
    };
    Ok(key.map(|key| StartKey {
        key,
        owner: caller.identity.clone(),
    }))
}

/// The key that the token names. Its owner differs from that of a header's key, so that the bearer of another token cannot use it.
fn of_token(key: &str, sent: Option<IdempotencyKey>, caller: &Caller) -> Result<StartKey, Problem> {
    let key = IdempotencyKey::parse(key).ok_or_else(|| {
        let detail = "The key in the token must be 1 to 128 letters, digits or . _ : ~ -.";
        Problem::new(Kind::IdempotencyKeyInvalid, detail)
    })?;
    if sent.is_some_and(|sent| sent != key) {
        let detail = "The token names the key of its start. Send no Idempotency-Key with it.";
        return Err(Problem::new(Kind::IdempotencyKeyInvalid, detail));
    }
    Ok(StartKey {
        key,
        owner: format!("{}\u{1}key of the token", caller.identity), // no subject has control characters
    })
}

/// The key of a schedule's run or of a queue's task. Google may deliver both more than once.
fn google_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let header = |name| only(headers, name);
    let job = header("x-cloudscheduler-jobname")?;
    let time = header("x-cloudscheduler-scheduletime")?;
    if let (Some(job), Some(time)) = (job, time) {
        return Ok(digest("scheduler", job, time));
    }
    let queue = header("x-cloudtasks-queuename")?.unwrap_or_default();
    let task = header("x-cloudtasks-taskname")?;
    Ok(task.and_then(|task| digest("tasks", queue, task)))
}

/// The header's value, if there is one that is not empty.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value
            .map(|value| value.as_bytes())
            .filter(|value| !value.is_empty())),
        (_, Some(_)) => {
            let detail = format!("Send the header {name} once.");
            Err(Problem::new(Kind::IdempotencyKeyInvalid, detail))
        }
    }
}

/// Hashes the texts into a key, since they may have characters and lengths that a key must not have.
fn digest(kind: &str, group: &[u8], name: &[u8]) -> Option<IdempotencyKey> {
    let mut context = Context::new(&SHA256);
    for part in [kind.as_bytes(), SEPARATOR, group, SEPARATOR, name] {
        context.update(part);
    }
    let digest = context.finish();
    let digits: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    IdempotencyKey::parse(&format!("google-{kind}:{digits}"))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn key(headers: &[(&'static str, &'static str)]) -> Option<IdempotencyKey> {
        let headers = headers.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        google_key(&headers.collect()).unwrap()
    }

    #[test]
    fn each_run_of_a_schedule_and_each_task_has_its_own_key() {
        let (job, time) = ("x-cloudscheduler-jobname", "x-cloudscheduler-scheduletime");
        let (queue, task) = ("x-cloudtasks-queuename", "x-cloudtasks-taskname");
        let different = [
            key(&[(job, "nightly"), (time, "2026-11-26T03:00:00Z")]),
            key(&[(job, "nightly"), (time, "2026-11-27T03:00:00Z")]),
            key(&[(job, "nightly2"), (time, "026-11-26T03:00:00Z")]),
            key(&[(task, "5243")]),
            key(&[(task, "5243"), (queue, "imports")]),
            key(&[(task, "3"), (queue, "524")]),
            key(&[(task, "524"), (queue, "3")]),
        ];
        for (n, one) in different.iter().enumerate() {
            assert!(one.is_some());
            assert!(different.iter().skip(n + 1).all(|other| one != other));
        }
        assert!(different[0] == key(&[(job, "nightly"), (time, "2026-11-26T03:00:00Z")]));
        for none in [
            &[][..],
            &[(job, "nightly")],
            &[(time, "t")],
            &[(task, "")],
            &[(queue, "q")],
        ] {
            assert!(key(none).is_none());
        }
    }
}
