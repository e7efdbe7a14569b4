//! What there is and how it behaves: nothing here knows of HTTP or of the whole.

pub(crate) mod container;
pub(crate) mod counters;
pub(crate) mod executions;
pub(crate) mod faults;
pub(crate) mod filter;
pub(crate) mod identity;
pub(crate) mod images;
pub(crate) mod job_spec;
pub(crate) mod jobs;
pub(crate) mod log_entry;
pub(crate) mod logs;
pub(crate) mod overrides;
pub(crate) mod tasks;
pub(crate) mod tokens;
