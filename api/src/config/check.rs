//! Refuses settings that cannot work. Each error names the setting and how to correct it.

use std::net::IpAddr;

use reqwest::Url;

use super::{CloudRun, Config, Invalid, METADATA_HOST};
use crate::gcp::metadata::is_name;

/// The longest deadline of a start, in seconds. Cloud Run's front end and browsers wait longer.
const MAX_DEADLINE_SECONDS: u64 = 60;
/// The longest `start.quiet_seconds`. It is shorter than the 24 hours for which a key is remembered.
const MAX_QUIET_SECONDS: u64 = 3600;
/// The most reads of Cloud Logging a minute. No quota allows as many.
const MAX_LOG_READS_PER_MINUTE: u32 = 60_000;

/// Cloud Run runs no more executions of a project and region at one time ("Quotas and limits").
const MAX_MAX_RUNNING: u32 = 1_000;

impl Config {
    /// Checks the settings that can be checked independently of each other.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if self.cloud_run.job.is_empty() {
            return Err(Invalid::new(
                "cloud_run.job",
                "must be set to the name of the Cloud Run job to start",
            ));
        }
        let CloudRun {
            job,
            project,
            region,
            container,
            ..
        } = &self.cloud_run;
        name("cloud_run.job", Some(job), "job's name")?;
        name("cloud_run.project", project.as_ref(), "project's id")?;
        name("cloud_run.region", region.as_ref(), "region")?;
        name(
            "cloud_run.container",
            container.as_ref(),
            "container's name",
        )?;
        for (process, own) in &self.processes {
            let setting = |key| format!("processes.{process}.{key}");
            let container = own.container.as_ref().and_then(Option::as_ref);
            name(&setting("job"), own.job.as_ref(), "job's name")?;
            name(&setting("container"), container, "container's name")?;
            max_running(&setting("max_running"), own.max_running.unwrap_or(1))?;
        }
        max_running("start.max_running", self.start.max_running)?;
        if self.start.quiet_seconds > MAX_QUIET_SECONDS {
            return Err(Invalid::new(
                "start.quiet_seconds",
                format!("must be 0 to {MAX_QUIET_SECONDS}"),
            ));
        }
        if !(1..=MAX_DEADLINE_SECONDS).contains(&self.start.deadline_seconds) {
            return Err(Invalid::new(
                "start.deadline_seconds",
                format!("must be 1 to {MAX_DEADLINE_SECONDS}"),
            ));
        }
        if !(1..=MAX_LOG_READS_PER_MINUTE).contains(&self.limits.log_reads_per_minute) {
            return Err(Invalid::new(
                "limits.log_reads_per_minute",
                format!("must be 1 to {MAX_LOG_READS_PER_MINUTE}"),
            ));
        }
        if let Some(url) = &self.cloud_run.base_url {
            self.upstream("cloud_run.base_url", url)?;
        }
        self.upstream("cloud_logging.base_url", &self.cloud_logging.base_url)?;
        if let Some(url) = &self.auth.jwt.jwks_url {
            self.upstream("auth.jwt.jwks_url", url)?;
        }
        let host = self.platform.firestore_host.as_ref();
        authority("GCE_METADATA_HOST", Some(&self.platform.metadata_host))?;
        authority("FIRESTORE_EMULATOR_HOST", host)?;
        let emulators = [
            (
                "GCE_METADATA_HOST",
                self.platform.metadata_host != METADATA_HOST,
            ),
            (
                "FIRESTORE_EMULATOR_HOST",
                self.platform.firestore_host.is_some(),
            ),
        ];
        match emulators
            .iter()
            .find(|(_, set)| *set && self.platform.cloud_run)
        {
            Some((variable, _)) => Err(Invalid::new(
                *variable,
                "is for emulators: remove it on Cloud Run",
            )),
            None => Ok(()),
        }
    }

    /// Checks the URL of a server that gets secrets or is trusted: it must be https, or on loopback. On Cloud Run a loopback URL
    /// is a mistake.
    fn upstream(&self, setting: &str, text: &str) -> Result<(), Invalid> {
        let url: Url = text
            .parse()
            .map_err(|_| Invalid::new(setting, "must be a URL such as https://host"))?;
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !plain {
            return Err(Invalid::new(
                setting,
                "must be a URL without user, query and fragment",
            ));
        }
        match (is_loopback(&url), url.scheme()) {
            (true, _) if self.platform.cloud_run => Err(Invalid::new(
                setting,
                "is loopback, for emulators: remove it on Cloud Run",
            )),
            (true, "http") | (_, "https") => Ok(()),
            _ => Err(Invalid::new(
                setting,
                "must be https (http only to loopback)",
            )),
        }
    }
}

fn name(setting: &str, text: Option<&String>, what: &str) -> Result<(), Invalid> {
    if text.is_none_or(|text| is_name(text)) {
        return Ok(());
    }
    let cure = format!("is not a {what}: use lower-case letters, digits and hyphens");
    Err(Invalid::new(setting, cure))
}

/// Checks a host that is called at `http://HOST:PORT`.
fn authority(variable: &str, text: Option<&String>) -> Result<(), Invalid> {
    let is_host = |text: &String| {
        let url: Result<Url, _> = format!("http://{text}").parse();
        !text.contains(['/', '?', '#', '@']) && url.is_ok()
    };
    if text.is_none_or(is_host) {
        return Ok(());
    }
    let cure = "must be host:port, such as 127.0.0.1:8787, without http://";
    Err(Invalid::new(variable, cure))
}

fn max_running(setting: &str, number: u32) -> Result<(), Invalid> {
    if (1..=MAX_MAX_RUNNING).contains(&number) {
        return Ok(());
    }
    let range = format!("must be 1 to {MAX_MAX_RUNNING}");
    Err(Invalid::new(setting, range))
}

/// Whether the URL's host is this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
