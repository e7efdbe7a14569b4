//! Images: each stands for a local command.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use crate::settings::Job;

/// Job name → the program and arguments that its image stands for, in the order of the settings.
#[derive(Debug)]
pub(crate) struct Images(Vec<(String, Arc<[OsString]>)>);

impl Images {
    pub(crate) fn of(jobs: &[Job]) -> Self {
        let command = |job: &Job| (job.name.clone(), resolved(&job.command));
        Self(jobs.iter().map(command).collect())
    }

    /// The command behind an image: that of the job whose name the image ends in, else the first.
    pub(crate) fn command(&self, image: &str) -> Option<Arc<[OsString]>> {
        let image = image.split('@').next().unwrap_or_default();
        let last = image.rsplit('/').next().unwrap_or_default();
        let name = last.split(':').next().unwrap_or_default();
        let named = self.0.iter().find(|(job, _)| job == name);
        named
            .or(self.0.first())
            .map(|(_, command)| Arc::clone(command))
    }
}

/// The command with its program looked up on our PATH: the child's own environment may have none.
fn resolved(command: &[OsString]) -> Arc<[OsString]> {
    let mut command = command.to_vec();
    if let Some(path) = command.first().and_then(|program| on_path(program)) {
        command[0] = path;
    }
    command.into()
}

fn on_path(program: &OsStr) -> Option<OsString> {
    if Path::new(program).components().count() != 1 {
        return None;
    }
    let directories = std::env::var_os("PATH")?;
    let mut candidates =
        std::env::split_paths(&directories).map(|directory| directory.join(program));
    candidates
        .find(|candidate| candidate.is_file())
        .map(Into::into)
}
