//! Lines for the operator's log. The host adds whose they are.

use crate::bindings::imports::wasi::logging::logging::{Level, log};

/// What somebody would want to know who follows every step.
pub fn debug(message: impl AsRef<str>) {
    log(Level::Debug, "", message.as_ref());
}

/// What an operator may want to know.
pub fn info(message: impl AsRef<str>) {
    log(Level::Info, "", message.as_ref());
}

/// What an operator should look at some day.
pub fn warn(message: impl AsRef<str>) {
    log(Level::Warn, "", message.as_ref());
}

/// What an operator has to look at.
pub fn error(message: impl AsRef<str>) {
    log(Level::Error, "", message.as_ref());
}
