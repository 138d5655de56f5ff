//! `secrets`: what the host puts on requests. A plugin learns that one is there, and nothing of it.

use super::{State, bindings::parlour::plugin::secrets::Host};

impl Host for State {
    fn has(&mut self, name: String) -> wasmtime::Result<bool> {
        Ok(self.secrets.has(&name))
    }
}
