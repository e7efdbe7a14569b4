//! The arguments after `cargo run --`.

use lexopt::{Arg, Parser, ValueExt};

pub const HELP: &str = "\
Runs the service on this machine, on loopback.

Usage: cargo run                          with an emulator of Cloud Run, and the sample job
       cargo run -- --command COMMAND     with an emulator of Cloud Run, and a job of yours
       cargo run -- --project ID --region REGION --job NAME [--impersonate ACCOUNT]
                                          with the REAL Cloud Run, and gcloud's account

  --command COMMAND      what a task runs, split into words as a shell does: --command 'python3 job.py'. It gets the arguments
                         and the environment that Cloud Run would give it, and PATH and HOME of this terminal.
                         The variable JOB_COMMAND does the same
  --project ID           the Google Cloud project. From here on starts are real: they do their work and cost money
  --region REGION        the region of the job
  --job NAME             the job to start
  --impersonate ACCOUNT  acts as this service account, such as the one that the deployed service runs as; you need
                         roles/iam.serviceAccountTokenCreator on it
  -h, --help

The service's settings apply here too (API_CONFIG, API__…: docs/settings.md). Without API__AUTH__MODE any program on this machine may call.
PORT (8080) is the service's port; EMULATOR_PORT (8787) that of the emulator, or of the metadata server that gives out gcloud's token.
The emulator answers programs too (emulator/README.md): export GCE_METADATA_HOST=127.0.0.1:8787
";

/// The mode that the arguments select.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    Help,
    /// The emulator, with this command as the job, or with the sample job.
    Emulator {
        command: Option<Vec<String>>,
    },
    CloudRun(Target),
}

/// The job on Google Cloud, and the account to use.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    pub project: String,
    pub region: String,
    pub job: String,
    /// A service account to impersonate; without one, the account of gcloud.
    pub account: Option<String>,
}

pub fn parse(mut arguments: Parser) -> Result<Wanted, lexopt::Error> {
    let [mut command, mut project, mut region, mut job, mut account] = [const { None }; 5];
    while let Some(argument) = arguments.next()? {
        let wanted = match argument {
            Arg::Long("command") => &mut command,
            Arg::Long("project") => &mut project,
            Arg::Long("region") => &mut region,
            Arg::Long("job") => &mut job,
            Arg::Long("impersonate") => &mut account,
            Arg::Long("help") | Arg::Short('h') => return Ok(Wanted::Help),
            _ => return Err(argument.unexpected()),
        };
        *wanted = Some(arguments.value()?.string()?);
    }
    match (project, region, job) {
        (None, None, None) if account.is_none() => Ok(Wanted::Emulator {
            command: words(command.or(job_command()?))?,
        }),
        (Some(project), Some(region), Some(job)) if command.is_none() => {
            Ok(Wanted::CloudRun(Target {
                project,
                region,
                job,
                account,
            }))
        }
        (Some(_), Some(_), Some(_)) => {
            Err("--command is for the emulator only: on Cloud Run the job's image determines the command".into())
        }
        _ => Err("the real Cloud Run needs all of --project, --region and --job".into()),
    }
}

fn job_command() -> Result<Option<String>, lexopt::Error> {
    match std::env::var("JOB_COMMAND") {
        Ok(command) => Ok(Some(command)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err("JOB_COMMAND is not UTF-8".into()),
    }
}

/// The words of the command, if there is one.
fn words(command: Option<String>) -> Result<Option<Vec<String>>, lexopt::Error> {
    let Some(command) = command else {
        return Ok(None);
    };
    match shlex::split(&command) {
        None => Err(format!("the command {command:?} has a quote that is not closed").into()),
        Some(words) if words.is_empty() => Err("the job's command is empty".into()),
        Some(words) => Ok(Some(words)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Wanted, String> {
        parse(Parser::from_args(arguments)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_command_is_split_as_a_shell_splits_it() {
        let command = ["--command", "sh -c 'exit 3'"];
        let words = ["sh", "-c", "exit 3"].map(str::to_owned).to_vec();
        let expected = Wanted::Emulator {
            command: Some(words),
        };
        assert_eq!(parsed(&command), Ok(expected));
        assert_eq!(parsed(&[]), Ok(Wanted::Emulator { command: None }));
        for bad in ["", " ", "sh 'x"] {
            assert!(parsed(&["--command", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_real_cloud_run_needs_project_region_and_job() {
        let place = ["--project=p", "--region=r", "--job=j"];
        assert!(matches!(parsed(&place), Ok(Wanted::CloudRun(target)) if target.account.is_none()));
        for leave_out in 0..3 {
            let mut some = place.to_vec();
            some.remove(leave_out);
            assert!(parsed(&some).unwrap_err().contains("all of --project"));
        }
        assert!(parsed(&["--impersonate=a"]).is_err());
        assert!(parsed(&[&place[..], &["--command=true"]].concat()).is_err());
        assert!(parsed(&["--prject=p"]).is_err());
    }
}
