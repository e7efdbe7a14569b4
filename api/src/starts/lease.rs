//! Leases in Firestore, for many instances: only the instance that creates the document of a key may start its execution.
//!
//! Every change is a `:commit` with its precondition in the body, so that exactly one of several concurrent attempts succeeds.
//! Source of paths and fields: Google's reference for Firestore's v1 REST API.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode, Uri};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::Start;
use super::error::Error;
use super::execution_index::KEY_LIFETIME;
use super::invocation_id::{InvocationId, KeyDigest};
use crate::config::OnRunning;
use crate::gcp::client::{self, Call, Google};
use crate::gcp::metadata::{Location, ProjectRegion};
use crate::random;
use crate::scope::ProcessName;

/// The collection of the keys' documents, and of the documents about each scope. The time to live of their collection group
/// is in the field `expireAt`.
const COLLECTION: &str = "starts";
/// The collection with a document for each scope.
const SCOPES: &str = "scopes";
/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The largest answer that is read, in bytes. A document of a scope's recent starts has about 200 bytes for each start.
const MAX_BYTES: usize = 1024 * 1024;
/// Recent starts of a scope are kept in one document for each minute, so that no document grows without bound.
const SECONDS_OF_A_DOCUMENT: i64 = 60;
/// How often a commit is tried that collides with another on the same document, and the longest pause between tries.
const MAX_COMMITS: u32 = 4;
const COMMIT_PAUSE: Duration = Duration::from_millis(100);
/// The largest assumed difference between the clocks of two instances, in seconds.
const CLOCKS_APART_SECONDS: i64 = 2;

/// Where the instances of a service keep their leases: a Firestore database.
pub struct Store {
    /// The client that calls Firestore.
    pub google: Google,
    /// The project of the database, which is the job's.
    pub location: Arc<Location>,
    /// Firestore's API, without a slash at the end.
    pub base_url: String,
}

/// Takes and releases the leases that all instances share.
pub struct Leases {
    store: Store,
    /// Identifies this process. A lease with this owner that the process does not know of is one whose confirmation was lost.
    owner: String,
    /// Lease duration: the start's deadline plus the time in which an unanswered send may still take effect.
    duration: SignedDuration,
    /// How long a recent start may be missing from Cloud Run's list.
    recent: SignedDuration,
}

/// A document that this process has leased, as it was last written.
pub struct Lease {
    name: String,
    id: String,
    updated_at: String,
}

/// The result of trying to lease a key.
pub enum Acquired {
    /// The key was never leased before, so nothing was sent for it.
    Fresh(Lease),
    /// An earlier lease of the key has run out, and something may have been sent under it.
    Reclaimed(Lease),
    /// The key started the execution of this name.
    Completed(String),
    /// Another instance holds the lease.
    HeldElsewhere,
}

/// A start in a scope whose execution Cloud Run's list may not show yet.
#[derive(Debug, PartialEq, Eq)]
pub struct RecentStart {
    /// The start.
    pub id: InvocationId,
    /// The name of its execution, once that was recorded.
    pub execution: Option<String>,
}

/// What is recorded for other instances about a start of the scope.
#[derive(Clone, Copy)]
pub enum Recorded<'a> {
    /// It is being sent, or its outcome is ambiguous.
    Sent,
    /// It started the execution of this name.
    Made(&'a str),
    /// It started no execution, so its record is deleted.
    Nothing,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    fields: Fields,
    update_time: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    owner: Text,
    id: Text,
    #[serde(default)]
    execution: Option<Text>,
    lease_until: Moment,
    expire_at: Moment,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    string_value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Moment {
    timestamp_value: Timestamp,
}

/// One element of the answer of `:batchGet`.
#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    found: Option<RecentDocument>,
}

#[derive(Deserialize)]
struct RecentDocument {
    #[serde(default)]
    fields: Map<String, Value>,
}

impl Leases {
    /// `duration` is the lease duration; `recent` is how long a start may be missing from Cloud Run's list.
    pub fn new(store: Store, duration: Duration, recent: SignedDuration) -> Self {
        let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        Self {
            store,
            owner: InvocationId::random().to_string(),
            duration,
            recent: recent.max(duration),
        }
    }

    /// Tries once to lease the key of a start. The same commit records that the start is being sent, unless the scope is
    /// leased too: then the commit for the scope's lease records it.
    pub async fn acquire(&self, start: &Start) -> Result<Acquired, Error> {
        let id = &start.id;
        let name = self.name(&id.key().to_string()).await?;
        let records = records_with_key(start);
        let created = self.create(&name, start, records).await;
        if let Ok(Some(lease)) = created {
            return Ok(Acquired::Fresh(lease));
        }
        // Another instance holds it, or the answer was lost. In the latter case the document names this process as its owner.
        let Some(document) = self.get(&name).await? else {
            return created.map(|_| Acquired::HeldElsewhere); // released just now: try again
        };
        let (fields, now) = (&document.fields, Timestamp::now());
        if fields.expire_at.timestamp_value > now {
            if let Some(earlier) = InvocationId::parse(&fields.id.string_value) {
                id.ensure_same_request(&earlier)?;
            }
            if let Some(execution) = &fields.execution {
                return Ok(Acquired::Completed(execution.string_value.clone()));
            }
            let is_own = fields.owner.string_value == self.owner;
            if !is_own && fields.lease_until.timestamp_value > now {
                return Ok(Acquired::HeldElsewhere);
            }
        }
        let lease = self.take_over(&name, start, records, &document).await?;
        Ok(lease.map_or(Acquired::HeldElsewhere, Acquired::Reclaimed))
    }

    /// Tries once to lease the scope for a start that must know what else the scope is running.
    pub async fn acquire_scope(&self, start: &Start) -> Result<Option<Lease>, Error> {
        let name = self.scope_document(start, "lease").await?;
        let created = self.create(&name, start, true).await;
        if let Ok(Some(lease)) = created {
            return Ok(Some(lease));
        }
        // As for a key: another instance holds it, or the answer was lost.
        let Some(document) = self.get(&name).await? else {
            return created.map(|_| None);
        };
        let fields = &document.fields;
        let is_own = fields.owner.string_value == self.owner
            && fields.id.string_value == start.id.to_string();
        if !is_own && fields.lease_until.timestamp_value > Timestamp::now() {
            return Ok(None);
        }
        self.take_over(&name, start, true, &document).await
    }

    /// Records which execution the key started. This ends the lease.
    pub async fn complete(
        &self,
        lease: &Lease,
        start: &Start,
        execution: &str,
        recorded: Recorded<'_>,
    ) -> Result<(), Error> {
        let fields = self.fields(&lease.id, Some(execution), SignedDuration::ZERO);
        let write = update(&lease.name, &fields, &unchanged_since(&lease.updated_at));
        let records = records_with_key(start);
        self.end(write, start, recorded, records).await
    }

    /// Releases the lease of a key.
    pub async fn release(
        &self,
        lease: &Lease,
        start: &Start,
        recorded: Recorded<'_>,
    ) -> Result<(), Error> {
        let records = records_with_key(start);
        self.end(delete(lease), start, recorded, records).await
    }

    /// Releases the lease of a scope, and records the start for other instances.
    pub async fn release_scope(
        &self,
        lease: &Lease,
        start: &Start,
        recorded: Recorded<'_>,
    ) -> Result<(), Error> {
        self.end(delete(lease), start, recorded, true).await
    }

    async fn end(
        &self,
        write: Value,
        start: &Start,
        recorded: Recorded<'_>,
        records: bool,
    ) -> Result<(), Error> {
        let mut writes = vec![write];
        if records {
            writes.push(self.recent_write(start, recorded).await?);
        }
        let written = self.commit(&writes).await?;
        written
            .map(|_| ())
            .ok_or_else(|| unavailable("another instance has taken over the lease"))
    }

    /// Records a start for other instances, since Cloud Run's list may not show its execution yet.
    pub async fn record(&self, start: &Start, recorded: Recorded<'_>) -> Result<(), Error> {
        let write = self.recent_write(start, recorded).await?;
        self.commit(&[write]).await.map(|_| ())
    }

    /// Makes the key's document name the execution that was kept, if it names the one that was cancelled.
    pub async fn redirect(&self, key: KeyDigest, from: &str, to: &str) -> Result<(), Error> {
        let name = self.name(&key.to_string()).await?;
        let Some(document) = self.get(&name).await? else {
            return Ok(());
        };
        let fields = &document.fields;
        let named = fields.execution.as_ref().map(|text| &text.string_value[..]);
        if named != Some(from) {
            return Ok(());
        }
        let fields = self.fields(&fields.id.string_value, Some(to), SignedDuration::ZERO);
        let write = update(&name, &fields, &unchanged_since(&document.update_time));
        self.commit(&[write]).await.map(|_| ())
    }

    /// The starts of the same scope and process, by all instances, that Cloud Run's list may not show yet.
    pub async fn recent(&self, start: &Start) -> Result<Vec<RecentStart>, Error> {
        let now = Timestamp::now();
        let oldest = now - self.recent;
        let apart = SignedDuration::from_secs(CLOCKS_APART_SECONDS);
        let mut names = Vec::new();
        for minute in minute(oldest)..=minute(now + apart) {
            names.push(self.recent_document(start, minute).await?);
        }
        let place = self.place().await?;
        let uri = self.uri(&format!("{}:batchGet", root(&place.project)))?;
        let body = json!({ "documents": names }).to_string();
        let answer = self.call(Method::POST, &uri, Some(body.into())).await;
        let answer: Vec<Found> =
            client::json(&answer.map_err(unavailable)?).map_err(unavailable)?;
        let documents = answer.into_iter().filter_map(|element| element.found);
        let starts = documents.flat_map(|document| recent_starts(&document.fields, oldest));
        Ok(starts.collect())
    }

    /// Tests that leases can be kept: takes one under a name that no start uses, and releases it.
    pub async fn check(&self) -> Result<(), Error> {
        let name = self.name("check").await?;
        let fields = self.fields("", None, self.duration);
        let write = update(&name, &fields, &json!({ "exists": false }));
        if let Some(updated_at) = self.commit(&[write]).await? {
            let lease = Lease {
                name,
                id: String::new(),
                updated_at,
            };
            return self.commit(&[delete(&lease)]).await.map(|_| ());
        }
        match self.get(&name).await? {
            Some(_) => Ok(()), // left by a test that did not release it
            None => Err(unavailable("there is no database named (default)")),
        }
    }

    /// Creates a lease document. None if the document exists already.
    async fn create(
        &self,
        name: &str,
        start: &Start,
        records: bool,
    ) -> Result<Option<Lease>, Error> {
        let absent = json!({ "exists": false });
        self.write_lease(name, start, records, &absent).await
    }

    /// Rewrites a lease document. None if it has changed meanwhile.
    async fn take_over(
        &self,
        name: &str,
        start: &Start,
        records: bool,
        document: &Document,
    ) -> Result<Option<Lease>, Error> {
        let unchanged = unchanged_since(&document.update_time);
        self.write_lease(name, start, records, &unchanged).await
    }

    async fn write_lease(
        &self,
        name: &str,
        start: &Start,
        records: bool,
        precondition: &Value,
    ) -> Result<Option<Lease>, Error> {
        let id = start.id.to_string();
        let fields = self.fields(&id, None, self.duration);
        let mut writes = vec![update(name, &fields, precondition)];
        if records {
            writes.push(self.recent_write(start, Recorded::Sent).await?);
        }
        let updated_at = self.commit(&writes).await?;
        Ok(updated_at.map(|updated_at| Lease {
            name: name.to_owned(),
            id,
            updated_at,
        }))
    }

    fn fields(&self, id: &str, execution: Option<&str>, lease: SignedDuration) -> Value {
        let now = Timestamp::now();
        let mut fields = json!({
            "owner": { "stringValue": self.owner },
            "id": { "stringValue": id },
            "leaseUntil": { "timestampValue": (now + lease).to_string() },
            "expireAt": { "timestampValue": (now + KEY_LIFETIME).to_string() },
        });
        if let Some(execution) = execution {
            fields["execution"] = json!({ "stringValue": execution });
        }
        fields
    }

    /// Sets or deletes only the start's entry, since other instances write to the same document at the same time.
    async fn recent_write(&self, start: &Start, recorded: Recorded<'_>) -> Result<Value, Error> {
        let (id, at) = (&start.id, start.begun_at);
        let name = self.recent_document(start, minute(at)).await?;
        let mut fields = json!({ "at": { "timestampValue": at.to_string() } });
        if let Recorded::Made(execution) = recorded {
            fields["execution"] = json!({ "stringValue": execution });
        }
        let entry = json!({ "mapValue": { "fields": fields } });
        let entries = match recorded {
            Recorded::Sent | Recorded::Made(_) => Map::from_iter([(id.to_string(), entry)]),
            Recorded::Nothing => Map::new(),
        };
        let fields = json!({
            "starts": { "mapValue": { "fields": entries } },
            "expireAt": { "timestampValue": (at + KEY_LIFETIME).to_string() },
        });
        let paths = [format!("starts.`{id}`"), "expireAt".to_owned()];
        Ok(json!({
            "update": { "name": name, "fields": fields },
            "updateMask": { "fieldPaths": paths },
        }))
    }

    /// The time of the first write. None if its precondition did not hold. If the confirmation was lost, the write may have been
    /// made: the lease is then recognised by its `owner`.
    async fn commit(&self, writes: &[Value]) -> Result<Option<String>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Commit {
            commit_time: String,
            write_results: Vec<WriteResult>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct WriteResult {
            update_time: Option<String>,
        }
        let place = self.place().await?;
        let uri = self.uri(&format!("{}:commit", root(&place.project)))?;
        let body = Bytes::from(json!({ "writes": writes }).to_string());
        let mut commits = 1;
        let answer = loop {
            match self.call(Method::POST, &uri, Some(body.clone())).await {
                Err(client::Error::Refused { code, .. })
                    if code == "ABORTED" && commits < MAX_COMMITS =>
                {
                    commits += 1;
                    sleep(COMMIT_PAUSE.mul_f64(random::fraction())).await;
                }
                answer => break answer,
            }
        };
        match answer {
            Ok(answer) => {
                let commit: Commit = client::json(&answer).map_err(unavailable)?;
                let mut results = commit.write_results.into_iter();
                let first = results.next().and_then(|result| result.update_time);
                Ok(Some(first.unwrap_or(commit.commit_time)))
            }
            Err(client::Error::Refused { code, .. }) if is_precondition(&code, writes) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Document>, Error> {
        let uri = self.uri(name)?;
        match self.call(Method::GET, &uri, None).await {
            Ok(answer) => client::json(&answer).map(Some).map_err(unavailable),
            Err(client::Error::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            }) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn call(
        &self,
        method: Method,
        uri: &Uri,
        body: Option<Bytes>,
    ) -> Result<Bytes, client::Error> {
        let call = Call {
            method,
            uri,
            body,
            timeout: TIMEOUT,
            max_bytes: MAX_BYTES,
        };
        self.store.google.call(&call).await
    }

    fn uri(&self, path: &str) -> Result<Uri, Error> {
        let uri = format!("{}/v1/{path}", self.store.base_url);
        uri.parse().map_err(unavailable)
    }

    async fn place(&self) -> Result<&ProjectRegion, Error> {
        self.store.location.get().await.map_err(unavailable)
    }

    /// The name of a document about a scope. Its parent's name joins the region, the job and the process with tildes, which
    /// none of them can contain; the path has the project.
    async fn scope_document(&self, start: &Start, document: &str) -> Result<String, Error> {
        let place = self.place().await?;
        let (root, region) = (root(&place.project), &place.region);
        let (scope, job) = (&start.scope, start.process.target.job());
        let process = start.process.name.as_ref().map_or("", ProcessName::as_str);
        Ok(format!(
            "{root}/{SCOPES}/{region}~{job}~{process}~{scope}/{COLLECTION}/{document}"
        ))
    }

    async fn recent_document(&self, start: &Start, minute: i64) -> Result<String, Error> {
        self.scope_document(start, &format!("recent-{minute}"))
            .await
    }

    /// The name of the document of a key.
    async fn name(&self, id: &str) -> Result<String, Error> {
        let place = self.place().await?;
        Ok(format!("{}/{COLLECTION}/{id}", root(&place.project)))
    }
}

fn root(project: &str) -> String {
    format!("projects/{project}/databases/(default)/documents")
}

fn update(name: &str, fields: &Value, precondition: &Value) -> Value {
    json!({ "update": { "name": name, "fields": fields }, "currentDocument": precondition })
}

fn delete(lease: &Lease) -> Value {
    json!({ "delete": lease.name, "currentDocument": unchanged_since(&lease.updated_at) })
}

fn unchanged_since(updated_at: &str) -> Value {
    json!({ "updateTime": updated_at })
}

/// Whether the record of a start is written with the lease of its key. Otherwise it is written with the lease of the scope.
fn records_with_key(start: &Start) -> bool {
    start.on_running == OnRunning::Allow
}

fn minute(moment: Timestamp) -> i64 {
    moment.as_second().div_euclid(SECONDS_OF_A_DOCUMENT)
}

/// The entries of a document that are not older than `oldest`.
fn recent_starts(fields: &Map<String, Value>, oldest: Timestamp) -> Vec<RecentStart> {
    let entries = fields
        .get("starts")
        .map(|starts| &starts["mapValue"]["fields"]);
    let entries = entries.and_then(Value::as_object).into_iter().flatten();
    let start = |(id, entry): (&String, &Value)| {
        let fields = &entry["mapValue"]["fields"];
        let at: Timestamp = fields["at"]["timestampValue"].as_str()?.parse().ok()?;
        let execution = fields["execution"]["stringValue"].as_str();
        let start = RecentStart {
            id: InvocationId::parse(id)?,
            execution: execution.map(str::to_owned),
        };
        (at > oldest).then_some(start)
    };
    entries.filter_map(start).collect()
}

/// Whether an error's name means that the first write's precondition did not hold. For a write that creates a document,
/// NOT_FOUND can only mean that the database is missing.
fn is_precondition(code: &str, writes: &[Value]) -> bool {
    let precondition = writes
        .first()
        .and_then(|write| write.get("currentDocument"));
    match code {
        "ALREADY_EXISTS" | "FAILED_PRECONDITION" | "ABORTED" => precondition.is_some(),
        "NOT_FOUND" => precondition.is_some_and(|condition| condition["exists"] != false),
        _ => false,
    }
}

fn unavailable(error: impl Display) -> Error {
    Error::Store(error.to_string())
}
