//! A chat and a journal that say which step they are at.

use std::sync::Arc;

use async_trait::async_trait;
use parlour::{
    audit::{Entry, Head, Recorded},
    chat::{Chat, Ended, Identity, SendError, StartError},
    effect::{Effect, EffectId, Outgoing, Place},
    event::{Batch, Position},
    id::{AgentName, DeliveryId, EventId, PluginName, RoomId, SessionId, UserId},
    journal::{
        Arrival, Backlog, Commit, Draft, Error, Journal, KeyQuery, Known, Last, Named, Namespace, Pending,
        Queued, Sent, Sequence, Stored, Story, Tidy, Usage,
    },
};

use crate::death::Death;

pub struct MortalChat<C> {
    pub chat: C,
    pub death: Arc<Death>,
}

#[async_trait]
impl<C: Chat> Chat for MortalChat<C> {
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

    async fn backlog(&self, agent: &AgentName) -> Result<Backlog, Error> {
        self.journal.backlog(agent).await
    }

    async fn agents(&self) -> Result<Vec<AgentName>, Error> {
        self.journal.agents().await
    }

    async fn last(&self, agent: &AgentName) -> Result<Last, Error> {
        self.journal.last(agent).await
    }

    async fn story(&self, agent: &AgentName, event: &EventId) -> Result<Option<Story>, Error> {
        self.journal.story(agent, event).await
    }

    async fn tidy(&self, agent: &AgentName, tidy: Tidy) -> Result<bool, Error> {
        self.journal.tidy(agent, tidy).await
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
