//! A journal that does not answer handlers, as long as somebody wants that.

use async_trait::async_trait;
use parlour::{
    audit::{Entry, Head, Recorded},
    effect::{Effect, EffectId, Place},
    event::Position,
    id::{AgentName, DeliveryId, EventId, PluginName, RoomId, SessionId},
    journal::*,
};
use tokio::sync::watch;

pub struct Hanging {
    inner: memory::Memory,
    hangs: watch::Receiver<bool>,
}

impl Hanging {
    /// It hangs while what is sent here is true.
    pub fn new() -> (Self, watch::Sender<bool>) {
        let (sender, hangs) = watch::channel(true);
        (Self { inner: memory::Memory::default(), hangs }, sender)
    }

    async fn answers(&self) {
        self.hangs.clone().wait_for(|hangs| !hangs).await.unwrap();
    }
}

#[async_trait]
impl Journal for Hanging {
    async fn position(&self, agent: &AgentName) -> Result<Option<Position>, Error> {
        self.inner.position(agent).await
    }

    async fn receive(
        &self,
        agent: &AgentName,
        arrivals: &[Arrival],
        position: &Position,
    ) -> Result<Vec<Option<Sequence>>, Error> {
        self.inner.receive(agent, arrivals, position).await
    }

    async fn pending(
        &self,
        agent: &AgentName,
        session: Option<&SessionId>,
        after: Option<Sequence>,
        limit: u32,
    ) -> Result<Vec<Pending>, Error> {
        self.inner.pending(agent, session, after, limit).await
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<Queued>, Error> {
        self.inner.commit(commit).await
    }

    async fn unsent(&self, agent: &AgentName) -> Result<Vec<Queued>, Error> {
        self.inner.unsent(agent).await
    }

    async fn sent(&self, agent: &AgentName, row: i64, sent: &Sent) -> Result<(), Error> {
        self.inner.sent(agent, row, sent).await
    }

    async fn event_of(&self, agent: &AgentName, id: &EffectId) -> Result<Option<EventId>, Error> {
        self.inner.event_of(agent, id).await
    }

    async fn named(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        name: &str,
    ) -> Result<Option<Named>, Error> {
        self.answers().await;
        self.inner.named(agent, plugin, name).await
    }

    async fn known(&self, agent: &AgentName, event: &EventId) -> Result<Option<Known>, Error> {
        self.answers().await;
        self.inner.known(agent, event).await
    }

    async fn draft(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        event: Option<&EventId>,
    ) -> Result<Draft, Error> {
        self.inner.draft(agent, delivery, event).await
    }

    async fn drafted(&self, agent: &AgentName, delivery: &DeliveryId) -> Result<Option<Draft>, Error> {
        self.inner.drafted(agent, delivery).await
    }

    async fn home(&self, agent: &AgentName) -> Result<Option<Place>, Error> {
        self.inner.home(agent).await
    }

    async fn was_encrypted(&self, agent: &AgentName, room: &RoomId) -> Result<bool, Error> {
        self.inner.was_encrypted(agent, room).await
    }

    async fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Stored>, Error> {
        self.answers().await;
        self.inner.get(namespace, key).await
    }

    async fn keys(&self, namespace: &Namespace, query: &KeyQuery) -> Result<Vec<String>, Error> {
        self.answers().await;
        self.inner.keys(namespace, query).await
    }

    async fn usage(&self, agent: &AgentName, plugin: &PluginName) -> Result<Usage, Error> {
        self.answers().await;
        self.inner.usage(agent, plugin).await
    }

    async fn backlog(&self, agent: &AgentName) -> Result<Backlog, Error> {
        self.inner.backlog(agent).await
    }

    async fn agents(&self) -> Result<Vec<AgentName>, Error> {
        self.inner.agents().await
    }

    async fn last(&self, agent: &AgentName) -> Result<Last, Error> {
        self.inner.last(agent).await
    }

    async fn story(&self, agent: &AgentName, event: &EventId) -> Result<Option<Story>, Error> {
        self.inner.story(agent, event).await
    }

    async fn tidy(&self, agent: &AgentName, tidy: Tidy) -> Result<bool, Error> {
        self.inner.tidy(agent, tidy).await
    }

    async fn announce(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        effects: Vec<Effect>,
    ) -> Result<Vec<Queued>, Error> {
        self.inner.announce(agent, delivery, effects).await
    }

    async fn record(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.inner.record(entries).await
    }

    async fn recorded(&self, after: u64, limit: u32) -> Result<Vec<Recorded>, Error> {
        self.inner.recorded(after, limit).await
    }

    async fn record_head(&self) -> Result<Head, Error> {
        self.inner.record_head().await
    }
}
