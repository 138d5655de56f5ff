//! A journal, and somebody who watches what is asked of it.

use async_trait::async_trait;
use bytes::Bytes;
use parlour::{
    answers::{Opening, Record, Writing},
    audit::{Entry, Head, Recorded},
    effect::{Effect, EffectId, Place},
    event::{Event, MediaSource, Position},
    id::{AgentName, DeliveryId, EventId, PluginName, RoomId, SessionId},
    journal::{
        Arrival, Backlog, Commit, Decision, Draft, Error, Journal, KeyQuery, Known, Last, Moved, Named,
        Namespace, Pending, Queued, Release, Remembered, Sent, Sequence, Stored, Story, Tidy, Undone, Usage,
        Versions,
    },
    timer::Timer,
};

/// Told where the journal is; it goes on when this returns.
#[async_trait]
pub trait Watch: Send + Sync + 'static {
    /// A handler is about to look something up.
    async fn looks_up(&self) {}
    /// Events are stored.
    fn stored(&self) {}
    /// Something is about to be committed.
    async fn commits(&self) {}
    /// It is.
    fn committed(&self) {}
    /// Whether what is noted of effects is to be durable at once.
    fn wants_notes(&self) -> bool {
        false
    }
    /// It is noted what became of an effect.
    fn noted(&self) {}
    /// A version is about to take over; it does not where this fails.
    fn takes_over(&self) -> Result<(), Error> {
        Ok(())
    }
    /// How a trial ends is about to be written down.
    async fn decides(&self) {}
    /// It is.
    async fn decided(&self) {}
}

pub struct Watched<J, W> {
    pub journal: J,
    pub watch: W,
}

#[async_trait]
impl<J: Journal, W: Watch> Journal for Watched<J, W> {
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
            self.watch.stored();
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
        self.watch.commits().await;
        let queued = self.journal.commit(commit).await;
        if queued.is_ok() {
            self.watch.committed();
        }
        queued
    }

    async fn unsent(&self, agent: &AgentName) -> Result<Vec<Queued>, Error> {
        self.journal.unsent(agent).await
    }

    async fn sent(&self, agent: &AgentName, row: i64, sent: &Sent) -> Result<(), Error> {
        let mut noted = self.journal.sent(agent, row, sent).await;
        // It rides on the next write, unless somebody wants to see it there.
        if noted.is_ok() && self.watch.wants_notes() {
            noted = self.journal.settle().await;
        }
        if noted.is_ok() {
            self.watch.noted();
        }
        noted
    }

    async fn settle(&self) -> Result<(), Error> {
        self.journal.settle().await
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
        self.watch.looks_up().await;
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
        self.watch.looks_up().await;
        self.journal.named(agent, plugin, name).await
    }

    async fn known(&self, agent: &AgentName, event: &EventId) -> Result<Option<Known>, Error> {
        self.watch.looks_up().await;
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
        self.watch.looks_up().await;
        self.journal.get(namespace, key).await
    }

    async fn keys(&self, namespace: &Namespace, query: &KeyQuery) -> Result<Vec<String>, Error> {
        self.watch.looks_up().await;
        self.journal.keys(namespace, query).await
    }

    async fn usage(&self, agent: &AgentName, plugin: &PluginName) -> Result<Usage, Error> {
        self.watch.looks_up().await;
        self.journal.usage(agent, plugin).await
    }

    async fn versions(&self, plugin: &PluginName) -> Result<Versions, Error> {
        self.journal.versions(plugin).await
    }

    async fn remembering(&self, plugin: &PluginName) -> Result<Vec<AgentName>, Error> {
        self.journal.remembering(plugin).await
    }

    async fn remembered(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        before: bool,
    ) -> Result<Vec<Remembered>, Error> {
        self.journal.remembered(agent, plugin, before).await
    }

    async fn take_over(
        &self,
        plugin: &PluginName,
        release: &Release,
        on_trial: bool,
        moved: Option<Vec<Moved>>,
    ) -> Result<(), Error> {
        self.watch.takes_over()?;
        self.journal.take_over(plugin, release, on_trial, moved).await
    }

    async fn decide(&self, plugin: &PluginName, decision: Decision) -> Result<Undone, Error> {
        self.watch.decides().await;
        let decided = self.journal.decide(plugin, decision).await;
        self.watch.decided().await;
        decided
    }

    async fn timers(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        session: &SessionId,
    ) -> Result<Vec<Timer>, Error> {
        self.watch.looks_up().await;
        self.journal.timers(agent, plugin, session).await
    }

    async fn timer_count(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, Error> {
        self.watch.looks_up().await;
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
