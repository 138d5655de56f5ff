//! Versions on trial: what they replaced is kept until it is decided.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        Commit, Decision, Error, Moved, Namespace, Release, Remembered, Undone, Versions, Write,
        version::Standing,
    },
    Agent, Ledger,
    timers::TimerKey,
};
use crate::{
    effect::Effect,
    id::{AgentName, PluginName},
    rhythm,
    timer::Timer,
};

impl Ledger {
    /// What a version on trial replaces is kept.
    pub(super) fn keep(&mut self, write: &Write) {
        let before = self.get(&write.namespace, &write.key).cloned();
        self.replaced.entry((write.namespace.clone(), write.key.clone())).or_insert(before);
    }

    /// Which of a commit's contributions are on trial.
    pub(super) fn standing(&self, commit: &Commit) -> Result<Vec<Standing>, Error> {
        let each = commit.contributions().map(|contribution| {
            let (Some(plugin), Some(digest)) = (&contribution.plugin, &contribution.digest) else {
                return Ok(Standing::Settled);
            };
            let Some(versions) = self.versions.get(plugin) else { return Ok(Standing::Settled) };
            let newest = versions.newest().map(|release| release.digest.as_str());
            let strange = || {
                Ok(commit.touches(plugin) && self.shape(plugin, Some(digest)) != self.shape(plugin, newest))
            };
            let replaced = || {
                let mut touched = commit.touched(plugin);
                let agent = self.agents.get(&commit.agent);
                Ok(touched.any(|(namespace, key)| match key {
                    Some(key) => self.replaced.contains_key(&(namespace.clone(), key.clone())),
                    None => self.replaced.keys().any(|(of, _)| of == namespace),
                }) || commit.touched_timers(plugin).any(|(session, key)| {
                    let is = |(of, there, name): &TimerKey| {
                        of == plugin && there == session && key.is_none_or(|key| key == name)
                    };
                    agent.is_some_and(|agent| agent.replaced.keys().any(is))
                }))
            };
            versions.standing(digest, strange, replaced)?.ok_or(Error::Conflict)
        });
        each.collect()
    }

    /// In which shape a version reads and writes what is remembered; none where that is not known.
    fn shape(&self, plugin: &PluginName, digest: Option<&str>) -> Option<i64> {
        self.shapes.get(plugin)?.get(digest?).copied()
    }

    /// The agents for which a plugin remembers something, in order.
    pub(super) fn remembering(&self, plugin: &PluginName) -> Vec<AgentName> {
        let of =
            self.kv.iter().filter(|(namespace, values)| namespace.plugin == *plugin && !values.is_empty());
        let agents: BTreeSet<_> = of.map(|(namespace, _)| namespace.agent.clone()).collect();
        agents.into_iter().collect()
    }

    /// All that a plugin remembers for an agent, in order.
    pub(super) fn remembered(&self, agent: &AgentName, plugin: &PluginName, before: bool) -> Vec<Remembered> {
        let of = |namespace: &Namespace| namespace.agent == *agent && namespace.plugin == *plugin;
        let now = self.kv.iter().filter(|(namespace, _)| of(namespace)).flat_map(|(namespace, values)| {
            values.iter().map(move |(key, stored)| ((namespace.clone(), key.clone()), Some(stored.clone())))
        });
        let mut all: BTreeMap<_, _> = now.collect();
        if before {
            let replaced = self.replaced.iter().filter(|((namespace, _), _)| of(namespace));
            all.extend(replaced.map(|(at, stored)| (at.clone(), stored.clone())));
        }
        let there = all
            .into_iter()
            .filter_map(|((namespace, key), stored)| Some(Remembered { namespace, key, stored: stored? }));
        there.collect()
    }

    pub(super) fn take_over(
        &mut self,
        plugin: &PluginName,
        release: &Release,
        on_trial: bool,
        moved: Option<Vec<Moved>>,
    ) -> Result<(), Error> {
        let (moves, moved) = (moved.is_some(), moved.unwrap_or_default());
        if moves && !self.remembering(plugin).iter().eq(moved.iter().map(|moved| &moved.agent)) {
            return Err(Error::Conflict);
        }
        for Moved { agent, seen, .. } in &moved {
            let now = self.remembered(agent, plugin, false).into_iter();
            if !now.map(|it| (it.namespace, it.key, it.stored.version)).eq(seen.iter().cloned()) {
                return Err(Error::Conflict);
            }
        }
        self.commit += 1;
        let version = self.commit;
        self.forget(plugin);
        for write in moved.into_iter().flat_map(|moved| moved.writes) {
            if on_trial {
                self.keep(&write);
            }
            self.write(write, version);
        }
        let before =
            self.versions.get(plugin).and_then(Versions::newest).map(|release| release.digest.as_str());
        let shape = self.shape(plugin, before.filter(|_| !moves));
        let shapes = self.shapes.entry(plugin.clone()).or_default();
        let shape = shape.unwrap_or_else(|| shapes.values().max().map_or(0, |last| last + 1));
        shapes.insert(release.digest.clone(), shape);
        let versions = self.versions.entry(plugin.clone()).or_default();
        let trial = on_trial.then(|| release.clone());
        versions.accepted = if on_trial { versions.accepted.take() } else { Some(release.clone()) };
        versions.trial = trial;
        versions.used = false;
        versions.rejected = versions.rejected.take().filter(|rejected| *rejected != release.digest);
        Ok(())
    }

    pub(super) fn decide(&mut self, plugin: &PluginName, decision: Decision) -> Undone {
        let nothing = Undone::default();
        let Some(versions) = self.versions.get_mut(plugin) else { return nothing };
        if decision == Decision::Forgiven {
            versions.rejected = None;
            return nothing;
        }
        let Some(trial) = versions.trial.take() else { return nothing };
        let used = std::mem::take(&mut versions.used);
        if !decision.undoes(used) {
            versions.accepted = Some(trial);
            self.forget(plugin);
            return nothing;
        }
        if decision == Decision::RolledBack {
            versions.rejected = Some(trial.digest);
        }
        let (undone, others) = std::mem::take(&mut self.replaced)
            .into_iter()
            .partition(|((namespace, _), _)| namespace.plugin == *plugin);
        self.replaced = others;
        let undone: BTreeMap<_, _> = undone;
        let keys = undone.len() as u64;
        for ((namespace, key), before) in undone {
            // With the version that it had.
            let (value, version) = before.map_or((None, 0), |stored| (Some(stored.value), stored.version));
            self.write(Write { namespace, key, value }, version);
        }
        let timers = self.agents.values_mut().map(|agent| agent.undo_timers(plugin)).sum();
        Undone { keys, timers }
    }

    /// What was replaced is not gone back to.
    pub(super) fn forget(&mut self, plugin: &PluginName) {
        self.replaced.retain(|(namespace, _), _| namespace.plugin != *plugin);
        for agent in self.agents.values_mut() {
            agent.replaced.retain(|(of, ..), _| of != plugin);
        }
    }
}

impl Agent {
    /// The timer that a version on trial sets or cancels is kept.
    pub(super) fn keep_timer(&mut self, plugin: &PluginName, effect: &Effect) {
        let Some((session, key)) = effect.timer() else { return };
        let at = (plugin.clone(), session.clone(), key.to_owned());
        let before = self.timers.get(&at).cloned();
        self.replaced.entry(at).or_insert(before);
    }

    /// A timer has been due: the one that the version on trial has replaced by it is not due at that time again.
    pub(super) fn fired(&mut self, at: &TimerKey, due: u64) {
        if let Some(before) = self.replaced.get_mut(at)
            && let Some(replaced) = before.take_if(|replaced| replaced.next <= due)
        {
            *before = rhythm::after(&replaced, due).map(|next| Timer { next, ..replaced });
        }
    }

    /// Every timer is as it was before the trial. Answers how many.
    pub(super) fn undo_timers(&mut self, plugin: &PluginName) -> u64 {
        let mut undone = 0;
        let replaced = std::mem::take(&mut self.replaced);
        for (at, before) in replaced {
            if at.0 != *plugin {
                self.replaced.insert(at, before);
                continue;
            }
            undone += 1;
            match before {
                Some(before) => drop(self.timers.insert(at, before)),
                None => drop(self.timers.remove(&at)),
            }
        }
        undone
    }
}
