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
    Arrival, Backlog, Commit, Draft, Error, Journal, KeyQuery, Known, Learnt, Named, Namespace, Pending,
    Queued, Read, Sent, Sequence, Stored, Usage, Write,
};
use crate::{
    answers::{self, Opening, Record, Writing},
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
    /// Every number of this agent's events, rising.
    received: Vec<Sequence>,
    pending: BTreeMap<Sequence, Waiting>,
    lanes: BTreeSet<(SessionId, Sequence)>,
    committed: HashSet<DeliveryId>,
    unsent: BTreeMap<i64, Queued>,
    accepted: HashMap<EffectId, EventId>,
    named: HashMap<PluginName, HashMap<String, Newest>>,
    /// What plugins have sent, and where.
    messages: HashMap<EventId, Known>,
    drafts: HashMap<DeliveryId, Draft>,
    /// What deliveries have learnt, by when they wrote of it first.
    records: BTreeMap<i64, Record>,
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
            Some(agent) if agent.committed.contains(delivery) => return Ok(Vec::new()),
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
        agent.committed.insert(delivery.clone());
        match &commit.learnt {
            None => {}
            Some(Learnt::Goes) => agent.records.retain(|_, of| of.opening.delivery != *delivery),
            Some(Learnt::Stays(kept)) => {
                self.row += 1;
                let record = agent.record(&kept.opening, self.row);
                record.opening = kept.opening.clone();
                record.ended = Some(kept.ended);
                record.full |= kept.full;
                learn(record, &kept.entries);
            }
        }
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
            return None;
        }
        self.known.insert(event.id.clone(), event.room.id.clone());
        *last += 1;
        let sequence = Sequence(*last);
        self.received.push(sequence);
        if arrival.verdict != Verdict::Allow {
            return None;
        }
        let session = arrival.session.clone();
        self.lanes.insert((session.clone(), sequence));
        self.pending.insert(sequence, Waiting { event: event.clone(), session, ended: Vec::new() });
        Some(sequence)
    }

    fn end(&mut self, sequence: Sequence) {
        if let Some(waiting) = self.pending.remove(&sequence) {
            self.lanes.remove(&(waiting.session, sequence));
        }
    }
}

impl Agent {
    fn record(&mut self, opening: &Opening, row: i64) -> &mut Record {
        let found = self.records.iter().find(|(_, of)| of.opening.delivery == opening.delivery);
        let row = found.map_or(row, |(row, _)| *row);
        let new = || Record { opening: opening.clone(), ended: None, full: false, entries: vec![] };
        self.records.entry(row).or_insert_with(new)
    }
}

/// In place of what was learnt of the same.
fn learn(record: &mut Record, entries: &[answers::Entry]) {
    record.entries.retain(|old| entries.iter().all(|new| new.key != old.key));
    record.entries.extend_from_slice(entries);
    record.entries.sort_by_key(|entry| entry.order);
}

fn size(record: &Record) -> u64 {
    let entries = record.entries.iter().map(answers::Entry::size);
    (record.opening.said.len() + entries.sum::<usize>()) as u64
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
        if !agent.committed.contains(delivery) {
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

    async fn learn(&self, opening: &Opening, writing: Writing) -> Result<(), Error> {
        let mut ledger = self.ledger();
        ledger.row += 1;
        let row = ledger.row;
        let agent = ledger.agent(&opening.agent);
        if !agent.committed.contains(&opening.delivery) {
            let record = agent.record(opening, row);
            record.full |= writing.full;
            learn(record, &writing.entries);
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

    async fn forget(&self, before: i64, most: u64, limit: u32) -> Result<u32, Error> {
        let mut ledger = self.ledger();
        let records = ledger.agents.values().flat_map(|agent| agent.records.values());
        let mut bytes: u64 = records.filter(|of| of.ended.is_some()).map(size).sum();
        let mut ended: Vec<(i64, i64, u64)> = Vec::new();
        for agent in ledger.agents.values() {
            let waits = |id: &EventId| agent.pending.values().any(|waiting| waiting.event.id == *id);
            for (row, of) in &agent.records {
                match of.ended {
                    Some(at) => ended.push((at, *row, size(of))),
                    None if !waits(&of.opening.event) => ended.push((i64::MIN, *row, 0)),
                    None => {}
                }
            }
        }
        ended.sort_unstable();
        let mut gone = Vec::new();
        for (at, row, size) in ended {
            if gone.len() < limit as usize && (at < before || bytes > most) {
                bytes -= size;
                gone.push(row);
            }
        }
        for agent in ledger.agents.values_mut() {
            agent.records.retain(|row, _| !gone.contains(row));
        }
        Ok(u32::try_from(gone.len()).unwrap_or(u32::MAX))
    }

    async fn backlog(&self, agent: &AgentName) -> Result<Backlog, Error> {
        let ledger = self.ledger();
        let of = |agent: &Agent| (agent.pending.len() as u64, agent.unsent.len() as u64);
        let (events, effects) = ledger.agents.get(agent).map(of).unwrap_or_default();
        Ok(Backlog { events, effects })
    }

    async fn announce(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        effects: Vec<Effect>,
    ) -> Result<Vec<Queued>, Error> {
        let mut ledger = self.ledger();
        if ledger.agent(agent).committed.contains(delivery) {
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
