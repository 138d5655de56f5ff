//! Timers, and what else is done with a commit.

use std::collections::BTreeMap;

use super::{
    super::{Arrival, Sequence},
    Agent,
};
use crate::{
    effect::Effect,
    id::{PluginName, SessionId},
    timer::Timer,
};

/// Whose, in which session, and its name there.
pub(super) type TimerKey = (PluginName, SessionId, String);

fn key(timer: &Timer) -> TimerKey {
    (timer.plugin.clone(), timer.session.clone(), timer.key.clone())
}

impl Agent {
    /// What is done with the commit.
    pub(super) fn do_inward(&mut self, plugin: Option<&PluginName>, effect: &Effect) {
        match effect {
            Effect::SetHome(place) => self.home = Some(place.clone()),
            Effect::SetTimer(timer) => self.set(Timer::clone(timer)),
            Effect::PutBack(timer) => {
                if timer.goes_back_over(self.timers.get(&key(timer))) {
                    self.set(Timer::clone(timer));
                }
            }
            Effect::CancelTimer { session, key } => {
                if let Some(plugin) = plugin {
                    self.timers.remove(&(plugin.clone(), session.clone(), key.clone()));
                }
            }
            Effect::Send { .. }
            | Effect::File { .. }
            | Effect::Edit { .. }
            | Effect::React { .. }
            | Effect::Redact { .. } => {}
        }
    }

    fn set(&mut self, timer: Timer) {
        self.timers.insert(key(&timer), timer);
    }

    pub(super) fn timers(&self, plugin: &PluginName, session: &SessionId) -> Vec<Timer> {
        let of = |timer: &&Timer| timer.plugin == *plugin && timer.session == *session;
        let mut timers: Vec<Timer> = self.timers.values().filter(of).cloned().collect();
        // They are in the order of their keys.
        timers.sort_by_key(|timer| timer.next);
        timers
    }

    pub(super) fn timer_count(&self, plugin: &PluginName) -> u64 {
        self.timers.keys().filter(|(of, ..)| of == plugin).count() as u64
    }

    /// When each plugin's first is due.
    pub(super) fn next_timers(&self) -> Vec<(PluginName, u64)> {
        let mut next: BTreeMap<&PluginName, u64> = BTreeMap::new();
        for timer in self.timers.values() {
            let first = next.entry(&timer.plugin).or_insert(timer.next);
            *first = timer.next.min(*first);
        }
        next.into_iter().map(|(plugin, next)| (plugin.clone(), next)).collect()
    }

    pub(super) fn due_timers(&self, plugin: &PluginName, now: u64, limit: u32) -> Vec<Timer> {
        let due = |timer: &&Timer| timer.plugin == *plugin && timer.next <= now;
        let mut due: Vec<&Timer> = self.timers.values().filter(due).collect();
        // They are in the order of their sessions and keys.
        due.sort_by_key(|timer| timer.next);
        due.into_iter().take(limit as usize).cloned().collect()
    }

    /// One that is as the caller saw it becomes an event, and is due again at `next`, or gone.
    pub(super) fn fire(
        &mut self,
        timer: &Timer,
        next: Option<u64>,
        arrival: Option<&Arrival>,
        last: &mut i64,
    ) -> Option<Sequence> {
        if self.timers.get(&key(timer)) != Some(timer) {
            return None;
        }
        match next {
            Some(next) => self.set(Timer { next, ..timer.clone() }),
            None => drop(self.timers.remove(&key(timer))),
        }
        self.fired(&key(timer), timer.next);
        arrival.and_then(|arrival| self.receive(arrival, last))
    }
}
