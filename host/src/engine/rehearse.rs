//! A call of which nothing is kept: what a version would do, to compare it with another.

use std::sync::{Arc, PoisonError};

use super::{
    Call, End, Engine, Fault, Handling, Plugin, Work,
    background::{HEAD, Panicked},
    limits::Meter,
};
use crate::capability::outbox::Said;

impl Engine {
    /// Calls a plugin as [`Self::call`] does. What it did is dropped, and what it was allowed and denied is not counted:
    /// nobody had asked for it. Answers how it ended, and whether it was denied something; none where a tool finds no room
    /// within [`super::ROOM`]: its caller waits meanwhile.
    pub async fn rehearse(
        self: &Arc<Self>,
        plugin: &Arc<Plugin>,
        call: Call,
        handling: Handling,
    ) -> Option<(End, bool)> {
        let room = match call {
            Call::Tool { .. } => Some(self.tool_room(plugin).await?),
            _ => None,
        };
        let meter = Meter::new(plugin.limits.cpu);
        let mut work = Work::default();
        work.begin(&handling.plugin, &plugin.listing.digest);
        let (engine, plugin, metered) = (self.clone(), plugin.clone(), meter.clone());
        let running = async move {
            let _slots = match room {
                Some(room) => (Some(room), None),
                None => (None, Some(engine.slots(&plugin).await)),
            };
            let mut store = engine.store(&plugin, Some(handling), work);
            store.data_mut().said = Arc::new(Said::new(engine.limits.messages));
            let counts = store.data().counts.clone();
            let end = engine.run_in(&mut store, &plugin, &call, metered).await;
            let was_denied = counts.lock().unwrap_or_else(PoisonError::into_inner).denials().next().is_some();
            (end, was_denied)
        };
        let ended = self.background.run(running, || meter.used() < HEAD).await;
        let failed = |Panicked| (End::Fault(Fault::Trap("the host itself failed".into())), false);
        Some(ended.unwrap_or_else(failed))
    }
}
