//! Timers of this plugin, which its [`Timers`](crate::Timers) handles when they are due. Needs the grant `timers`.
//!
//! Setting and cancelling is queued like any effect: it is done once the handler has returned `Ok`.
//!
//! ```no_run
//! # use parlour_plugin::prelude::*;
//! # fn run(call: Invocation) -> Result<(), Error> {
//! schedule::after(600_000, &call.rest)?;
//! schedule::every(Some("standup"), "0 9 * * mon-fri", "Europe/Berlin", "Time to talk", schedule::CatchUp::Skip)?;
//! # Ok(())
//! # }
//! ```

use std::time::{SystemTime, UNIX_EPOCH};

use crate::Error;

pub use crate::bindings::imports::parlour::plugin::schedule::{CatchUp, Timer, at, cancel, every, list};

/// Sets a timer for in so many milliseconds, without a name of its own. If nobody keeps that time, it is handled later.
pub fn after(milliseconds: u64, payload: &str) -> Result<Timer, Error> {
    at(None, now() + milliseconds as f64, payload, CatchUp::Once)
}

/// Milliseconds since the Unix epoch, as [`at`] takes them.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as f64
}
