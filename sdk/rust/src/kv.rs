//! The plugin's own memory, which outlives the instance. What a handler writes is kept once it has returned
//! `Ok`.
//!
//! ```no_run
//! # use parlour_plugin::prelude::*;
//! # fn run(call: Invocation) -> Result<(), Error> {
//! let last = kv::get_text(kv::Scope::User, "last")?;
//! kv::set_text(kv::Scope::User, "last", &call.rest)?;
//! let asked = kv::increment(kv::Scope::Room, "asked", 1)?;
//! # Ok(())
//! # }
//! ```

use crate::Error;

pub use crate::bindings::imports::parlour::plugin::kv::{Scope, delete, get, increment, keys, set};

/// The text under `key`; `invalid` if the bytes there are not UTF-8.
pub fn get_text(scope: Scope, key: &str) -> Result<Option<String>, Error> {
    get(scope, key)?
        .map(|bytes| String::from_utf8(bytes).map_err(|_| Error::invalid(format!("{key:?} holds no text"))))
        .transpose()
}

/// Keeps a text under `key`.
pub fn set_text(scope: Scope, key: &str, text: &str) -> Result<(), Error> {
    set(scope, key, text.as_bytes())
}
