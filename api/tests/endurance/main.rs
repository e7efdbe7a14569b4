//! Overload, slow clients and long runs. These tests measure time and memory, and are therefore a separate program whose tests
//! run one at a time.
//!
//! It prints its figures: `--nocapture` shows them. `ENDURANCE=full` is for a release build, and takes half an hour.

mod curve;
mod long_log;
mod slow_clients;
mod slow_readers;
mod soak;
mod streams;
mod usage;

use testkit as helpers;
use testkit::running;

/// One of two sizes.
fn size<T>(small: T, large: T) -> T {
    match std::env::var("ENDURANCE").as_deref() {
        Ok("full") => large,
        _ => small,
    }
}

/// Settings of the program: its address, and no log line for each request.
const QUIET: &str = "warn,api=info,api::http::request_log=warn";

/// Held by the test that measures.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
