//! The ledger in memory: for tests, for `parlour chat`, and for embedders who want nothing kept. It answers what
//! [`super::sqlite`] answers; only, when it is dropped, everything is gone.
//!
//! Every call takes one lock for a few map operations, and copies what it hands out and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;

use super::{
    Arrival, Backlog, Commit, Draft, Error, Journal, KeyQuery, Known, Named, Namespace, Pending, Queued,
    Read, Sent, Sequence, Stored, Usage, Write,
};
use crate::{
    audit::{Entry, Head, Recorded},
    effect::{Effect, EffectId, Place},
    event::{Event, Position},
    gate::Verdict,
    id::{AgentName, DeliveryId, EventId, PluginName, RoomId, SessionId},
};

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
    record: Vec<Recorded>,
    head: Head,
    /// The last numbers given out, each for all agents.
    sequence: i64,
    commit: i64,
    row: i64,
}

#[derive(Debug, Default)]
struct Agent {
    position: Option<Position>,
    home: Option<Place>,
    encrypted: HashSet<RoomId>,
    known: HashMap<EventId, RoomId>,
    /// What was received and may be forgotten, by its age.
    ages: BTreeSet<(i64, Sequence, EventId)>,
    newest: HashMap<RoomId, EventId>,
    /// Every number of this agent's events, rising.
    received: Vec<Sequence>,
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
    drafts: HashMap<DeliveryId, Draft>,
}

/// An event that has not ended.
#[derive(Debug)]
struct Waiting {
    event: Event,
    session: SessionId,
    ended: Vec<PluginName>,
}

#[derive(Debug)]
struct Newest {
    row: i64,
    event: EventId,
    room: RoomId,
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
        let removed = before.map(|stored| size(&stored.value));
        let usage = self.usage.entry(of).or_default();
        usage.bytes = usage.bytes + added.unwrap_or(0) - removed.unwrap_or(0);
        usage.keys = usage.keys + u64::from(added.is_some()) - u64::from(removed.is_some());
    }
}

impl Ledger {
    fn commit(&mut self, commit: &Commit) -> Result<Vec<Queued>, Error> {
        let Commit { agent: name, sequence, delivery, ends_event, .. } = commit;
        match self.agents.get(name) {
            Some(agent) if agent.committed.contains_key(delivery) => return Ok(Vec::new()),
            Some(agent) if agent.received.binary_search(sequence).is_ok() => {}
            _ => return Err(super::never_received(name, *sequence)),
        }
        let mut reads = commit.contributions().flat_map(|contribution| &contribution.reads);
        if !reads.all(|read| self.unchanged(read)) {
            return Err(Error::Conflict);
        }

        self.commit += 1;
        let version = self.commit;
        for write in commit.contributions().flat_map(|contribution| &contribution.writes) {
            self.write(write.clone(), version);
        }
        let agent = self.agents.get_mut(name).expect("its event was found above");
        let mut queued = Vec::new();
        let mut takes_draft = false;
        for (ordinal, plugin, effect) in commit.effects() {
            if let Effect::SetHome(place) = effect {
                agent.home = Some(place.clone());
                continue;
            }
            takes_draft |= super::takes_draft(effect);
            self.row += 1;
            let id = EffectId { delivery: delivery.clone(), ordinal: Some(ordinal) };
            let effect = Queued { row: self.row, id, plugin: plugin.cloned(), effect: effect.clone() };
            agent.unsent.insert(effect.row, effect.clone());
            queued.push(effect);
        }
        if !takes_draft {
            agent.drafts.remove(delivery);
        }
        if *ends_event {
            agent.end(*sequence);
        } else if let Some(plugin) = &commit.contribution.plugin
            && let Some(waiting) = agent.pending.get_mut(sequence)
            && !waiting.ended.contains(plugin)
        {
            waiting.ended.push(plugin.clone());
        }
        agent.committed.insert(delivery.clone(), *sequence);
        Ok(queued)
    }
}

impl Agent {
    fn receive(&mut self, arrival: &Arrival, last: &mut i64) -> Option<Sequence> {
        let event = &arrival.event;
        if event.room.encrypted && !self.encrypted.contains(&event.room.id) {
            self.encrypted.insert(event.room.id.clone());
        }
        if self.known.contains_key(&event.id) {
            let locked = self.locked.iter().find(|(_, (_, of))| of.id == event.id).map(|(at, _)| *at);
            return locked.filter(|sequence| !super::is_locked(event) && self.unlock(*sequence, arrival));
        }
        self.known.insert(event.id.clone(), event.room.id.clone());
        *last += 1;
        let sequence = Sequence(*last);
        self.received.push(sequence);
        self.ages.insert((super::time_of(event), sequence, event.id.clone()));
        self.newest.insert(event.room.id.clone(), event.id.clone());
        if arrival.verdict != Verdict::Allow {
            return None;
        }
        if super::is_locked(event) {
            self.locked.insert(sequence, (arrival.session.clone(), event.clone()));
        } else {
            self.wait(sequence, arrival);
        }
        Some(sequence)
    }

    fn wait(&mut self, sequence: Sequence, arrival: &Arrival) {
        let session = arrival.session.clone();
        self.lanes.insert((session.clone(), sequence));
        self.pending.insert(sequence, Waiting { event: arrival.event.clone(), session, ended: Vec::new() });
    }

    /// Nothing, where it did not wait for its key.
    fn unlock(&mut self, sequence: Sequence, arrival: &Arrival) -> bool {
        let unlocked = self.locked.remove(&sequence).is_some() && arrival.verdict == Verdict::Allow;
        if unlocked {
            self.wait(sequence, arrival);
        }
        unlocked
    }

    fn forget(&mut self, before: i64, limit: u32) -> u32 {
        let unsent: HashSet<_> = self.unsent.values().map(|queued| &queued.id.delivery).collect();
        let waits = |sequence| {
            self.pending.contains_key(sequence)
                || self.locked.contains_key(sequence)
                || unsent.iter().any(|delivery| self.committed.get(*delivery) == Some(sequence))
        };
        let aged = self.ages.iter().take_while(|(at, ..)| *at < before);
        let over: Vec<_> =
            aged.filter(|(_, sequence, _)| !waits(sequence)).take(limit as usize).cloned().collect();
        for aged in &over {
            self.ages.remove(aged);
            self.known.remove(&aged.2);
        }
        u32::try_from(over.len()).unwrap_or(limit)
    }

    fn end(&mut self, sequence: Sequence) {
        if let Some(waiting) = self.pending.remove(&sequence) {
            self.lanes.remove(&(waiting.session, sequence));
        }
    }
}

impl Waiting {
    fn at(&self, sequence: Sequence) -> Pending {
        Pending {
            sequence,
            event: self.event.clone(),
            session: self.session.clone(),
            ended: self.ended.clone(),
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
        Ok(self.ledger().agent(agent).unlock(sequence, arrival))
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
        if super::takes_draft(&queued.effect) {
            agent.drafts.remove(&queued.id.delivery);
        }
        let Sent::Accepted { event, room } = sent else { return Ok(()) };
        agent.accepted.insert(queued.id, event.clone());
        let (Some(plugin), Effect::Send { name, .. }) = (queued.plugin, queued.effect) else { return Ok(()) };
        let known = Known { room: room.clone(), by: Some(plugin.clone()) };
        agent.messages.entry(event.clone()).or_insert(known);
        if let Some(name) = name {
            let names = agent.named.entry(plugin).or_default();
            if names.get(&name).is_none_or(|newest| newest.row < row) {
                names.insert(name, Newest { row, event: event.clone(), room: room.clone() });
            }
        }
        Ok(())
    }

    async fn event_of(&self, agent: &AgentName, id: &EffectId) -> Result<Option<EventId>, Error> {
        let ledger = self.ledger();
        let Some(agent) = ledger.agents.get(agent) else { return Ok(None) };
        Ok(match id.ordinal {
            Some(_) => agent.accepted.get(id).cloned(),
            None => agent.drafts.get(&id.delivery).and_then(|draft| draft.event.clone()),
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
        let waiting = agent.unsent.range(later).rev().find_map(|(_, queued)| match &queued.effect {
            Effect::Send { to, name: Some(of), .. }
                if of == name && queued.plugin.as_ref() == Some(plugin) =>
            {
                Some(Named::Waiting { id: queued.id.clone(), to: to.clone() })
            }
            _ => None,
        });
        let sent = || sent.map(|it| Named::Sent { event: it.event.clone(), room: it.room.clone() });
        Ok(waiting.or_else(sent))
    }

    async fn known(&self, agent: &AgentName, event: &EventId) -> Result<Option<Known>, Error> {
        let ledger = self.ledger();
        let Some(agent) = ledger.agents.get(agent) else { return Ok(None) };
        let received = || agent.known.get(event).map(|room| Known { room: room.clone(), by: None });
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
        if let Some(draft) = agent.drafts.get_mut(delivery) {
            if let Some(event) = event {
                draft.event = Some(event.clone());
            }
            return Ok(draft.clone());
        }
        let draft = Draft::of(delivery, event.cloned());
        if !agent.committed.contains_key(delivery) {
            agent.drafts.insert(delivery.clone(), draft.clone());
        }
        Ok(draft)
    }

    async fn drafted(&self, agent: &AgentName, delivery: &DeliveryId) -> Result<Option<Draft>, Error> {
        Ok(self.ledger().agents.get(agent).and_then(|agent| agent.drafts.get(delivery).cloned()))
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

    async fn backlog(&self, agent: &AgentName) -> Result<Backlog, Error> {
        let ledger = self.ledger();
        let Some(agent) = ledger.agents.get(agent) else { return Ok(Backlog::default()) };
        let [events, effects, locked] =
            [agent.pending.len(), agent.unsent.len(), agent.locked.len()].map(|count| count as u64);
        Ok(Backlog { events, effects, locked })
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
        ledger.agent(agent).received.push(sequence);
        ledger.commit(&Commit::own(agent.clone(), sequence, delivery.clone(), effects))
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
