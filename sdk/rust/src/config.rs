//! The plugin's settings, as the operator wrote them (`[plugins.NAME] config = { … }`).

use std::str::FromStr;

use crate::Error;
use crate::bindings::imports::wasi::config::store;

/// A setting; none if the operator did not set it.
pub fn get(key: &str) -> Result<Option<String>, Error> {
    store::get(key)
        .map_err(|(store::Error::Upstream(message) | store::Error::Io(message))| Error::unavailable(message))
}

/// A setting as a number, a boolean or whatever else can be parsed; `invalid` if it cannot be.
pub fn parse<T: FromStr>(key: &str) -> Result<Option<T>, Error> {
    get(key)?
        .map(|value| {
            value.parse().map_err(|_| Error::invalid(format!("setting {key:?} cannot be {value:?}")))
        })
        .transpose()
}
