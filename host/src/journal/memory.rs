//! The ledger in memory: for tests, for `parlour chat`, and for embedders who want nothing kept. It answers what
//! [`super::sqlite`] answers; only, when it is dropped, everything is gone.
//!
//! Every call takes one lock for a few map operations, and copies what it hands out and nothing else.
//!
//! Nobody keeps it, so it keeps little: of what has ended and of what was sent, the newest, which is what a chat repeats and a
//! plugin refers to. What has not ended stays.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    ops::Bound,
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;

use super::{
    Arrival, Backlog, Became, Commit, Draft, EffectKind, Error, Fate, Journal, KeyQuery, Known, Last, Named,
    Namespace, Pending, Queued, Read, Sent, Sequence, Stored, Story, Tidy, Told, Usage, Write,
    story::{Happening, destination},
};
use crate::{
    audit::{Entry, Head, Recorded, now},
    effect::{Effect, EffectId, Place},
    event::{Event, Position},
    gate::{Denial, Verdict},
    id::{AgentName, DeliveryId, EventId, PluginName, RoomId, SessionId},
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
    /// Every number of this agent's events, and what was committed for each.
    received: HashMap<Sequence, Received>,
    /// Events by their ids; the host's own have none.
    sequences: HashMap<EventId, Sequence>,
    /// Events in the order in which they ended.
    ended: VecDeque<(Sequence, EventId)>,
    pending: BTreeMap<Sequence, Waiting>,
    lanes: BTreeSet<(SessionId, Sequence)>,
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
    last: Last,
}

/// An event, and what was committed for it.
#[derive(Debug)]
struct Received {
    /// Its room and its lane; none of what the host says by itself.
    place: Option<(RoomId, SessionId)>,
    at: i64,
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
            Some(agent) if agent.received.contains_key(sequence) => {}
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
        let mut fates = Vec::new();
        let mut takes_draft = false;
        let own = commit.contribution.plugin.as_ref();
        for (ordinal, plugin, effect) in commit.effects() {
            let home = matches!(effect, Effect::SetHome(_));
            fates.push(Fate {
                ordinal,
                tool: plugin.filter(|_| plugin != own).cloned(),
                kind: Some(EffectKind::of(effect)),
                to: Some(destination(effect)),
                became: if home { Became::Done } else { Became::Waiting },
            });
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
        agent.committed.insert(delivery.clone(), *sequence);
        if let Some(received) = agent.received.get_mut(sequence) {
            let (plugin, outcome) = (commit.contribution.plugin.clone(), commit.contribution.outcome);
            let told = Told { plugin, outcome, at: Some(now()), line: commit.line.clone(), effects: fates };
            received.deliveries.push((delivery.clone(), told));
        }
        if *ends_event {
            agent.end(*sequence);
        } else if let Some(plugin) = &commit.contribution.plugin
            && let Some(waiting) = agent.pending.get_mut(sequence)
            && !waiting.ended.contains(plugin)
        {
            waiting.ended.push(plugin.clone());
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
            if let Some(received) = self.sequences.get(&event.id).and_then(|of| self.received.get_mut(of)) {
                received.again += 1;
            }
            return None;
        }
        let at = now();
        match arrival.verdict {
            Verdict::Allow => {
                let room = event.room.id.to_string();
                self.last.accepted = Some(Happening { event: Some(event.id.clone()), room, at, why: None });
            }
            Verdict::Deny(Denial::Own) => {}
            Verdict::Deny(denial) => {
                self.last.dropped = Some(Happening::denied(event.id.clone(), &event.room.id, at, denial));
            }
        }
        self.known.insert(event.id.clone(), event.room.id.clone());
        *last += 1;
        let sequence = Sequence(*last);
        let received = Received {
            place: Some((event.room.id.clone(), arrival.session.clone())),
            at,
            again: 0,
            verdict: arrival.verdict,
            deliveries: Vec::new(),
        };
        self.received.insert(sequence, received);
        self.sequences.insert(event.id.clone(), sequence);
        if arrival.verdict != Verdict::Allow {
            self.ended(sequence, event.id.clone());
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
            self.ended(sequence, waiting.event.id);
        }
    }

    fn ended(&mut self, sequence: Sequence, event: EventId) {
        self.ended.push_back((sequence, event));
        if self.ended.len() > REMEMBERED
            && let Some((sequence, event)) = self.ended.pop_front()
        {
            self.known.remove(&event);
            self.sequences.remove(&event);
            for (delivery, _) in self.received.remove(&sequence).into_iter().flat_map(|it| it.deliveries) {
                self.committed.remove(&delivery);
            }
        }
    }

    /// What became of an effect, for whoever asks.
    fn became(&mut self, queued: &Queued, sent: &Sent) {
        let at = now();
        let (became, to) = match sent {
            Sent::Accepted { event, room } => {
                let (id, room) = (Some(event.clone()), room.to_string());
                self.last.acknowledged = Some(Happening { event: id, room: room.clone(), at, why: None });
                (Became::Sent { event: event.clone(), at: Some(at) }, room)
            }
            Sent::GivenUp(reason) => {
                let (to, why) = (destination(&queued.effect), Some(reason.clone()));
                self.last.given_up = Some(Happening { event: None, room: to.clone(), at, why });
                (Became::GivenUp { reason: reason.clone(), at: Some(at) }, to)
            }
        };
        let EffectId { delivery, ordinal } = &queued.id;
        let received = self.committed.get(delivery).and_then(|of| self.received.get_mut(of));
        let told = received.and_then(|it| it.deliveries.iter_mut().find(|(of, _)| of == delivery));
        let fate =
            told.and_then(|(_, told)| told.effects.iter_mut().find(|fate| Some(fate.ordinal) == *ordinal));
        if let Some(fate) = fate {
            (fate.became, fate.to) = (became, Some(to));
        }
    }

    fn story(&self, event: &EventId) -> Option<Story> {
        let sequence = self.sequences.get(event)?;
        let received = self.received.get(sequence)?;
        let (room, session) = received.place.clone()?;
        let sent_for =
            self.sent.iter().find(|sent| sent.event == *event && self.messages.contains_key(event));
        let sent_for = sent_for.and_then(|sent| self.committed.get(&sent.id.delivery)).and_then(|cause| {
            self.sequences.iter().find_map(|(event, sequence)| (sequence == cause).then(|| event.clone()))
        });
        Some(Story {
            event: event.clone(),
            room,
            session,
            received: Some(received.at),
            again: received.again,
            verdict: received.verdict,
            waits: self.pending.contains_key(sequence),
            deliveries: received.deliveries.iter().map(|(_, told)| told.clone()).collect(),
            sent_for,
        })
    }

    fn tidy(&mut self, tidy: Tidy) -> bool {
        let step = tidy.step as usize;
        let unsent: HashSet<_> = self.unsent.values().map(|queued| &queued.id.delivery).collect();
        let old = self.drafts.iter().filter(|(of, (at, _))| *at < tidy.drafts_before && !unsent.contains(of));
        let mut old: Vec<_> = old.map(|(of, (at, _))| (*at, of.clone())).collect();
        old.sort();
        let drafts: Vec<_> = old.into_iter().take(step).collect();
        let mut own: Vec<_> = self.received.iter().filter(|(_, it)| it.is_own()).map(|(of, _)| *of).collect();
        own.sort();
        own.truncate(own.len().saturating_sub(tidy.announcements as usize));
        own.retain(|of| !self.received[of].deliveries.iter().any(|(delivery, _)| unsent.contains(delivery)));
        own.truncate(step);
        let mut gone = drafts.len() + own.len();
        for (_, draft) in drafts {
            self.drafts.remove(&draft);
        }
        for sequence in own {
            for (delivery, _) in self.received.remove(&sequence).into_iter().flat_map(|it| it.deliveries) {
                self.committed.remove(&delivery);
            }
        }
        for names in self.named.values_mut() {
            let mut rows: Vec<_> = names.iter().map(|(name, newest)| (newest.row, name.clone())).collect();
            rows.sort();
            rows.truncate(rows.len().saturating_sub(tidy.names as usize));
            rows.truncate(step);
            gone += rows.len();
            for (_, name) in rows {
                names.remove(&name);
            }
        }
        gone >= step
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

impl Received {
    /// What the host says by itself is about no event.
    fn own() -> Self {
        Self { place: None, at: now(), again: 0, verdict: Verdict::Allow, deliveries: Vec::new() }
    }

    fn is_own(&self) -> bool {
        self.place.is_none()
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
        let Sent::Accepted { event, room } = sent else { return Ok(()) };
        let Queued { id, plugin, effect, .. } = queued;
        let named = match (&plugin, &effect) {
            (Some(plugin), Effect::Send { name: Some(name), .. }) => Some((plugin.clone(), name.clone())),
            _ => None,
        };
        agent.accepted(Delivered { id, event: event.clone(), name: named });
        let (Some(plugin), Effect::Send { name, .. }) = (plugin, effect) else { return Ok(()) };
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

    async fn backlog(&self, agent: &AgentName) -> Result<Backlog, Error> {
        let ledger = self.ledger();
        let of = |agent: &Agent| (agent.pending.len() as u64, agent.unsent.len() as u64);
        let (events, effects) = ledger.agents.get(agent).map(of).unwrap_or_default();
        Ok(Backlog { events, effects })
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
        ledger.agent(agent).received.insert(sequence, Received::own());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chat::memory::message,
        event::{DeviceTrust, Kind, Room, Sender},
        gate::Denial,
        id::UserId,
    };

    fn event(number: usize) -> EventId {
        EventId::parse(format!("${number}")).unwrap()
    }

    fn arrival(number: usize, verdict: Verdict) -> Arrival {
        let sender = UserId::parse("@alice:memory").unwrap();
        let event = Event {
            id: event(number),
            room: Room { id: RoomId::parse("!r").unwrap(), direct: true, encrypted: false },
            sender: Sender { id: sender, display_name: None, device: DeviceTrust::Cleartext },
            sent: 0,
            mark: None,
            kind: Kind::Message(message("hello")),
        };
        Arrival { event, verdict, session: SessionId::parse("!r").unwrap() }
    }

    #[tokio::test]
    async fn what_has_ended_is_forgotten_some_day_and_what_waits_is_not() {
        let (journal, agent) = (Memory::default(), AgentName::parse("agent").unwrap());
        let known = async |number| journal.known(&agent, &event(number)).await.unwrap().is_some();
        let denied = |number| arrival(number, Verdict::Deny(Denial::NotListed));
        let mut arrivals = vec![arrival(0, Verdict::Allow)];
        arrivals.extend((1..=REMEMBERED + 1).map(denied));
        let received = journal.receive(&agent, &arrivals, &Position("here".into())).await.unwrap();
        let waits = received[0].unwrap();
        assert_eq!([known(0).await, known(1).await, known(2).await], [true, false, true]);

        let delivery = DeliveryId::parse("d").unwrap();
        let end = Commit::own(agent.clone(), waits, delivery, vec![]);
        for _ in 0..2 {
            assert_eq!(journal.commit(end.clone()).await.unwrap(), []);
            assert_eq!([known(0).await, known(2).await, known(3).await], [true, false, true]);
        }
        let later: Vec<_> = (0..=REMEMBERED).map(|number| denied(2 * REMEMBERED + number)).collect();
        journal.receive(&agent, &later, &Position("there".into())).await.unwrap();
        let ledger = journal.ledger();
        let agent = &ledger.agents[&agent];
        assert_eq!(
            (agent.received.len(), agent.known.len(), agent.committed.len()),
            (REMEMBERED, REMEMBERED, 0)
        );
    }

    #[test]
    fn what_was_sent_is_forgotten_some_day_and_its_name_with_it() {
        let mut agent = Agent::default();
        let (plugin, room) = (PluginName::parse("plugin").unwrap(), RoomId::parse("!r").unwrap());
        for number in 0..=REMEMBERED {
            let name = if number == 0 { "first" } else { "newest" }.to_owned();
            let newest = Newest { row: 0, event: event(number), room: room.clone() };
            agent.named.entry(plugin.clone()).or_default().insert(name.clone(), newest);
            agent.messages.insert(event(number), Known { room: room.clone(), by: Some(plugin.clone()) });
            let delivery = DeliveryId::parse(format!("d{number}")).unwrap();
            let id = EffectId { delivery, ordinal: Some(0) };
            agent.accepted(Delivered { id, event: event(number), name: Some((plugin.clone(), name)) });
        }
        assert_eq!(
            (agent.accepted.len(), agent.messages.len(), agent.sent.len()),
            (REMEMBERED, REMEMBERED, REMEMBERED)
        );
        assert!(!agent.messages.contains_key(&event(0)));
        assert_eq!(agent.named[&plugin].keys().collect::<Vec<_>>(), ["newest"]);
        let id = EffectId { delivery: DeliveryId::parse("again").unwrap(), ordinal: Some(0) };
        agent.accepted(Delivered { id, event: event(0), name: Some((plugin.clone(), "other".into())) });
        assert_eq!(agent.named[&plugin].keys().collect::<Vec<_>>(), ["newest"], "it has a newer message");
    }
}
