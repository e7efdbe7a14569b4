//! Who may call, and whether tokens can be checked.

use axum::http::Response;
use reqwest::Client;
use serde_json::Value;

use super::{MAX_BYTES, Report, TIMEOUT};
use crate::auth::Auth;
use crate::config::Config;
use crate::gcp::http_client::{self, HttpClients};

/// Who may call, and whether we can tell.
pub(super) async fn access(auth: &Auth, config: &Config, report: &mut Report) {
    match auth {
        Auth::Public(_) if config.platform.cloud_run => {
            let found = "anyone who reaches the service may do everything";
            let cure = "export API__AUTH__MODE=iam";
            report.warn("access", found, Some(cure.to_owned()));
        }
        Auth::Public(_) => report.ok("access", "anyone who reaches the service"),
        Auth::Iam(_) => report.ok("access", "whoever Cloud Run's IAM lets through"),
        Auth::Bearer(tokens) => {
            match tokens.try_keys().await {
                Ok(()) => {
                    let of_issuer = tokens.jwks_url().map(|url| format!("keys come from {url}"));
                    let found = of_issuer.unwrap_or_else(|| "whoever has a scope token".to_owned());
                    report.ok("access", found);
                }
                Err(why) => {
                    let cure = format!("curl --fail {}", tokens.jwks_url().unwrap_or_default());
                    let found = format!("no keys to check tokens with: {why}");
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

/// The audience is one text, which a token has as it is.
fn audience(audience: &str, report: &mut Report) {
    if let Some((first, _)) = audience.split_once([',', ' ']) {
        let found = format!(
            "{audience:?} is looked for as it is, comma and blank included: there is one audience, not a list"
        );
        let cure = format!("export API__AUTH__JWT__AUDIENCE={first}");
        report.warn("audience", found, Some(cure));
    }
}

/// What the issuer says of itself (OpenID Connect Discovery 1.0, section 4): tokens have that as `iss`, to the letter.
async fn issuer(issuer: &str, report: &mut Report) {
    let root = issuer.trim_end_matches('/');
    let url = format!("{root}/.well-known/openid-configuration");
    let answer = match HttpClients::new() {
        Ok(clients) => described_issuer(&clients.reqwest, &url).await,
        Err(error) => Err(error.to_string()),
    };
    match answer {
        Ok(told) if told == issuer => report.ok("issuer", format!("{issuer} calls itself so")),
        Ok(told) => {
            let found = format!("{issuer} calls itself {told}, so that no token's iss can match");
            let cure = format!("export API__AUTH__JWT__ISSUER={told}");
            report.fail("issuer", found, Some(cure));
        }
        Err(why) => report.warn(
            "issuer",
            format!("{issuer} does not say who it is, so check that it is a token's iss to the letter: {why}"),
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
    let told = described["issuer"].as_str();
    told.map(str::to_owned)
        .ok_or_else(|| "its answer names no issuer".to_owned())
}
