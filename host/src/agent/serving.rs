//! What the plugins of one agent have, which changes when a file does.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::Running;
use crate::{engine::Plugin, id::PluginName, router::Catalogue};

/// What an agent's plugins have, at one moment.
#[derive(Default)]
pub(super) struct Serving {
    generation: Option<u64>,
    pub catalogue: Catalogue,
    pub plugins: HashMap<PluginName, Arc<Plugin>>,
}

impl Running {
    /// What the plugins of this agent have now.
    pub(super) fn serving(&self) -> Arc<Serving> {
        let loaded = self.shared.registry.loaded();
        let serving = self.serving.load_full();
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
            self.say(format!("/{command} of plugin {plugin} is not used: another plugin before it has one"));
        }
        let serving = Arc::new(Serving { generation: Some(loaded.generation), catalogue, plugins });
        self.serving.store(serving.clone());
        serving
    }

    fn ordered<'a>(&self, loaded: impl Iterator<Item = &'a PluginName>) -> Vec<PluginName> {
        let named = |name: &PluginName| self.agent.plugins.iter().any(|listed| listed == name.as_str());
        let others: Vec<PluginName> = loaded.filter(|name| !named(name)).cloned().collect();
        let listed = self.agent.plugins.iter().flat_map(|listed| {
            if listed == "*" { others.clone() } else { PluginName::parse(listed).into_iter().collect() }
        });
        let mut seen = BTreeSet::new();
        listed.filter(|name| seen.insert(name.clone())).collect()
    }
}
