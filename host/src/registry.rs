//! The plugins that are loaded, by name. A new version takes over between two events: who looks up a plugin
//! holds that version until the handler has ended.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use arc_swap::ArcSwap;

use crate::{
    engine::{Engine, Plugin, admission::Refused},
    id::PluginName,
    notice::{Notice, Notices},
    settings,
};

/// The plugins at one moment.
#[derive(Default)]
pub struct Loaded {
    /// Rises with every change.
    pub generation: u64,
    /// By name.
    pub plugins: BTreeMap<PluginName, Arc<Plugin>>,
}

/// The plugins that are loaded.
pub struct Registry {
    engine: Arc<Engine>,
    settings: BTreeMap<PluginName, settings::Plugin>,
    loaded: ArcSwap<Loaded>,
    /// What the embedder brought itself: it is there again when a file that took its place goes.
    kept: OnceLock<Arc<Loaded>>,
    /// Held while `loaded` is replaced; readers never wait for it.
    changing: Mutex<()>,
    notices: Notices,
}

impl Registry {
    /// No plugins yet.
    pub fn new(
        engine: Arc<Engine>,
        settings: BTreeMap<PluginName, settings::Plugin>,
        notices: Notices,
    ) -> Self {
        Self {
            engine,
            settings,
            loaded: ArcSwap::default(),
            kept: OnceLock::new(),
            changing: Mutex::new(()),
            notices,
        }
    }

    /// The plugins now.
    pub fn loaded(&self) -> Arc<Loaded> {
        self.loaded.load_full()
    }

    /// What a plugin may do.
    pub fn grants(&self, plugin: &PluginName) -> settings::Grants {
        self.settings.get(plugin).map(|settings| settings.grants.clone()).unwrap_or_default()
    }

    /// Loads a plugin, or a new version of it. What served before goes on serving until this one is ready, and
    /// if it is refused.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn load(&self, name: &PluginName, bytes: Arc<[u8]>) -> Result<(), Refused> {
        let config = self.settings.get(name).map(settings::Plugin::config_texts).unwrap_or_default();
        let plugin = Arc::new(self.engine.load(name.clone(), bytes, Arc::new(config)).await?);
        let digest = plugin.listing.digest.clone();
        let before = self.change(|plugins| plugins.insert(name.clone(), plugin));
        if before.as_ref().is_none_or(|before| before.listing.digest != digest) {
            self.notices.say(Notice::PluginLoaded {
                plugin: name.clone(),
                digest,
                replaced: before.is_some(),
            });
        }
        Ok(())
    }

    /// Whether a plugin is loaded.
    pub fn has(&self, name: &PluginName) -> bool {
        self.loaded.load().plugins.contains_key(name)
    }

    /// Bytes of the largest component that is taken.
    pub fn largest(&self) -> usize {
        self.engine.largest()
    }

    /// What is loaded now is there again when what takes its place is removed.
    pub fn keep(&self) {
        drop(self.kept.set(self.loaded()));
    }

    /// Forgets a plugin, or goes back to the one that was kept.
    pub fn remove(&self, name: &PluginName) {
        let kept = self.kept.get().and_then(|kept| kept.plugins.get(name)).cloned();
        let digest = kept.as_ref().map(|plugin| plugin.listing.digest.clone());
        let before = self.change(|plugins| match kept {
            Some(kept) => plugins.insert(name.clone(), kept),
            None => plugins.remove(name),
        });
        let plugin = name.clone();
        match (before, digest) {
            (Some(_), None) => self.notices.say(Notice::PluginRemoved { plugin }),
            (Some(before), Some(digest)) if before.listing.digest != digest => {
                self.notices.say(Notice::PluginLoaded { plugin, digest, replaced: true });
            }
            _ => {}
        }
    }

    fn change<T>(&self, how: impl FnOnce(&mut BTreeMap<PluginName, Arc<Plugin>>) -> T) -> T {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.loaded.load();
        let mut plugins = now.plugins.clone();
        let changed = how(&mut plugins);
        self.loaded.store(Arc::new(Loaded { generation: now.generation + 1, plugins }));
        changed
    }
}
