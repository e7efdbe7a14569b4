//! Checks the service account, the project and the region of the service.

use super::Report;
use super::cures::{Cures, SCRIPT};
use crate::App;
use crate::config::Config;
use crate::gcp::metadata;

/// Checks the token, the project and the region, which all other checks need.
pub(super) async fn identity(app: &App, config: &Config, report: &mut Report) -> Option<Cures> {
    let job = app.processes.unnamed().target.job();
    let account = app.location.metadata().account().await;
    let token = app.token.bearer().await;
    match (&token, &account) {
        (Ok(_), Ok(account)) => report.ok("token", format!("it belongs to {account}")),
        (Ok(_), Err(error)) => {
            report.warn("token", format!("its account is not known: {error}"), None)
        }
        (Err(error), _) => {
            let cure = match error {
                metadata::Error::Unreachable(_) => format!(
                    "{SCRIPT} --check # on Cloud Run\ncargo run -- --project PROJECT --region REGION --job {job} # here"
                ),
                metadata::Error::Unusable { .. } => {
                    "echo $GCE_METADATA_HOST # is that a metadata server?".to_owned()
                }
            };
            report.fail("token", error.to_string(), Some(cure));
        }
    }
    let place = app.location.get().await;
    match &place {
        Ok(place) => report.ok(
            "place",
            format!("project {}, region {}", place.project, place.region),
        ),
        Err(error) => {
            // Setting the names would not help if there is no token either.
            let cure = "export API__CLOUD_RUN__PROJECT=PROJECT API__CLOUD_RUN__REGION=REGION";
            report.fail(
                "place",
                error.to_string(),
                token.is_ok().then(|| cure.to_owned()),
            );
        }
    }
    token.ok()?;
    let account = account.unwrap_or_else(|_| "SERVICE_ACCOUNT".to_owned());
    Some(Cures::new(account, place.ok()?.clone(), job, config))
}
