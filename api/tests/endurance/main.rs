//! More than can be worked on, clients that dawdle, and what goes on for long. About time and memory, and therefore a
//! program of its own, whose tests take turns: nothing else is running then.
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

/// Where the program listens, and no line for each request.
const QUIET: &str = "warn,api=info,api::http::request_log=warn";

/// Whoever measures holds it.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
