//! What came while the agent was away, and what it had sent itself when nobody heard that it had arrived.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parlour::{
    Agent,
    chat::{Chat as _, SendError, memory::Rooms},
    effect::{Body, Content, Outgoing},
    id::RoomId,
    journal::{Journal as _, sqlite::Sqlite},
    settings::{Backlog, Behaviour},
};

use crate::{
    guests::example,
    stage::{AGENT, ALICE, Stage, access},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn start(rooms: &Rooms, room: &RoomId, file: &Path, behaviour: Behaviour) -> Stage {
    let account = rooms.account(AGENT);
    let agent = Agent::new("agent".parse().unwrap(), account).access(access()).behaviour(behaviour);
    let echo: [(&str, Arc<[u8]>); 1] = [("echo", example("echo"))];
    let journal = Sqlite::open(file).unwrap();
    let stage =
        Stage::start_with(rooms.clone(), room.clone(), agent, &echo, |builder| builder.journal(journal))
            .await;
    // What is said from here on is said while it is there.
    stage.noticed("serves as").await;
    stage
}

fn ago(span: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now - span).as_millis().try_into().unwrap()
}

/// What the agent says in two rooms to what came while it was away, and then while it was there.
async fn answered(behaviour: Behaviour) -> [Vec<String>; 2] {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("journal.db");
    let rooms = Rooms::new();
    let direct = rooms.create_direct(ALICE, AGENT);
    let group = rooms.create([ALICE, AGENT]);
    let stage = start(&rooms, &direct, &file, behaviour.clone()).await;
    assert_eq!(stage.ask("/echo there").await, "there");
    stage.stop().await;
    for room in [&direct, &group] {
        rooms.say_at(ALICE, room, "/echo stale", ago(2 * DAY));
        rooms.say(ALICE, room, "/echo fresh");
        rooms.say(ALICE, room, "hello");
    }
    let stage = start(&rooms, &direct, &file, behaviour).await;
    let said = async |room: &RoomId| {
        let end = rooms.say(ALICE, room, "/echo end");
        stage.until(room, |lines| lines.iter().any(|line| line.text == "end")).await;
        let lines = rooms.transcript(room);
        assert!(lines.iter().any(|line| line.id == end));
        lines
            .into_iter()
            .filter(|line| line.sender.as_str() == AGENT)
            .map(|line| line.text)
            .collect::<Vec<_>>()
    };
    let said = [said(&direct).await, said(&group).await];
    stage.stop().await;
    said
}

fn with(backlog: Backlog) -> Behaviour {
    Behaviour { backlog, require_mention: false, ..Behaviour::default() }
}

const NO_ANSWER: &str = "I answer commands only.";

#[tokio::test]
async fn all_of_it() {
    let [direct, group] = answered(with(Backlog::All)).await;
    assert_eq!(direct, ["there", "stale", "fresh", NO_ANSWER, "end"]);
    assert_eq!(group, ["stale", "fresh", NO_ANSWER, "end"]);
}

/// The host's own word that it has no answer is one to a direct message.
#[tokio::test]
async fn what_addresses_the_agent() {
    let [direct, group] = answered(with(Backlog::Mentions)).await;
    assert_eq!(direct, ["there", "stale", "fresh", NO_ANSWER, "end"]);
    assert_eq!(group, ["stale", "fresh", "end"]);
}

#[tokio::test]
async fn none_of_it() {
    let [direct, group] = answered(with(Backlog::Skip)).await;
    assert_eq!((direct, group), (vec!["there".into(), "end".into()], vec!["end".into()]));
}

#[tokio::test]
async fn a_day_of_it_unless_something_else_is_said() {
    let free = Behaviour { require_mention: false, ..Behaviour::default() };
    let [direct, group] = answered(free).await;
    assert_eq!(direct, ["there", "fresh", NO_ANSWER, "end"]);
    assert_eq!(group, ["fresh", NO_ANSWER, "end"]);
}

/// What is skipped was seen: another setting does not bring it back.
#[tokio::test]
async fn what_was_skipped_stays_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("journal.db");
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = start(&rooms, &room, &file, with(Backlog::Skip)).await;
    stage.ask("/echo there").await;
    stage.stop().await;
    rooms.say(ALICE, &room, "/echo skipped");
    let stage = start(&rooms, &room, &file, with(Backlog::Skip)).await;
    stage.noticed("1 events that came while the agent was away are not answered").await;
    stage.stop().await;
    rooms.say(ALICE, &room, "/echo taken");
    let stage = start(&rooms, &room, &file, with(Backlog::All)).await;
    stage.ask("/echo end").await;
    assert!(!stage.transcript(&room).contains("agent: skipped"), "{}", stage.transcript(&room));
    assert!(stage.transcript(&room).contains("agent: taken"), "{}", stage.transcript(&room));
}

/// Nobody waits for an answer to last year's letter, and its id may be forgotten.
#[tokio::test]
async fn what_is_older_than_the_horizon_is_not_answered_even_when_it_comes_now() {
    let folder = tempfile::tempdir().unwrap();
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = start(&rooms, &room, &folder.path().join("journal.db"), with(Backlog::All)).await;
    stage.ask("/echo there").await;
    rooms.say_at(ALICE, &room, "/echo no clock", 0);
    rooms.say_at(ALICE, &room, "/echo last year", ago(365 * DAY));
    rooms.say_at(ALICE, &room, "/echo next year", ago(Duration::ZERO) + 365 * 86_400_000);
    rooms.say_at(ALICE, &room, "/echo last week", ago(7 * DAY));
    stage.until(&room, |lines| lines.iter().any(|line| line.text == "last week")).await;
    stage.ask("/echo end").await;
    let said = stage.transcript(&room);
    assert_eq!(said.matches("agent: ").count(), 3, "{said}");
}

#[tokio::test]
async fn however_often_it_starts_again_each_is_answered_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("journal.db");
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = start(&rooms, &room, &file, with(Backlog::All)).await;
    stage.ask("/echo there").await;
    stage.stop().await;
    for number in 0..60 {
        rooms.say(ALICE, &room, &format!("/echo {number}"));
        if number % 6 == 0 {
            let stage = start(&rooms, &room, &file, with(Backlog::All)).await;
            stage.until(&room, |lines| lines.iter().any(|line| line.text == number.to_string())).await;
            rooms.say(ALICE, &room, &format!("/echo then {number}"));
            stage.stop().await;
        }
    }
    let stage = start(&rooms, &room, &file, with(Backlog::All)).await;
    stage.ask("/echo end").await;
    let lines = stage.until(&room, |lines| lines.iter().any(|line| line.text == "end")).await;
    let of = |user: &str| -> Vec<String> {
        lines
            .iter()
            .filter(|line| line.sender.as_str() == user)
            .map(|line| line.text.replace("/echo ", ""))
            .collect()
    };
    assert_eq!(of(AGENT), of(ALICE), "in order, too");
}

fn later() -> SendError {
    SendError::Later { after: None, reason: "not now".into() }
}

/// As if the host had ended after the server took a message and before the host heard so, and the server had forgotten
/// the transaction meanwhile.
#[tokio::test]
async fn what_a_server_has_forgotten_to_have_taken_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("journal.db");
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = start(&rooms, &room, &file, with(Backlog::All)).await;
    stage.ask("/echo there").await;
    (0..100).for_each(|_| rooms.refuse(later()));
    rooms.say(ALICE, &room, "/echo once");
    rooms.say(ALICE, &room, "/echo twice");
    stage.until_it_types(&room).await;
    let queued = async |count| {
        let journal = Sqlite::open(&file).unwrap();
        loop {
            let queued = journal.unsent(&"agent".parse().unwrap()).await.unwrap();
            if queued.len() == count {
                return queued;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let queued = queued(2).await;
    stage.kill().await;
    rooms.accept();

    let outgoing = Outgoing {
        room: room.clone(),
        transaction: queued[0].id.transaction(),
        mark: queued[0].id.to_string(),
        must_encrypt: false,
        content: Content::Message { body: Body::Plain("once".into()), thread: None, reply_to: None },
    };
    rooms.account(AGENT).send(&outgoing).await.unwrap();
    rooms.forget_transactions();
    let stage = start(&rooms, &room, &file, with(Backlog::All)).await;
    stage.until(&room, |lines| lines.iter().any(|line| line.text == "twice")).await;
    stage.ask("/echo end").await;
    let said = stage.transcript(&room);
    for text in ["there", "once", "twice", "end"] {
        assert_eq!(said.matches(&format!("agent: {text}\n")).count(), 1, "{said}");
    }
}

/// The answer is lost, and the message itself comes back.
#[tokio::test]
async fn what_is_seen_in_the_room_has_arrived() {
    let folder = tempfile::tempdir().unwrap();
    let rooms = Rooms::new();
    let room = rooms.create_direct(ALICE, AGENT);
    let stage = start(&rooms, &room, &folder.path().join("journal.db"), with(Backlog::All)).await;
    stage.ask("/echo there").await;
    for number in 0..5 {
        rooms.lose_answer();
        rooms.say(ALICE, &room, &format!("/echo {number}"));
        stage.until(&room, |lines| lines.iter().any(|line| line.text == number.to_string())).await;
        rooms.forget_transactions();
    }
    stage.ask("/echo end").await;
    let lines = stage.until(&room, |lines| lines.iter().any(|line| line.text == "end")).await;
    let said: Vec<_> =
        lines.iter().filter(|line| line.sender.as_str() == AGENT).map(|line| &*line.text).collect();
    assert_eq!(said, ["there", "0", "1", "2", "3", "4", "end"]);
}
