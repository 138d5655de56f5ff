//! What only a file can promise; the rest is in [`crate::journal::conformance`].

mod upgrade;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
};

use futures_util::future::join_all;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::{
    answers,
    journal::{Became, Happening, Kept, Learnt, Read, conformance::*},
};

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    (folder, path)
}

fn open(path: &Path) -> Arc<Sqlite> {
    Arc::new(Sqlite::open(path).unwrap())
}

fn refusal(path: &Path) -> String {
    let error = Sqlite::open(path).expect_err("it can't be opened").to_string();
    let subject = format!("journal {}: ", path.display());
    let reason = error.strip_prefix(&subject).unwrap_or_else(|| panic!("{error:?} names the file"));
    assert!(!reason.contains('\n'));
    reason.to_owned()
}

#[tokio::test]
async fn everything_is_there_when_it_is_opened_again() {
    let (_folder, path) = folder();
    let journal = open(&path);
    let [one, two] = [arrive(&*journal, "$1").await, arrive(&*journal, "$2").await];
    let goes_on = Commit { ends_event: false, ..writes(ends(one, "d1"), [set("k", "1")]) };
    journal.commit(goes_on).await.unwrap();
    let queued = journal.commit(says(ends(two, "d2"), [message("a"), message("b")])).await.unwrap();
    journal
        .sent(&agent(), queued[0].row, &Sent::Accepted { event: event("$a"), room: room("!room") })
        .await
        .unwrap();
    journal.draft(&agent(), &delivery("d3"), None).await.unwrap();
    let stored = journal.get(&own(), "k").await.unwrap().unwrap();
    drop(journal);

    let journal = open(&path);
    assert_eq!(journal.position(&agent()).await.unwrap(), Some(Position("here".into())));
    let found = journal.pending(&agent(), None, None, 10).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].sequence, &found[0].ended[..]), (one, &[plugin("echo")][..]));
    assert_eq!(journal.unsent(&agent()).await.unwrap(), queued[1..]);
    assert_eq!(journal.event_of(&agent(), &queued[0].id).await.unwrap(), Some(event("$a")));
    assert!(journal.drafted(&agent(), &delivery("d3")).await.unwrap().is_some());
    assert_eq!(journal.get(&own(), "k").await.unwrap(), Some(stored.clone()));
    assert_eq!(receive(&*journal, &[said("$2", "x")]).await, [None]);
    assert!(journal.commit(ends(two, "d2")).await.unwrap().is_empty());

    // Numbers go on where they were.
    let three = arrive(&*journal, "$3").await;
    assert!(three > two);
    let later =
        journal.commit(says(writes(ends(three, "d4"), [set("k", "1")]), [message("c")])).await.unwrap();
    assert!(later[0].row > queued[1].row);
    assert!(journal.get(&own(), "k").await.unwrap().unwrap().version > stored.version);
}

/// Nor while nobody looked.
#[tokio::test]
async fn numbers_of_what_was_forgotten_are_not_given_again_after_a_start() {
    let (_folder, path) = folder();
    let journal = open(&path);
    let first = arrive(&*journal, "$1").await;
    let queued = journal.commit(says(ends(first, "d1"), [message("x")])).await.unwrap();
    journal.sent(&agent(), queued[0].row, &Sent::GivenUp("no".into())).await.unwrap();
    assert_eq!(journal.forget(&agent(), u64::MAX, 10).await.unwrap(), 1);
    drop(journal);

    let journal = open(&path);
    assert_eq!(journal.newest(&agent(), &room("!room")).await.unwrap(), Some(event("$1")));
    let second = arrive(&*journal, "$2").await;
    let later = journal.commit(says(ends(second, "d2"), [message("x")])).await.unwrap();
    assert!(second > first && later[0].row > queued[0].row);
    drop(journal);
    let journal = open(&path);
    assert_eq!(
        journal.newest(&agent(), &room("!room")).await.unwrap(),
        Some(event("$2")),
        "it is not noted yet"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_openers_see_what_the_other_was_told() {
    let (_folder, path) = folder();
    let [here, there] = [open(&path), open(&path)];
    let sequence = arrive(&*here, "$1").await;
    here.settle().await.unwrap();
    assert_eq!(pending(&*there).await, ["$1"]);
    let found = read(&*there, "k").await;
    here.commit(writes(ends(sequence, "d1"), [set("k", "1")])).await.unwrap();
    assert!(pending(&*there).await.is_empty());
    let second = arrive(&*there, "$2").await;
    let stale = reads(ends(second, "d2"), [found]);
    assert!(matches!(there.commit(stale).await, Err(Error::Conflict)));

    let mut tasks = JoinSet::new();
    for n in 0..100 {
        let journal = if n % 2 == 0 { here.clone() } else { there.clone() };
        tasks.spawn(async move { arrive(&*journal, &format!("$many{n}")).await });
    }
    let mut sequences = tasks.join_all().await;
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), 100);
}

#[test]
fn a_file_that_is_no_journal_is_left_alone() {
    let (folder, path) = folder();
    fs::write(
        &path,
        "a letter to a friend, long enough to be taken for a header of a database, if one is careless",
    )
    .unwrap();
    let letter = fs::read(&path).unwrap();
    assert_eq!(refusal(&path), "not a journal of Parlour");
    assert_eq!(fs::read(&path).unwrap(), letter);

    let path = folder.path().join("other.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x); PRAGMA user_version = 1").unwrap();
    let before = fs::read(&path).unwrap();
    assert_eq!(refusal(&path), "not a journal of Parlour");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(!folder.path().join("other.db-wal").exists());

    assert_eq!(refusal(folder.path()), "not a journal of Parlour", "a folder");
    let below = path.join("data").join("journal.db");
    assert!(refusal(&below).starts_with(&format!("folder {} can't be made: ", path.join("data").display())));
}

#[test]
fn an_empty_file_becomes_a_journal() {
    let (_folder, path) = folder();
    fs::write(&path, "").unwrap();
    drop(open(&path));
    assert_eq!(fs::read(&path).unwrap()[68..72], file::APPLICATION.to_be_bytes());
}

#[test]
fn a_file_of_a_newer_version_is_left_alone() {
    let (_folder, path) = folder();
    drop(open(&path));
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&path).unwrap();
    assert_eq!(refusal(&path), "written by a newer Parlour: its version is 99, the newest known here is 13");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_can_read_it() {
    use std::os::unix::fs::PermissionsExt;

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let outer = tempfile::tempdir().unwrap();
    fs::set_permissions(outer.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let folder = outer.path().join("data/here");
    let journal = open(&folder.join("journal.db"));
    arrive(&*journal, "$1").await;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(folder.parent().unwrap()), 0o700);
    assert_eq!(mode(outer.path()), 0o755, "it was there before");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    assert_eq!(files, ["journal.db", "journal.db-shm", "journal.db-wal"].map(|name| folder.join(name)));
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn nothing_of_an_ended_event_is_in_the_file() {
    let (_folder, path) = folder();
    let journal = open(&path);
    let long = "the-secret ".repeat(2000);
    let came = receive(&*journal, &[said("$1", "the-secret"), said("$2", &long)]).await;
    for (n, sequence) in came.into_iter().enumerate() {
        let effects = [message(if n == 0 { "the-secret" } else { &long })];
        let queued = journal.commit(says(ends(sequence.unwrap(), &format!("d{n}")), effects)).await.unwrap();
        journal
            .sent(&agent(), queued[0].row, &Sent::Accepted { event: event("$a"), room: room("!room") })
            .await
            .unwrap();
    }
    drop(journal);
    let file = fs::read(&path).unwrap();
    assert!(!file.windows(10).any(|window| window == b"the-secret"));
    assert!(file.windows(2).any(|window| window == b"$2"), "its id stays");
}

/// Keeps the thread busy until what it answers is dropped: what is called meanwhile makes one group.
async fn hold(journal: &Arc<Sqlite>) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel::<()>();
    let (begun, begins) = tokio::sync::oneshot::channel();
    let journal = journal.clone();
    tokio::spawn(async move {
        let wait = move |_: &Connection| {
            let _ = begun.send(());
            let _ = held.recv();
            Ok(())
        };
        journal.thread.read(wait).await
    });
    begins.await.unwrap();
    release
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_one_transaction_and_a_conflict_takes_back_only_its_own() {
    const CALLS: usize = 200;
    let (_folder, path) = folder();
    let journal = open(&path);
    let arrivals: Vec<_> = (0..CALLS).map(|n| said(&format!("${n}"), "x")).collect();
    let sequences = receive(&*journal, &arrivals).await;
    let stale = read(&*journal, "k").await;
    let calls = sequences.into_iter().enumerate().map(|(n, sequence)| {
        let key = if n % 2 == 0 { "k".to_owned() } else { format!("odd{n}") };
        let commit =
            writes(says(ends(sequence.unwrap(), &format!("d{n}")), [message("x")]), [set(&key, "x")]);
        journal.commit(if n % 2 == 0 { commit } else { reads(commit, [stale.clone()]) })
    });
    // The last of the group sees, through a connection of its own, that nothing is on disk yet.
    let other = Connection::open(&path).unwrap();
    let committed = move |_: &Connection| {
        Ok(other.query_row("SELECT count(*) FROM contribution", [], |row| row.get::<_, i64>(0))?)
    };

    let release = hold(&journal).await;
    // Each is queued when it is polled first, and `join!` polls in this order.
    let (answers, seen, ()) =
        tokio::join!(join_all(calls), journal.thread.write(committed), async { drop(release) });
    assert_eq!(seen.unwrap(), 0);
    for (n, answer) in answers.iter().enumerate() {
        match answer {
            Ok(queued) => assert!(n % 2 == 0 && queued.len() == 1, "{n}"),
            Err(error) => assert!(n % 2 == 1 && matches!(error, Error::Conflict), "{n}: {error}"),
        }
    }
    assert_eq!(pending(&*journal).await.len(), CALLS / 2);
    assert_eq!(journal.unsent(&agent()).await.unwrap().len(), CALLS / 2);
    let query = KeyQuery { prefix: String::new(), after: None, limit: 1000 };
    assert_eq!(journal.keys(&own(), &query).await.unwrap(), ["k"]);
}

/// It has no savepoint of its own, and what was noted before it stands in the same transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_first_call_fails_keeps_the_note_before_it_and_the_calls_behind() {
    let (_folder, path) = folder();
    let journal = open(&path);
    let sequence = arrive(&*journal, "$1").await;
    let queued = journal.commit(says(ends(sequence, "d1"), [message("x")])).await.unwrap();
    let (first, second) = (arrive(&*journal, "$2").await, arrive(&*journal, "$3").await);
    let stale = read(&*journal, "k").await;
    journal.commit(writes(ends(first, "d2"), [set("k", "x")])).await.unwrap();
    let sent = Sent::Accepted { event: event("$a"), room: room("!room") };
    let me = agent();

    let release = hold(&journal).await;
    let (noted, conflict, behind, ()) = tokio::join!(
        journal.sent(&me, queued[0].row, &sent),
        journal.commit(reads(writes(ends(second, "d3"), [set("k", "y")]), [stale])),
        journal.commit(writes(ends(second, "d4"), [set("l", "z")])),
        async { drop(release) }
    );
    noted.unwrap();
    assert!(matches!(conflict, Err(Error::Conflict)), "{conflict:?}");
    behind.unwrap();
    drop(journal);
    let journal = open(&path);
    assert!(journal.unsent(&me).await.unwrap().is_empty(), "the note stands");
    assert!(pending(&*journal).await.is_empty());
    let query = KeyQuery { prefix: String::new(), after: None, limit: 1000 };
    assert_eq!(journal.keys(&own(), &query).await.unwrap(), ["k", "l"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_whole_group_fails_each_is_told_and_the_next_goes_on() {
    let (_folder, path) = folder();
    let journal = open(&path);
    let sequence = arrive(&*journal, "$1").await;
    let release = hold(&journal).await;
    // What SQLite does by itself when the disk is full.
    let fails = |db: &Connection| -> Result<(), Failed> {
        db.execute_batch("ROLLBACK")?;
        Err(Error::Storage("disk full".into()).into())
    };
    let (agent, delivery) = (agent(), DeliveryId::parse("d2").unwrap());
    let (before, failed, behind, read, ()) = tokio::join!(
        journal.commit(ends(sequence, "d1")),
        journal.thread.write(fails),
        journal.draft(&agent, &delivery, None),
        journal.home(&agent),
        async { drop(release) }
    );
    assert_eq!(failed.unwrap_err().to_string(), "disk full");
    for error in [before.unwrap_err(), behind.unwrap_err(), read.unwrap_err()] {
        assert_eq!(error.to_string(), "the storage failed for a call in the same transaction");
    }
    assert_eq!(pending(&*journal).await, ["$1"]);
    journal.commit(ends(sequence, "d1")).await.unwrap();
    assert!(pending(&*journal).await.is_empty());
}

/// A read takes back what was noted before it, too, and the write behind it finds no transaction.
#[tokio::test(flavor = "multi_thread")]
async fn when_a_read_fails_with_its_transaction_nothing_is_written_without_one() {
    let (_folder, path) = folder();
    let journal = open(&path);
    let (first, second) = (arrive(&*journal, "$1").await, arrive(&*journal, "$2").await);
    let queued = journal.commit(says(ends(first, "d1"), [message("x")])).await.unwrap();
    let sent = Sent::Accepted { event: event("$a"), room: room("!room") };
    let me = agent();
    let fails = |db: &Connection| -> Result<(), Failed> {
        db.execute_batch("ROLLBACK")?;
        Err(Error::Storage("disk full".into()).into())
    };

    let release = hold(&journal).await;
    let (noted, failed, behind, ()) = tokio::join!(
        journal.sent(&me, queued[0].row, &sent),
        journal.thread.read(fails),
        journal.commit(says(ends(second, "d2"), [message("y")])),
        async { drop(release) }
    );
    noted.unwrap();
    assert_eq!(failed.unwrap_err().to_string(), "disk full");
    assert_eq!(behind.unwrap_err().to_string(), "the storage failed for a call in the same transaction");
    assert_eq!(pending(&*journal).await, ["$2"]);
    assert_eq!(journal.commit(says(ends(second, "d2"), [message("y")])).await.unwrap().len(), 1);
    assert_eq!(journal.unsent(&me).await.unwrap().len(), 1, "and the note stands");
}

/// How many commits are in the log: a frame that ends one says how large the file is then.
fn commits(path: &Path) -> usize {
    const FRAME: usize = 24 + file::PAGE as usize;
    let log = fs::read(path.with_extension("db-wal")).unwrap();
    let salt = log[16..24].to_vec();
    let frames = log[32..].chunks_exact(FRAME).filter(|frame| frame[8..16] == salt);
    frames.filter(|frame| frame[4..8] != [0; 4]).count()
}

/// Whoever is quick shares the commit of what it is about, and what was noted before. Nothing is on disk before that.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_and_what_is_done_about_it_are_one_commit() {
    let (_folder, path) = folder();
    let journal = open(&path);
    let first = arrive(&*journal, "$1").await;
    let queued = journal.commit(says(ends(first, "d1"), [message("x")])).await.unwrap();
    journal.settle().await.unwrap();

    // Now and then a machine is busy for as long as a group is open.
    let mut least = usize::MAX;
    for n in 0..20 {
        let before = commits(&path);
        let sent = Sent::Accepted { event: event("$a"), room: room("!room") };
        journal.sent(&agent(), queued[0].row, &sent).await.unwrap();
        let sequence = arrive(&*journal, &format!("$2-{n}")).await;
        journal.commit(says(ends(sequence, &format!("d2-{n}")), [message("x")])).await.unwrap();
        least = least.min(commits(&path) - before);
    }
    assert_eq!(least, 1);
    assert_eq!(journal.unsent(&agent()).await.unwrap().len(), 20, "what was noted is there");
}

/// Its number is in use by then: a lane has it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_received_keeps_its_number_though_its_commit_fails() {
    let (_folder, path) = folder();
    let journal = open(&path);
    arrive(&*journal, "$1").await;
    journal.settle().await.unwrap();
    let fails = |db: &Connection| -> Result<(), Failed> {
        db.execute_batch("ROLLBACK")?;
        Err(Error::Storage("disk full".into()).into())
    };
    let (me, own, position) = (agent(), delivery("own"), Position("beyond".into()));
    let arrivals = [said("$1", "again"), said("$2", "x"), refused("$3"), said("$4", "x")];

    let release = hold(&journal).await;
    let (before, received, failed, ()) = tokio::join!(
        // It takes a number, too, and gets none at last.
        journal.announce(&me, &own, vec![message("x")]),
        journal.receive(&me, &arrivals, &position),
        journal.thread.write(fails),
        async { drop(release) }
    );
    assert!(before.is_err() && failed.is_err());
    let received = received.unwrap();
    assert_eq!((received[0], received[2]), (None, None));
    assert_eq!(pending(&*journal).await, ["$1", "$2", "$4"], "whoever reads finds it");
    journal.settle().await.unwrap();
    let numbers: Vec<_> =
        journal.pending(&me, None, None, 10).await.unwrap().iter().map(|it| Some(it.sequence)).collect();
    assert_eq!(numbers[1..], [received[1], received[3]]);
    assert_eq!(
        journal.commit(says(ends(received[3].unwrap(), "d4"), [message("x")])).await.unwrap().len(),
        1
    );
    assert_eq!(journal.announce(&me, &own, vec![message("x")]).await.unwrap().len(), 1);
    assert!(arrive(&*journal, "$5").await > received[3].unwrap());
    drop(journal);
    let journal = open(&path);
    assert_eq!(pending(&*journal).await, ["$1", "$2", "$5"]);
}

/// It is new by then, for whoever has received it.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_while_it_is_forgotten_keeps_its_number_though_that_fails() {
    let (_folder, path) = folder();
    let journal = open(&path);
    let first = arrive(&*journal, "$1").await;
    let queued = journal.commit(says(ends(first, "d1"), [message("x")])).await.unwrap();
    let sent = Sent::Accepted { event: event("$a"), room: room("!room") };
    journal.sent(&agent(), queued[0].row, &sent).await.unwrap();
    journal.settle().await.unwrap();
    let fails = |db: &Connection| -> Result<(), Failed> {
        db.execute_batch("ROLLBACK")?;
        Err(Error::Storage("disk full".into()).into())
    };
    let (me, position, arrivals) = (agent(), Position("beyond".into()), [said("$1", "again")]);
    let later = u64::try_from(crate::audit::now()).unwrap() + 1000;

    let release = hold(&journal).await;
    let (forgotten, received, failed, ()) = tokio::join!(
        journal.forget(&me, later, 10),
        journal.receive(&me, &arrivals, &position),
        journal.thread.write(fails),
        async { drop(release) }
    );
    assert!(forgotten.is_err() && failed.is_err());
    let second = received.unwrap()[0].unwrap();
    assert!(second > first);
    journal.settle().await.unwrap();
    assert_eq!(journal.commit(says(ends(second, "d1"), [message("x")])).await.unwrap().len(), 1);
    assert!(pending(&*journal).await.is_empty());
}

/// Nothing is written that may build on it; and it is tried again though nobody asks.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_received_and_cannot_be_written_is_written_later() {
    let (_folder, path) = folder();
    let journal = open(&path);
    let other = Connection::open(&path).unwrap();
    arrive(&*journal, "$1").await;
    journal.settle().await.unwrap();
    other.execute_batch("ALTER TABLE pending RENAME TO elsewhere").unwrap();
    let (me, position) = (agent(), Position("beyond".into()));
    let received = journal.receive(&me, &[said("$2", "x")], &position).await.unwrap();
    for error in [
        journal.settle().await.unwrap_err(),
        journal.announce(&me, &delivery("own"), vec![]).await.unwrap_err(),
        journal.backlog(&me).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("no such table"), "{error}");
    }
    let behind = journal.receive(&me, &[said("$3", "x")], &Position("further".into())).await.unwrap();
    assert!(behind[0] > received[0]);
    let stands = || other.query_row("SELECT position FROM agent", [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(stands(), "here");
    other.execute_batch("ALTER TABLE elsewhere RENAME TO pending").unwrap();
    while stands() != "further" {
        tokio::task::yield_now().await;
    }
    assert_eq!(pending(&*journal).await, ["$1", "$2", "$3"]);
    assert_eq!(
        journal.commit(says(ends(received[0].unwrap(), "d2"), [message("x")])).await.unwrap().len(),
        1
    );
}

/// What became of an effect rides on the next write; without one it is written in a moment, and before anything is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_note_rides_on_the_next_write() {
    let (_folder, path) = folder();
    let journal = open(&path);
    let other = Connection::open(&path).unwrap();
    let unsent = || other.query_row("SELECT count(*) FROM unsent", [], |row| row.get::<_, u32>(0)).unwrap();
    let sequence = arrive(&*journal, "$1").await;
    let effects = ["a", "b", "c", "d"].map(message);
    let queued = journal.commit(says(ends(sequence, "d1"), effects)).await.unwrap();
    let sent = |n: usize| Sent::Accepted { event: event(&format!("$a{n}")), room: room("!room") };
    let (me, rows): (_, Vec<i64>) = (agent(), queued.iter().map(|queued| queued.row).collect());

    journal.sent(&me, rows[0], &sent(0)).await.unwrap();
    assert_eq!(
        journal.event_of(&me, &queued[0].id).await.unwrap(),
        Some(event("$a0")),
        "whoever reads finds it"
    );
    journal.settle().await.unwrap();
    assert_eq!(unsent(), 3);

    let release = hold(&journal).await;
    let fails = |db: &Connection| -> Result<(), Failed> {
        db.execute_batch("ROLLBACK")?;
        Err(Error::Storage("disk full".into()).into())
    };
    let second = sent(1);
    let (noted, failed, ()) =
        tokio::join!(journal.sent(&me, rows[1], &second), journal.thread.write(fails), async {
            drop(release);
        });
    noted.unwrap();
    failed.unwrap_err();
    journal.announce(&me, &delivery("own"), vec![]).await.unwrap();
    assert_eq!(unsent(), 2, "it outlives the group in which it failed");

    journal.sent(&me, rows[2], &sent(2)).await.unwrap();
    while unsent() > 1 {
        tokio::task::yield_now().await;
    }
    journal.sent(&me, rows[3], &sent(3)).await.unwrap();
    drop(journal);
    assert_eq!(unsent(), 0, "and whoever closes the journal writes it");
}

/// Nothing is written that may build on a note that cannot be; and it is tried again though nobody asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_note_that_fails_fails_what_is_written_with_it() {
    let (_folder, path) = folder();
    let journal = open(&path);
    let other = Connection::open(&path).unwrap();
    let sequence = arrive(&*journal, "$1").await;
    let queued = journal.commit(says(ends(sequence, "d1"), [message("a")])).await.unwrap();
    other.execute_batch("ALTER TABLE sent RENAME TO elsewhere").unwrap();
    let sent = Sent::Accepted { event: event("$a"), room: room("!room") };
    journal.sent(&agent(), queued[0].row, &sent).await.unwrap();
    let error = journal.settle().await.unwrap_err().to_string();
    assert!(error.contains("no such table"), "{error}");
    let arrival = [said("$2", "x")];
    journal.receive(&agent(), &arrival, &Position("beyond".into())).await.unwrap();
    journal.settle().await.unwrap_err();
    let unsent = || other.query_row("SELECT count(*) FROM unsent", [], |row| row.get::<_, u32>(0)).unwrap();
    let stands = || other.query_row("SELECT position FROM agent", [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!((unsent(), &*stands()), (1, "here"));
    other.execute_batch("ALTER TABLE elsewhere RENAME TO sent").unwrap();
    while unsent() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stands(), "beyond", "in the same commit");
    journal.settle().await.unwrap();
}

/// Commits one event after the other and notes, once answered, which; until it is stopped.
async fn work(journal: Arc<Sqlite>, task: usize, answered: Arc<Mutex<Vec<(EventId, DeliveryId)>>>) {
    for n in 0.. {
        let id = format!("{task}-{n}");
        let came = format!("${id}");
        let arrivals = [said(&came, "x")];
        let Ok(received) = journal.receive(&agent(), &arrivals, &Position(id.clone())).await else { return };
        let commit = says(ends(received[0].unwrap(), &id), [message("x")]);
        let Ok(queued) = journal.commit(commit).await else { return };
        answered.lock().unwrap().push((event(&came), queued[0].id.delivery.clone()));
    }
}

async fn nothing_is_lost(journal: &Sqlite, answered: &[(EventId, DeliveryId)]) {
    assert!(!answered.is_empty());
    let unsent = journal.unsent(&agent()).await.unwrap();
    let waits: std::collections::HashSet<_> = unsent.into_iter().map(|queued| queued.id.delivery).collect();
    let open = pending(journal).await;
    for (event, delivery) in answered {
        assert!(waits.contains(delivery), "{delivery}");
        assert!(!open.iter().any(|open| open == event.as_str()), "{event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_go_away_lose_nothing_that_was_answered() {
    let (_folder, path) = folder();
    let answered = Arc::new(Mutex::default());
    let journal = open(&path);
    let mut tasks = JoinSet::new();
    for task in 0..20 {
        tasks.spawn(work(journal.clone(), task, Arc::clone(&answered)));
    }
    while answered.lock().unwrap().len() < 500 {
        tokio::task::yield_now().await;
    }
    tasks.shutdown().await;
    drop(Arc::into_inner(journal).expect("no task has it any more"));
    let answered = answered.lock().unwrap().clone();
    nothing_is_lost(&open(&path), &answered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_thread_loses_nothing_that_was_answered() {
    let (_folder, path) = folder();
    let answered = Arc::new(Mutex::default());
    let journal = open(&path);
    let mut tasks = JoinSet::new();
    for task in 0..20 {
        tasks.spawn(work(journal.clone(), task, Arc::clone(&answered)));
    }
    while answered.lock().unwrap().len() < 100 {
        tokio::task::yield_now().await;
    }
    let fall = |_: &Connection| -> Result<(), Failed> { panic!("on purpose") };
    let error = journal.thread.write(fall).await.unwrap_err();
    assert_eq!(error.to_string(), "the journal's thread has ended");
    assert!(journal.home(&agent()).await.is_err(), "and stays so");
    tasks.shutdown().await;
    drop(journal);
    let answered = answered.lock().unwrap().clone();
    nothing_is_lost(&open(&path), &answered).await;
}

#[tokio::test]
async fn what_was_answered_is_there_though_the_file_was_never_closed() {
    let (folder, path) = folder();
    let journal = open(&path);
    let sequence = arrive(&*journal, "$1").await;
    arrive(&*journal, "$2").await;
    let queued = journal.commit(says(ends(sequence, "d1"), [message("x")])).await.unwrap();
    // What a host finds that was killed: the file and its log, as they are.
    let copy = folder.path().join("copy.db");
    fs::copy(&path, &copy).unwrap();
    fs::copy(folder.path().join("journal.db-wal"), folder.path().join("copy.db-wal")).unwrap();
    let found = open(&copy);
    assert_eq!(pending(&*found).await, ["$2"]);
    assert_eq!(found.unsent(&agent()).await.unwrap(), queued);
}

/// How many rows each table has, but those that go with their events ([`Journal::story`] needs them until then).
fn rows(path: &Path) -> Vec<(String, i64)> {
    let db = Connection::open(path).unwrap();
    let mut tables = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let counted = tables.into_iter().map(|table| {
        let count = db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        (table, count)
    });
    counted.collect()
}

/// Months of a busy plugin: events that end and are kept for a while, names that are used once, drafts that nobody comes back
/// to, and what the host says by itself. `now` is the clock.
#[tokio::test]
async fn the_rows_of_a_journal_stay_as_many() {
    let (_folder, path) = folder();
    let journal = open(&path);
    let mut all = Vec::new();
    for round in 0..6 {
        for number in 0..50 {
            let id = format!("{round}-{number}");
            let sequence = arrive(&*journal, &format!("${id}")).await;
            let Effect::Send { to, body, .. } = message("x") else { panic!("it is a message") };
            let named = Effect::Send { to, body, reply_to: None, name: Some(id.clone()), takes_draft: false };
            let opening = Opening {
                agent: agent(),
                delivery: delivery(&id),
                plugin: plugin("echo"),
                event: event(&format!("${id}")),
                component: format!("version {round}"),
                begun: 0,
                said: "what was said".into(),
            };
            let entry = answers::Entry {
                key: answers::Key([7; 32]),
                order: 0,
                at: 0,
                fact: answers::Fact::Value { version: None },
                body: b"x".to_vec(),
            };
            let kept = Kept { opening, ended: crate::audit::now(), entries: vec![entry], full: false };
            let commit = Commit {
                learnt: Some(Learnt::Stays(Box::new(kept))),
                ..says(writes(ends(sequence, &id), [set("k", &id)]), [named])
            };
            for queued in journal.commit(commit).await.unwrap() {
                let sent = Sent::Accepted { event: event(&format!("$sent-{id}")), room: room("!room") };
                journal.sent(&agent(), queued.row, &sent).await.unwrap();
            }
            journal.draft(&agent(), &delivery(&format!("orphan-{id}")), None).await.unwrap();
            for queued in
                journal.announce(&agent(), &delivery(&format!("own-{id}")), vec![message("x")]).await.unwrap()
            {
                journal.sent(&agent(), queued.row, &Sent::GivenUp("no".into())).await.unwrap();
            }
        }
        // A month later.
        let now = crate::audit::now() + 1000;
        let tidy = Tidy { drafts_before: now, names: 20, announcements: 10, step: 7 };
        while journal.tidy(&agent(), tidy).await.unwrap() {}
        while journal.forget_records(now, u64::MAX, 7).await.unwrap() > 0 {}
        let later = u64::try_from(now).unwrap() + 1000;
        while journal.forget(&agent(), later, 7).await.unwrap() > 0 {}
        all.push(rows(&path));
    }
    assert!(all[0].contains(&("named".into(), 20)) && all[0].contains(&("draft".into(), 0)), "{:?}", all[0]);
    assert!(
        all.windows(2).all(|pair| pair[0].iter().zip(&pair[1]).all(|(one, other)| {
            // SQLite's own notes on numbers.
            one.0.starts_with("sqlite_") || one == other
        })),
        "{all:#?}"
    );
    let db = Connection::open(&path).unwrap();
    let own: i64 = db.query_row("SELECT count(*) FROM event WHERE room = ''", [], |row| row.get(0)).unwrap();
    assert_eq!(own, 10);
}

/// What is asked for each event of a history that is read again.
#[test]
fn the_newest_event_is_looked_for_among_those_that_came_since() {
    let (_folder, path) = folder();
    drop(open(&path));
    let db = Connection::open(&path).unwrap();
    let mut plan = db.prepare(&format!("EXPLAIN QUERY PLAN {}", forget::NEWEST)).unwrap();
    let steps = plan.query_map(["researcher", "!room"], |row| row.get::<_, String>(3)).unwrap();
    let steps: Vec<String> = steps.map(Result::unwrap).filter(|step| step.contains(" event ")).collect();
    assert_eq!(steps, ["SEARCH event USING INTEGER PRIMARY KEY (rowid>?)"]);
}

/// A version that learnt something and was put aside, or whose deliveries are not kept.
#[tokio::test]
async fn a_component_of_which_nothing_is_kept_is_forgotten() {
    let (_folder, path) = folder();
    let journal = open(&path);
    arrive(&*journal, "$1").await;
    let opening = Opening {
        agent: agent(),
        delivery: delivery("d1"),
        plugin: plugin("echo"),
        event: event("$1"),
        component: "a version".into(),
        begun: 0,
        said: String::new(),
    };
    journal.learn(&opening, Writing { entries: vec![], full: true }).await.unwrap();
    let components =
        || Connection::open(&path).unwrap().query_row("SELECT count(*) FROM component", [], |row| row.get(0));
    assert_eq!(components(), Ok(1));
    journal.put_aside(&agent(), &delivery("d1")).await.unwrap();
    journal.forget_records(0, u64::MAX, 10).await.unwrap();
    assert_eq!(components(), Ok(0));
}

/// A handler that reads what it remembers costs its event no place among those that wait; whoever looks for those
/// finds it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_handler_only_reads_is_never_filed() {
    let (_folder, path) = folder();
    let journal = open(&path);
    let filed = || {
        let count = |db: &Connection| Ok(db.query_row("SELECT count(*) FROM pending", [], |row| row.get(0))?);
        journal.thread.read(count)
    };
    let release = hold(&journal).await;
    let (_, found, before, waiting, after, ()) = tokio::join!(
        arrive(&*journal, "$1"),
        read(&*journal, "k"),
        filed(),
        pending(&*journal),
        filed(),
        async { drop(release) }
    );
    assert!(matches!(found, Read::Key { version: None, .. }));
    assert_eq!((before.unwrap(), after.unwrap()), (0, 1));
    assert_eq!(waiting, ["$1"]);
}
