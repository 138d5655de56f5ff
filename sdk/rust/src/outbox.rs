//! What a handler wants done. Every call only queues: nothing leaves before the handler has returned `Ok`.
//!
//! Each returns the effect's ordinal within this delivery, which [`MessageRef::Queued`] takes:
//!
//! ```no_run
//! # use parlour_plugin::prelude::*;
//! # fn run(call: Invocation) -> Result<(), Error> {
//! let answer = outbox::markdown("It is **done**.")?;
//! outbox::reply_to(answer, &outbox::MessageRef::Event(call.message.id))?;
//! # Ok(())
//! # }
//! ```

use crate::{Body, Error};

pub use crate::bindings::imports::parlour::plugin::outbox::{
    MessageRef, Target, edit, name, react, redact, reply_to, send, send_file, set_home,
};

/// Says something where the event happened, as it is.
pub fn say(text: impl Into<String>) -> Result<u32, Error> {
    send(&Target::Here, &Body::Plain(text.into()))
}

/// Says something where the event happened, in CommonMark.
pub fn markdown(text: impl Into<String>) -> Result<u32, Error> {
    send(&Target::Here, &Body::Markdown(text.into()))
}

/// Says something quietly where the event happened: a notice, which well-behaved bots don't answer.
pub fn notice(text: impl Into<String>) -> Result<u32, Error> {
    send(&Target::Here, &Body::Notice(text.into()))
}

/// Sends a file where the event happened, by its handle: one that [`media::make`](crate::media::make) has made, or one
/// that came with the message.
pub fn file(handle: &str) -> Result<u32, Error> {
    send_file(&Target::Here, handle, None)
}
