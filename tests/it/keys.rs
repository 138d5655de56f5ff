//! Encrypted events whose key comes later, or never.

use std::{path::Path, sync::Arc, time::Duration};

use parlour::{Agent, KeyPatience, chat::memory::Rooms, id::RoomId, journal::sqlite::Sqlite};

use crate::{
    guests::{example, guest},
    stage::{AGENT, ALICE, BOB, MALLORY, Stage, access},
};

const LONG: Duration = Duration::from_secs(3600);

async fn start(rooms: &Rooms, room: &RoomId, file: &Path, patience: KeyPatience) -> Stage {
    let agent = Agent::new("agent".parse().unwrap(), rooms.account(AGENT)).access(access());
    let guests: [(&str, Arc<[u8]>); 2] = [("echo", example("echo")), ("deeds", guest("deeds"))];
    let journal = Sqlite::open(file).unwrap();
    let agent = agent.key_patience(patience);
    Stage::start_with(rooms.clone(), room.clone(), agent, &guests, |builder| builder.journal(journal)).await
}

struct Scene {
    folder: tempfile::TempDir,
    rooms: Rooms,
    room: RoomId,
}

impl Scene {
    fn new() -> Self {
        let rooms = Rooms::new();
        let room = rooms.create([ALICE, BOB, MALLORY, AGENT]);
        rooms.encrypt(&room);
        Self { folder: tempfile::tempdir().unwrap(), rooms, room }
    }

    async fn start(&self, hold: Duration, keep: Duration) -> Stage {
        let file = self.folder.path().join("journal.db");
        start(&self.rooms, &self.room, &file, KeyPatience { hold, keep }).await
    }

    async fn said(&self, stage: &Stage, last: &str) -> Vec<String> {
        let lines = stage.until(&self.room, |lines| lines.iter().any(|line| line.text == last)).await;
        lines.into_iter().filter(|line| line.sender.as_str() == AGENT).map(|line| line.text).collect()
    }
}

/// The key is only behind: everything is answered in order, and nobody else has waited.
#[tokio::test]
async fn what_follows_waits_for_a_key_that_is_only_behind() {
    let scene = Scene::new();
    let stage = scene.start(LONG, LONG).await;
    scene.rooms.say(ALICE, &scene.room, "/echo 1");
    assert_eq!(scene.said(&stage, "1").await, ["1"]);
    let locked = scene.rooms.say_locked(ALICE, &scene.room, "/echo 2");
    scene.rooms.say(ALICE, &scene.room, "/echo 3");
    scene.rooms.say(BOB, &scene.room, "/echo bob");
    assert_eq!(scene.said(&stage, "bob").await, ["1", "bob"]);
    scene.rooms.give_key(&locked);
    scene.rooms.give_key(&locked);
    assert_eq!(scene.said(&stage, "3").await, ["1", "bob", "2", "3"]);
    let late = scene.rooms.say_locked(ALICE, &scene.room, "/extra");
    scene.rooms.give_key(&late);
    assert_eq!(scene.said(&stage, "none").await, ["1", "bob", "2", "3", "none"], "in its turn is not late");
    assert_eq!(stage.notices().iter().filter(|notice| notice.to_string().contains("decrypt")).count(), 0);
}

#[tokio::test]
async fn what_comes_too_late_for_its_turn_is_answered_and_says_so() {
    let scene = Scene::new();
    let stage = scene.start(Duration::from_millis(300), LONG).await;
    let locked = scene.rooms.say_locked(ALICE, &scene.room, "/extra");
    scene.rooms.say(ALICE, &scene.room, "/echo next");
    assert_eq!(scene.said(&stage, "next").await, ["next"]);
    scene.rooms.give_key(&locked);
    let late = r#"{"late":true}"#;
    assert_eq!(scene.said(&stage, late).await, ["next", late]);
    stage.ask_as(ALICE, &scene.room, "/echo end").await;
    assert_eq!(scene.said(&stage, "end").await, ["next", late, "end"], "once");
}

#[tokio::test]
async fn strangers_hold_up_nobody_and_are_not_kept() {
    let scene = Scene::new();
    let stage = scene.start(LONG, Duration::ZERO).await;
    let locked = scene.rooms.say_locked(MALLORY, &scene.room, "/echo strange");
    assert_eq!(stage.ask_as(ALICE, &scene.room, "/echo 1").await, "1");
    scene.rooms.give_key(&locked);
    assert_eq!(stage.ask_as(ALICE, &scene.room, "/echo 2").await, "2");
    assert_eq!(scene.said(&stage, "2").await, ["1", "2"]);
    let said: Vec<_> = stage.notices().iter().map(ToString::to_string).collect();
    assert!(!said.iter().any(|line| line.contains("decrypt")), "{said:?}");
}

#[tokio::test]
async fn a_key_that_never_comes_is_said_once_and_not_waited_for() {
    let scene = Scene::new();
    let stage = scene.start(Duration::from_millis(50), Duration::from_millis(400)).await;
    let locked = scene.rooms.say_locked(ALICE, &scene.room, "/echo lost");
    let line = stage.noticed("could not decrypt").await.to_string();
    assert!(
        line.contains(locked.as_str()) && line.contains(ALICE) && line.contains("its key has not come"),
        "{line}"
    );
    scene.rooms.give_key(&locked);
    stage.stop().await;
    let stage = scene.start(LONG, LONG).await;
    stage.ask_as(ALICE, &scene.room, "/echo end").await;
    assert_eq!(scene.said(&stage, "end").await, ["end"]);
    assert!(!stage.notices().iter().any(|notice| notice.to_string().contains("decrypt")));
}

/// What waits is in the journal, and a key may come while nobody listens.
#[tokio::test]
async fn what_waits_is_tried_again_at_a_start() {
    let scene = Scene::new();
    let stage = scene.start(LONG, LONG).await;
    let locked = scene.rooms.say_locked(ALICE, &scene.room, "/echo kept");
    let never = scene.rooms.say_locked(BOB, &scene.room, "/echo never");
    stage.ask_as(ALICE, &scene.rooms.create_direct(ALICE, AGENT), "/echo there").await;
    stage.stop().await;
    scene.rooms.give_key(&locked);
    let stage = scene.start(LONG, LONG).await;
    assert_eq!(scene.said(&stage, "kept").await, ["kept"]);
    stage.stop().await;
    // It is still waited for, and the time that it has runs on.
    let stage = scene.start(LONG, Duration::ZERO).await;
    assert!(stage.noticed("could not decrypt").await.to_string().contains(never.as_str()));
    stage.ask_as(ALICE, &scene.room, "/echo end").await;
    assert_eq!(scene.said(&stage, "end").await, ["kept", "end"]);
}

/// More than a lane holds comes while one is waited for.
#[tokio::test]
async fn however_much_comes_meanwhile_it_is_in_order() {
    let scene = Scene::new();
    let stage = scene.start(LONG, LONG).await;
    let locked = scene.rooms.say_locked(ALICE, &scene.room, "/echo first");
    for number in 0..100 {
        scene.rooms.say(ALICE, &scene.room, &format!("/echo {number}"));
    }
    stage.ask_as(BOB, &scene.room, "/echo bob").await;
    scene.rooms.give_key(&locked);
    let said = scene.said(&stage, "99").await;
    let expected = ["bob".to_owned(), "first".to_owned()].into_iter().chain((0..100).map(|n| n.to_string()));
    assert_eq!(said, expected.collect::<Vec<_>>());
}

/// What is more than an agent keeps is said at once and counted, also where it comes all at once.
#[tokio::test]
async fn more_than_are_kept_are_refused_aloud() {
    let scene = Scene::new();
    let stage = scene.start(Duration::ZERO, LONG).await;
    // What comes then comes in other batches.
    let first = scene.rooms.say_locked(ALICE, &scene.room, "/echo kept");
    stage.ask_as(BOB, &scene.room, "/echo there").await;
    let all: Vec<_> = (1..1030).map(|_| scene.rooms.say_locked(ALICE, &scene.room, "/echo lost")).collect();
    stage.ask_as(BOB, &scene.room, "/echo all").await;
    let refused = |notice: &parlour::notice::Notice| {
        let text = notice.to_string();
        text.split_once("could not decrypt ")?.1.split_once(" events: 1000 others")?.0.parse::<usize>().ok()
    };
    let told: Vec<_> = stage.notices().iter().filter_map(refused).collect();
    assert_eq!(told.iter().sum::<usize>(), 30, "{told:?}");
    // Nor is a refused one answered later, and the others are.
    scene.rooms.give_key(all.last().unwrap());
    scene.rooms.give_key(&first);
    let said = scene.said(&stage, "kept").await;
    assert_eq!(said, ["there", "all", "kept"]);
}
