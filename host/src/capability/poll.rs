//! `wasi:io/poll`: which of several things came first is recorded, so that whoever runs again goes on with the same one.
//!
//! Of one thing nothing is recorded: it has no order. It is waited for by wasmtime-wasi in any case.

use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi_io::bindings::wasi::io::poll::{self, Host, HostPollable};

use super::State;
use crate::answers::{Entry, Fact, Key};

impl State {
    /// What is known of a wait for so many things; none where nothing is recorded. Another version waits for other things.
    fn waits(&self, count: usize) -> Option<(Key, Vec<u32>)> {
        let handling = self.handling.as_ref().filter(|_| count > 1)?;
        let version = self.work.version()?;
        let (key, found) = handling.record.wait(&handling.path, version, count);
        let ready = match found {
            Some(Entry { fact: Fact::Waited { ready }, .. }) => ready,
            _ => vec![],
        };
        let fits = ready.iter().all(|place| (*place as usize) < count);
        Some((key, if fits { ready } else { vec![] }))
    }
}

impl Host for State {
    async fn poll(&mut self, waits: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        let Some((key, ready)) = self.waits(waits.len()) else {
            return Host::poll(&mut self.table, waits).await;
        };
        if !ready.is_empty() {
            for place in &ready {
                let wait = Resource::new_borrow(waits[*place as usize].rep());
                HostPollable::block(&mut self.table, wait).await?;
            }
            return Ok(ready);
        }
        let ready = Host::poll(&mut self.table, waits).await?;
        if let Some(handling) = &self.handling {
            handling.record.keep(key, Fact::Waited { ready: ready.clone() });
        }
        Ok(ready)
    }
}

impl HostPollable for State {
    async fn block(&mut self, wait: Resource<DynPollable>) -> wasmtime::Result<()> {
        HostPollable::block(&mut self.table, wait).await
    }

    async fn ready(&mut self, wait: Resource<DynPollable>) -> wasmtime::Result<bool> {
        HostPollable::ready(&mut self.table, wait).await
    }

    fn drop(&mut self, wait: Resource<DynPollable>) -> wasmtime::Result<()> {
        HostPollable::drop(&mut self.table, wait)
    }
}

/// Puts our own `wasi:io/poll` in the place of wasmtime-wasi's.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    poll::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    linker.allow_shadowing(false);
    Ok(())
}
