//! Checks the authentication mode, and whether tokens can be verified.

use axum::http::Response;
use reqwest::Client;
use serde_json::Value;

use super::{MAX_BYTES, Report, TIMEOUT};
use crate::auth::Auth;
use crate::config::Config;
use crate::gcp::http_client::{self, HttpClients};

/// Reports who may call, and checks that tokens can be verified.
pub(super) async fn access(auth: &Auth, config: &Config, report: &mut Report) {
    match auth {
        Auth::Public(_) if config.platform.cloud_run => {
            let found = "anyone who reaches the service may do everything";
            let cure = "export API__AUTH__MODE=iam";
            report.warn("access", found, Some(cure.to_owned()));
        }
        Auth::Public(_) => report.ok("access", "anyone who reaches the service"),
        Auth::Iam(_) => report.ok("access", "callers whom Cloud Run's IAM lets through"),
        Auth::Bearer(tokens) => {
            match tokens.try_keys().await {
                Ok(()) => {
                    let of_issuer = tokens.jwks_url().map(|url| format!("keys come from {url}"));
                    let found =
                        of_issuer.unwrap_or_else(|| "callers with a scope token".to_owned());
                    report.ok("access", found);
                }
                Err(why) => {
                    let cure = format!("curl --fail {}", tokens.jwks_url().unwrap_or_default());
                    let found = format!("the keys for checking tokens cannot be fetched: {why}");
                    report.fail("access", found, Some(cure));
                }
            }
            if let Some(text) = &config.auth.jwt.audience {
                audience(text, report);
            }
            // The presets know their issuers.
            if let (None, Some(text)) = (config.auth.jwt.preset, &config.auth.jwt.issuer) {
                issuer(text, report).await;
            }
        }
    }
}

/// Warns of an audience that looks like a list: it is one text, which a token must contain exactly.
fn audience(audience: &str, report: &mut Report) {
    if let Some((first, _)) = audience.split_once([',', ' ']) {
        let found =
            format!("{audience:?} is one audience, including its comma or blank, and not a list");
        let cure = format!("export API__AUTH__JWT__AUDIENCE={first}");
        report.warn("audience", found, Some(cure));
    }
}

/// Compares the setting with the issuer's discovery document (OpenID Connect Discovery 1.0, section 4): tokens have exactly that
/// `issuer` as `iss`.
async fn issuer(issuer: &str, report: &mut Report) {
    let root = issuer.trim_end_matches('/');
    let url = format!("{root}/.well-known/openid-configuration");
    let answer = match HttpClients::new() {
        Ok(clients) => described_issuer(&clients.reqwest, &url).await,
        Err(error) => Err(error.to_string()),
    };
    match answer {
        Ok(found) if found == issuer => report.ok("issuer", format!("{issuer} has this name in its discovery document")),
        Ok(other) => {
            let found = format!("{issuer} calls itself {other} in its discovery document, so that no token's iss can match");
            let cure = format!("export API__AUTH__JWT__ISSUER={other}");
            report.fail("issuer", found, Some(cure));
        }
        Err(why) => report.warn(
            "issuer",
            format!("{issuer} has no readable discovery document, so check that it is exactly a token's iss: {why}"),
            Some(format!("curl --fail {url}")),
        ),
    }
}

async fn described_issuer(http: &Client, url: &str) -> Result<String, String> {
    let answer = http.get(url).timeout(TIMEOUT).send().await;
    let answer = answer.map_err(|error| http_client::describe(&error))?;
    if !answer.status().is_success() {
        return Err(format!("it answered {}", answer.status()));
    }
    let answer = Response::from(answer);
    let body = http_client::read_capped(answer.into_body(), MAX_BYTES).await;
    let body = body.map_err(|error| error.to_string())?;
    let described: Value = serde_json::from_slice(&body).unwrap_or_default();
    let issuer = described["issuer"].as_str();
    issuer
        .map(str::to_owned)
        .ok_or_else(|| "its answer names no issuer".to_owned())
}
