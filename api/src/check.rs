//! `api check`, the doctor. It makes the calls of the service that are harmless, and reports what is wrong and how to correct it.

mod access;
mod arguments;
mod cures;
mod identity;
mod jobs;
mod permissions;
mod reads;
mod store;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use self::access::access;
use self::identity::identity;
use self::jobs::look_at_jobs;
use self::reads::Reads;
use self::store::store;
use crate::config::{self, Config, Invalid};
use crate::{App, telemetry};

/// The timeout of calls that only the doctor makes.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer to such a call, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// The result of checking one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It works.
    Ok,
    /// It may work. That is known only after the job has run.
    Unknown,
    /// It works, but maybe not as intended, or it could not be tested.
    Warning,
    /// It does not work.
    Failed,
}

/// One subject that was checked.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The result.
    pub verdict: Verdict,
    /// What was checked, in a word or two.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// The command that corrects it, or several, one per line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// All findings, in order.
#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
    settings: Option<Summary>,
}

/// The values of valid settings that the deploy script needs: the roles to grant, and how many requests an instance takes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    jobs: Vec<String>,
    in_flight: u32,
    streams: u32,
}

impl Summary {
    fn of(app: &App, config: &Config) -> Self {
        let jobs: BTreeSet<_> = app
            .processes
            .iter()
            .map(|process| process.target.job().to_owned())
            .collect();
        Self {
            jobs: jobs.into_iter().collect(),
            in_flight: config.limits.in_flight,
            streams: config.limits.streams,
        }
    }
}

impl Report {
    /// Whether the service can work; warnings do not count.
    pub fn is_well(&self) -> bool {
        let failed = |finding: &Finding| finding.verdict == Verdict::Failed;
        !self.findings.iter().any(failed)
    }

    /// `{"ok": …, "findings": […], "settings": {…}}`. It has `settings` only if they are valid.
    pub fn json(&self) -> Value {
        let mut report = json!({ "ok": self.is_well(), "findings": self.findings });
        if let Some(settings) = &self.settings {
            report["settings"] = json!(settings);
        }
        report
    }

    fn add(
        &mut self,
        verdict: Verdict,
        subject: &'static str,
        found: impl Into<String>,
        cure: Option<String>,
    ) {
        self.findings.push(Finding {
            verdict,
            subject,
            found: found.into(),
            cure,
        });
    }

    fn ok(&mut self, subject: &'static str, found: impl Into<String>) {
        self.add(Verdict::Ok, subject, found, None);
    }

    fn unknown(&mut self, subject: &'static str, found: impl Into<String>) {
        self.add(Verdict::Unknown, subject, found, None);
    }

    fn warn(&mut self, subject: &'static str, found: impl Into<String>, cure: Option<String>) {
        self.add(Verdict::Warning, subject, found, cure);
    }

    fn fail(&mut self, subject: &'static str, found: impl Into<String>, cure: Option<String>) {
        self.add(Verdict::Failed, subject, found, cure);
    }
}

/// One line for each finding, with its cure below.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let mark = match finding.verdict {
                Verdict::Ok => '✓',
                Verdict::Unknown => '?',
                Verdict::Warning => '!',
                Verdict::Failed => '✗',
            };
            writeln!(f, "{mark} {}: {}", finding.subject, finding.found)?;
            for line in finding.cure.iter().flat_map(|cure| cure.lines()) {
                writeln!(f, "    {line}")?;
            }
        }
        Ok(())
    }
}

/// Checks everything that a service with these settings needs. It starts no execution and leaves nothing behind.
pub async fn check(settings: Result<Config, Invalid>) -> Report {
    let mut report = Report::default();
    if let Some((app, config)) = made(settings, &mut report) {
        look(&app, &config, &mut report).await;
    }
    report
}

/// Checks only the settings, without any call.
pub fn settings(settings: Result<Config, Invalid>) -> Report {
    let mut report = Report::default();
    made(settings, &mut report);
    report
}

/// Builds the service from these settings, if they are valid.
fn made(settings: Result<Config, Invalid>, report: &mut Report) -> Option<(App, Config)> {
    let made = settings.and_then(|config| {
        telemetry::checked(&config.log)?;
        Ok((App::new(&config)?, config))
    });
    match made {
        Ok((app, config)) => {
            report.ok("settings", "they fit together");
            report.settings = Some(Summary::of(&app, &config));
            Some((app, config))
        }
        Err(invalid) => {
            report.fail("settings", invalid.to_string(), None);
            None
        }
    }
}

async fn look(app: &App, config: &Config, report: &mut Report) {
    access(&app.auth, config, report).await;
    let Some(cures) = identity(app, config, report).await else {
        return report.fail("the rest", "not checked: it needs the above", None);
    };
    let reads = Reads::of(app, &cures.job).await;
    if reads.are_all_forbidden() {
        let found = format!(
            "Google refuses every read in project {}: it does not exist, or {} has no role in it",
            cures.place.project, cures.account
        );
        report.fail("project", found, Some(cures.the_project()));
    }
    look_at_jobs(app, config, &reads, &cures, report).await;
    reads.add_to(&cures, report);
    if config.idempotency.store == config::Store::Firestore {
        store(app, config, &cures, report).await;
    }
}
