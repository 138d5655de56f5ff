//! The tools of one agent's plugins, as its plugins call them.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use super::{
    Shared, health,
    rehearsal::does_better,
    serving::{Serving, Servings},
};
use crate::{
    capability::toolbox::{Absence, Tools},
    engine::{Call, Called, Engine, Handling, Plugin, Work},
    grant::Permissions,
    id::PluginName,
    journal::Journal,
    notice::Notices,
    registry::Registry,
    router::{Catalogue, Listing},
    settings::Grants,
    trial::After,
};

/// Asked while a handler runs.
pub(super) struct Toolbox {
    servings: Arc<Servings>,
    grants: BTreeMap<PluginName, Grants>,
    engine: Arc<Engine>,
    registry: Arc<Registry>,
    journal: Arc<dyn Journal>,
    notices: Notices,
}

impl Toolbox {
    /// Of the agent whose plugins these are, and whose own grants.
    pub fn new(servings: Arc<Servings>, grants: BTreeMap<PluginName, Grants>, shared: &Shared) -> Self {
        Self {
            servings,
            grants,
            engine: shared.engine.clone(),
            registry: shared.registry.clone(),
            journal: shared.journal.clone(),
            notices: shared.notices.clone(),
        }
    }

    /// What a plugin may do for this agent.
    pub fn permissions(&self, plugin: &Plugin) -> Arc<Permissions> {
        match self.grants.get(&plugin.listing.plugin) {
            Some(grants) => Arc::new(plugin.permissions.with(grants.clone())),
            None => plugin.permissions.clone(),
        }
    }
}

/// The very plugin that a listing is of, if it still serves.
fn plugin<'a>(serving: &'a Serving, of: &Arc<Listing>) -> Option<&'a Arc<Plugin>> {
    serving.plugins.get(&of.plugin).filter(|plugin| Arc::ptr_eq(&plugin.listing, of))
}

#[async_trait::async_trait]
impl Tools for Toolbox {
    fn now(&self) -> Arc<Catalogue> {
        self.servings.now().catalogue.clone()
    }

    fn absence(&self, of: &Arc<Listing>, handling: &Handling) -> Option<Absence> {
        let serving = self.servings.now();
        let Some(plugin) = plugin(&serving, of) else { return Some(Absence::Replaced) };
        let whom = &handling.event.sender.id;
        plugin.suspension(whom, |of| of.left(Instant::now())).map(Absence::Rests)
    }

    async fn call(&self, of: &Arc<Listing>, call: Call, caller: Handling, work: Work) -> Called {
        let serving = self.servings.now();
        let Some(plugin) = plugin(&serving, of) else { return Called::Busy(work) };
        let (agent, event) = (caller.agent.clone(), caller.event.clone());
        let mut handling = Handling { permissions: self.permissions(plugin), drafts: None, ..caller };
        let caller = std::mem::replace(&mut handling.plugin, of.plugin.clone());
        handling.callers.push(caller);
        let spent = handling.spent.clone();
        let asked = handling.record.counts();
        let mut work = work;
        let mut faults = 0;
        let called = loop {
            let called = self.engine.call_tool(plugin, call.clone(), handling.clone(), work).await;
            let (end, ended) = match called {
                Called::Ended(end, ended) => (end, ended),
                other => break other,
            };
            let trying = health::is_fault(&end).then(|| self.registry.on_trial(plugin)).flatten();
            let Some(trying) = trying else {
                // Another event has ended its trial meanwhile.
                if health::is_fault(&end) && self.registry.is_dropped(plugin).await {
                    spent.replaced.store(true, Relaxed);
                    return Called::Ended(end, ended);
                }
                break Called::Ended(end, ended);
            };
            faults += 1;
            if self.registry.faulted(plugin, faults) == After::Compare {
                let before = &trying.before;
                let handling = Handling { permissions: self.permissions(before), ..handling.clone() };
                let better = does_better(&self.engine, &*self.journal, before, call.clone(), handling).await;
                // Where the journal does not answer, the next fault decides.
                if !better.unwrap_or(false) {
                    self.registry.excused(plugin, faults);
                    break Called::Ended(end, ended);
                }
                health::report(&self.notices, plugin, &agent, &event, &end);
                self.registry.roll_back(plugin, health::fault(&end)).await;
                // The whole delivery begins anew, with the version before.
                spent.replaced.store(true, Relaxed);
                return Called::Ended(end, ended);
            }
            health::report(&self.notices, plugin, &agent, &event, &end);
            work = ended;
            work.end(false);
            work.begin(&of.plugin, &of.digest);
            handling.record.come_back(asked.clone());
        };
        if let Called::Ended(end, _) = &called {
            health::report(&self.notices, plugin, &agent, &event, end);
            health::judge(&self.notices, plugin, &agent, &event.sender.id, end);
        }
        called
    }
}
