//! The way of a ledger, step by step. Each step is one write, and looks first whether it was made, as a host does that
//! starts again, or tries again.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use parlour::{
    answers::{Fact, Key, Opening, Writing},
    audit,
    chat::memory::message,
    effect::{Body, Effect, File, Place, Target},
    event::{DeviceTrust, Event, Kind, MediaSource, Position, Reading, Room, Sender},
    gate::Verdict,
    id::{AgentName, DeliveryId, EventId, PluginName, RoomId, SessionId},
    journal::{
        Arrival, Blob, Commit, Contribution, Decision, Error, Journal, Kept, Learnt, Moved, Namespace,
        Outcome, Release, Scope, Sent, Sequence, Write, sqlite::Sqlite,
    },
    settings::Role,
    timer::{CatchUp, Fired, Rhythm, Timer},
};
use rusqlite::{Connection, OpenFlags, types::Value};

use super::{
    disk::{Files, Name},
    vfs::Vfs,
};
use crate::synapse::temporary;

/// What is done to a ledger. Events are told apart by a word, which their deliveries have, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Open,
    Receive(&'static str),
    Learn(&'static str),
    Commit(&'static str),
    /// The file of an effect was uploaded.
    Stage,
    /// All that waits was sent.
    Note,
    /// The same, and that rides on the next event.
    NoteWith(&'static str),
    /// An event is received and at once handled, as by a quick handler: what it commits is on disk with it.
    Handle(&'static str),
    /// The timer becomes an event, "timer".
    Fire,
    TakeOver,
    RollBack,
    Announce,
    Record,
    Forget,
    /// What is in the log goes into the file; the next write begins the log anew.
    Checkpoint,
    /// Closed, and opened again.
    Reopen,
}

/// From nothing on.
pub const WAY: &[Step] = &[
    Step::Open,
    Step::Receive("one"),
    Step::Learn("one"),
    Step::Commit("one"),
    Step::Note,
    Step::Checkpoint,
    Step::Fire,
    Step::TakeOver,
    Step::Commit("timer"),
    Step::RollBack,
    Step::Receive("two"),
    Step::Learn("two"),
    Step::Commit("two"),
    Step::Stage,
    Step::NoteWith("three"),
    Step::Announce,
    Step::Handle("four"),
    Step::Record,
    Step::Forget,
    Step::Reopen,
    Step::Commit("three"),
    Step::Note,
];

/// From the file of an older version on.
pub const WAY_ON: &[Step] =
    &[Step::Open, Step::Receive("one"), Step::Commit("one"), Step::Handle("two"), Step::Reopen];

impl Step {
    /// Whether the ledger says something else then.
    pub fn changes(self) -> bool {
        !matches!(self, Self::Open | Self::Checkpoint | Self::Reopen)
    }

    /// Whether some of it is told before it is on disk.
    pub fn receives(self) -> bool {
        matches!(self, Self::Receive(_) | Self::NoteWith(_) | Self::Handle(_))
    }

    /// What of it may be on disk alone, where the rest takes its time.
    pub fn first(self) -> Option<Self> {
        match self {
            Self::Handle(word) => Some(Self::Receive(word)),
            _ => None,
        }
    }
}

/// A file as the fourth version has left it.
pub fn of_an_older_version() -> Files {
    let folder = Folder::with(&Files::new());
    let db = Connection::open(folder.file()).unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    for sql in [
        include_str!("../../../host/src/journal/sqlite/1.sql"),
        include_str!("../../../host/src/journal/sqlite/2.sql"),
        include_str!("../../../host/src/journal/sqlite/3.sql"),
        include_str!("../../../host/src/journal/sqlite/4.sql"),
        "INSERT INTO agent (id, name, position) VALUES (1, 'agent', 's0');
         INSERT INTO event (sequence, agent, id, room, session) VALUES (1, 1, '$old', '!room', '!room');
         INSERT INTO contribution (row, agent, delivery, event, plugin, outcome) VALUES (1, 1, 'old', 1, 'echo', 'done');
         INSERT INTO sent (contribution, ordinal, event, room) VALUES (1, 0, '$sent', '!room');
         INSERT INTO draft (agent, delivery) VALUES (1, 'drafted');
         PRAGMA application_id = 0x7061726c;
         PRAGMA user_version = 4;",
    ] {
        db.execute_batch(sql).unwrap();
    }
    drop(db);
    Files::from([("journal.db", std::fs::read(folder.file()).unwrap())])
}

/// A folder with a journal in it.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn with(files: &Files) -> Self {
        let folder = temporary("parlour-power-").unwrap();
        let write =
            |(name, bytes): (&Name, &Vec<u8>)| std::fs::write(folder.path().join(name), bytes).unwrap();
        files.iter().for_each(write);
        Self(folder)
    }

    pub fn file(&self) -> PathBuf {
        self.0.path().join("journal.db")
    }
}

/// Every table, row for row, without times.
pub type Ledger = Vec<String>;

/// Who has a journal open; through this file system, or else the machine's.
pub struct Host<'a> {
    file: &'a Path,
    vfs: Option<&'a Vfs>,
    look: Option<Connection>,
    journal: Option<Sqlite>,
    /// The event that it has received last, with its number: it holds whatever becomes of the disk.
    received: Option<(&'static str, Sequence)>,
}

impl<'a> Host<'a> {
    pub fn new(file: &'a Path, vfs: Option<&'a Vfs>) -> Self {
        Self { file, vfs, look: None, journal: None, received: None }
    }

    pub fn is_open(&self) -> bool {
        self.journal.is_some()
    }

    /// Who looks goes first, so that the journal is the last to close the file.
    pub fn close(&mut self) {
        self.look = None;
        self.journal = None;
        self.received = None;
    }

    fn open(&self) -> Result<Sqlite, Error> {
        match self.vfs {
            Some(vfs) => Sqlite::open_through(vfs.name(), self.file),
            None => Sqlite::open(self.file),
        }
    }

    /// Somebody who looks at the file beside it, for as long as it is open.
    fn look(&mut self) -> &Connection {
        self.look.get_or_insert_with(|| {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let db = match self.vfs {
                Some(vfs) => Connection::open_with_flags_and_vfs(self.file, flags, vfs.name()),
                None => Connection::open_with_flags(self.file, flags),
            };
            let db = db.unwrap();
            db.set_prepared_statement_cache_capacity(100);
            db
        })
    }

    /// What somebody reads who looks at the file.
    pub fn ledger(&mut self) -> Ledger {
        let db = self.look();
        let names = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";
        let mut names = db.prepare_cached(names).unwrap();
        let names: Vec<String> = names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        names.iter().flat_map(|name| rows(db, name)).collect()
    }

    /// Nothing points to what is not there.
    pub fn is_whole(&mut self) -> bool {
        let db = self.look();
        let whole: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        let orphans = "SELECT count(*) FROM pragma_foreign_key_check";
        let orphans: i64 = db.query_row(orphans, [], |row| row.get(0)).unwrap();
        (&*whole, orphans) == ("ok", 0)
    }

    pub async fn make(&mut self, step: Step) -> Result<(), Error> {
        if step == Step::Reopen {
            self.close();
        }
        if self.journal.is_none() {
            self.journal = Some(self.open()?);
        }
        if step == Step::Checkpoint {
            let checkpointed = self.look().query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get(0));
            let busy: bool = checkpointed.map_err(|error| Error::Storage(error.to_string()))?;
            assert!(!busy, "nobody else reads");
        }
        let journal = self.journal.as_ref().expect("it was opened");
        match step {
            Step::Open | Step::Reopen | Step::Checkpoint => {}
            Step::Receive(word) => {
                receive(journal, word).await?;
                journal.settle().await?;
            }
            Step::Handle(word) => {
                let before = self.received.filter(|(of, _)| *of == word).map(|(_, number)| number);
                let number = match before {
                    Some(number) => Some(number),
                    None => receive(journal, word).await?,
                };
                self.received = number.map(|number| (word, number));
                // A host that starts again finds it there.
                let number = match number {
                    Some(number) => Some(number),
                    None => waits(journal, word).await?,
                };
                if let Some(number) = number {
                    journal.commit(commit(word, number)).await?;
                }
            }
            Step::Learn(word) => journal.learn(&opening(word), learnt()).await?,
            Step::Commit(word) => {
                if let Some(number) = waits(journal, word).await? {
                    journal.commit(commit(word, number)).await?;
                }
            }
            Step::Stage => {
                let unsent = journal.unsent(&agent()).await?.into_iter();
                for queued in unsent.filter(|queued| matches!(queued.effect, Effect::File { .. })) {
                    journal.stage(&agent(), queued.row, &MediaSource::new("mxc://uploaded")).await?;
                }
            }
            Step::Note => {
                note(journal).await?;
                journal.settle().await?;
            }
            Step::NoteWith(word) => {
                note(journal).await?;
                receive(journal, word).await?;
                journal.settle().await?;
            }
            Step::Fire => {
                for timer in journal.due_timers(&agent(), &plugin(), 100, 10).await? {
                    let fired = Fired { timer: timer.clone(), due: timer.next, missed: 0 };
                    let arrival = arrival("timer", Kind::Timer(Box::new(fired)));
                    journal.fire(&agent(), &timer, None, Some(&arrival)).await?;
                }
            }
            Step::TakeOver => {
                if journal.versions(&plugin()).await?.trial.is_none() {
                    let there = journal.remembered(&agent(), &plugin(), false).await?;
                    let seen =
                        there.into_iter().map(|it| (it.namespace, it.key, it.stored.version)).collect();
                    let moved = Moved { agent: agent(), seen, writes: vec![write("moved", Some(b"yes"))] };
                    let release = Release { digest: "new".into(), version: None };
                    journal.take_over(&plugin(), &release, true, Some(vec![moved])).await?;
                }
            }
            Step::RollBack => journal.decide(&plugin(), Decision::RolledBack).await.map(drop)?,
            Step::Announce => {
                journal.announce(&agent(), &delivery("own"), vec![say("own")]).await?;
            }
            Step::Record => {
                if journal.record_head().await?.count == 0 {
                    let entry = audit::Entry::new(audit::What::Used, Some(&plugin()), "kv");
                    journal.record(vec![audit::Entry { at: 1, ..entry }]).await?;
                }
            }
            Step::Forget => journal.forget(&agent(), u64::MAX, 10).await.map(drop)?,
        }
        Ok(())
    }
}

/// In order; a time is one, whichever it is, and how often an event came again is nobody's matter here.
fn rows(db: &Connection, table: &str) -> Vec<String> {
    let mut all = db.prepare_cached(&format!("SELECT * FROM \"{table}\"")).unwrap();
    let columns: Vec<usize> =
        (0..all.column_count()).filter(|column| all.column_name(*column).unwrap() != "again").collect();
    let text = |value: Value| match value {
        Value::Integer(time) if time > 1_600_000_000_000 => "a time".to_owned(),
        Value::Blob(bytes) => {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            format!("{} bytes {:x}", bytes.len(), hasher.finish())
        }
        // What happened last has its time in it.
        Value::Text(text) => untimed(&text),
        other => format!("{other:?}"),
    };
    let rows = all.query_map([], |row| {
        let values: rusqlite::Result<Vec<String>> =
            columns.iter().map(|column| row.get(*column).map(text)).collect();
        Ok(format!("{table}: {}", values?.join(", ")))
    });
    let mut rows: Vec<String> = rows.unwrap().map(Result::unwrap).collect();
    rows.sort_unstable();
    rows
}

/// A time is 13 digits.
fn untimed(text: &str) -> String {
    let numbers = |of: char| !of.is_ascii_digit();
    let times = text.split(numbers).filter(|digits| digits.len() == 13);
    times.fold(text.to_owned(), |text, time| text.replace(time, "a time"))
}

fn agent() -> AgentName {
    "agent".parse().unwrap()
}

fn plugin() -> PluginName {
    "echo".parse().unwrap()
}

fn room() -> RoomId {
    "!room".parse().unwrap()
}

fn session() -> SessionId {
    SessionId::parse("!room").unwrap()
}

fn event_id(word: &str) -> EventId {
    EventId::parse(format!("${word}")).unwrap()
}

fn delivery(word: &str) -> DeliveryId {
    DeliveryId::parse(format!("delivery-{word}")).unwrap()
}

fn sender() -> Sender {
    Sender { id: "@alice:memory".parse().unwrap(), display_name: None, device: DeviceTrust::Cleartext }
}

fn arrival(word: &str, kind: Kind) -> Arrival {
    let event = Event {
        id: event_id(word),
        room: Room { id: room(), direct: true, encrypted: word == "two" },
        sender: sender(),
        sent: 0,
        mark: None,
        kind,
        reading: Reading::AtOnce,
    };
    Arrival { event, verdict: Verdict::Allow, session: session() }
}

async fn receive(journal: &Sqlite, word: &str) -> Result<Option<Sequence>, Error> {
    let arrival = arrival(word, Kind::Message(message(&"words ".repeat(200))));
    Ok(journal.receive(&agent(), &[arrival], &Position(word.into())).await?[0])
}

/// The number of an event that has not ended.
async fn waits(journal: &Sqlite, word: &str) -> Result<Option<Sequence>, Error> {
    let pending = journal.pending(&agent(), None, None, 10).await?;
    Ok(pending.into_iter().find(|pending| pending.event.id == event_id(word)).map(|it| it.sequence))
}

/// All that waits was sent: what a host finds in the rooms before it sends anything again.
async fn note(journal: &Sqlite) -> Result<(), Error> {
    for queued in journal.unsent(&agent()).await? {
        let sent = Sent::Accepted { event: event_id(&format!("sent-{}", queued.row)), room: room() };
        journal.sent(&agent(), queued.row, &sent).await?;
    }
    Ok(())
}

fn opening(word: &str) -> Opening {
    Opening {
        agent: agent(),
        delivery: delivery(word),
        plugin: plugin(),
        event: event_id(word),
        component: "component".into(),
        begun: 0,
        said: "how it began ".repeat(50),
    }
}

fn learnt() -> Writing {
    let fact = Fact::Begun { request: "POST http://a/".into(), changes: true };
    let entry = parlour::answers::Entry { key: Key([7; 32]), order: 0, at: 1, fact, body: vec![7; 700] };
    Writing { entries: vec![entry], full: false }
}

fn place() -> Place {
    Place { room: room(), thread: None }
}

fn say(word: &str) -> Effect {
    Effect::Send {
        to: Target::Place(place()),
        body: Body::Plain(format!("{word}: {}", "an answer ".repeat(50))),
        reply_to: None,
        name: Some("answer".into()),
        takes_draft: false,
    }
}

fn timer(next: u64) -> Effect {
    Effect::SetTimer(Box::new(Timer {
        id: format!("set-for-{next}"),
        plugin: plugin(),
        session: session(),
        key: format!("for-{next}"),
        room: Room { id: room(), direct: true, encrypted: false },
        thread: None,
        sender: sender(),
        role: Role::User,
        payload: "the payload".into(),
        rhythm: Rhythm::Once,
        catch_up: CatchUp::Once,
        next,
    }))
}

fn write(key: &str, value: Option<&[u8]>) -> Write {
    let namespace = Namespace { agent: agent(), plugin: plugin(), scope: Scope::Room(room()) };
    Write { namespace, key: key.into(), value: value.map(<[u8]>::to_vec) }
}

fn commit(word: &str, sequence: Sequence) -> Commit {
    let file = Blob { digest: "digest".into(), bytes: vec![7; 6000].into() };
    let (effects, files, writes, learnt) = match word {
        // The version on trial.
        "timer" => (
            vec![say(word), timer(300)],
            vec![],
            vec![write("large", None), write("count", Some(b"2"))],
            None,
        ),
        "two" => {
            let about = File {
                name: "a.txt".into(),
                mime: "text/plain".into(),
                size: 6000,
                digest: file.digest.clone(),
            };
            let to = Target::Place(place());
            let effect =
                Effect::File { to, file: about, caption: None, reply_to: None, name: Some("answer".into()) };
            (vec![effect], vec![file], vec![write("count", Some(b"3"))], Some(Learnt::Goes))
        }
        _ => {
            let effects = vec![say(word), Effect::SetHome(place()), timer(50), timer(200)];
            let writes = vec![write("count", Some(word.as_bytes())), write("large", Some(&[7; 5000]))];
            let kept = Kept { opening: opening(word), ended: 2, entries: vec![], full: false };
            (effects, vec![], writes, Some(Learnt::Stays(Box::new(kept))))
        }
    };
    let contribution = Contribution {
        plugin: Some(plugin()),
        digest: (word == "timer").then(|| "new".into()),
        outcome: Outcome::Done,
        effects: (0..).zip(effects).collect(),
        files,
        writes,
        reads: vec![],
    };
    Commit {
        agent: agent(),
        sequence,
        delivery: delivery(word),
        contribution,
        tools: vec![],
        ends_event: true,
        line: None,
        learnt,
    }
}
