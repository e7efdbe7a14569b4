//! Asks gcloud for an access token and for its account.

use std::process::{Output, Stdio};

use anyhow::{Context, bail};
use tokio::process::Command;

/// gcloud with its own account, or with a service account that it impersonates.
#[derive(Clone, Debug)]
pub struct Gcloud {
    pub impersonated: Option<String>,
}

impl Gcloud {
    /// A new access token, which is valid for an hour.
    pub async fn access_token(&self) -> anyhow::Result<String> {
        let mut arguments = vec!["auth".to_owned(), "print-access-token".to_owned()];
        if let Some(account) = &self.impersonated {
            arguments.push(format!("--impersonate-service-account={account}"));
        }
        let token = output_of(&arguments).await?;
        let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
        if printable && !token.is_empty() {
            Ok(token)
        } else {
            bail!("`gcloud auth print-access-token` printed no token")
        }
    }

    /// The account of the token, if gcloud names one.
    pub async fn account(&self) -> Option<String> {
        if let Some(account) = &self.impersonated {
            return Some(account.clone());
        }
        let arguments = ["config", "get", "account"].map(str::to_owned);
        let account = output_of(&arguments).await.ok();
        account.filter(|account| account.contains('@'))
    }
}

async fn output_of(arguments: &[String]) -> anyhow::Result<String> {
    let mut command = Command::new("gcloud");
    command
        .args(arguments)
        .env("CLOUDSDK_CORE_DISABLE_PROMPTS", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().await.context(
        "cannot run gcloud (is it installed? https://cloud.google.com/sdk/docs/install says how)",
    )?;
    if !status.success() {
        bail!(
            "`gcloud {}` failed; if gcloud is not logged in, run `gcloud auth login`. Its output:\n{}",
            arguments.join(" "),
            String::from_utf8_lossy(&stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}
