//! A version moves what is remembered, in an instance of its own for each memory.

use std::sync::Arc;

use super::{
    Engine, Plugin, Work,
    background::{HEAD, Panicked},
    charge, convert, fault,
    limits::Meter,
};
use crate::{
    capability::{Moving, bindings::exports::parlour::plugin::lifecycle},
    engine::admission::Refused,
    journal::Scope,
    manifest::Permission,
    migration::{Memory, Values},
    notice::Level,
};

impl Plugin {
    /// Whether it moves what the version before it remembers.
    pub fn migrates(&self) -> bool {
        self.lifecycle.is_some()
    }
}

impl Engine {
    /// Has a plugin move a copy of one memory, and answers what has become of it.
    ///
    /// # Errors
    /// [`Refused::Migration`], in one line without the plugin's own words: these go to its log, sealed.
    pub async fn migrate(
        self: &Arc<Self>,
        plugin: &Arc<Plugin>,
        from: Option<&str>,
        memory: &Memory,
    ) -> Result<Values, Refused> {
        let kind = match memory.scope {
            Scope::Room(_) => lifecycle::Memory::Room,
            Scope::User(_) => lifecycle::Memory::User,
            Scope::Session(_) => lifecycle::Memory::Session,
            Scope::Plugin | Scope::Sealed { .. } => lifecycle::Memory::Plugin,
        };
        let migration =
            lifecycle::Migration { from_version: from.map(str::to_owned), memory: kind, extra: None };
        let (holds, quota) = (plugin.permissions.holds(Permission::Kv), plugin.permissions.quota());
        let moving = Moving::new(&memory.scope, memory.values.clone(), holds, quota.bytes);
        let meter = Meter::new(plugin.limits.cpu);
        let (engine, plugin, metered) = (self.clone(), plugin.clone(), meter.clone());
        let running = async move {
            let _slots = engine.slots(&plugin).await;
            // What is remembered may have been said in an encrypted room.
            let mut store = engine.store_of(&plugin, None, Work::default(), true);
            store.data_mut().moving = Some(moving);
            charge(&mut store, metered.clone());
            let _ticking = engine.ticker.tick();
            let migrate = async {
                let instance = plugin.instance.instantiate_async(&mut store).await?;
                let Some(lifecycle) = &plugin.lifecycle else { return Ok(Ok(())) };
                lifecycle.load(&mut store, &instance)?.call_migrate(&mut store, &migration).await
            };
            let ended = tokio::time::timeout(plugin.limits.wall, metered.measure(migrate)).await;
            store.data().log.finish();
            match ended {
                Err(_) => Err(super::Fault::Wall(plugin.limits.wall).to_string()),
                Ok(Err(error)) => Err(fault(&error, plugin.limits.cpu, &store.data().limiter).to_string()),
                Ok(Ok(Err(error))) => {
                    let words = convert::guest_error(error, false).message;
                    store.data().log.say(Level::Warn, &format!("migrate: {words}"));
                    Err("its own error".into())
                }
                Ok(Ok(Ok(()))) => {
                    Ok(store.data_mut().moving.take().map(|moving| moving.values).unwrap_or_default())
                }
            }
        };
        let moved = self.background.run(running, || meter.used() < HEAD).await;
        let moved = moved.unwrap_or_else(|Panicked| Err("the host itself failed".into()));
        moved.map_err(Refused::Migration)
    }
}
