//! What a handler has done so far, and what was done by the tools that it called: committed together if it returns ok,
//! dropped otherwise.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{kv, schedule};
use crate::{
    effect::Effect,
    id::PluginName,
    journal::{Blob, Contribution, Namespace, Outcome, Write},
};

/// A value that was set, or deleted.
type Written = Option<Vec<u8>>;

/// One handler's work. It goes with every call of a tool, and comes back with what the tool has done, or without.
#[derive(Default)]
pub struct Work {
    /// What was queued, by ordinal, and in which call.
    effects: Vec<(usize, Effect)>,
    /// The handler's own call, and those of tools that are under way or have ended well.
    calls: Vec<Call>,
    /// Which of them are under way: the running one is the last.
    under_way: Vec<Mark>,
    /// What all of them read of what was there before. It stays when a tool fails: the failure may rest on it.
    pub reads: kv::Reads,
    /// How much their plugins remembered.
    pub before: kv::Before,
    /// Timers that their plugins had in this session, and in all.
    pub timers_before: schedule::Before,
    /// Answers of the language model that are open.
    pub answering: usize,
    /// Bytes that are written.
    pub written: usize,
    /// Files that are to be sent, by digest.
    files: BTreeMap<String, Bytes>,
    /// A tool was not well: an error that only passes this on is not its caller's fault.
    pub tool_failed: bool,
}

struct Call {
    plugin: PluginName,
    /// Its version's.
    digest: String,
    writes: BTreeMap<(Namespace, String), Written>,
}

/// How things stood when a call began.
struct Mark {
    call: usize,
    effects: usize,
    answering: usize,
    written: usize,
}

impl Work {
    /// A plugin is called, in the version with this digest: what is done from now on is its own.
    pub fn begin(&mut self, plugin: &PluginName, digest: &str) {
        let (call, effects) = (self.calls.len(), self.effects.len());
        self.under_way.push(Mark { call, effects, answering: self.answering, written: self.written });
        self.calls.push(Call { plugin: plugin.clone(), digest: digest.to_owned(), writes: BTreeMap::new() });
    }

    /// The call that runs has ended; what was done since it began stays if it ended well.
    pub fn end(&mut self, well: bool) {
        let Some(mark) = self.under_way.pop() else { return };
        self.answering = mark.answering;
        if !well {
            self.effects.truncate(mark.effects);
            self.calls.truncate(mark.call);
            self.written = mark.written;
        }
    }

    fn running(&self) -> Option<usize> {
        self.under_way.last().map(|mark| mark.call)
    }

    /// The digest of the version that runs.
    pub fn version(&self) -> Option<&str> {
        self.running().and_then(|call| self.calls.get(call)).map(|call| call.digest.as_str())
    }

    /// Whether there are `most` effects.
    pub fn is_full(&self, most: usize) -> bool {
        self.effects.len() >= most
    }

    /// Queues an effect, and answers its ordinal; none where there are `most` of them.
    pub fn queue(&mut self, effect: Effect, most: usize) -> Option<u32> {
        let (ordinal, call) = (self.effects.len(), self.running()?);
        if self.is_full(most) {
            return None;
        }
        self.effects.push((call, effect));
        u32::try_from(ordinal).ok()
    }

    /// Keeps a file that an effect sends.
    pub fn keep(&mut self, digest: String, bytes: Bytes) {
        self.files.insert(digest, bytes);
    }

    /// An effect that this very call has queued.
    pub fn queued(&mut self, ordinal: u32) -> Option<&mut Effect> {
        let running = self.running()?;
        let (call, effect) = self.effects.get_mut(ordinal as usize)?;
        (*call == running).then_some(effect)
    }

    /// The newest effect of the running plugin's that fits, with its ordinal: another call of it may have queued it.
    pub fn newest(&self, fits: impl Fn(&Effect) -> bool) -> Option<(u32, &Effect)> {
        let at = self.effects.iter().rposition(|(call, effect)| self.is_own(*call) && fits(effect))?;
        Some((u32::try_from(at).ok()?, &self.effects[at].1))
    }

    /// The ordinal of the effect that is queued next.
    pub fn next(&self) -> Option<u32> {
        u32::try_from(self.effects.len()).ok()
    }

    /// The running plugin's effects, in their order.
    pub fn own(&self) -> impl Iterator<Item = &Effect> {
        self.effects.iter().filter(|(call, _)| self.is_own(*call)).map(|(_, effect)| effect)
    }

    /// How many effects of the running plugin's fit.
    pub fn count(&self, fits: impl Fn(&Effect) -> bool) -> usize {
        self.own().filter(|effect| fits(effect)).count()
    }

    /// Whether a call is of the plugin that runs.
    fn is_own(&self, call: usize) -> bool {
        let plugin = |call: usize| self.calls.get(call).map(|call| &call.plugin);
        self.running().and_then(plugin) == plugin(call)
    }

    /// What was written under a key, if something was.
    pub fn get(&self, at: &(Namespace, String)) -> Option<&Written> {
        self.calls.iter().rev().find_map(|call| call.writes.get(at))
    }

    /// Writes, and answers what this call had written there.
    pub fn set(&mut self, at: (Namespace, String), value: Written) -> Option<Written> {
        let running = self.running()?;
        self.calls.get_mut(running)?.writes.insert(at, value)
    }

    /// Takes a write back.
    pub fn unset(&mut self, at: (Namespace, String), before: Option<Written>) {
        let Some(call) = self.running().and_then(|running| self.calls.get_mut(running)) else { return };
        match before {
            Some(before) => call.writes.insert(at, before),
            None => call.writes.remove(&at),
        };
    }

    /// All that a plugin has written, by namespace and key.
    pub fn writes_of(&self, plugin: &PluginName) -> BTreeMap<&(Namespace, String), &Written> {
        let calls = self.calls.iter().filter(|call| call.plugin == *plugin);
        calls.flat_map(|call| &call.writes).collect()
    }

    /// For the commit: the handler's own contribution, with all that was read, and those of tools.
    pub fn into_contributions(self) -> Option<(Contribution, Vec<Contribution>)> {
        let write = |((namespace, key), value)| Write { namespace, key, value };
        let mut contributions: Vec<Contribution> = self
            .calls
            .into_iter()
            .map(|call| Contribution {
                plugin: Some(call.plugin),
                digest: Some(call.digest),
                outcome: Outcome::Done,
                effects: vec![],
                files: vec![],
                writes: call.writes.into_iter().map(write).collect(),
                reads: vec![],
            })
            .collect();
        let mut kept = BTreeSet::new();
        for (ordinal, (call, effect)) in (0..).zip(self.effects) {
            if let Some(file) = effect.file()
                && kept.insert((call, file.digest.clone()))
                && let Some(bytes) = self.files.get(&file.digest)
            {
                let blob = Blob { digest: file.digest.clone(), bytes: bytes.clone() };
                contributions[call].files.push(blob);
            }
            contributions[call].effects.push((ordinal, effect));
        }
        let tools = contributions.split_off(1.min(contributions.len()));
        let own = contributions.pop()?;
        Some((Contribution { reads: self.reads.into_journal(), ..own }, tools))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        effect::Place,
        id::{AgentName, RoomId},
        journal::Scope,
    };

    fn plugin(name: &str) -> PluginName {
        PluginName::parse(name).unwrap()
    }

    fn key(name: &str) -> (Namespace, String) {
        let agent = AgentName::parse("agent").unwrap();
        (Namespace { agent, plugin: plugin(name), scope: Scope::Plugin }, "key".into())
    }

    fn effect(room: &str) -> Effect {
        Effect::SetHome(Place { room: RoomId::parse(room).unwrap(), thread: None })
    }

    #[test]
    fn what_a_failed_tool_and_its_own_tools_did_is_gone_and_ordinals_have_no_gap() {
        let mut work = Work::default();
        work.begin(&plugin("caller"), "digest");
        assert_eq!(work.queue(effect("!before"), 3), Some(0));
        work.begin(&plugin("tool"), "digest");
        work.set(key("tool"), Some(b"lost".to_vec()));
        assert_eq!(work.queue(effect("!lost"), 3), Some(1));
        work.begin(&plugin("inner"), "digest");
        work.set(key("inner"), None);
        assert_eq!(work.queue(effect("!lost"), 3), Some(2));
        assert_eq!(work.queue(effect("!too-many"), 3), None, "one count for all");
        work.end(true);
        work.end(false);
        assert_eq!(work.get(&key("tool")), None);
        assert_eq!(work.get(&key("inner")), None);
        assert_eq!(work.queue(effect("!after"), 3), Some(1));
        work.end(true);
        let (own, tools) = work.into_contributions().unwrap();
        assert_eq!(own.effects, [(0, effect("!before")), (1, effect("!after"))]);
        assert!(tools.is_empty());
    }

    #[test]
    fn a_second_call_sees_what_the_first_one_wrote_and_changes_nobody_elses_messages() {
        let mut work = Work::default();
        work.begin(&plugin("caller"), "digest");
        work.queue(effect("!callers"), 100);
        for (value, expected) in [(b"1", None), (b"2", Some(b"1"))] {
            work.begin(&plugin("tool"), "digest");
            assert_eq!(work.get(&key("tool")), expected.map(|value| Some(value.to_vec())).as_ref());
            work.set(key("tool"), Some(value.to_vec()));
            assert!(work.queued(0).is_none(), "its caller's");
            let found = work.newest(|_| true).map(|(ordinal, _)| ordinal);
            assert_eq!(found, expected.map(|_| 1), "not its caller's, but that of its own first call");
            work.queue(effect("!tools"), 100);
            work.end(true);
        }
        assert_eq!(work.writes_of(&plugin("tool")).into_values().collect::<Vec<_>>(), [&Some(b"2".to_vec())]);
        assert!(work.writes_of(&plugin("caller")).is_empty());
        let (own, tools) = work.into_contributions().unwrap();
        assert_eq!(own.effects, [(0, effect("!callers"))]);
        let ordinals: Vec<_> = tools.iter().flat_map(|tool| &tool.effects).map(|(at, _)| *at).collect();
        assert_eq!(ordinals, [1, 2]);
    }
}
