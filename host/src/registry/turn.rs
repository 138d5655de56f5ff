//! A version takes the place of another: on trial at first, and back with all that it wrote if it does not stand it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, MutexGuard, PoisonError},
    time::Instant,
};

use super::{Agreed, Registry};
use crate::{
    engine::{Plugin, admission::Refused},
    id::PluginName,
    journal::{self, Decision, Moved, Release, Versions},
    lock::Locked,
    migration::{Known, Migration},
    notice::Notice,
    router::Listing,
    trial::{After, Trial},
};

/// What is remembered is moved so often anew, because it has changed meanwhile; then the next look tries it again.
const MOVES: u32 = 20;

/// A version on trial.
pub(super) struct OnTrial {
    digest: String,
    /// The one before it.
    before: Arc<Plugin>,
    trial: Trial,
    /// What stood in the lock before it: that one's, where it came from a file.
    agreed: Option<Locked>,
}

/// A version on trial, as who looks for it sees it.
pub struct Trying {
    /// The version before it.
    pub before: Arc<Plugin>,
    /// Events that it has handled well.
    pub well: u32,
}

fn release(plugin: &Plugin) -> Release {
    let digest = plugin.listing.digest.clone();
    Release { digest, version: plugin.version.as_ref().map(ToString::to_string) }
}

impl From<journal::Error> for Refused {
    fn from(error: journal::Error) -> Self {
        Self::Host(format!("journal: {error}"))
    }
}

impl Registry {
    fn trials(&self) -> MutexGuard<'_, BTreeMap<PluginName, OnTrial>> {
        self.trials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dropped(&self) -> MutexGuard<'_, BTreeSet<(PluginName, String)>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a component was rolled back as this plugin, given what the journal says of its versions: it does nothing any
    /// more.
    pub fn was_dropped(&self, name: &PluginName, digest: &str, versions: &Versions) -> bool {
        versions.rejected.as_deref() == Some(digest)
            || self.dropped().contains(&(name.clone(), digest.to_owned()))
    }

    /// Whether this very version was rolled back; if so, waits until the one before it serves.
    pub async fn is_dropped(&self, plugin: &Plugin) -> bool {
        let Listing { plugin, digest, .. } = &*plugin.listing;
        let dropped = self.dropped().contains(&(plugin.clone(), digest.clone()));
        if dropped {
            self.turned().await;
        }
        dropped
    }

    /// SHA-256 of the version that was rolled back last.
    pub(super) async fn rejected(&self, name: &PluginName) -> Result<Option<String>, Refused> {
        Ok(self.journal.versions(name).await?.rejected)
    }

    /// The component that serves in place of one that is not taken: what was accepted last, or else agreed to.
    pub(super) async fn instead(
        &self,
        name: &PluginName,
        agreed: &Locked,
    ) -> Result<Option<Vec<u8>>, Refused> {
        let Some(Agreed { kept, .. }) = &self.agreed else { return Ok(None) };
        let accepted = self.journal.versions(name).await?.accepted;
        let accepted = accepted.and_then(|accepted| kept.get(&accepted.digest));
        Ok(accepted.or_else(|| kept.get(&agreed.digest)))
    }

    /// Whether this very version is on trial.
    pub fn on_trial(&self, plugin: &Plugin) -> Option<Trying> {
        let trials = self.trials();
        let of = trials.get(&plugin.listing.plugin).filter(|of| of.digest == plugin.listing.digest)?;
        Some(Trying { before: of.before.clone(), well: of.trial.well() })
    }

    /// A plugin that was asked what it has takes over. Answers which one served before.
    pub(super) async fn turn(
        &self,
        name: &PluginName,
        plugin: Arc<Plugin>,
    ) -> Result<Option<Arc<Plugin>>, Refused> {
        let release = release(&plugin);
        let is = |it: &Option<Release>| it.as_ref().is_some_and(|it| it.digest == release.digest);
        let mut known = Known::default();
        for _ in 0..MOVES {
            let versions = self.journal.versions(name).await?;
            if is(&versions.trial) {
                if !self.trials().contains_key(name) {
                    self.goes_on(name, &release, &versions).await?;
                }
                return Ok(self.serves(name, plugin));
            }
            if versions.trial.is_some() {
                self.succeeded(name).await?;
                continue;
            }
            if is(&versions.accepted) {
                return Ok(self.serves(name, plugin));
            }
            let before = self.before(name, &versions, &release.digest).await;
            let from = versions.accepted.and_then(|it| it.version);
            let moved = self.moved(name, &plugin, from.as_deref(), &mut known).await?;
            // From here on who comes too late to commit waits until the new one serves.
            let _turning = match &before {
                Some(_) => Some(self.turning.lock().await),
                None => None,
            };
            match self.journal.take_over(name, &release, before.is_some(), moved).await {
                Err(journal::Error::Conflict) => continue,
                taken => taken?,
            }
            if let Some((before, agreed)) = before {
                self.begin(name, release.digest, before, agreed);
            }
            return Ok(self.serves(name, plugin));
        }
        Err(Refused::Host("what the plugin remembers changes faster than it can be moved".into()))
    }

    /// From now on it serves, whatever became of it before. Answers which one did.
    fn serves(&self, name: &PluginName, plugin: Arc<Plugin>) -> Option<Arc<Plugin>> {
        self.dropped().remove(&(name.clone(), plugin.listing.digest.clone()));
        self.change(|plugins| plugins.insert(name.clone(), plugin))
    }

    fn begin(&self, name: &PluginName, digest: String, before: Arc<Plugin>, agreed: Option<Locked>) {
        let on_trial = OnTrial { digest, before, trial: Trial::default(), agreed };
        self.trials().insert(name.clone(), on_trial);
    }

    /// The host was ended while this version was on trial.
    async fn goes_on(
        &self,
        name: &PluginName,
        release: &Release,
        versions: &Versions,
    ) -> Result<(), Refused> {
        match self.before(name, versions, &release.digest).await {
            Some((before, agreed)) => self.begin(name, release.digest.clone(), before, agreed),
            // There is nothing to go back to.
            None => drop(self.journal.decide(name, Decision::Accepted).await?),
        }
        Ok(())
    }

    /// Another version takes the place of the one on trial: what that one did stays, if it did anything.
    async fn succeeded(&self, name: &PluginName) -> Result<(), Refused> {
        let _turning = self.turning.lock().await;
        self.journal.decide(name, Decision::Superseded).await?;
        let accepted = self.journal.versions(name).await?.accepted;
        if let Some(OnTrial { before, agreed, .. }) = self.ends(name, accepted.as_ref()) {
            self.was_agreed(name, agreed);
            self.serves(name, before);
        }
        Ok(())
    }

    /// Nothing is on trial any more. Answers what was, where it is not what was accepted: it is dropped before it is off its
    /// trial, so that nobody takes it for one that has stood it.
    fn ends(&self, name: &PluginName, accepted: Option<&Release>) -> Option<OnTrial> {
        let mut trials = self.trials();
        let digest = &trials.get(name)?.digest;
        let stays = accepted.is_some_and(|accepted| accepted.digest == *digest);
        if !stays {
            self.dropped().insert((name.clone(), digest.clone()));
        }
        trials.remove(name).filter(|_| !stays)
    }

    /// What is gone back to from the version with this digest, and what was agreed to of it: what serves, or else what was
    /// accepted and is kept.
    async fn before(
        &self,
        name: &PluginName,
        versions: &Versions,
        digest: &str,
    ) -> Option<(Arc<Plugin>, Option<Locked>)> {
        let accepted = versions.accepted.as_ref();
        let serves = self.loaded().plugins.get(name).cloned();
        let is_accepted = |serves: &Arc<Plugin>| accepted.is_none_or(|it| it.digest == serves.listing.digest);
        if let Some(serves) = serves.filter(is_accepted) {
            let agreed = self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
            // Of what the embedder brought nothing is written down, but maybe of a file of that name before.
            let agreed = agreed.or_else(|| {
                let mut lock = self.agreed.as_ref()?.lock.read().ok()?;
                lock.plugins.remove(name).filter(|entry| entry.digest != digest)
            });
            return Some((serves, agreed));
        }
        let Agreed { kept, .. } = self.agreed.as_ref()?;
        let bytes = kept.get(&accepted?.digest)?;
        let loaded = async {
            let candidate = self.candidate(bytes.into()).await?;
            self.signed(name, &candidate, self.publishers.as_ref())?;
            let agreed = candidate.offered();
            Ok::<_, Refused>((self.ready(name, candidate).await?, Some(agreed)))
        };
        match loaded.await {
            Ok(before) => Some(before),
            Err(reason) => {
                tracing::warn!(target: "parlour", "plugin {name}: the version before is refused: {reason}");
                None
            }
        }
    }

    /// What a version makes of what is remembered, on a copy; none where it moves nothing.
    async fn moved(
        &self,
        name: &PluginName,
        plugin: &Arc<Plugin>,
        from: Option<&str>,
        known: &mut Known,
    ) -> Result<Option<Vec<Moved>>, Refused> {
        if !plugin.migrates() {
            return Ok(None);
        }
        known.since(from);
        let mut all = Vec::new();
        for agent in self.journal.remembering(name).await? {
            let remembered = self.journal.remembered(&agent, name, false).await?;
            let migration = Migration::new(agent.clone(), remembered);
            let mut memories = Vec::new();
            for memory in migration.memories() {
                let values = if let Some(values) = known.get(&agent, &memory) {
                    values
                } else {
                    let values = self.engine.migrate(plugin, from, &memory).await?;
                    known.put(&agent, &memory, &values);
                    values
                };
                memories.push((memory, values));
            }
            let moved = migration.moved(&memories);
            let ([before, after], quota) = (migration.sizes(&moved), plugin.permissions.quota());
            if (after.0 > quota.bytes && after.0 > before.0) || (after.1 > quota.keys && after.1 > before.1) {
                let (bytes, keys) = (quota.bytes, quota.keys);
                let line = format!("it would remember more than {bytes} bytes or {keys} keys");
                return Err(Refused::Migration(line));
            }
            all.push(moved);
        }
        Ok(Some(all))
    }

    /// An event that a version on trial has handled, or had a part in by a tool, has ended well.
    pub fn ended_well(self: &Arc<Self>, name: &PluginName, digest: &str) {
        let now = Instant::now();
        let is_over = match self.trials().get_mut(name) {
            Some(of) if of.digest == digest => {
                of.trial.ended_well(now);
                of.trial.is_over(now)
            }
            _ => false,
        };
        if is_over {
            let (registry, name, digest) = (self.clone(), name.clone(), digest.to_owned());
            tokio::spawn(async move { registry.accept(&name, &digest).await });
        }
    }

    /// Accepts versions whose time on trial is over.
    pub async fn settle(&self) {
        let now = Instant::now();
        let is_over = |(name, of): (&PluginName, &OnTrial)| {
            of.trial.is_over(now).then(|| (name.clone(), of.digest.clone()))
        };
        let over: Vec<_> = self.trials().iter().filter_map(is_over).collect();
        for (name, digest) in over {
            self.accept(&name, &digest).await;
        }
    }

    async fn accept(&self, name: &PluginName, digest: &str) {
        let _turning = self.turning.lock().await;
        let of = {
            let mut trials = self.trials();
            // Another may be on trial by now.
            if trials.get(name).is_none_or(|of| of.digest != digest) {
                return;
            }
            trials.remove(name)
        };
        let Some(of) = of else { return };
        if let Err(error) = self.journal.decide(name, Decision::Accepted).await {
            self.notices.say(Notice::Journal { reason: error.to_string() });
            // It is tried again after the next event.
            self.trials().entry(name.clone()).or_insert(of);
            return;
        }
        self.notices.say(Notice::PluginAccepted { plugin: name.clone(), digest: of.digest });
    }

    /// A version on trial has faulted, for the `nth` time at this event.
    pub fn faulted(&self, plugin: &Plugin, nth: u32) -> After {
        let mut trials = self.trials();
        let of = trials.get_mut(&plugin.listing.plugin);
        of.map_or(After::Again, |of| of.trial.faulted(nth, Instant::now()))
    }

    /// The version before it does no better at that event.
    pub fn excused(&self, plugin: &Plugin, faults: u32) {
        if let Some(of) = self.trials().get_mut(&plugin.listing.plugin) {
            of.trial.excused(faults);
        }
    }

    /// The version before serves again, and what this one wrote is undone. It is not tried again until somebody says so,
    /// or its file changes. It goes on where nobody waits for it any more: half of it is nothing that could serve.
    pub async fn roll_back(self: &Arc<Self>, plugin: &Plugin, fault: String) {
        let (registry, listing) = (self.clone(), plugin.listing.clone());
        let over = self.over();
        let turning = async move {
            tokio::select! {
                () = registry.turn_back(&listing, fault) => {}
                // A trial outlives the host.
                () = over.cancelled() => {}
            }
        };
        drop(tokio::spawn(turning).await);
    }

    async fn turn_back(&self, of: &Listing, fault: String) {
        let name = &of.plugin;
        let _turning = self.turning.lock().await;
        let of = {
            let mut trials = self.trials();
            // Somebody was quicker.
            if trials.get(name).is_none_or(|on_trial| on_trial.digest != of.digest) {
                return;
            }
            self.dropped().insert((name.clone(), of.digest.clone()));
            trials.remove(name)
        };
        let Some(of) = of else { return };
        // First: where the host is ended in between, it is still on trial, and nobody seems to have agreed to it again.
        self.go_back(name, &of.digest, of.agreed);
        let dropped = self.noted(|| self.journal.decide(name, Decision::RolledBack)).await;
        let (digest, before) = (of.digest, of.before.listing.digest.clone());
        self.serves(name, of.before);
        self.look_again(name);
        self.notices.say(Notice::PluginRolledBack { plugin: name.clone(), digest, before, fault, dropped });
    }

    /// Its file is gone: what the embedder brought serves, as if no other had been tried, or nothing of that name.
    pub async fn remove(&self, name: &PluginName) {
        let brought = self.brought.get().and_then(|brought| brought.plugins.get(name)).cloned();
        let _turning = self.turning.lock().await;
        if self.trials().contains_key(name) {
            let ends = if brought.is_some() { Decision::Withdrawn } else { Decision::Superseded };
            self.noted(|| self.journal.decide(name, ends)).await;
            let accepted = self.noted(|| self.journal.versions(name)).await.accepted;
            self.ends(name, accepted.as_ref());
        }
        if let Some(brought) = &brought {
            let release = release(brought);
            if self.noted(|| self.journal.versions(name)).await.accepted.as_ref() != Some(&release) {
                self.noted(|| self.journal.take_over(name, &release, false, None)).await;
            }
        }
        let digest = brought.as_ref().map(|plugin| plugin.listing.digest.clone());
        let before = match brought {
            Some(brought) => self.serves(name, brought),
            None => self.change(|plugins| plugins.remove(name)),
        };
        let plugin = name.clone();
        match (before, digest) {
            (Some(_), None) => self.notices.say(Notice::PluginRemoved { plugin }),
            (Some(before), Some(digest)) if before.listing.digest != digest => {
                self.notices.say(Notice::PluginLoaded { plugin, digest, replaced: true });
            }
            _ => {}
        }
    }

    /// Asks the journal until it answers.
    async fn noted<T, F: Future<Output = Result<T, journal::Error>>>(&self, what: impl Fn() -> F) -> T {
        loop {
            match what().await {
                Ok(answer) => return answer,
                Err(error) => self.notices.say(Notice::Journal { reason: error.to_string() }),
            }
            tokio::time::sleep(super::AGAIN).await;
        }
    }

    /// What was agreed to before stands in the lock again; nothing, where nothing did.
    fn go_back(&self, name: &PluginName, digest: &str, before: Option<Locked>) {
        let Some(Agreed { lock, .. }) = &self.agreed else { return };
        let _one = self.agreeing.lock().unwrap_or_else(PoisonError::into_inner);
        self.was_agreed(name, before.clone());
        let changed = lock.change(|lock| {
            let Some(mut entry) = lock.plugins.remove(name) else { return };
            if entry.digest != digest {
                lock.plugins.insert(name.clone(), entry);
            } else if let Some(before) = before {
                let source = entry.source.take();
                lock.plugins.insert(name.clone(), Locked { source, ..before });
            }
        });
        if let Err(reason) = changed {
            tracing::warn!(target: "parlour", "plugin {name}: what was agreed to is not kept: {reason}");
        }
    }

    /// What was agreed to of what serves now.
    pub(super) fn was_agreed(&self, name: &PluginName, entry: Option<Locked>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        match entry {
            Some(entry) => entries.insert(name.clone(), entry),
            None => entries.remove(name),
        };
    }

    /// At a start: the version that is offered was to be rolled back when the host was ended, and the lock is as it was
    /// before it.
    pub(super) async fn finish_rollback(
        &self,
        name: &PluginName,
        agreed: &str,
        offered: &str,
    ) -> Result<(), Refused> {
        let versions = self.journal.versions(name).await?;
        let is = |it: &Option<Release>, digest| it.as_ref().is_some_and(|it| it.digest == digest);
        if is(&versions.trial, offered) && is(&versions.accepted, agreed) {
            self.journal.decide(name, Decision::RolledBack).await?;
        }
        Ok(())
    }

    /// Tries a version again that was rolled back. Answers whether there is one.
    ///
    /// # Errors
    /// One line.
    pub async fn forgive(&self, name: &PluginName) -> Result<bool, String> {
        let there = self.rejected(name).await.map_err(|reason| reason.to_string())?.is_some();
        if there {
            let forgiven = self.journal.decide(name, Decision::Forgiven).await;
            forgiven.map_err(|error| error.to_string())?;
            self.look_again(name);
        }
        Ok(there)
    }

    fn look_again(&self, name: &PluginName) {
        self.again.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        self.news.notify_one();
    }

    /// Writes down what was agreed to, and keeps it, with all that may be gone back to.
    pub(super) async fn agree(&self, name: &PluginName, entry: Locked, component: &[u8]) {
        let Some(Agreed { lock, kept }) = &self.agreed else { return };
        let agree = || {
            let _one = self.agreeing.lock().unwrap_or_else(PoisonError::into_inner);
            // It was rolled back before it stood in the lock: whoever saw it there would take it for consent.
            if self.dropped().contains(&(name.clone(), entry.digest.clone())) {
                return lock.read();
            }
            kept.put(&entry.digest, component)?;
            self.was_agreed(name, Some(entry.clone()));
            lock.change(|lock| drop(lock.plugins.insert(name.clone(), entry)))
        };
        match agree() {
            Ok(_) => self.tidy().await,
            Err(reason) => {
                tracing::warn!(target: "parlour", "plugin {name}: what was agreed to is not kept: {reason}");
            }
        }
    }

    /// The components of versions on trial, and of those before them.
    pub(super) fn tried(&self) -> Vec<String> {
        let trials = self.trials();
        trials.values().flat_map(|of| [of.digest.clone(), of.before.listing.digest.clone()]).collect()
    }
}
