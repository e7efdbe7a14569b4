//! Claims in Firestore, for many instances: whoever creates a key's document may start, and nobody else.
//!
//! Every change is a `:commit` with a precondition in its body, so that of any number who try one wins. Source of paths and
//! fields: Google's reference for Firestore's v1 REST API.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode, Uri};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Store;
use super::execution_index::KEY_LIFETIME;
use super::invocation_id::Marker;
use crate::gcp::client::{self, Call, Error, Google};
use crate::gcp::metadata::Location;
use crate::http::problem::{Kind, Problem};
use crate::scope::Scope;

/// The collection of all claims. Its documents have a time to live in the field `expireAt`.
const COLLECTION: &str = "starts";
/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The largest answer, in bytes; a document has a few hundred.
const MAX_BYTES: usize = 64 * 1024;

/// The claims of all instances.
pub struct Claims {
    google: Google,
    location: Arc<Location>,
    base_url: String,
    /// This process. A claim of its own that it did not know of is one whose confirmation was lost.
    owner: String,
    /// How long a claim holds: as long as its owner may send, and as what it sent may come true.
    lease: SignedDuration,
}

/// A document that is ours, as it was when we last wrote it.
pub struct Claim {
    name: String,
    marker: String,
    updated_at: String,
}

/// What came of claiming a key.
pub enum Taken {
    /// It is ours, and was nobody's before: nothing was ever sent for it.
    New(Claim),
    /// It is ours, but something may have been sent for it.
    Again(Claim),
    /// It led to this execution.
    Started(String),
    /// Another instance is at it.
    Held,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(borrow)]
    fields: Fields<'a>,
    #[serde(borrow)]
    update_time: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow)]
    owner: Text<'a>,
    #[serde(borrow)]
    marker: Text<'a>,
    #[serde(borrow, default)]
    execution: Option<Text<'a>>,
    lease_until: Moment,
    expire_at: Moment,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text<'a> {
    #[serde(borrow)]
    string_value: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Moment {
    timestamp_value: Timestamp,
}

impl Claims {
    /// `owner` is nobody else's; `lease` is how long a claim holds.
    pub fn new(store: Store, owner: Marker, lease: Duration) -> Self {
        Self {
            google: store.google,
            location: store.location,
            base_url: store.base_url,
            owner: owner.start().to_string(),
            lease: SignedDuration::try_from(lease).unwrap_or(SignedDuration::MAX),
        }
    }

    /// Claims the key of a start, or says who has it.
    pub async fn take(&self, marker: &Marker) -> Result<Taken, Problem> {
        let name = self.name(&marker.start().to_string()).await?;
        let created = self.create(&name, &marker.to_string()).await;
        if let Ok(Some(claim)) = created {
            return Ok(Taken::New(claim));
        }
        // Somebody has it, or the answer was lost: then the document says that we have it.
        let Some(answer) = self.get(&name).await? else {
            return created.map(|_| Taken::Held); // released just now: ask again
        };
        let document = read(&answer)?;
        let now = Timestamp::now();
        if document.fields.expire_at.timestamp_value > now {
            let earlier = Marker::parse(&document.fields.marker.string_value);
            earlier.map_or(Ok(()), |earlier| marker.must_equal(&earlier))?;
            if let Some(execution) = &document.fields.execution {
                return Ok(Taken::Started(execution.string_value.clone().into_owned()));
            }
            let mine = document.fields.owner.string_value == self.owner;
            if !mine && document.fields.lease_until.timestamp_value > now {
                return Ok(Taken::Held);
            }
        }
        let claim = self
            .write(
                &name,
                &marker.to_string(),
                None,
                self.lease,
                &at(&document.update_time),
            )
            .await?;
        Ok(claim.map_or(Taken::Held, Taken::Again))
    }

    /// Waits for nobody: the scope's turn for a start, if it is free, with the execution that the turn before it ended with.
    pub async fn take_turn(
        &self,
        scope: &Scope,
        marker: &Marker,
    ) -> Result<Option<(Claim, Option<String>)>, Problem> {
        let (name, marker) = (
            self.name(&format!("turn-{scope}")).await?,
            marker.to_string(),
        );
        let created = self.create(&name, &marker).await;
        if let Ok(Some(claim)) = created {
            return Ok(Some((claim, None)));
        }
        // As for a key: somebody has it, or the answer was lost.
        let Some(answer) = self.get(&name).await? else {
            return created.map(|_| None);
        };
        let document = read(&answer)?;
        let fields = &document.fields;
        let mine = fields.owner.string_value == self.owner && fields.marker.string_value == marker;
        if !mine && fields.lease_until.timestamp_value > Timestamp::now() {
            return Ok(None);
        }
        let last = document
            .fields
            .execution
            .as_ref()
            .map(|text| text.string_value.clone().into_owned());
        let claim = self
            .write(
                &name,
                &marker,
                last.as_deref(),
                self.lease,
                &at(&document.update_time),
            )
            .await?;
        Ok(claim.map(|claim| (claim, last)))
    }

    /// Writes down what a claim led to, and that its owner is done with it.
    pub async fn settle(&self, claim: &Claim, execution: Option<&str>) -> Result<(), Problem> {
        let over = SignedDuration::ZERO;
        self.write(
            &claim.name,
            &claim.marker,
            execution,
            over,
            &at(&claim.updated_at),
        )
        .await?
        .map(|_| ())
        .ok_or_else(|| unavailable("the claim is not ours any more"))
    }

    /// Gives a claim back: nothing was sent for it, or nothing came of it.
    pub async fn release(&self, claim: &Claim) -> Result<(), Problem> {
        let write = json!({ "delete": claim.name, "currentDocument": at(&claim.updated_at) });
        self.commit(&write).await.map(|_| ())
    }

    /// Whether claims can be kept: makes one that is nobody's and gives it back.
    pub async fn try_out(&self) -> Result<(), Problem> {
        let name = self.name("check").await?;
        if let Some(claim) = self.create(&name, "").await? {
            return self.release(&claim).await;
        }
        match self.get(&name).await? {
            Some(_) => Ok(()), // one that was not given back
            None => Err(unavailable("there is no database named (default)")),
        }
    }

    /// None if there is such a document.
    async fn create(&self, name: &str, marker: &str) -> Result<Option<Claim>, Problem> {
        let absent = json!({ "exists": false });
        self.write(name, marker, None, self.lease, &absent).await
    }

    /// None if the precondition did not hold.
    async fn write(
        &self,
        name: &str,
        marker: &str,
        execution: Option<&str>,
        lease: SignedDuration,
        precondition: &Value,
    ) -> Result<Option<Claim>, Problem> {
        let now = Timestamp::now();
        let mut fields = json!({
            "owner": { "stringValue": self.owner },
            "marker": { "stringValue": marker },
            "leaseUntil": { "timestampValue": (now + lease).to_string() },
            "expireAt": { "timestampValue": (now + KEY_LIFETIME).to_string() },
        });
        if let Some(execution) = execution {
            fields["execution"] = json!({ "stringValue": execution });
        }
        let write = json!({ "update": { "name": name, "fields": fields }, "currentDocument": precondition });
        let updated_at = self.commit(&write).await?;
        Ok(updated_at.map(|updated_at| Claim {
            name: name.to_owned(),
            marker: marker.to_owned(),
            updated_at,
        }))
    }

    /// The moment of the write; none if its precondition did not hold. What was confirmed to nobody may have been done: a
    /// claim of ours is then found by `owner`.
    async fn commit(&self, write: &Value) -> Result<Option<String>, Problem> {
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
        let place = self.location.get().await.map_err(unavailable)?;
        let uri = self.uri(&format!("{}:commit", root(&place.project)))?;
        let body = Bytes::from(json!({ "writes": [write] }).to_string());
        let call = Call {
            method: Method::POST,
            uri: &uri,
            body: Some(body),
            timeout: TIMEOUT,
            max_bytes: MAX_BYTES,
        };
        match self.google.call(&call).await {
            Ok(answer) => {
                let commit: Commit = client::json(&answer).map_err(unavailable)?;
                let first = commit
                    .write_results
                    .into_iter()
                    .next()
                    .and_then(|result| result.update_time);
                Ok(Some(first.unwrap_or(commit.commit_time)))
            }
            Err(Error::Refused { code, .. }) if is_precondition(&code, write) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, Problem> {
        let uri = self.uri(name)?;
        let call = Call {
            method: Method::GET,
            uri: &uri,
            body: None,
            timeout: TIMEOUT,
            max_bytes: MAX_BYTES,
        };
        match self.google.call(&call).await {
            Ok(answer) => Ok(Some(answer)),
            Err(Error::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            }) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    fn uri(&self, path: &str) -> Result<Uri, Problem> {
        let uri = format!("{}/v1/{path}", self.base_url);
        uri.parse().map_err(unavailable)
    }

    async fn name(&self, id: &str) -> Result<String, Problem> {
        let place = self.location.get().await.map_err(unavailable)?;
        Ok(format!("{}/{COLLECTION}/{id}", root(&place.project)))
    }
}

fn root(project: &str) -> String {
    format!("projects/{project}/databases/(default)/documents")
}

fn at(updated_at: &str) -> Value {
    json!({ "updateTime": updated_at })
}

/// Whether an error's name says that the write's precondition did not hold. Nothing can be missing for a document to be
/// created but the database itself.
fn is_precondition(code: &str, write: &Value) -> bool {
    match code {
        "ALREADY_EXISTS" | "FAILED_PRECONDITION" | "ABORTED" => true,
        "NOT_FOUND" => write["currentDocument"]["exists"] != false,
        _ => false,
    }
}

fn read(answer: &[u8]) -> Result<Document<'_>, Problem> {
    client::json(answer).map_err(unavailable)
}

fn unavailable(error: impl std::fmt::Display) -> Problem {
    Problem::from(Kind::IdempotencyStoreUnavailable).because(error)
}
