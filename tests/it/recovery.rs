//! What is promised after a crash: what was received is handled, what was committed is sent, and nothing twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use parlour::{
    Agent,
    chat::{SendError, memory::Rooms},
    journal::{Journal as _, sqlite::Sqlite},
    settings::{Grants, Media},
};

use crate::{
    guests::{example, greet, guest},
    stage::{AGENT, ALICE, PATIENCE, Stage, access, granted},
    watched::{Watch, Watched},
};

fn agent(rooms: &Rooms) -> Agent {
    Agent::new("agent".parse().unwrap(), rooms.account(AGENT)).access(access())
}

#[tokio::test]
async fn a_restart_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("journal.db");
    let guests = [("deeds", guest("deeds")), ("echo", example("echo"))];
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    for round in 1..=3 {
        let journal = Sqlite::open(&file).unwrap();
        let stage = Stage::start_with(rooms.clone(), room.clone(), agent(&rooms), &guests, |builder| {
            builder.journal(journal)
        })
        .await;
        if round > 1 {
            let away = rooms
                .transcript(&room)
                .into_iter()
                .rev()
                .find(|line| line.text == "/echo while away")
                .unwrap();
            assert_eq!(stage.answer_to(&room, &away.id).await.text, "while away");
        }
        assert_eq!(stage.ask("/count").await, round.to_string(), "kv is kept");
        stage.stop().await;
        rooms.say(ALICE, &room, "/echo while away");
    }
    let answers = rooms.transcript(&room).iter().filter(|line| line.text == "while away").count();
    assert_eq!(answers, 2, "each once");
}

#[tokio::test]
async fn a_handler_that_was_ended_by_the_end_of_the_host_runs_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("journal.db");
    let guests = [("naughty", guest("naughty")), ("deeds", guest("deeds"))];
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let first = Stage::start_with(rooms.clone(), room.clone(), agent(&rooms), &guests, |builder| {
        builder.journal(Sqlite::open(&file).unwrap())
    })
    .await;
    let waiting = rooms.say(ALICE, &room, "/wait");
    let queued = rooms.say(ALICE, &room, "/count");
    first.until_it_types(&room).await;
    first.stop().await;
    assert_eq!(rooms.transcript(&room).len(), 2, "nothing was said of it");

    let second = Stage::start_with(rooms.clone(), room.clone(), agent(&rooms), &guests, |builder| {
        builder.journal(Sqlite::open(&file).unwrap())
    })
    .await;
    second.until_it_types(&room).await;
    rooms.say(ALICE, &room, "/stop");
    assert_eq!(second.answer_to(&room, &waiting).await.text, "Stopped.");
    let lines = second.until(&room, |lines| lines.iter().any(|line| line.text == "1")).await;
    assert!(lines.iter().position(|line| line.text == "1") > lines.iter().position(|line| line.id == queued));
}

/// What was written was paid for: it stays, and the line comes below.
#[tokio::test]
async fn a_draft_of_an_earlier_start_keeps_its_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("journal.db");
    let guests = [("deeds", guest("deeds"))];
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let first = Stage::start_with(rooms.clone(), room.clone(), agent(&rooms), &guests, |builder| {
        builder.journal(Sqlite::open(&file).unwrap())
    })
    .await;
    rooms.say(ALICE, &room, "/again it is no use");
    // The plugin drafts in its first three seconds, and fails afterwards.
    let later = tokio::time::Instant::now() + Duration::from_secs(3);
    first.until(&room, |lines| lines.last().is_some_and(|line| line.text == "half an answer")).await;
    first.stop().await;
    tokio::time::sleep_until(later).await;
    let second = Stage::start_with(rooms.clone(), room.clone(), agent(&rooms), &guests, |builder| {
        builder.journal(Sqlite::open(&file).unwrap())
    })
    .await;
    let lines = second.until(&room, |lines| lines.len() == 3).await;
    let texts: Vec<_> = lines[1..].iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts, ["half an answer", "/again: it is no use"]);
}

#[tokio::test]
async fn a_hundred_events_in_one_session_are_answered_in_order() {
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let account = agent(&rooms);
    for number in 0..300 {
        rooms.say(ALICE, &room, &format!("/echo {number}"));
    }
    let stage =
        Stage::start_with(rooms.clone(), room.clone(), account, &[("echo", example("echo"))], |builder| {
            builder
        })
        .await;
    let lines = stage.until(&room, |lines| lines.len() == 600).await;
    let answers: Vec<_> =
        lines.iter().filter(|line| line.sender.as_str() == AGENT).map(|line| line.text.clone()).collect();
    assert_eq!(answers, (0..300).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(rooms.until(&room, Duration::from_millis(300), |lines| lines.len() > 600).await.is_err());
}

/// The host ends when a file is with the server and its message is not: what was uploaded goes with the message.
#[tokio::test]
async fn a_file_is_uploaded_once_though_the_host_ends_before_its_message() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("journal.db");
    let guests = [("media", guest("media"))];
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let start = async || {
        let grants = Grants { media: Some(Media::default()), ..Grants::default() };
        Stage::start_with(rooms.clone(), room.clone(), agent(&rooms), &guests, |builder| {
            let builder = builder.plugin_settings("media".parse().unwrap(), granted(grants));
            builder.journal(Sqlite::open(&file).unwrap())
        })
        .await
    };
    let staged = || {
        let db = rusqlite::Connection::open(&file).unwrap();
        let count = |sql| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        (count("SELECT count(*) FROM unsent WHERE staged IS NOT NULL"), count("SELECT count(*) FROM blob"))
    };
    let never = Some(Duration::from_secs(3600));
    // Before the upload, and between it and the message.
    rooms.refuse_file(SendError::Later { after: never, reason: "not now".into() });
    let first = start().await;
    rooms.say(ALICE, &room, "/send here remember me");
    tokio::time::timeout(PATIENCE, async {
        while staged() != (0, 1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    first.stop().await;
    assert_eq!((staged(), rooms.files()), ((0, 1), 0));

    rooms.refuse(SendError::Later { after: never, reason: "not now".into() });
    let second = start().await;
    tokio::time::timeout(PATIENCE, async {
        while staged() != (1, 1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    second.stop().await;
    assert_eq!((staged(), rooms.files()), ((1, 1), 1));
    assert_eq!(rooms.transcript(&room).len(), 1, "nothing was said yet");

    let third = start().await;
    let lines = third.until(&room, |lines| lines.len() == 2).await;
    assert_eq!(&lines[1].file.as_ref().unwrap().bytes[..], b"remember me");
    third.stop().await;
    assert_eq!((staged(), rooms.files()), ((0, 0), 1), "uploaded once, and nothing of it is kept");
    let fourth = start().await;
    assert_eq!(fourth.ask("/text").await, "ErrorKind::NotFound: no file");
    assert_eq!(rooms.transcript(&room).iter().filter(|line| line.file.is_some()).count(), 1);
}

/// Lets so many commits through.
struct Letting(Arc<AtomicU32>, Arc<tokio::sync::Notify>);

#[async_trait]
impl Watch for Letting {
    async fn commits(&self) {
        if self.0.fetch_sub(1, SeqCst) == 0 {
            self.1.notify_one();
            std::future::pending().await
        }
    }
}

/// Of two plugins, one has passed the message on when the host ends: nobody has said anything yet.
#[tokio::test]
async fn what_one_plugin_passed_on_before_a_crash_is_answered_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("journal.db");
    let guests = [("first", greet()), ("second", greet())];
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let start = async |letting| {
        let stuck = Arc::new(tokio::sync::Notify::new());
        let watch = Letting(Arc::new(AtomicU32::new(letting)), stuck.clone());
        let journal = Watched { journal: Sqlite::open(&file).unwrap(), watch };
        let stage = Stage::start_with(rooms.clone(), room.clone(), agent(&rooms), &guests, |builder| {
            builder.journal(journal)
        });
        (stage.await, stuck)
    };
    let (first, stuck) = start(1).await;
    let asked = rooms.say(ALICE, &room, "hm");
    stuck.notified().await;
    first.kill().await;
    assert_eq!(rooms.transcript(&room).len(), 1);
    let (second, _) = start(100).await;
    assert_eq!(second.answer_to(&room, &asked).await.text, "I have no answer to that.");
    second.stop().await;
}

/// What a journal has forgotten by the next day, by itself: here the day is over at once.
#[tokio::test]
async fn what_nobody_needs_any_more_is_put_away_while_the_host_serves() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("journal.db");
    let guests = [("echo", example("echo"))];
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let start = async || {
        let journal = Sqlite::open(&file).unwrap();
        Stage::start_with(rooms.clone(), room.clone(), agent(&rooms), &guests, |builder| {
            builder.journal(journal)
        })
        .await
    };
    let stage = start().await;
    let old = rooms.say(ALICE, &room, "/echo old");
    assert_eq!(stage.answer_to(&room, &old).await.text, "old");
    stage.stop().await;
    let db = rusqlite::Connection::open(&file).unwrap();
    let month_ago = "UPDATE event SET at = at - 31 * 24 * 60 * 60 * 1000;
                     INSERT INTO draft (agent, delivery, at) SELECT id, 'orphan', 0 FROM agent;";
    db.execute_batch(month_ago).unwrap();

    let stage = start().await;
    let young = rooms.say(ALICE, &room, "/echo young");
    assert_eq!(stage.answer_to(&room, &young).await.text, "young");
    let journal = Sqlite::look(&file).unwrap();
    let agent = "agent".parse().unwrap();
    let wait = async {
        let drafts = || db.query_row("SELECT count(*) FROM draft", [], |row| row.get::<_, i64>(0)).unwrap();
        while journal.story(&agent, &old).await.unwrap().is_some() || drafts() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("they are older than anything that is answered");
    assert!(journal.story(&agent, &young).await.unwrap().is_some());
    // It is not answered again for that.
    stage.ask("/echo done").await;
    assert_eq!(rooms.transcript(&room).iter().filter(|line| line.text == "old").count(), 1);
}
