//! A journal that does not answer handlers, as long as somebody wants that.

use async_trait::async_trait;
use bytes::Bytes;
use parlour::{
    answers::{Opening, Record, Writing},
    audit::{Entry, Head, Recorded},
    effect::{Effect, EffectId, Place},
    event::{Event, MediaSource, Position},
    id::{AgentName, DeliveryId, EventId, PluginName, RoomId, SessionId},
    journal::*,
    timer::Timer,
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

    async fn locked(&self, agent: &AgentName) -> Result<Vec<(Sequence, SessionId, Event)>, Error> {
        self.inner.locked(agent).await
    }

    async fn unlock(&self, agent: &AgentName, sequence: Sequence, arrival: &Arrival) -> Result<bool, Error> {
        self.inner.unlock(agent, sequence, arrival).await
    }

    async fn remember(&self, agent: &AgentName, newest: &[(RoomId, EventId)]) -> Result<(), Error> {
        self.inner.remember(agent, newest).await
    }

    async fn newest(&self, agent: &AgentName, room: &RoomId) -> Result<Option<EventId>, Error> {
        self.inner.newest(agent, room).await
    }

    async fn forget(&self, agent: &AgentName, before: u64, limit: u32) -> Result<u32, Error> {
        self.inner.forget(agent, before, limit).await
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

    async fn blob(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        digest: &str,
    ) -> Result<Option<Bytes>, Error> {
        self.inner.blob(agent, delivery, digest).await
    }

    async fn blobs(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, Error> {
        self.inner.blobs(agent, plugin).await
    }

    async fn stage(&self, agent: &AgentName, row: i64, source: &MediaSource) -> Result<(), Error> {
        self.inner.stage(agent, row, source).await
    }

    async fn staged(&self, agent: &AgentName, row: i64) -> Result<Option<MediaSource>, Error> {
        self.inner.staged(agent, row).await
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

    async fn timers(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        session: &SessionId,
    ) -> Result<Vec<Timer>, Error> {
        self.inner.timers(agent, plugin, session).await
    }

    async fn timer_count(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, Error> {
        self.inner.timer_count(agent, plugin).await
    }

    async fn next_timers(&self, agent: &AgentName) -> Result<Vec<(PluginName, u64)>, Error> {
        self.inner.next_timers(agent).await
    }

    async fn due_timers(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        now: u64,
        limit: u32,
    ) -> Result<Vec<Timer>, Error> {
        self.inner.due_timers(agent, plugin, now, limit).await
    }

    async fn fire(
        &self,
        agent: &AgentName,
        timer: &Timer,
        next: Option<u64>,
        arrival: Option<&Arrival>,
    ) -> Result<Option<Sequence>, Error> {
        self.inner.fire(agent, timer, next, arrival).await
    }

    async fn learn(&self, opening: &Opening, writing: Writing) -> Result<(), Error> {
        self.inner.learn(opening, writing).await
    }

    async fn begun(&self, agent: &AgentName, event: &EventId) -> Result<Vec<Record>, Error> {
        self.inner.begun(agent, event).await
    }

    async fn put_aside(&self, agent: &AgentName, delivery: &DeliveryId) -> Result<(), Error> {
        self.inner.put_aside(agent, delivery).await
    }

    async fn past(&self, event: &EventId) -> Result<Vec<Record>, Error> {
        self.inner.past(event).await
    }

    async fn components(&self) -> Result<Vec<String>, Error> {
        self.inner.components().await
    }

    async fn forget_records(&self, before: i64, most: u64, limit: u32) -> Result<u32, Error> {
        self.inner.forget_records(before, most, limit).await
    }

    async fn backlog(&self, agent: &AgentName) -> Result<Backlog, Error> {
        self.inner.backlog(agent).await
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
