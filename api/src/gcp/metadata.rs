//! The metadata server: the service account's identity, and the project and region in which the service runs.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Client;
use tokio::sync::OnceCell;

use crate::gcp::http_client::{self, read_capped};

/// How long an answer may take; a genuine one takes a few milliseconds.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The largest answer read, in bytes; a genuine token has about 1 KiB.
const MAX_BYTES: usize = 16 * 1024;
/// A request must have this header, and the answer of a genuine server has it.
const FLAVOR: &str = "metadata-flavor";
const GOOGLE: &str = "Google";

/// The metadata server of Cloud Run, or the emulator's.
#[derive(Clone)]
pub struct Metadata {
    http: Client,
    root: String,
}

/// Why a value of the metadata server is not available.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, or did not answer in time.
    #[error(
        "the metadata server cannot be reached (outside of Google Cloud, set GCE_METADATA_HOST to an emulator): {0}"
    )]
    Unreachable(String),
    /// It answered, but the answer is unusable.
    #[error("the metadata server returned an unusable {path}: {why}")]
    Unusable {
        /// The path that was asked for.
        path: &'static str,
        /// What is wrong with the answer; never the answer itself, which may be a token.
        why: String,
    },
}

impl Metadata {
    /// `host` is `host[:port]`, as in `GCE_METADATA_HOST`.
    pub fn new(http: Client, host: &str) -> Self {
        Self {
            http,
            root: format!("http://{host}/computeMetadata/v1/"),
        }
    }

    /// The value at a path below `computeMetadata/v1/`, unparsed.
    pub async fn get(&self, path: &'static str) -> Result<Bytes, Error> {
        let request = self
            .http
            .get(format!("{}{path}", self.root))
            .timeout(TIMEOUT);
        let answer = request.header(FLAVOR, GOOGLE).send().await;
        let response = answer.map_err(|error| Error::Unreachable(http_client::describe(&error)))?;
        let status = response.status();
        if !status.is_success() {
            return Err(Error::Unusable {
                path,
                why: format!("its status is {status}"),
            });
        }
        // Google's libraries also check this header, since another server may answer at the address.
        if response
            .headers()
            .get(FLAVOR)
            .is_none_or(|flavor| flavor != GOOGLE)
        {
            return Err(Error::Unusable {
                path,
                why: "it lacks the header Metadata-Flavor: Google, so something else answers at GCE_METADATA_HOST".to_owned(),
            });
        }
        let response = axum::http::Response::from(response);
        read_capped(response.into_body(), MAX_BYTES)
            .await
            .map_err(|error| Error::Unusable {
                path,
                why: error.to_string(),
            })
    }

    /// The service account's address.
    pub async fn account(&self) -> Result<String, Error> {
        let bytes = self.get("instance/service-accounts/default/email").await?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    async fn text(&self, path: &'static str) -> Result<String, Error> {
        let bytes = self.get(path).await?;
        // The answer for a region reads `projects/123/regions/us-east4`.
        let text = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim().rsplit('/').next());
        match text.filter(|text| is_name(text)) {
            Some(name) => Ok(name.to_owned()),
            None => Err(Error::Unusable {
                path,
                why: "it is not a name".to_owned(),
            }),
        }
    }
}

/// Whether the text can be a project, a region or a job: it goes into paths.
pub fn is_name(text: &str) -> bool {
    // A project id of a Google Workspace domain reads `example.com:project`.
    let legal =
        |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.' | b':');
    (1..=128).contains(&text.len())
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text.bytes().all(legal)
}

/// The project and region of the job: from the settings, or from the metadata server, which is asked once.
pub struct Location {
    metadata: Metadata,
    project: Option<String>,
    region: Option<String>,
    known: OnceCell<ProjectRegion>,
}

/// A project and a region, both known.
#[derive(Clone, Debug)]
pub struct ProjectRegion {
    /// The project's id.
    pub project: String,
    /// The region, such as `us-east4`.
    pub region: String,
}

impl Location {
    /// Asks the metadata server for a name that is None.
    pub fn new(metadata: Metadata, project: Option<String>, region: Option<String>) -> Self {
        Self {
            metadata,
            project,
            region,
            known: OnceCell::new(),
        }
    }

    /// Both names. A failure is not cached.
    pub async fn get(&self) -> Result<&ProjectRegion, Error> {
        self.known.get_or_try_init(|| self.ask()).await
    }

    /// The metadata server that is asked.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Both names, if they are known already.
    pub fn known(&self) -> Option<&ProjectRegion> {
        self.known.get()
    }

    async fn ask(&self) -> Result<ProjectRegion, Error> {
        let ask = async |given: &Option<String>, path| match given {
            Some(name) => Ok(name.clone()),
            None => self.metadata.text(path).await,
        };
        let project = ask(&self.project, "project/project-id");
        let region = ask(&self.region, "instance/region");
        let (project, region) = tokio::try_join!(project, region)?;
        Ok(ProjectRegion { project, region })
    }
}
