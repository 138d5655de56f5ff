//! The power goes in the middle of a write: whatever of it has reached the disk, the journal opens, and has all of it or
//! nothing.
//!
//! What a disk may hold then is made by hand: between two syncs, any sectors of what was written may be there, others
//! not, and the last one may be torn. Each step of the journal here is one such span: the commits write to the log
//! alone (it is never full), and a checkpoint, which a step of its own makes, to the file alone.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use parlour::{
    answers::{Entry, Fact, Key, Opening, Writing},
    chat::memory::message,
    effect::{Body, Effect, Place, Target},
    event::{DeviceTrust, Event, Kind, Position, Reading, Room, Sender},
    gate::Verdict,
    id::{AgentName, DeliveryId, EventId, RoomId, SessionId},
    journal::{
        Arrival, Commit, Contribution, Journal, Kept, Learnt, Namespace, Outcome, Queued, Scope, Sent, Write,
        sqlite::Sqlite,
    },
};

use crate::synapse::temporary;

/// What a disk writes at once, at the least.
const SECTOR: usize = 512;
/// Events that go their whole way.
const EVENTS: u32 = 5;

/// The journal's files and what is in them.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    // The third file is memory that connections share; it is made anew.
    let kept = entries.filter(|path| !path.to_string_lossy().ends_with("-shm"));
    kept.map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap())).collect()
}

/// Sectors by which two states differ: file, and where.
fn changed(before: &Files, after: &Files) -> Vec<(PathBuf, usize)> {
    let mut changed = Vec::new();
    for (name, new) in after {
        let old = before.get(name).map_or(&[][..], Vec::as_slice);
        for at in (0..new.len()).step_by(SECTOR) {
            let end = (at + SECTOR).min(new.len());
            if old.get(at..end) != Some(&new[at..end]) {
                changed.push((name.clone(), at));
            }
        }
    }
    changed
}

/// What is on the disk when of the changes only these have reached it.
fn cut(before: &Files, after: &Files, there: &[(PathBuf, usize)], torn: bool) -> Files {
    let mut disk = before.clone();
    for (number, (name, at)) in there.iter().enumerate() {
        let (old, new) = (disk.entry(name.clone()).or_default(), &after[name]);
        let mut end = (at + SECTOR).min(new.len());
        if torn && number + 1 == there.len() {
            end = at + (end - at) / 2;
        }
        if old.len() < end {
            old.resize(end, 0);
        }
        old[*at..end].copy_from_slice(&new[*at..end]);
    }
    disk
}

/// Every table, row for row.
fn ledger(db: &rusqlite::Connection) -> Vec<String> {
    let texts = |sql: &str| -> Vec<String> {
        let mut statement = db.prepare(sql).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            let values = (0..columns).map(|column| row.get::<_, rusqlite::types::Value>(column));
            Ok(format!("{:?}", values.collect::<Result<Vec<_>, _>>()?))
        });
        rows.unwrap().map(Result::unwrap).collect()
    };
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";
    let mut tables = db.prepare(tables).unwrap();
    let names: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let all = names.iter().flat_map(|name| {
        let mut rows = texts(&format!("SELECT '{name}', * FROM \"{name}\""));
        rows.sort();
        rows
    });
    all.collect()
}

/// Opens what a disk holds as a host does, and reads it.
fn read(disk: &Files) -> Vec<String> {
    let folder = temporary("parlour-power-").unwrap();
    for (name, bytes) in disk {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let file = folder.path().join("journal.db");
    drop(Sqlite::open(&file).expect("it opens"));
    let db = rusqlite::Connection::open(&file).unwrap();
    let whole: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    let orphans: i64 =
        db.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0)).unwrap();
    assert_eq!(orphans, 0);
    ledger(&db)
}

/// A journal, and what was on the disk after each of its steps.
struct Stepped {
    journal: Sqlite,
    folder: tempfile::TempDir,
    steps: Vec<(&'static str, Files)>,
}

impl Stepped {
    fn new() -> Self {
        let folder = temporary("parlour-power-").unwrap();
        let journal = Sqlite::open(folder.path().join("journal.db")).unwrap();
        let steps = vec![("opened", files(folder.path()))];
        Self { journal, folder, steps }
    }

    fn step(&mut self, what: &'static str) {
        self.steps.push((what, files(self.folder.path())));
    }

    /// An event on its whole way, with a step at each of its writes.
    async fn event(&mut self, number: u32) {
        let agent: AgentName = "agent".parse().unwrap();
        let room: RoomId = "!room".parse().unwrap();
        let session = SessionId::parse("!room").unwrap();
        let event = Event {
            id: EventId::parse(format!("$event{number}")).unwrap(),
            room: Room { id: room.clone(), direct: true, encrypted: number % 2 == 1 },
            sender: Sender {
                id: "@alice:memory".parse().unwrap(),
                display_name: None,
                device: DeviceTrust::Cleartext,
            },
            sent: 0,
            mark: None,
            kind: Kind::Message(message(&"words ".repeat(200))),
            reading: Reading::AtOnce,
        };
        let arrival = Arrival { event, verdict: Verdict::Allow, session };
        let position = Position(format!("s{number}"));
        let sequence = self.journal.receive(&agent, &[arrival], &position).await.unwrap()[0].unwrap();
        self.step("received");

        let place = Place { room: room.clone(), thread: None };
        let send = Effect::Send {
            to: Target::Place(place.clone()),
            body: Body::Plain("an answer ".repeat(100)),
            reply_to: None,
            name: Some("answer".into()),
            takes_draft: false,
        };
        let plugin = "echo".parse().unwrap();
        let namespace = Namespace { agent: agent.clone(), plugin, scope: Scope::Room(room.clone()) };
        let write = |key: &str, value: Option<Vec<u8>>| Write {
            namespace: namespace.clone(),
            key: key.into(),
            value,
        };
        let contribution = Contribution {
            plugin: Some(namespace.plugin.clone()),
            digest: None,
            outcome: Outcome::Done,
            effects: vec![(0, send), (1, Effect::SetHome(place))],
            files: vec![],
            writes: vec![
                write("count", Some(number.to_le_bytes().to_vec())),
                write(&format!("large{}", number % 3), (number % 4 != 3).then(|| vec![7; 5000])),
            ],
            reads: vec![],
        };
        let delivery = DeliveryId::parse(format!("delivery{number}")).unwrap();
        let opening = Opening {
            agent: agent.clone(),
            delivery: delivery.clone(),
            plugin: namespace.plugin.clone(),
            event: EventId::parse(format!("$event{number}")).unwrap(),
            component: "component".into(),
            begun: 0,
            said: "how it began ".repeat(50),
        };
        let fact = Fact::Begun { request: "POST http://a/".into() };
        let entry = Entry { key: Key([7; 32]), order: 0, at: 1, fact, body: vec![7; 700] };
        let writing = Writing { entries: vec![entry], full: false };
        self.journal.learn(&opening, writing).await.unwrap();
        self.step("learnt");

        let kept = Kept { opening, ended: 2, entries: vec![], full: false };
        let commit = Commit {
            agent: agent.clone(),
            sequence,
            delivery,
            contribution,
            tools: vec![],
            ends_event: true,
            line: None,
            learnt: Some(if number.is_multiple_of(2) { Learnt::Goes } else { Learnt::Stays(Box::new(kept)) }),
        };
        let queued: Vec<Queued> = self.journal.commit(commit).await.unwrap();
        self.step("committed");

        let sent = Sent::Accepted { event: EventId::parse(format!("$answer{number}")).unwrap(), room };
        self.journal.sent(&agent, queued[0].row, &sent).await.unwrap();
        self.journal.settle().await.unwrap();
        self.step("noted");
    }

    /// What is in the log goes into the file; the next commit begins the log anew.
    fn checkpoint(&mut self) {
        let db = rusqlite::Connection::open(self.folder.path().join("journal.db")).unwrap();
        let busy: i64 = db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get(0)).unwrap();
        assert_eq!(busy, 0);
        self.step("checkpointed");
    }
}

#[tokio::test]
async fn whatever_reached_the_disk_the_journal_is_whole() {
    let mut stepped = Stepped::new();
    for number in 0..EVENTS {
        stepped.event(number).await;
        if number % 3 == 2 {
            stepped.checkpoint();
        }
    }
    let mut state = 7_u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let (mut cuts, mut seen) = (0, BTreeMap::<&str, (u32, u32)>::new());
    for pair in stepped.steps.windows(2) {
        let ((_, before), (what, after)) = (&pair[0], &pair[1]);
        let (old, new) = (read(before), read(after));
        // What was answered is on the disk, and a checkpoint changes nothing.
        assert_eq!(old == new, *what == "checkpointed", "{what}");
        let changed = changed(before, after);
        assert!(!changed.is_empty(), "{what}");
        // In order, up to each sector, whole and torn; then in no order.
        let mut disks: Vec<Files> = Vec::new();
        for length in 0..changed.len() {
            disks.push(cut(before, after, &changed[..=length], true));
            disks.push(cut(before, after, &changed[..=length], false));
        }
        for _ in 0..changed.len() {
            let mut there: Vec<_> = changed.iter().filter(|_| draw(2) == 0).cloned().collect();
            if !there.is_empty() {
                let last = draw(there.len());
                there.rotate_left(last);
                disks.push(cut(before, after, &there, draw(2) == 0));
            }
        }
        for disk in disks {
            let found = read(&disk);
            assert!(found == old || found == new, "{what}: half of it");
            let (nothing, all) = seen.entry(*what).or_default();
            *(if found == new { all } else { nothing }) += 1;
            cuts += 1;
        }
    }
    println!("{cuts} cuts, nothing or all of it: {seen:?}");
    // Both were met: the cuts come where something is decided.
    for what in ["received", "learnt", "committed", "noted"] {
        assert!(seen[what].0 > 10 && seen[what].1 > 0, "{seen:?}");
    }
}
