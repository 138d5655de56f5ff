//! The plugins that are loaded, by name. A new version takes over between two events: who looks up a plugin
//! holds that version until the handler has ended.

mod turn;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::turn::OnTrial;

use crate::{
    control::Refusal,
    engine::{
        Engine, Plugin,
        admission::{Candidate, Refused},
    },
    id::PluginName,
    journal::{Decision, Journal},
    kept::Kept,
    lock::{LockFile, Locked},
    notice::{Notice, Notices},
    settings,
    signature::{self, Publisher},
    tally::Tally,
};

/// After a failure of the journal.
const AGAIN: Duration = Duration::from_secs(2);

/// How many plugins are loaded at once: while some are read and checked, others say what they have.
pub fn side_by_side() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from)
}

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
    brought: OnceLock<Arc<Loaded>>,
    /// Files that were not taken, as they were looked at last.
    not_taken: Mutex<BTreeMap<PluginName, Refusal>>,
    /// Told whenever `loaded` is replaced.
    changed: watch::Sender<()>,
    /// Held while `loaded` is replaced; readers never wait for it.
    changing: Mutex<()>,
    /// Held while what was agreed to is written down.
    agreeing: Mutex<()>,
    /// What was agreed to, where somebody keeps that.
    agreed: Option<Agreed>,
    /// SHA-256 of what is kept, and loaded just now.
    coming: Mutex<Vec<String>>,
    /// Versions that others have replaced, as long as somebody uses them.
    replaced: Mutex<Vec<Weak<Plugin>>>,
    /// Held while one of those is loaded again.
    loading: tokio::sync::Mutex<()>,
    /// What is kept of deliveries names the components that they are of, and it is said there how versions stand.
    journal: Arc<dyn Journal>,
    /// Who may have signed what comes from files; anybody and nobody, where that is not said.
    publishers: Option<BTreeSet<Publisher>>,
    /// Versions on trial.
    trials: Mutex<BTreeMap<PluginName, OnTrial>>,
    /// Those that were rolled back since the host has started, by the plugin and SHA-256: one component may be several
    /// plugins.
    dropped: Mutex<BTreeSet<(PluginName, String)>>,
    /// Held while one version takes the place of another.
    turning: tokio::sync::Mutex<()>,
    /// What was agreed to of what serves.
    entries: Mutex<BTreeMap<PluginName, Locked>>,
    /// Whose files are to be looked at again though they have not changed, and who is told.
    again: Mutex<BTreeSet<PluginName>>,
    news: Notify,
    /// The host has ended: nothing is waited for any more.
    over: OnceLock<CancellationToken>,
    notices: Notices,
    tally: Arc<Tally>,
}

/// What was agreed to, and the components themselves.
pub struct Agreed {
    /// `parlour.lock`.
    pub lock: LockFile,
    /// What goes on while another waits.
    pub kept: Kept,
}

impl Registry {
    /// No plugins yet.
    pub fn new(
        engine: Arc<Engine>,
        settings: BTreeMap<PluginName, settings::Plugin>,
        agreed: Option<Agreed>,
        publishers: Option<BTreeSet<Publisher>>,
        journal: Arc<dyn Journal>,
        notices: Notices,
        tally: Arc<Tally>,
    ) -> Self {
        Self {
            engine,
            settings,
            loaded: ArcSwap::default(),
            brought: OnceLock::new(),
            changed: watch::Sender::new(()),
            not_taken: Mutex::default(),
            changing: Mutex::new(()),
            agreeing: Mutex::new(()),
            agreed,
            coming: Mutex::default(),
            replaced: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
            journal,
            publishers,
            trials: Mutex::default(),
            dropped: Mutex::default(),
            turning: tokio::sync::Mutex::new(()),
            entries: Mutex::default(),
            again: Mutex::default(),
            news: Notify::new(),
            over: OnceLock::new(),
            notices,
            tally,
        }
    }

    /// Whatever goes on by itself ends with this.
    pub fn until(&self, over: CancellationToken) {
        drop(self.over.set(over));
    }

    /// The plugins now.
    pub fn loaded(&self) -> Arc<Loaded> {
        self.loaded.load_full()
    }

    /// Changes whenever the plugins do.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Loads a plugin, or a new version of it. What served before goes on serving until this one is ready, and
    /// if it is refused.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn load(&self, name: &PluginName, bytes: Bytes) -> Result<(), Refused> {
        let candidate = self.candidate(bytes).await?;
        self.signed(name, &candidate, None)?;
        self.put(name, candidate).await
    }

    /// Reads a component, away from those who answer.
    async fn candidate(&self, bytes: Bytes) -> Result<Candidate, Refused> {
        let engine = self.engine.clone();
        let read = tokio::task::spawn_blocking(move || engine.candidate(bytes)).await;
        read.map_err(|error| Refused::Host(format!("reading it failed: {error}")))?
    }

    /// Loads what came from a file: as [`Self::load`], if it does not go beyond what was agreed to. If it does, what was
    /// agreed to serves.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn load_agreed(&self, name: &PluginName, bytes: Bytes) -> Result<(), Refused> {
        let listed = self.publishers.as_ref();
        let candidate = self.candidate(bytes.clone()).await?;
        self.signed(name, &candidate, listed)?;
        let is_rejected = self.rejected(name).await?.as_ref() == Some(&candidate.digest);
        let Some(Agreed { lock, kept }) = &self.agreed else {
            return if is_rejected { Err(Refused::RolledBack) } else { self.put(name, candidate).await };
        };
        let offered = candidate.offered();
        let agreed = lock.read().map_err(Refused::Host)?.plugins.remove(name);
        if let Some(agreed) = &agreed {
            let beyond = agreed.beyond(&offered);
            if !beyond.is_empty() {
                if !self.has(name) {
                    self.finish_rollback(name, &agreed.digest, &offered.digest).await?;
                    self.serve_before(name, agreed, kept.get(&agreed.digest)).await;
                }
                return Err(Refused::Beyond(beyond));
            }
        }
        if is_rejected {
            let before = agreed.as_ref().filter(|agreed| agreed.digest != offered.digest);
            if agreed.is_none() || before.is_some() {
                if !self.has(name)
                    && let Some(before) = before
                {
                    self.serve_before(name, before, self.instead(name, before).await?).await;
                }
                return Err(Refused::RolledBack);
            }
            // Somebody has agreed to this very file since.
            self.journal.decide(name, Decision::Forgiven).await?;
        }
        let _coming = self.coming(&offered.digest);
        // Before it is on trial: whatever comes between, it is there to be gone back to after it.
        let put = || {
            let _one = self.agreeing.lock().unwrap_or_else(PoisonError::into_inner);
            kept.put(&offered.digest, &bytes)
        };
        if let Err(reason) = put() {
            tracing::warn!(target: "parlour", "plugin {name}: it is not kept: {reason}");
        }
        self.put(name, candidate).await?;
        let source = agreed.as_ref().and_then(|agreed| agreed.source.clone());
        let entry = Locked { source, ..offered };
        if agreed.as_ref() == Some(&entry) && kept.has(&entry.digest) {
            self.was_agreed(name, Some(entry));
            return Ok(());
        }
        self.agree(name, entry, &bytes).await;
        Ok(())
    }

    /// What was agreed to serves while a file is not taken.
    async fn serve_before(&self, name: &PluginName, agreed: &Locked, component: Option<Vec<u8>>) {
        let Some(component) = component else { return };
        let served = async {
            let candidate = self.candidate(component.into()).await?;
            self.signed(name, &candidate, self.publishers.as_ref())?;
            let entry = Locked { source: agreed.source.clone(), ..candidate.offered() };
            self.put(name, candidate).await?;
            self.was_agreed(name, Some(entry));
            Ok::<_, Refused>(())
        };
        if let Err(reason) = served.await {
            tracing::warn!(target: "parlour", "plugin {name}: what was agreed to is refused: {reason}");
        }
    }

    /// The components that are needed by what deliveries have recorded, and those that are on trial or were accepted; none
    /// where nobody knows.
    async fn needed(&self, agreed: &LockFile) -> Option<BTreeSet<String>> {
        let needed = async {
            let mut needed: BTreeSet<String> = self.journal.components().await?.into_iter().collect();
            let now = agreed.read().map_err(Refused::Host)?;
            for name in now.plugins.keys().chain(self.loaded().plugins.keys()) {
                let versions = self.journal.versions(name).await?;
                needed.extend([versions.accepted, versions.trial].into_iter().flatten().map(|it| it.digest));
            }
            Ok::<_, Refused>(needed)
        };
        let needed = needed.await;
        needed.map_err(|reason| tracing::warn!(target: "parlour", "what is kept: {reason}")).ok()
    }

    /// Until this is dropped, a component is one that is needed.
    fn coming(&self, digest: &str) -> Coming<'_> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner).push(digest.to_owned());
        Coming { registry: self, digest: digest.to_owned() }
    }

    /// The components of versions that are loaded or are about to be, on trial or gone back to if that ends badly, or were replaced and
    /// still run something: what they begin may not be written down yet.
    fn in_use(&self) -> Vec<String> {
        let loaded = self.loaded.load();
        let loaded = loaded.plugins.values().map(|plugin| plugin.listing.digest.clone());
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        replaced.retain(|version| version.strong_count() > 0);
        let replaced = replaced.iter().filter_map(|version| Some(version.upgrade()?.listing.digest.clone()));
        let coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner).clone();
        loaded.chain(replaced).chain(self.tried()).chain(coming).collect()
    }

    /// Forgets components that were agreed to once and that nobody needs any more.
    pub async fn tidy(&self) {
        let Some(Agreed { lock, kept }) = &self.agreed else { return };
        let Some(mut needed) = self.needed(lock).await else { return };
        let _one = self.agreeing.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(now) = lock.read() else { return };
        needed.extend(self.in_use());
        needed.extend(now.plugins.into_values().map(|locked| locked.digest));
        kept.only(&needed);
        self.engine.forget_compiled(&needed);
    }

    /// A version that was agreed to once, if it is kept: it finishes what it began, with what is granted now.
    pub async fn version(&self, name: &PluginName, digest: &str) -> Option<Arc<Plugin>> {
        let _one = self.loading.lock().await;
        let known = |version: &Weak<Plugin>| {
            version.upgrade().filter(|it| it.listing.digest == digest && it.listing.plugin == *name)
        };
        let found = self.replaced.lock().unwrap_or_else(PoisonError::into_inner).iter().find_map(known);
        if found.is_some() {
            return found;
        }
        let component = self.agreed.as_ref()?.kept.get(digest)?;
        let refused = |reason: Refused| {
            tracing::warn!(target: "parlour", "plugin {name}: the version that began is refused: {reason}");
        };
        let candidate = self.candidate(component.into()).await.map_err(refused).ok()?;
        self.signed(name, &candidate, self.publishers.as_ref()).map_err(refused).ok()?;
        let unset = settings::Plugin::default();
        let settings = self.settings.get(name).unwrap_or(&unset);
        let plugin =
            Arc::new(self.engine.load(name.clone(), candidate, settings).await.map_err(refused).ok()?);
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&plugin));
        Some(plugin)
    }

    /// Whether somebody has signed it who must have: the plugin's own publisher, or else one of these.
    fn signed(
        &self,
        name: &PluginName,
        candidate: &Candidate,
        listed: Option<&BTreeSet<Publisher>>,
    ) -> Result<(), Refused> {
        let own = self.settings.get(name).and_then(|plugin| plugin.publisher);
        let wanted = signature::wanted(own, listed);
        signature::required(candidate.surface.publisher, wanted).map_err(Refused::Publisher)
    }

    /// A plugin of a component, asked what it has: nobody is served by it yet.
    async fn ready(&self, name: &PluginName, candidate: Candidate) -> Result<Arc<Plugin>, Refused> {
        let unset = settings::Plugin::default();
        let settings = self.settings.get(name).unwrap_or(&unset);
        Ok(Arc::new(self.engine.load(name.clone(), candidate, settings).await?))
    }

    async fn put(&self, name: &PluginName, candidate: Candidate) -> Result<(), Refused> {
        let plugin = self.ready(name, candidate).await?;
        let digest = plugin.listing.digest.clone();
        let (may, spared) = (plugin.permissions.summary(), plugin.permissions.spared());
        let before = Box::pin(self.turn(name, plugin)).await?;
        if before.as_ref().is_none_or(|before| before.listing.digest != digest) {
            self.notices.say(Notice::PluginLoaded {
                plugin: name.clone(),
                digest,
                replaced: before.is_some(),
            });
        }
        if !spared.is_empty() {
            self.notices.say(Notice::PluginAuditOnly { plugin: name.clone(), spared });
        }
        self.tally.granted(None, name, &may);
        Ok(())
    }

    /// Waits until no version is taking the place of another, or the host has ended.
    pub async fn turned(&self) {
        let over = self.over();
        tokio::select! {
            turning = self.turning.lock() => drop(turning),
            () = over.cancelled() => {}
        }
    }

    fn over(&self) -> CancellationToken {
        self.over.get().cloned().unwrap_or_default()
    }

    /// Plugins whose files are to be looked at again, though they may not have changed.
    pub fn again(&self) -> BTreeSet<PluginName> {
        std::mem::take(&mut *self.again.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there is one.
    pub async fn wants_a_look(&self) {
        self.news.notified().await;
    }

    /// Whether a plugin is loaded.
    pub fn has(&self, name: &PluginName) -> bool {
        self.loaded.load().plugins.contains_key(name)
    }

    /// Files that were not taken, by the plugin that they would be.
    pub fn not_taken(&self) -> BTreeMap<PluginName, Refusal> {
        self.not_taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a plugin's file was taken when it was looked at.
    pub fn looked_at(&self, name: &PluginName, refusal: Option<Refusal>) {
        let mut not_taken = self.not_taken.lock().unwrap_or_else(PoisonError::into_inner);
        match refusal {
            Some(refusal) => not_taken.insert(name.clone(), refusal),
            None => not_taken.remove(name),
        };
    }

    /// Where it is written what was agreed to.
    pub fn lock(&self) -> Option<&Path> {
        self.agreed.as_ref().map(|agreed| agreed.lock.path())
    }

    /// Bytes of the largest component that is taken.
    pub fn largest(&self) -> usize {
        self.engine.largest()
    }

    /// What is loaded now is there again when what takes its place is removed.
    pub fn keep(&self) {
        drop(self.brought.set(self.loaded()));
    }

    fn change<T>(&self, how: impl FnOnce(&mut BTreeMap<PluginName, Arc<Plugin>>) -> T) -> T {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.loaded.load();
        let mut plugins = now.plugins.clone();
        let changed = how(&mut plugins);
        let gone = now
            .plugins
            .iter()
            .filter(|(name, before)| plugins.get(*name).is_none_or(|after| !Arc::ptr_eq(before, after)));
        let gone = gone.map(|(_, before)| Arc::downgrade(before));
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner).extend(gone);
        self.loaded.store(Arc::new(Loaded { generation: now.generation + 1, plugins }));
        self.changed.send_replace(());
        changed
    }
}

/// A component that is kept, and loaded just now.
struct Coming<'a> {
    registry: &'a Registry,
    digest: String,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut coming = self.registry.coming.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = coming.iter().position(|digest| *digest == self.digest) {
            coming.swap_remove(at);
        }
    }
}
