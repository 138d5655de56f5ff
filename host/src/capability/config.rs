//! `wasi:config/store`: what the operator set for this plugin.

use super::{
    State,
    bindings::wasi::config::store::{Error, Host},
};

impl Host for State {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, Error>> {
        Ok(Ok(self.config.get(&key).cloned()))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, Error>> {
        Ok(Ok(self.config.iter().map(|(key, value)| (key.clone(), value.clone())).collect()))
    }
}
