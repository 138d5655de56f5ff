//! A chat and a journal that say which step they are at.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use parlour::{
    answers::{Opening, Record, Writing},
    audit::{Entry, Head, Recorded},
    chat::{Attendance, Chat, Ended, Identity, MediaError, Opened, Past, SendError, StartError},
    effect::{Effect, EffectId, Outgoing, Place, Upload},
    event::{Batch, Event, MediaSource, Position},
    id::{AgentName, DeliveryId, EventId, PluginName, RoomId, SessionId, UserId},
    journal::{
        Arrival, Backlog, Commit, Draft, Error, Journal, KeyQuery, Known, Named, Namespace, Pending, Queued,
        Sent, Sequence, Stored, Usage,
    },
    timer::Timer,
};

use crate::death::Death;

pub struct MortalChat<C> {
    pub chat: C,
    pub death: Arc<Death>,
}

#[async_trait]
impl<C: Chat> Chat for MortalChat<C> {
    fn remember(&self, past: Arc<dyn Past>) {
        self.chat.remember(past);
    }

    async fn start(&self, from: Option<Position>) -> Result<Identity, StartError> {
        self.chat.start(from).await
    }

    async fn next(&self) -> Result<Batch, Ended> {
        let batch = self.chat.next().await?;
        // What a chat keeps for itself (matrix-sdk its keys) is stored by now.
        if !batch.events.is_empty() {
            self.death.at("received");
        }
        Ok(batch)
    }

    async fn send(&self, outgoing: &Outgoing) -> Result<EventId, SendError> {
        self.death.at("sending");
        let sent = self.chat.send(outgoing).await;
        if sent.is_ok() {
            self.death.at("answered");
        }
        sent
    }

    async fn media(&self, file: &MediaSource, most: usize) -> Result<Bytes, MediaError> {
        self.chat.media(file, most).await
    }

    async fn keys(&self) -> Option<BTreeSet<String>> {
        self.chat.keys().await
    }

    async fn open(&self, event: &Event) -> Opened {
        self.chat.open(event).await
    }

    async fn upload(&self, upload: &Upload) -> Result<MediaSource, SendError> {
        self.chat.upload(upload).await
    }

    fn ended(&self, event: &EventId) {
        self.chat.ended(event);
    }

    async fn attendance(&self, room: &RoomId) -> Attendance {
        self.chat.attendance(room).await
    }

    fn typing(&self, room: &RoomId, on: bool) {
        if on {
            self.death.at("started");
        }
        self.chat.typing(room, on);
    }

    fn read(&self, room: &RoomId, event: &EventId, thread: Option<&EventId>) {
        self.chat.read(room, event, thread);
    }

    async fn answer(&self, room: &RoomId, accept: bool) -> Result<(), SendError> {
        self.chat.answer(room, accept).await
    }

    async fn direct(&self, user: &UserId) -> Result<RoomId, SendError> {
        self.chat.direct(user).await
    }
}

pub struct MortalJournal<J> {
    pub journal: J,
    pub death: Arc<Death>,
}

#[async_trait]
impl<J: Journal> Journal for MortalJournal<J> {
    async fn position(&self, agent: &AgentName) -> Result<Option<Position>, Error> {
        self.journal.position(agent).await
    }

    async fn receive(
        &self,
        agent: &AgentName,
        arrivals: &[Arrival],
        position: &Position,
    ) -> Result<Vec<Option<Sequence>>, Error> {
        let received = self.journal.receive(agent, arrivals, position).await;
        if received.iter().flatten().any(Option::is_some) {
            self.death.at("stored");
        }
        received
    }

    async fn locked(&self, agent: &AgentName) -> Result<Vec<(Sequence, SessionId, Event)>, Error> {
        self.journal.locked(agent).await
    }

    async fn unlock(&self, agent: &AgentName, sequence: Sequence, arrival: &Arrival) -> Result<bool, Error> {
        self.journal.unlock(agent, sequence, arrival).await
    }

    async fn remember(&self, agent: &AgentName, newest: &[(RoomId, EventId)]) -> Result<(), Error> {
        self.journal.remember(agent, newest).await
    }

    async fn newest(&self, agent: &AgentName, room: &RoomId) -> Result<Option<EventId>, Error> {
        self.journal.newest(agent, room).await
    }

    async fn forget(&self, agent: &AgentName, before: u64, limit: u32) -> Result<u32, Error> {
        self.journal.forget(agent, before, limit).await
    }

    async fn pending(
        &self,
        agent: &AgentName,
        session: Option<&SessionId>,
        after: Option<Sequence>,
        limit: u32,
    ) -> Result<Vec<Pending>, Error> {
        self.journal.pending(agent, session, after, limit).await
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<Queued>, Error> {
        self.death.at("ended");
        let queued = self.journal.commit(commit).await;
        if queued.is_ok() {
            self.death.at("committed");
        }
        queued
    }

    async fn unsent(&self, agent: &AgentName) -> Result<Vec<Queued>, Error> {
        self.journal.unsent(agent).await
    }

    async fn sent(&self, agent: &AgentName, row: i64, sent: &Sent) -> Result<(), Error> {
        let noted = self.journal.sent(agent, row, sent).await;
        if noted.is_ok() {
            self.death.at("noted");
        }
        noted
    }

    async fn blob(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        digest: &str,
    ) -> Result<Option<Bytes>, Error> {
        self.journal.blob(agent, delivery, digest).await
    }

    async fn blobs(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, Error> {
        self.journal.blobs(agent, plugin).await
    }

    async fn stage(&self, agent: &AgentName, row: i64, source: &MediaSource) -> Result<(), Error> {
        self.journal.stage(agent, row, source).await
    }

    async fn staged(&self, agent: &AgentName, row: i64) -> Result<Option<MediaSource>, Error> {
        self.journal.staged(agent, row).await
    }

    async fn event_of(&self, agent: &AgentName, id: &EffectId) -> Result<Option<EventId>, Error> {
        self.journal.event_of(agent, id).await
    }

    async fn named(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        name: &str,
    ) -> Result<Option<Named>, Error> {
        self.journal.named(agent, plugin, name).await
    }

    async fn known(&self, agent: &AgentName, event: &EventId) -> Result<Option<Known>, Error> {
        self.journal.known(agent, event).await
    }

    async fn draft(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        event: Option<&EventId>,
    ) -> Result<Draft, Error> {
        self.journal.draft(agent, delivery, event).await
    }

    async fn drafted(&self, agent: &AgentName, delivery: &DeliveryId) -> Result<Option<Draft>, Error> {
        self.journal.drafted(agent, delivery).await
    }

    async fn home(&self, agent: &AgentName) -> Result<Option<Place>, Error> {
        self.journal.home(agent).await
    }

    async fn was_encrypted(&self, agent: &AgentName, room: &RoomId) -> Result<bool, Error> {
        self.journal.was_encrypted(agent, room).await
    }

    async fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Stored>, Error> {
        self.death.at("host call");
        self.journal.get(namespace, key).await
    }

    async fn keys(&self, namespace: &Namespace, query: &KeyQuery) -> Result<Vec<String>, Error> {
        self.journal.keys(namespace, query).await
    }

    async fn usage(&self, agent: &AgentName, plugin: &PluginName) -> Result<Usage, Error> {
        self.journal.usage(agent, plugin).await
    }

    async fn timers(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        session: &SessionId,
    ) -> Result<Vec<Timer>, Error> {
        self.journal.timers(agent, plugin, session).await
    }

    async fn timer_count(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, Error> {
        self.journal.timer_count(agent, plugin).await
    }

    async fn next_timers(&self, agent: &AgentName) -> Result<Vec<(PluginName, u64)>, Error> {
        self.journal.next_timers(agent).await
    }

    async fn due_timers(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        now: u64,
        limit: u32,
    ) -> Result<Vec<Timer>, Error> {
        self.journal.due_timers(agent, plugin, now, limit).await
    }

    async fn fire(
        &self,
        agent: &AgentName,
        timer: &Timer,
        next: Option<u64>,
        arrival: Option<&Arrival>,
    ) -> Result<Option<Sequence>, Error> {
        self.journal.fire(agent, timer, next, arrival).await
    }

    async fn learn(&self, opening: &Opening, writing: Writing) -> Result<(), Error> {
        self.journal.learn(opening, writing).await
    }

    async fn begun(&self, agent: &AgentName, event: &EventId) -> Result<Vec<Record>, Error> {
        self.journal.begun(agent, event).await
    }

    async fn put_aside(&self, agent: &AgentName, delivery: &DeliveryId) -> Result<(), Error> {
        self.journal.put_aside(agent, delivery).await
    }

    async fn past(&self, event: &EventId) -> Result<Vec<Record>, Error> {
        self.journal.past(event).await
    }

    async fn components(&self) -> Result<Vec<String>, Error> {
        self.journal.components().await
    }

    async fn forget_records(&self, before: i64, most: u64, limit: u32) -> Result<u32, Error> {
        self.journal.forget_records(before, most, limit).await
    }

    async fn backlog(&self, agent: &AgentName) -> Result<Backlog, Error> {
        self.journal.backlog(agent).await
    }

    async fn announce(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        effects: Vec<Effect>,
    ) -> Result<Vec<Queued>, Error> {
        self.journal.announce(agent, delivery, effects).await
    }

    async fn record(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.journal.record(entries).await
    }

    async fn recorded(&self, after: u64, limit: u32) -> Result<Vec<Recorded>, Error> {
        self.journal.recorded(after, limit).await
    }

    async fn record_head(&self) -> Result<Head, Error> {
        self.journal.record_head().await
    }
}
