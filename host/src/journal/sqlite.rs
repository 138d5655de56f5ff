//! The ledger in one SQLite file.
//!
//! One thread owns the connection ([`thread`]). What waits for it runs in one transaction, so that one `fsync`
//! makes many calls durable, and nobody is answered before it but who receives a batch or notes what became of an effect.
//! This is not a place for decisions: each call is a few statements, in [`inbox`], [`forget`], [`commit`], [`outbox`], [`story`], [`kv`], [`version`], [`timers`],
//! [`record`] and
//! [`audit`].
//!
//! Two processes may have the file open, say a host and somebody who looks at it. That only one receives events and commits is not seen
//! to here: a batch keeps the numbers that it was answered with.

mod audit;
mod commit;
mod file;
mod forget;
mod inbox;
mod kv;
mod numbers;
mod outbox;
mod record;
mod story;
#[cfg(test)]
mod tests;
mod thread;
mod timers;
mod version;

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, types::Type};

use super::{
    Arrival, Backlog, Commit, Decision, Draft, Error, Journal, KeyQuery, Known, Last, Moved, Named,
    Namespace, Pending, Queued, Release, Remembered, Sent, Sequence, Stored, Story, Tidy, Undone, Usage,
    Versions,
};
use crate::{
    answers::{Opening, Record, Writing},
    audit::{Entry, Head, Recorded},
    effect::{Effect, EffectId, Place},
    event::{Event, MediaSource, Position},
    id::{AgentName, DeliveryId, EventId, InvalidId, PluginName, RoomId, SessionId},
    timer::Timer,
};

/// A ledger in a file. Dropping it waits until what it was asked is done, or, where the disk fails, was tried once more.
#[derive(Debug)]
pub struct Sqlite {
    thread: thread::Thread,
    arriving: Arc<inbox::Arriving>,
}

impl Sqlite {
    /// Opens the file, or makes it, and its folder, readable by nobody else.
    ///
    /// # Errors
    /// [`Error::Storage`] where it can't be opened, is not a journal, or was written by a newer version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::start(path.as_ref(), |path| file::open(path, None))
    }

    /// Opens it through a file system of SQLite's ("VFS") that was registered under this name: tests take the disk away.
    #[doc(hidden)]
    pub fn open_through(vfs: &str, path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::start(path.as_ref(), |path| file::open(path, Some(vfs)))
    }

    /// Opens a file that is there, beside a host that may run, and changes nothing in it: what would write fails.
    ///
    /// # Errors
    /// [`Error::Storage`] where it isn't there or can't be opened, or was written by another version.
    pub fn look(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::start(path.as_ref(), file::look)
    }

    fn start(
        path: &Path,
        open: impl FnOnce(&Path) -> Result<Connection, file::Error>,
    ) -> Result<Self, Error> {
        let arriving = Arc::<inbox::Arriving>::default();
        match open(path).and_then(|db| thread::Thread::start(db, arriving.clone())) {
            Ok(thread) => Ok(Self { thread, arriving }),
            Err(error) => Err(Error::Storage(format!("journal {}: {error}", path.display()))),
        }
    }
}

#[async_trait]
impl Journal for Sqlite {
    async fn position(&self, agent: &AgentName) -> Result<Option<Position>, Error> {
        let agent = agent.clone();
        self.thread.read(move |db| inbox::position(db, &agent)).await
    }

    async fn receive(
        &self,
        agent: &AgentName,
        arrivals: &[Arrival],
        position: &Position,
    ) -> Result<Vec<Option<Sequence>>, Error> {
        let batch =
            inbox::Receiving::of(agent, arrivals, position, self.arriving.clone()).map_err(|it| it.0)?;
        self.thread.ahead(batch).await
    }

    async fn locked(&self, agent: &AgentName) -> Result<Vec<(Sequence, SessionId, Event)>, Error> {
        let agent = agent.clone();
        self.thread.read(move |db| inbox::locked(db, &agent)).await
    }

    async fn unlock(&self, agent: &AgentName, sequence: Sequence, arrival: &Arrival) -> Result<bool, Error> {
        let agent = agent.clone();
        let received = inbox::Received::of(arrival).map_err(|it| it.0)?;
        self.thread.write(move |db| inbox::unlock(db, &agent, sequence, &received)).await
    }

    async fn remember(&self, agent: &AgentName, newest: &[(RoomId, EventId)]) -> Result<(), Error> {
        let (agent, newest) = (agent.clone(), newest.to_vec());
        self.thread.write(move |db| forget::remember(db, &agent, &newest)).await
    }

    async fn newest(&self, agent: &AgentName, room: &RoomId) -> Result<Option<EventId>, Error> {
        let (agent, room) = (agent.clone(), room.clone());
        self.thread.read(move |db| forget::newest(db, &agent, &room)).await
    }

    async fn forget(&self, agent: &AgentName, before: u64, limit: u32) -> Result<u32, Error> {
        let agent = agent.clone();
        self.thread.write(move |db| forget::forget(db, &agent, before, limit)).await
    }

    async fn pending(
        &self,
        agent: &AgentName,
        session: Option<&SessionId>,
        after: Option<Sequence>,
        limit: u32,
    ) -> Result<Vec<Pending>, Error> {
        let agent = agent.clone();
        let session = session.cloned();
        self.thread.read_all(move |db| inbox::pending(db, &agent, session.as_ref(), after, limit)).await
    }

    async fn commit(&self, mut commit: Commit) -> Result<Vec<Queued>, Error> {
        let effects = commit::Effects::of(&commit).map_err(|it| it.0)?;
        let learnt = record::Ending::of(commit.learnt.take()).map_err(|it| it.0)?;
        let arriving = self.arriving.clone();
        self.thread.commit(move |db| commit::commit(db, &commit, effects, learnt, &arriving)).await
    }

    async fn unsent(&self, agent: &AgentName) -> Result<Vec<Queued>, Error> {
        let agent = agent.clone();
        self.thread.read(move |db| outbox::unsent(db, &agent)).await
    }

    async fn sent(&self, agent: &AgentName, row: i64, sent: &Sent) -> Result<(), Error> {
        let agent = agent.clone();
        let sent = sent.clone();
        self.thread.note(move |db| outbox::sent(db, &agent, row, &sent)).await
    }

    async fn settle(&self) -> Result<(), Error> {
        self.thread.settle().await
    }

    async fn blob(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        digest: &str,
    ) -> Result<Option<Bytes>, Error> {
        let (agent, delivery, digest) = (agent.clone(), delivery.clone(), digest.to_owned());
        self.thread.read(move |db| outbox::blob(db, &agent, &delivery, &digest)).await
    }

    async fn blobs(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, Error> {
        let (agent, plugin) = (agent.clone(), plugin.clone());
        self.thread.read(move |db| outbox::blobs(db, &agent, &plugin)).await
    }

    async fn stage(&self, agent: &AgentName, row: i64, source: &MediaSource) -> Result<(), Error> {
        let (agent, source) = (agent.clone(), source.clone());
        self.thread.write(move |db| outbox::stage(db, &agent, row, &source)).await
    }

    async fn staged(&self, agent: &AgentName, row: i64) -> Result<Option<MediaSource>, Error> {
        let agent = agent.clone();
        self.thread.read(move |db| outbox::staged(db, &agent, row)).await
    }

    async fn event_of(&self, agent: &AgentName, id: &EffectId) -> Result<Option<EventId>, Error> {
        let agent = agent.clone();
        let id = id.clone();
        self.thread.read(move |db| outbox::event_of(db, &agent, &id)).await
    }

    async fn named(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        name: &str,
    ) -> Result<Option<Named>, Error> {
        let agent = agent.clone();
        let plugin = plugin.clone();
        let name = name.to_owned();
        self.thread.read(move |db| outbox::named(db, &agent, &plugin, &name)).await
    }

    async fn known(&self, agent: &AgentName, event: &EventId) -> Result<Option<Known>, Error> {
        let agent = agent.clone();
        let event = event.clone();
        self.thread.read(move |db| outbox::known(db, &agent, &event)).await
    }

    async fn draft(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        event: Option<&EventId>,
    ) -> Result<Draft, Error> {
        let agent = agent.clone();
        let delivery = delivery.clone();
        let event = event.cloned();
        self.thread.write(move |db| outbox::draft(db, &agent, &delivery, event.as_ref())).await
    }

    async fn drafted(&self, agent: &AgentName, delivery: &DeliveryId) -> Result<Option<Draft>, Error> {
        let agent = agent.clone();
        let delivery = delivery.clone();
        self.thread.read(move |db| outbox::drafted(db, &agent, &delivery)).await
    }

    async fn home(&self, agent: &AgentName) -> Result<Option<Place>, Error> {
        let agent = agent.clone();
        self.thread.read(move |db| outbox::home(db, &agent)).await
    }

    async fn was_encrypted(&self, agent: &AgentName, room: &RoomId) -> Result<bool, Error> {
        let agent = agent.clone();
        let room = room.clone();
        self.thread.read(move |db| inbox::was_encrypted(db, &agent, &room)).await
    }

    async fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Stored>, Error> {
        let namespace = namespace.clone();
        let key = key.to_owned();
        self.thread.read(move |db| kv::get(db, &namespace, &key)).await
    }

    async fn keys(&self, namespace: &Namespace, query: &KeyQuery) -> Result<Vec<String>, Error> {
        let namespace = namespace.clone();
        let query = query.clone();
        self.thread.read(move |db| kv::keys(db, &namespace, &query)).await
    }

    async fn usage(&self, agent: &AgentName, plugin: &PluginName) -> Result<Usage, Error> {
        let (agent, plugin) = (agent.clone(), plugin.clone());
        self.thread.read(move |db| kv::usage(db, &agent, &plugin)).await
    }

    async fn versions(&self, plugin: &PluginName) -> Result<Versions, Error> {
        let plugin = plugin.clone();
        self.thread.read(move |db| version::versions(db, &plugin)).await
    }

    async fn remembering(&self, plugin: &PluginName) -> Result<Vec<AgentName>, Error> {
        let plugin = plugin.clone();
        self.thread.read(move |db| version::remembering(db, &plugin)).await
    }

    async fn remembered(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        before: bool,
    ) -> Result<Vec<Remembered>, Error> {
        let (agent, plugin) = (agent.clone(), plugin.clone());
        self.thread.read(move |db| version::remembered(db, &agent, &plugin, before)).await
    }

    async fn take_over(
        &self,
        plugin: &PluginName,
        release: &Release,
        on_trial: bool,
        moved: Option<Vec<Moved>>,
    ) -> Result<(), Error> {
        let (plugin, release) = (plugin.clone(), release.clone());
        self.thread
            .write(move |db| version::take_over(db, &plugin, &release, on_trial, moved.as_deref()))
            .await
    }

    async fn decide(&self, plugin: &PluginName, decision: Decision) -> Result<Undone, Error> {
        let plugin = plugin.clone();
        self.thread.write(move |db| version::decide(db, &plugin, decision)).await
    }

    async fn learn(&self, opening: &Opening, writing: Writing) -> Result<(), Error> {
        let opening = opening.clone();
        let rows = record::Rows::of(writing.entries).map_err(|it| it.0)?;
        self.thread.write(move |db| record::learn(db, &opening, rows, writing.full)).await
    }

    async fn begun(&self, agent: &AgentName, event: &EventId) -> Result<Vec<Record>, Error> {
        let (agent, event) = (agent.clone(), event.clone());
        self.thread.read(move |db| record::begun(db, &agent, &event)).await
    }

    async fn put_aside(&self, agent: &AgentName, delivery: &DeliveryId) -> Result<(), Error> {
        let (agent, delivery) = (agent.clone(), delivery.clone());
        self.thread.write(move |db| record::put_aside(db, &agent, &delivery)).await
    }

    async fn past(&self, event: &EventId) -> Result<Vec<Record>, Error> {
        let event = event.clone();
        self.thread.read(move |db| record::past(db, &event)).await
    }

    async fn components(&self) -> Result<Vec<String>, Error> {
        self.thread.read(record::components).await
    }

    async fn forget_records(&self, before: i64, most: u64, limit: u32) -> Result<u32, Error> {
        self.thread.write(move |db| record::forget(db, before, most, limit)).await
    }

    async fn timers(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        session: &SessionId,
    ) -> Result<Vec<Timer>, Error> {
        let (agent, plugin, session) = (agent.clone(), plugin.clone(), session.clone());
        self.thread.read(move |db| timers::timers(db, &agent, &plugin, &session)).await
    }

    async fn timer_count(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, Error> {
        let (agent, plugin) = (agent.clone(), plugin.clone());
        self.thread.read(move |db| timers::count(db, &agent, &plugin)).await
    }

    async fn next_timers(&self, agent: &AgentName) -> Result<Vec<(PluginName, u64)>, Error> {
        let agent = agent.clone();
        self.thread.read(move |db| timers::next(db, &agent)).await
    }

    async fn due_timers(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        now: u64,
        limit: u32,
    ) -> Result<Vec<Timer>, Error> {
        let (agent, plugin) = (agent.clone(), plugin.clone());
        self.thread.read(move |db| timers::due(db, &agent, &plugin, now, limit)).await
    }

    async fn fire(
        &self,
        agent: &AgentName,
        timer: &Timer,
        next: Option<u64>,
        arrival: Option<&Arrival>,
    ) -> Result<Option<Sequence>, Error> {
        let (agent, timer) = (agent.clone(), timer.clone());
        let received = arrival.map(inbox::Received::of).transpose().map_err(|it| it.0)?;
        self.thread.write(move |db| timers::fire(db, &agent, &timer, next, received.as_ref())).await
    }

    async fn backlog(&self, agent: &AgentName) -> Result<Backlog, Error> {
        let agent = agent.clone();
        self.thread.read_all(move |db| outbox::backlog(db, &agent)).await
    }

    async fn agents(&self) -> Result<Vec<AgentName>, Error> {
        self.thread.read(story::agents).await
    }

    async fn last(&self, agent: &AgentName) -> Result<Last, Error> {
        let agent = agent.clone();
        self.thread.read_all(move |db| story::last(db, &agent)).await
    }

    async fn story(&self, agent: &AgentName, event: &EventId) -> Result<Option<Story>, Error> {
        let (agent, event) = (agent.clone(), event.clone());
        self.thread.read_all(move |db| story::story(db, &agent, &event)).await
    }

    async fn tidy(&self, agent: &AgentName, tidy: Tidy) -> Result<bool, Error> {
        let agent = agent.clone();
        self.thread.write(move |db| story::tidy(db, &agent, tidy)).await
    }

    async fn announce(
        &self,
        agent: &AgentName,
        delivery: &DeliveryId,
        effects: Vec<Effect>,
    ) -> Result<Vec<Queued>, Error> {
        // Its event is the host's own, and gets its number with it.
        let commit = Commit::own(agent.clone(), Sequence(0), delivery.clone(), effects);
        let effects = commit::Effects::of(&commit).map_err(|it| it.0)?;
        let arriving = self.arriving.clone();
        self.thread.write(move |db| commit::announce(db, commit, effects, &arriving)).await
    }

    async fn record(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.thread.write(move |db| audit::record(db, entries)).await
    }

    async fn recorded(&self, after: u64, limit: u32) -> Result<Vec<Recorded>, Error> {
        self.thread.read(move |db| audit::recorded(db, after, limit)).await
    }

    async fn record_head(&self) -> Result<Head, Error> {
        self.thread.read(audit::head).await
    }
}

/// An agent's number, given to it on first use. Reads say `agent = (SELECT …)` instead, and find nothing.
fn number(db: &Connection, agent: &AgentName) -> Result<i64, Failed> {
    let found = db
        .prepare_cached("SELECT id FROM agent WHERE name = ?1")?
        .query_row([agent.as_str()], |row| row.get(0))
        .optional()?;
    match found {
        Some(number) => Ok(number),
        None => Ok(db.prepare_cached("INSERT INTO agent (name) VALUES (?1)")?.insert([agent.as_str()])?),
    }
}

/// An id in a column.
fn id<T: std::str::FromStr<Err = InvalidId>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    parsed(column, row.get_ref(column)?.as_str()?)
}

/// An id in a column that may be empty.
fn optional_id<T: std::str::FromStr<Err = InvalidId>>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<T>> {
    row.get_ref(column)?.as_str_or_null()?.map(|text| parsed(column, text)).transpose()
}

/// A text in a column that may be empty.
fn optional_text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(row.get_ref(column)?.as_str_or_null()?.map(str::to_owned))
}

fn parsed<T: std::str::FromStr<Err = InvalidId>>(column: usize, text: &str) -> rusqlite::Result<T> {
    text.parse().map_err(|error| unreadable(column, error))
}

/// A value that was stored as JSON.
fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| unreadable(column, error))
}

/// The same, in a column that may be empty.
fn optional_json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<T>> {
    let text = row.get_ref(column)?.as_str_or_null()?;
    text.map(|text| serde_json::from_str(text).map_err(|error| unreadable(column, error))).transpose()
}

fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

/// An [`Error`] on its way out, which can be made of what SQLite says without letting that into the library's API.
struct Failed(Error);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self(Error::Storage(error.to_string()))
    }
}

impl From<serde_json::Error> for Failed {
    fn from(error: serde_json::Error) -> Self {
        Self(Error::Storage(error.to_string()))
    }
}
