//! More than can be worked on, and clients that dawdle. About time, and therefore a program of its own, whose tests take
//! turns: nothing else is running then.

#[allow(dead_code, reason = "shared with the other tests, which use the rest")]
#[path = "../api/helpers.rs"]
mod helpers;
#[allow(dead_code, reason = "shared with the other tests, which use the rest")]
#[path = "../api/running.rs"]
mod running;

mod curve;
mod slow_clients;

/// Whoever measures holds it.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
