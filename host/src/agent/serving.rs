//! What the plugins of one agent have, which changes when a file does.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;

use super::{Agent, Shared};
use crate::{
    engine::Plugin,
    id::{AgentName, PluginName},
    notice::{Notice, Notices},
    registry::Registry,
    router::Catalogue,
    settings::Grants,
    tally::Tally,
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
    /// What single ones may do here.
    grants: BTreeMap<PluginName, Grants>,
    registry: Arc<Registry>,
    notices: Notices,
    tally: Arc<Tally>,
    last: ArcSwap<Serving>,
}

impl Servings {
    /// Nothing has been asked yet.
    pub fn new(agent: &Agent, shared: &Shared) -> Self {
        Self {
            agent: agent.name.clone(),
            listed: agent.plugins.clone(),
            grants: agent.grants.clone(),
            registry: shared.registry.clone(),
            notices: shared.notices.clone(),
            tally: shared.tally.clone(),
            last: ArcSwap::default(),
        }
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
                if let Some(grants) = self.grants.get(&name) {
                    let may = plugin.permissions.with(grants.clone()).summary();
                    self.tally.granted(Some(&self.agent), &name, &may);
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
