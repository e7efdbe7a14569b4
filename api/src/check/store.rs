//! Checks whether Firestore keeps leases.

use std::sync::Arc;

use axum::http::{Method, StatusCode, Uri};
use bytes::Bytes;

use super::cures::{Api, Cures, status, trouble};
use super::{MAX_BYTES, Report, TIMEOUT};
use crate::config::Config;
use crate::gcp::client::{Call, Error, Google, not_a_uri};
use crate::gcp::http_client::HttpClients;
use crate::{App, FIRESTORE};

/// Checks whether Firestore keeps leases. First an empty commit shows whether the database can be reached and exists.
pub(super) async fn store(app: &App, config: &Config, cures: &Cures, report: &mut Report) {
    if let Err(error) = commit_nothing(app, config, &cures.place.project).await {
        let (project, region) = (&cures.place.project, &cures.place.region);
        let cure = match status(&error) {
            Some(StatusCode::NOT_FOUND) => Some(format!(
                "gcloud firestore databases create --location={region} --project={project} # or nam5, eur3: docs/deploy.md"
            )),
            _ => cures.of(&error, Api::Firestore, cures.leases()),
        };
        return report.fail("store", trouble(&error), cure);
    }
    match app.starts.check_store().await {
        None | Some(Ok(())) => report.ok("store", "Firestore keeps leases"),
        Some(Err(error)) => report.fail("store", error.to_string(), Some(cures.leases())),
    }
}

async fn commit_nothing(app: &App, config: &Config, project: &str) -> Result<(), Error> {
    let clients = HttpClients::new().map_err(|error| Error::NoEffect(error.to_string()))?;
    let (base, token) = match &config.platform.firestore_host {
        Some(host) => (format!("http://{host}"), None),
        None => (FIRESTORE.to_owned(), Some(Arc::clone(&app.token))),
    };
    let uri: Uri = format!("{base}/v1/projects/{project}/databases/(default)/documents:commit")
        .parse()
        .map_err(not_a_uri)?;
    let call = Call {
        method: Method::POST,
        uri: &uri,
        body: Some(Bytes::from_static(b"{}")),
        timeout: TIMEOUT,
        max_bytes: MAX_BYTES,
    };
    let google = Google::new(clients.google_apis, token);
    google.call(&call).await.map(|_| ())
}
