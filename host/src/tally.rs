//! What happened since the audit record was written last: counted in memory, so that no call waits for a disk, and
//! bounded, so that no plugin fills one.
//!
//! The first of a kind is written at once. What is counted after that is written a minute later, then after two, and
//! at most every hour: each kind costs some thirty entries on its first day, however often it happens. A kind is an
//! agent, a plugin and a permission, and of what was denied the call too: of these a plugin has [`DETAILS`], and what
//! is beyond them is counted together.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    audit::{Entry, What, now},
    grant::Denied,
    id::{AgentName, PluginName},
    manifest::Permission,
    notice::Notice,
    text::escaped,
};

/// Denied calls of one plugin that are told apart; more are an attack, and one line says as much.
pub const DETAILS: usize = 32;
/// What is beyond them.
const OTHERS: &str = "other calls";
/// A call's name, and what it is about.
const CALL: usize = 160;
/// After the first of a kind was written.
const FIRST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// Entries that wait to be written: more only while the storage fails for long.
const WAITING: usize = 1000;

/// What one call of a plugin did, for as far as somebody asks for it later.
#[derive(Debug, Default)]
pub struct Counts {
    used: BTreeMap<Permission, u32>,
    /// Denied, or let through (`true`) though it would have been.
    denied: BTreeMap<(Denied, bool, String), u32>,
}

impl Counts {
    /// It was allowed.
    pub fn used(&mut self, permission: Permission) {
        *self.used.entry(permission).or_default() += 1;
    }

    /// It was denied, or would have been. `call` is what the plugin wanted, in a few words.
    pub fn denied(&mut self, denied: Denied, spared: bool, call: &str) {
        let key = (denied, spared, escaped(call, CALL));
        let key = if self.denied.len() < DETAILS || self.denied.contains_key(&key) {
            key
        } else {
            (denied, spared, OTHERS.into())
        };
        *self.denied.entry(key).or_default() += 1;
    }

    /// What was denied, and by which call.
    pub fn denials(&self) -> impl Iterator<Item = (Denied, &str)> {
        let denied = self.denied.keys().filter(|(_, spared, _)| !spared);
        denied.map(|(denied, _, call)| (*denied, call.as_str()))
    }
}

/// How often a plugin was denied something since the host started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Denials {
    /// So often.
    pub denied: u64,
    /// And so often it was let through.
    pub spared: u64,
}

/// What happened, by kind.
#[derive(Debug, Default)]
pub struct Tally {
    state: Mutex<State>,
    /// Something is to be written, now or later.
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    kinds: HashMap<Kind, Count>,
    plugins: HashMap<PluginName, Of>,
    /// What was granted, as it was last written.
    granted: HashMap<(Option<AgentName>, PluginName), String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    agent: AgentName,
    plugin: PluginName,
    did: Did,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Did {
    Use(Permission),
    Want { denied: Denied, spared: bool, call: String },
}

#[derive(Debug)]
struct Count {
    unwritten: u64,
    /// When it happened last, in milliseconds since 1970.
    last: i64,
    due: Instant,
    /// How long after that the next ones are written.
    rest: Duration,
}

/// What is known of one plugin.
#[derive(Debug, Default)]
struct Of {
    /// Kinds of denials that are told apart.
    details: usize,
    denials: Denials,
}

impl Tally {
    /// What a call did.
    pub fn count(&self, agent: &AgentName, plugin: &PluginName, counts: Counts) {
        if counts.used.is_empty() && counts.denied.is_empty() {
            return;
        }
        let mut state = self.lock();
        let mut news = false;
        for (permission, times) in counts.used {
            let kind = Kind { agent: agent.clone(), plugin: plugin.clone(), did: Did::Use(permission) };
            news |= state.add(kind, times.into());
        }
        for ((denied, spared, call), times) in counts.denied {
            let of = state.plugins.entry(plugin.clone()).or_default();
            let sum = if spared { &mut of.denials.spared } else { &mut of.denials.denied };
            *sum += u64::from(times);
            let full = of.details >= DETAILS;
            let kind = |call| Kind {
                agent: agent.clone(),
                plugin: plugin.clone(),
                did: Did::Want { denied, spared, call },
            };
            let mut kind = kind(call);
            if !state.kinds.contains_key(&kind) {
                if full {
                    kind.did = Did::Want { denied, spared, call: OTHERS.into() };
                } else if let Some(of) = state.plugins.get_mut(plugin) {
                    of.details += 1;
                }
            }
            news |= state.add(kind, times.into());
        }
        drop(state);
        if news {
            self.news.notify_one();
        }
    }

    /// Something that happened.
    pub fn note(&self, entry: Entry) {
        let mut state = self.lock();
        if state.entries.len() < WAITING {
            state.entries.push(entry);
        }
        drop(state);
        self.news.notify_one();
    }

    /// What a plugin may do from now on; said again only when it is something else.
    pub fn granted(&self, agent: Option<&AgentName>, plugin: &PluginName, what: &str) {
        let key = (agent.cloned(), plugin.clone());
        if self.lock().granted.insert(key, what.to_owned()).is_none_or(|before| before != what) {
            let entry = Entry::new(What::Granted, Some(plugin), what);
            self.note(agent.into_iter().fold(entry, Entry::agent));
        }
    }

    /// What the host says to its operator, as far as it belongs into the record.
    pub fn hear(&self, notice: &Notice) {
        if let Some(entry) = heard(notice) {
            self.note(entry);
        }
    }

    /// How often a plugin was denied something.
    pub fn denials(&self, plugin: &PluginName) -> Denials {
        self.lock().plugins.get(plugin).map(|of| of.denials).unwrap_or_default()
    }

    /// Waits until something is to be written.
    pub async fn due(&self) {
        let next = self.lock().kinds.values().filter(|it| it.unwritten > 0).map(|it| it.due).min();
        match next {
            Some(next) => tokio::select! {
                () = self.news.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            },
            None => self.news.notified().await,
        }
    }

    /// Takes what is to be written by now, or all of it.
    pub fn take(&self, all: bool) -> Vec<Entry> {
        let mut state = self.lock();
        let mut entries = std::mem::take(&mut state.entries);
        let now = Instant::now();
        for (kind, count) in &mut state.kinds {
            if count.unwritten > 0 && (all || count.due <= now) {
                entries.push(kind.entry(std::mem::take(&mut count.unwritten), count.last));
                count.due = now + count.rest;
                count.rest = (count.rest * 2).min(LONGEST);
            }
        }
        entries
    }

    /// Puts back what could not be written.
    pub fn put_back(&self, mut entries: Vec<Entry>) {
        let mut state = self.lock();
        entries.append(&mut state.entries);
        entries.truncate(WAITING);
        state.entries = entries;
        drop(state);
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts it; answers whether it is the first since its kind was written.
    fn add(&mut self, kind: Kind, times: u64) -> bool {
        let new = || Count { unwritten: 0, last: 0, due: Instant::now(), rest: FIRST };
        let count = self.kinds.entry(kind).or_insert_with(new);
        count.unwritten += times;
        count.last = now();
        count.unwritten == times
    }
}

impl Kind {
    fn entry(&self, count: u64, at: i64) -> Entry {
        let (what, permission, detail) = match &self.did {
            Did::Use(Permission::Secrets) => (What::Secret, Permission::Secrets, String::new()),
            Did::Use(permission) => (What::Used, *permission, String::new()),
            Did::Want { denied, spared, call } => {
                let what = if *spared { What::WouldBeDenied } else { What::Denied };
                (what, denied.permission(), format!("{call}: {denied}"))
            }
        };
        Entry::new(what, Some(&self.plugin), &detail).agent(&self.agent).counted(permission, count, at)
    }
}

/// What of the host's words is kept.
fn heard(notice: &Notice) -> Option<Entry> {
    Some(match notice {
        Notice::PluginLoaded { plugin, digest, replaced } => {
            let what = if *replaced { What::Swapped } else { What::Loaded };
            Entry::new(what, Some(plugin), digest)
        }
        Notice::PluginAccepted { plugin, digest } => Entry::new(What::Accepted, Some(plugin), digest),
        Notice::PluginRolledBack { plugin, digest, fault, dropped, .. } => {
            Entry::new(What::RolledBack, Some(plugin), &format!("{digest}: {fault}; {dropped}"))
        }
        Notice::PluginRemoved { plugin } => Entry::new(What::Removed, Some(plugin), ""),
        Notice::PluginRefused { plugin, file, reason, waits, .. } => {
            let what = if waits.is_some() { What::Waits } else { What::Refused };
            Entry::new(what, plugin.as_ref(), &format!("{file}: {reason}"))
        }
        Notice::PluginSuspended { plugin, agent, whom, rest } => {
            let detail = format!("from what {whom} does, for {} s", rest.as_secs());
            Entry::new(What::Suspended, Some(plugin), &detail).agent(agent)
        }
        Notice::PluginResumed { plugin, agent, whom } => {
            let entry = Entry::new(What::Resumed, Some(plugin), &format!("for {whom}"));
            agent.iter().fold(entry, Entry::agent)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> (AgentName, PluginName) {
        (AgentName::parse("helper").unwrap(), PluginName::parse("evil").unwrap())
    }

    fn one(how: impl FnOnce(&mut Counts)) -> Counts {
        let mut counts = Counts::default();
        how(&mut counts);
        counts
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_written_at_once_and_the_rest_ever_more_seldom() {
        let (agent, plugin) = names();
        let tally = Tally::default();
        let uses = || tally.count(&agent, &plugin, one(|counts| counts.used(Permission::Kv)));
        let written = || tally.take(false).iter().map(|entry| entry.count).collect::<Vec<_>>();
        uses();
        tally.due().await;
        assert_eq!(written(), [1]);
        for (seconds, expected) in [(59, vec![]), (1, vec![2]), (119, vec![]), (1, vec![2])] {
            uses();
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(written(), expected, "{seconds}");
        }
        let mut entries = 0;
        for _ in 0..24 * 60 {
            uses();
            tokio::time::advance(Duration::from_secs(60)).await;
            entries += written().len();
        }
        assert!(entries < 35, "{entries} on a day");
        uses();
        let entry = tally.take(true).remove(0);
        assert_eq!((&*entry.what, entry.permission.as_deref()), ("used", Some("kv")));
    }

    #[test]
    fn ever_new_details_are_counted_together() {
        let (agent, plugin) = names();
        let tally = Tally::default();
        let denied = Denied::NotGranted(Permission::Rooms);
        for call in 0..100 {
            let counts = one(|counts| {
                for room in 0..100 {
                    counts.denied(denied, false, &format!("outbox.send to !{call}-{room}"));
                }
            });
            tally.count(&agent, &plugin, counts);
        }
        let entries = tally.take(true);
        assert!(entries.len() <= DETAILS + 1, "{}", entries.len());
        assert_eq!(entries.iter().map(|entry| entry.count).sum::<i64>(), 10_000, "each is counted");
        assert!(entries.iter().any(|entry| entry.detail == "other calls: the grant `rooms` is missing"));
        assert_eq!(tally.denials(&plugin), Denials { denied: 10_000, spared: 0 });
    }

    #[test]
    fn what_could_not_be_written_is_kept_in_its_order() {
        let tally = Tally::default();
        let (_, plugin) = names();
        tally.granted(None, &plugin, "outbox");
        tally.granted(None, &plugin, "outbox");
        let taken = tally.take(true);
        assert_eq!(taken.len(), 1, "said once");
        tally.hear(&Notice::PluginRemoved { plugin });
        tally.put_back(taken);
        let whats: Vec<_> = tally.take(true).into_iter().map(|entry| entry.what).collect();
        assert_eq!(whats, ["granted", "removed"]);
    }
}
