//! The ledger in memory: for tests, for `parlour chat`, and for embedders who want nothing kept. It answers what
//! [`super::sqlite`] answers; only, when it is dropped, everything is gone.
//!
//! Every call takes one lock for a few map operations, and copies what it hands out and nothing else.
//!
//! Nobody keeps it, so it keeps little: of what has ended and of what was sent, the newest, which is what a chat repeats and a
//! plugin refers to. What has not ended stays.

mod inbox;
mod record;
mod story;
mod timers;
mod version;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    fmt,
    ops::Bound,
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;
use bytes::Bytes;

use self::timers::TimerKey;
use super::{
    Arrival, Backlog, Became, Commit, Decision, Draft, EffectKind, Error, Fate, Journal, KeyQuery, Known,
    Last, Learnt, Moved, Named, Namespace, Pending, Queued, Read, Release, Remembered, Sent, Sequence,
    Stored, Story, Tidy, Told, Undone, Usage, Versions, Write, story::destination, version::Standing,
};
use crate::{
    answers::{Opening, Record, Writing},
    audit::{Entry, Head, Recorded, now},
    effect::{Effect, EffectId, Place},
    event::{Event, MediaSource, Position},
    gate::Verdict,
    id::{AgentName, DeliveryId, EventId, PluginName, RoomId, SessionId},
    timer::Timer,
};

/// So many events that have ended, and messages that were sent, are remembered of each agent: some kilobytes for each.
const REMEMBERED: usize = 10_000;

/// A ledger that nobody keeps.
#[derive(Debug, Default)]
pub struct Memory {
    ledger: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Ledger {
    agents: HashMap<AgentName, Agent>,
    kv: HashMap<Namespace, BTreeMap<String, Stored>>,
    usage: HashMap<(AgentName, PluginName), Usage>,
    versions: HashMap<PluginName, Versions>,
    /// In which shape each version reads and writes what is remembered, by SHA-256.
    shapes: BTreeMap<PluginName, BTreeMap<String, i64>>,
    /// What versions on trial have replaced, by where it was; none where nothing was.
    replaced: BTreeMap<(Namespace, String), Option<Stored>>,
    record: Vec<Recorded>,
    head: Head,
    /// The last numbers given out, each for all agents.
    sequence: i64,
    commit: i64,
    learnt: i64,
}

#[derive(Debug, Default)]
struct Agent {
    position: Option<Position>,
    home: Option<Place>,
    encrypted: HashSet<RoomId>,
    known: HashMap<EventId, RoomId>,
    newest: HashMap<RoomId, EventId>,
    /// Every number of this agent's events that is remembered, and what was committed for each.
    received: HashMap<Sequence, Received>,
    /// Events by their ids; what the host says by itself has none.
    sequences: HashMap<EventId, Sequence>,
    /// Events in the order in which they ended.
    ended: VecDeque<Sequence>,
    pending: BTreeMap<Sequence, Waiting>,
    lanes: BTreeSet<(SessionId, Sequence)>,
    /// What cannot be read.
    locked: BTreeMap<Sequence, (SessionId, Event)>,
    /// What was committed, and about which event.
    committed: HashMap<DeliveryId, Sequence>,
    unsent: BTreeMap<i64, Queued>,
    accepted: HashMap<EffectId, EventId>,
    named: HashMap<PluginName, HashMap<String, Newest>>,
    /// What plugins have sent, and where.
    messages: HashMap<EventId, Known>,
    /// What was accepted, in its order.
    sent: VecDeque<Delivered>,
    /// And when each was noted last.
    drafts: HashMap<DeliveryId, (i64, Draft)>,
    /// What deliveries have learnt, by when they wrote of it first.
    records: BTreeMap<i64, Record>,
    /// Files of effects that wait.
    blobs: HashMap<(DeliveryId, String), Kept>,
    staged: HashMap<i64, MediaSource>,
    timers: BTreeMap<TimerKey, Timer>,
    /// What versions on trial have set or cancelled, as it was before; none where none was.
    replaced: BTreeMap<TimerKey, Option<Timer>>,
    /// Events that timers became.
    fired: HashSet<EventId>,
    last: Last,
}

/// What is remembered of an event, and what was committed for it.
#[derive(Debug)]
struct Received {
    /// Its id, its room and its lane; none of what the host says by itself.
    event: Option<(EventId, RoomId, SessionId)>,
    /// It is a timer's.
    own: bool,
    /// When it came.
    at: i64,
    /// Until when it is told from a new one.
    until: i64,
    again: u32,
    verdict: Verdict,
    deliveries: Vec<(DeliveryId, Told)>,
}

/// An event that has not ended.
#[derive(Debug)]
struct Waiting {
    event: Event,
    session: SessionId,
    ended: Vec<PluginName>,
    said: bool,
}

/// A message that was sent.
#[derive(Debug)]
struct Delivered {
    id: EffectId,
    event: EventId,
    name: Option<(PluginName, String)>,
}

#[derive(Debug)]
struct Newest {
    row: i64,
    event: EventId,
    room: RoomId,
    file: bool,
}

/// A file, and which plugin sends it.
struct Kept {
    plugin: Option<PluginName>,
    bytes: Bytes,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({} bytes)", self.bytes.len())
    }
}

impl Memory {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("nothing panics while it holds the ledger")
    }
}

impl Ledger {
    fn agent(&mut self, name: &AgentName) -> &mut Agent {
        if !self.agents.contains_key(name) {
            self.agents.insert(name.clone(), Agent::default());
        }
        self.agents.get_mut(name).expect("it was just put there")
    }

    /// Whether the handler would still read the same.
    fn unchanged(&self, read: &Read) -> bool {
        match read {
            Read::Key { namespace, key, version } => {
                self.get(namespace, key).map(|it| it.version) == *version
            }
            Read::Keys { namespace, query, found } => self.keys(namespace, query).eq(found),
            Read::Timers { agent, plugin, session, found } => {
                self.agents.get(agent).map_or_else(Vec::new, |agent| agent.timers(plugin, session)) == *found
            }
        }
    }

    fn get(&self, namespace: &Namespace, key: &str) -> Option<&Stored> {
        self.kv.get(namespace)?.get(key)
    }

    fn keys<'a>(&'a self, namespace: &Namespace, query: &'a KeyQuery) -> impl Iterator<Item = &'a String> {
        let prefix = query.prefix.as_str();
        let from = match query.after.as_deref() {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.kv
            .get(namespace)
            .into_iter()
            .flat_map(move |values| values.range::<str, _>((from, Bound::Unbounded)))
            .map(|(key, _)| key)
            .take_while(move |key| key.starts_with(prefix))
            .take(query.limit as usize)
    }

    fn write(&mut self, write: Write, version: i64) {
        let Write { namespace, key, value } = write;
        let of = (namespace.agent.clone(), namespace.plugin.clone());
        let size = |value: &[u8]| (key.len() + value.len()) as u64;
        let added = value.as_deref().map(size);
        let values = self.kv.entry(namespace.clone()).or_default();
        let before = match value {
            Some(value) => values.insert(key.clone(), Stored { value, version }),
            None => values.remove(&key),
        };
        if values.is_empty() {
            self.kv.remove(&namespace);
        }
        self.count(of, added, before.as_ref().map(|stored| size(&stored.value)));
    }

    fn count(&mut self, of: (AgentName, PluginName), added: Option<u64>, removed: Option<u64>) {
        let usage = self.usage.entry(of).or_default();
        usage.bytes = usage.bytes + added.unwrap_or(0) - removed.unwrap_or(0);
        usage.keys = usage.keys + u64::from(added.is_some()) - u64::from(removed.is_some());
    }
}

impl Ledger {
    fn commit(&mut self, commit: &Commit) -> Result<Vec<Queued>, Error> {
        let Commit { agent: name, sequence, delivery, .. } = commit;
        match self.agents.get(name) {
            Some(agent) if agent.committed.contains_key(delivery) => return Ok(Vec::new()),
            Some(agent) if agent.received.contains_key(sequence) => {}
            _ => return Err(super::never_received(name, *sequence)),
        }
        self.carry_out(commit)
    }

    fn carry_out(&mut self, commit: &Commit) -> Result<Vec<Queued>, Error> {
        let Commit { agent: name, sequence, delivery, ends_event, .. } = commit;
        super::row_of(0, commit.effects().len())?;
        let mut reads = commit.contributions().flat_map(|contribution| &contribution.reads);
        if !reads.all(|read| self.unchanged(read)) {
            return Err(Error::Conflict);
        }
        let standing = self.standing(commit)?;

        self.commit += 1;
        let version = self.commit;
        let mut on_trial = Vec::new();
        for (contribution, standing) in commit.contributions().zip(standing) {
            if let Some(plugin) = contribution.plugin.as_ref().filter(|_| standing == Standing::OnTrial) {
                self.versions.entry(plugin.clone()).or_default().used = true;
                on_trial.push(plugin);
            }
            for write in &contribution.writes {
                if standing == Standing::OnTrial {
                    self.keep(write);
                }
                self.write(write.clone(), version);
            }
        }
        let agent = self.agents.get_mut(name).expect("the ledger has this agent");
        for contribution in commit.contributions() {
            for blob in &contribution.files {
                // A copy: what a plugin holds is counted, and this is not held by it any more.
                let bytes = Bytes::copy_from_slice(&blob.bytes);
                let kept = Kept { plugin: contribution.plugin.clone(), bytes };
                agent.blobs.entry((delivery.clone(), blob.digest.clone())).or_insert(kept);
            }
        }
        let mut queued = Vec::new();
        let mut fates = Vec::new();
        let mut takes_draft = false;
        let own = commit.contribution.plugin.as_ref();
        for (ordinal, plugin, effect) in commit.effects() {
            fates.push(Fate {
                ordinal,
                tool: plugin.filter(|_| plugin != own).cloned(),
                kind: Some(EffectKind::of(effect)),
                to: Some(destination(effect)),
                became: if effect.is_inward() { Became::Done } else { Became::Waiting },
            });
            if effect.is_inward() {
                if let Some(plugin) = plugin.filter(|plugin| on_trial.contains(plugin)) {
                    agent.keep_timer(plugin, effect);
                }
                agent.do_inward(plugin, effect);
                continue;
            }
            takes_draft |= super::takes_draft(effect);
            let row = super::row_of(version, queued.len())?;
            let id = EffectId { delivery: delivery.clone(), ordinal: Some(ordinal) };
            let effect = Queued { row, id, plugin: plugin.cloned(), effect: effect.clone() };
            agent.unsent.insert(effect.row, effect.clone());
            queued.push(effect);
        }
        if !takes_draft {
            agent.drafts.remove(delivery);
        }
        agent.committed.insert(delivery.clone(), *sequence);
        if let Some(received) = agent.received.get_mut(sequence) {
            let (plugin, outcome) = (commit.contribution.plugin.clone(), commit.contribution.outcome);
            let told = Told { plugin, outcome, at: Some(now()), line: commit.line.clone(), effects: fates };
            received.deliveries.push((delivery.clone(), told));
        }
        if *ends_event {
            agent.end(*sequence);
        } else if let Some(waiting) = agent.pending.get_mut(sequence) {
            waiting.said |= !commit.effects().is_empty();
            let plugin = commit.contribution.plugin.iter();
            let new: Vec<_> = plugin.filter(|plugin| !waiting.ended.contains(plugin)).cloned().collect();
            waiting.ended.extend(new);
        }
        match &commit.learnt {
            None => {}
            Some(Learnt::Goes) => agent.records.retain(|_, of| of.opening.delivery != *delivery),
            Some(Learnt::Stays(kept)) => {
                self.learnt += 1;
                let record = agent.record(&kept.opening, self.learnt);
                record.opening = kept.opening.clone();
                record.ended = Some(kept.ended);
                record.full |= kept.full;
                record::learn(record, &kept.entries);
            }
        }
        Ok(queued)
    }
}

impl Agent {
    /// A file that no effect needs any more goes.
    fn release(&mut self, delivery: &DeliveryId, digest: &str) {
        let needs = |queued: &Queued| {
            queued.id.delivery == *delivery && queued.effect.file().is_some_and(|file| file.digest == digest)
        };
        if !self.unsent.values().any(needs) {
            self.blobs.remove(&(delivery.clone(), digest.to_owned()));
        }
    }

    fn accepted(&mut self, delivered: Delivered) {
        self.accepted.insert(delivered.id.clone(), delivered.event.clone());
        self.sent.push_back(delivered);
        if self.sent.len() > REMEMBERED
            && let Some(Delivered { id, event, name }) = self.sent.pop_front()
        {
            self.accepted.remove(&id);
            self.messages.remove(&event);
            if let Some((plugin, name)) = name
                && let Some(names) = self.named.get_mut(&plugin)
                && names.get(&name).is_some_and(|newest| newest.event == event)
            {
                names.remove(&name);
            }
        }
    }
}

#[async_trait]
impl Journal for Memory {
    async fn position(&self, agent: &AgentName) -> Result<Option<Position>, Error> {
        Ok(self.ledger().agents.get(agent).and_then(|agent| agent.position.clone()))
    }

    async fn receive(
        &self,
        agent: &AgentName,
        arrivals: &[Arrival],
        position: &Position,
    ) -> Result<Vec<Option<Sequence>>, Error> {
        let mut ledger = self.ledger();
        let mut last = ledger.sequence;
        let agent = ledger.agent(agent);
        let sequences = arrivals.iter().map(|arrival| agent.receive(arrival, &mut last)).collect();
        agent.position = Some(position.clone());
        ledger.sequence = last;
        Ok(sequences)
    }

    async fn locked(&self, agent: &AgentName) -> Result<Vec<(Sequence, SessionId, Event)>, Error> {
        let ledger = self.ledger();
        let Some(agent) = ledger.agents.get(agent) else { return Ok(Vec::new()) };
        let locked = agent.locked.iter();
        Ok(locked.map(|(at, (session, event))| (*at, session.clone(), event.clone())).collect())
    }

    async fn unlock(&self, agent: &AgentName, sequence: Sequence, arrival: &Arrival) -> Result<bool, Error> {
        Ok(self.ledger().agent(agent).unlock(sequence, arrival).unwrap_or(false))
    }

    async fn remember(&self, agent: &AgentName, newest: &[(RoomId, EventId)]) -> Result<(), Error> {
        self.ledger().agent(agent).newest.extend(newest.iter().cloned());
        Ok(())
    }

    async fn newest(&self, agent: &AgentName, room: &RoomId) -> Result<Option<EventId>, Error> {
        Ok(self.ledger().agents.get(agent).and_then(|agent| agent.newest.get(room).cloned()))
    }

    async fn forget(&self, agent: &AgentName, before: u64, limit: u32) -> Result<u32, Error> {
        Ok(self.ledger().agent(agent).forget(i64::try_from(before).unwrap_or(i64::MAX), limit))
    }

    async fn pending(
        &self,
        agent: &AgentName,
        session: Option<&SessionId>,
        after: Option<Sequence>,
        limit: u32,
    ) -> Result<Vec<Pending>, Error> {
        let ledger = self.ledger();
        let Some(agent) = ledger.agents.get(agent) else { return Ok(Vec::new()) };
        let after = after.unwrap_or(Sequence(i64::MIN));
        let limit = limit as usize;
        let Some(session) = session else {
            let later = agent.pending.range((Bound::Excluded(after), Bound::Unbounded));
            return Ok(later.take(limit).map(|(sequence, waiting)| waiting.at(*sequence)).collect());
        };
        let lane = agent
            .lanes
            .range((Bound::Excluded((session.clone(), after)), Bound::Unbounded))
            .take_while(|(of, _)| of == session);
        Ok(lane.take(limit).map(|(_, sequence)| agent.pending[sequence].at(*sequence)).collect())
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<Queued>, Error> {
        self.ledger().commit(&commit)
    }

    async fn unsent(&self, agent: &AgentName) -> Result<Vec<Queued>, Error> {
        let ledger = self.ledger();
        Ok(ledger.agents.get(agent).map(|agent| agent.unsent.values().cloned().collect()).unwrap_or_default())
    }

    async fn sent(&self, agent: &AgentName, row: i64, sent: &Sent) -> Result<(), Error> {
        let mut ledger = self.ledger();
        let Some(agent) = ledger.agents.get_mut(agent) else { return Ok(()) };
        let Some(queued) = agent.unsent.remove(&row) else { return Ok(()) };
        agent.became(&queued, sent);
        if super::takes_draft(&queued.effect) {
            agent.drafts.remove(&queued.id.delivery);
        }
        agent.staged.remove(&row);
        if let Some(file) = queued.effect.file() {
            agent.release(&queued.id.delivery, &file.digest);
        }
        let Sent::Accepted { event, room } = sent else { return Ok(()) };
        let Queued { id, plugin, effect, .. } = queued;
        let file = effect.file().is_some();
        let name = effect.message().map(|(_, name)| name.map(str::to_owned));
        let named = plugin.clone().zip(name.clone().flatten());
        agent.accepted(Delivered { id, event: event.clone(), name: named });
        let (Some(plugin), Some(name)) = (plugin, name) else { return Ok(()) };
        let known = Known { room: room.clone(), by: Some(plugin.clone()), file };
        agent.messages.entry(event.clone()).or_insert(known);
        if let Some(name) = name {
            let names = agent.named.entry(plugin).or_default();
            if names.get(&name).is_none_or(|newest| newest.row < row) {
                names.insert(name, Newest { row, event: event.clone(), room: room.clone(), file });
            }
        }
        Ok(())
    }

    async fn settle(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn blob(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        digest: &str,
    ) -> Result<Option<Bytes>, Error> {
        let ledger = self.ledger();
        let Some(agent) = ledger.agents.get(agent) else { return Ok(None) };
        let kept = agent.blobs.get(&(delivery.clone(), digest.to_owned()));
        Ok(kept.map(|kept| kept.bytes.clone()))
    }

    async fn blobs(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, Error> {
        let ledger = self.ledger();
        let kept = ledger.agents.get(agent).into_iter().flat_map(|agent| agent.blobs.values());
        let theirs = kept.filter(|kept| kept.plugin.as_ref() == Some(plugin));
        Ok(theirs.map(|kept| kept.bytes.len() as u64).sum())
    }

    async fn stage(&self, agent: &AgentName, row: i64, source: &MediaSource) -> Result<(), Error> {
        let mut ledger = self.ledger();
        if let Some(agent) = ledger.agents.get_mut(agent).filter(|agent| agent.unsent.contains_key(&row)) {
            agent.staged.insert(row, source.clone());
        }
        Ok(())
    }

    async fn staged(&self, agent: &AgentName, row: i64) -> Result<Option<MediaSource>, Error> {
        Ok(self.ledger().agents.get(agent).and_then(|agent| agent.staged.get(&row).cloned()))
    }

    async fn event_of(&self, agent: &AgentName, id: &EffectId) -> Result<Option<EventId>, Error> {
        let ledger = self.ledger();
        let Some(agent) = ledger.agents.get(agent) else { return Ok(None) };
        Ok(match id.ordinal {
            Some(_) => agent.accepted.get(id).cloned(),
            None => agent.drafts.get(&id.delivery).and_then(|(_, draft)| draft.event.clone()),
        })
    }

    async fn named(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        name: &str,
    ) -> Result<Option<Named>, Error> {
        let ledger = self.ledger();
        let Some(agent) = ledger.agents.get(agent) else { return Ok(None) };
        let sent = agent.named.get(plugin).and_then(|names| names.get(name));
        let later = (Bound::Excluded(sent.map_or(i64::MIN, |newest| newest.row)), Bound::Unbounded);
        let waiting = agent.unsent.range(later).rev().find_map(|(_, queued)| match queued.effect.message() {
            Some((to, Some(of))) if of == name && queued.plugin.as_ref() == Some(plugin) => {
                let file = queued.effect.file().is_some();
                Some(Named::Waiting { id: queued.id.clone(), to: to.clone(), file })
            }
            _ => None,
        });
        let sent =
            || sent.map(|it| Named::Sent { event: it.event.clone(), room: it.room.clone(), file: it.file });
        Ok(waiting.or_else(sent))
    }

    async fn known(&self, agent: &AgentName, event: &EventId) -> Result<Option<Known>, Error> {
        let ledger = self.ledger();
        let Some(agent) = ledger.agents.get(agent) else { return Ok(None) };
        let received =
            || agent.known.get(event).map(|room| Known { room: room.clone(), by: None, file: false });
        Ok(agent.messages.get(event).cloned().or_else(received))
    }

    async fn draft(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        event: Option<&EventId>,
    ) -> Result<Draft, Error> {
        let mut ledger = self.ledger();
        let agent = ledger.agent(agent);
        if let Some((_, draft)) = agent.drafts.get_mut(delivery) {
            if let Some(event) = event {
                draft.event = Some(event.clone());
            }
            return Ok(draft.clone());
        }
        let draft = Draft::of(delivery, event.cloned());
        if !agent.committed.contains_key(delivery) {
            agent.drafts.insert(delivery.clone(), (now(), draft.clone()));
        }
        Ok(draft)
    }

    async fn drafted(&self, agent: &AgentName, delivery: &DeliveryId) -> Result<Option<Draft>, Error> {
        Ok(self
            .ledger()
            .agents
            .get(agent)
            .and_then(|agent| agent.drafts.get(delivery).map(|(_, draft)| draft.clone())))
    }

    async fn home(&self, agent: &AgentName) -> Result<Option<Place>, Error> {
        Ok(self.ledger().agents.get(agent).and_then(|agent| agent.home.clone()))
    }

    async fn was_encrypted(&self, agent: &AgentName, room: &RoomId) -> Result<bool, Error> {
        Ok(self.ledger().agents.get(agent).is_some_and(|agent| agent.encrypted.contains(room)))
    }

    async fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Stored>, Error> {
        Ok(self.ledger().get(namespace, key).cloned())
    }

    async fn keys(&self, namespace: &Namespace, query: &KeyQuery) -> Result<Vec<String>, Error> {
        Ok(self.ledger().keys(namespace, query).cloned().collect())
    }

    async fn usage(&self, agent: &AgentName, plugin: &PluginName) -> Result<Usage, Error> {
        Ok(self.ledger().usage.get(&(agent.clone(), plugin.clone())).copied().unwrap_or_default())
    }

    async fn versions(&self, plugin: &PluginName) -> Result<Versions, Error> {
        Ok(self.ledger().versions.get(plugin).cloned().unwrap_or_default())
    }

    async fn remembering(&self, plugin: &PluginName) -> Result<Vec<AgentName>, Error> {
        Ok(self.ledger().remembering(plugin))
    }

    async fn remembered(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        before: bool,
    ) -> Result<Vec<Remembered>, Error> {
        Ok(self.ledger().remembered(agent, plugin, before))
    }

    async fn take_over(
        &self,
        plugin: &PluginName,
        release: &Release,
        on_trial: bool,
        moved: Option<Vec<Moved>>,
    ) -> Result<(), Error> {
        self.ledger().take_over(plugin, release, on_trial, moved)
    }

    async fn decide(&self, plugin: &PluginName, decision: Decision) -> Result<Undone, Error> {
        Ok(self.ledger().decide(plugin, decision))
    }

    async fn learn(&self, opening: &Opening, writing: Writing) -> Result<(), Error> {
        let mut ledger = self.ledger();
        ledger.learnt += 1;
        let row = ledger.learnt;
        let agent = ledger.agent(&opening.agent);
        if !agent.committed.contains_key(&opening.delivery) {
            let record = agent.record(opening, row);
            record.full |= writing.full;
            record::learn(record, &writing.entries);
        }
        Ok(())
    }

    async fn begun(&self, agent: &AgentName, event: &EventId) -> Result<Vec<Record>, Error> {
        let ledger = self.ledger();
        let Some(agent) = ledger.agents.get(agent) else { return Ok(vec![]) };
        let begun = agent.records.values().filter(|of| of.opening.event == *event && of.ended.is_none());
        Ok(begun.cloned().collect())
    }

    async fn put_aside(&self, agent: &AgentName, delivery: &DeliveryId) -> Result<(), Error> {
        let aside = |of: &Record| of.opening.delivery == *delivery && of.ended.is_none();
        self.ledger().agent(agent).records.retain(|_, of| !aside(of));
        Ok(())
    }

    async fn past(&self, event: &EventId) -> Result<Vec<Record>, Error> {
        let ledger = self.ledger();
        let all = ledger.agents.values().flat_map(|agent| &agent.records);
        let past = all.filter(|(_, of)| of.opening.event == *event && of.ended.is_some());
        let past: BTreeMap<_, _> = past.collect();
        Ok(past.into_values().cloned().collect())
    }

    async fn components(&self) -> Result<Vec<String>, Error> {
        let ledger = self.ledger();
        let all = ledger.agents.values().flat_map(|agent| agent.records.values());
        let components: BTreeSet<_> = all.map(|of| of.opening.component.clone()).collect();
        Ok(components.into_iter().collect())
    }

    async fn forget_records(&self, before: i64, most: u64, limit: u32) -> Result<u32, Error> {
        Ok(self.ledger().forget_records(before, most, limit))
    }

    async fn timers(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        session: &SessionId,
    ) -> Result<Vec<Timer>, Error> {
        let ledger = self.ledger();
        Ok(ledger.agents.get(agent).map_or_else(Vec::new, |agent| agent.timers(plugin, session)))
    }

    async fn timer_count(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, Error> {
        let ledger = self.ledger();
        Ok(ledger.agents.get(agent).map_or(0, |agent| agent.timer_count(plugin)))
    }

    async fn next_timers(&self, agent: &AgentName) -> Result<Vec<(PluginName, u64)>, Error> {
        let ledger = self.ledger();
        Ok(ledger.agents.get(agent).map_or_else(Vec::new, Agent::next_timers))
    }

    async fn due_timers(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        now: u64,
        limit: u32,
    ) -> Result<Vec<Timer>, Error> {
        let ledger = self.ledger();
        Ok(ledger.agents.get(agent).map_or_else(Vec::new, |agent| agent.due_timers(plugin, now, limit)))
    }

    async fn fire(
        &self,
        agent: &AgentName,
        timer: &Timer,
        next: Option<u64>,
        arrival: Option<&Arrival>,
    ) -> Result<Option<Sequence>, Error> {
        let mut ledger = self.ledger();
        let mut last = ledger.sequence;
        let sequence = ledger.agent(agent).fire(timer, next, arrival, &mut last);
        ledger.sequence = last;
        Ok(sequence)
    }

    async fn backlog(&self, agent: &AgentName) -> Result<Backlog, Error> {
        let ledger = self.ledger();
        let Some(agent) = ledger.agents.get(agent) else { return Ok(Backlog::default()) };
        let [events, effects, locked] =
            [agent.pending.len(), agent.unsent.len(), agent.locked.len()].map(|count| count as u64);
        Ok(Backlog { events, effects, locked })
    }

    async fn agents(&self) -> Result<Vec<AgentName>, Error> {
        let mut agents: Vec<_> = self.ledger().agents.keys().cloned().collect();
        agents.sort();
        Ok(agents)
    }

    async fn last(&self, agent: &AgentName) -> Result<Last, Error> {
        let ledger = self.ledger();
        let Some(agent) = ledger.agents.get(agent) else { return Ok(Last::default()) };
        let oldest_event = agent.pending.keys().next().and_then(|of| agent.received.get(of)).map(|it| it.at);
        let oldest_effect = agent.unsent.values().next().and_then(|queued| {
            let received = agent.received.get(agent.committed.get(&queued.id.delivery)?)?;
            received.deliveries.iter().find(|(of, _)| *of == queued.id.delivery)?.1.at
        });
        Ok(Last { oldest_event, oldest_effect, ..agent.last.clone() })
    }

    async fn story(&self, agent: &AgentName, event: &EventId) -> Result<Option<Story>, Error> {
        Ok(self.ledger().agents.get(agent).and_then(|agent| agent.story(event)))
    }

    async fn tidy(&self, agent: &AgentName, tidy: Tidy) -> Result<bool, Error> {
        Ok(self.ledger().agents.get_mut(agent).is_some_and(|agent| agent.tidy(tidy)))
    }

    async fn announce(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        effects: Vec<Effect>,
    ) -> Result<Vec<Queued>, Error> {
        let mut ledger = self.ledger();
        if ledger.agent(agent).committed.contains_key(delivery) {
            return Ok(Vec::new());
        }
        ledger.sequence += 1;
        let sequence = Sequence(ledger.sequence);
        ledger.agent(agent).received.insert(sequence, Received::announced());
        ledger.carry_out(&Commit::own(agent.clone(), sequence, delivery.clone(), effects))
    }

    async fn record(&self, entries: Vec<Entry>) -> Result<(), Error> {
        let mut ledger = self.ledger();
        for entry in entries {
            let recorded = ledger.head.push(entry);
            ledger.record.push(recorded);
        }
        Ok(())
    }

    async fn recorded(&self, after: u64, limit: u32) -> Result<Vec<Recorded>, Error> {
        let ledger = self.ledger();
        let later = ledger.record.iter().skip(usize::try_from(after).unwrap_or(usize::MAX));
        Ok(later.take(limit as usize).cloned().collect())
    }

    async fn record_head(&self) -> Result<Head, Error> {
        Ok(self.ledger().head)
    }
}

#[cfg(test)]
mod tests;
