//! What the plugins of one agent have, which changes when a file does.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;

use super::Shared;
use crate::{
    engine::Plugin,
    id::{AgentName, PluginName},
    notice::{Notice, Notices},
    registry::Registry,
    router::Catalogue,
};

/// What an agent's plugins have, at one moment.
#[derive(Default)]
pub(super) struct Serving {
    generation: Option<u64>,
    pub catalogue: Arc<Catalogue>,
    pub plugins: HashMap<PluginName, Arc<Plugin>>,
}

/// What an agent's plugins have, whenever somebody asks.
pub(super) struct Servings {
    agent: AgentName,
    /// Which plugins serve it, as the settings say.
    listed: Vec<String>,
    registry: Arc<Registry>,
    notices: Notices,
    last: ArcSwap<Serving>,
}

impl Servings {
    /// Nothing has been asked yet.
    pub fn new(agent: AgentName, listed: Vec<String>, shared: &Shared) -> Self {
        let (registry, notices) = (shared.registry.clone(), shared.notices.clone());
        Self { agent, listed, registry, notices, last: ArcSwap::default() }
    }

    /// What they have now.
    pub fn now(&self) -> Arc<Serving> {
        let loaded = self.registry.loaded();
        let serving = self.last.load_full();
        if serving.generation == Some(loaded.generation) {
            return serving;
        }
        let mut plugins = HashMap::new();
        let mut listings = Vec::new();
        for name in self.ordered(loaded.plugins.keys()) {
            if let Some(plugin) = loaded.plugins.get(&name) {
                if let Some(grants) = self.agent.grants.get(&name) {
                    let may = plugin.permissions.with(grants.clone()).summary();
                    self.shared.tally.granted(Some(&self.agent.name), &name, &may);
                }
                listings.push(plugin.listing.clone());
                plugins.insert(name, plugin.clone());
            }
        }
        let catalogue = Catalogue::new(listings);
        for (plugin, command) in &catalogue.shadowed {
            let text = format!("/{command} of plugin {plugin} is not used: another plugin before it has one");
            self.notices.say(Notice::Agent { agent: self.agent.clone(), text });
        }
        let catalogue = Arc::new(catalogue);
        let serving = Arc::new(Serving { generation: Some(loaded.generation), catalogue, plugins });
        self.last.store(serving.clone());
        serving
    }

    fn ordered<'a>(&self, loaded: impl Iterator<Item = &'a PluginName>) -> Vec<PluginName> {
        let named = |name: &PluginName| self.listed.iter().any(|listed| listed == name.as_str());
        let others: Vec<PluginName> = loaded.filter(|name| !named(name)).cloned().collect();
        let listed = self.listed.iter().flat_map(|listed| {
            if listed == "*" { others.clone() } else { PluginName::parse(listed).into_iter().collect() }
        });
        let mut seen = BTreeSet::new();
        listed.filter(|name| seen.insert(name.clone())).collect()
    }
}
