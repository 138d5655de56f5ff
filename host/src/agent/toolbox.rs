//! The tools of one agent's plugins, as its plugins call them.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use super::{
    Shared, health,
    serving::{Serving, Servings},
};
use crate::{
    capability::toolbox::{Absence, Tools},
    engine::{Call, Called, Engine, Handling, Plugin, Work},
    grant::Permissions,
    id::PluginName,
    notice::Notices,
    router::{Catalogue, Listing},
    settings::Grants,
};

/// Asked while a handler runs.
pub(super) struct Toolbox {
    servings: Arc<Servings>,
    grants: BTreeMap<PluginName, Grants>,
    engine: Arc<Engine>,
    notices: Notices,
}

impl Toolbox {
    /// Of the agent whose plugins these are, and whose own grants.
    pub fn new(servings: Arc<Servings>, grants: BTreeMap<PluginName, Grants>, shared: &Shared) -> Self {
        Self { servings, grants, engine: shared.engine.clone(), notices: shared.notices.clone() }
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
        let called = self.engine.call_tool(plugin, call, handling, work).await;
        if let Called::Ended(end, _) = &called {
            health::report(&self.notices, plugin, &agent, &event, end);
            health::judge(&self.notices, plugin, &agent, &event.sender.id, end);
        }
        called
    }
}
