//! Keys that come late, from another client with other cryptography.

use std::time::Duration;

use parlour::{KeyPatience, settings::Access};
use serde_json::json;

use crate::{
    inside::{Inside, Serving, eventually},
    person::Person,
    synapse::{NewRoom, Synapse},
};

const HOUR: Duration = Duration::from_secs(3600);

struct Scene {
    inside: Inside,
    alice: Person,
    mallory: Person,
    room: String,
}

impl Scene {
    /// An encrypted room in which the agent and two people are, one of them listed, who have a key each already.
    async fn new() -> (Self, Serving) {
        let synapse = Synapse::shared().await.unwrap();
        let inside = Inside { plugins: plugins(), ..Inside::new(synapse).await };
        let alice = Person::new(synapse, "alice").await.unwrap();
        let mallory = Person::new(synapse, "mallory").await.unwrap();
        let mut scene = Self { inside, alice, mallory, room: String::new() };
        let host = scene.start(HOUR, HOUR).await;
        let invite = vec![scene.inside.agent.clone(), scene.mallory.user.clone()];
        let room = NewRoom { encrypted: true, invite, ..NewRoom::default() };
        scene.room = scene.alice.create_room(&room).await.unwrap();
        scene.alice.wait_member(&scene.room, &scene.inside.agent, "join").await.unwrap();
        scene.mallory.join(&scene.room).await.unwrap();
        scene.mallory.say(&scene.room, "!echo a stranger's").await.unwrap();
        scene.alice.say(&scene.room, "!echo there").await.unwrap();
        scene.heard(&["there"]).await;
        (scene, host)
    }

    async fn start(&self, hold: Duration, keep: Duration) -> Serving {
        let access = Access { users: [self.alice.user.parse().unwrap()].into(), ..Access::default() };
        let patience = KeyPatience { hold, keep };
        self.inside.start_with(|agent| agent.access(access).key_patience(patience)).await
    }

    /// Waits until the agent has said the last of these, and nothing but these.
    async fn heard(&self, texts: &[&str]) {
        let agent = &self.inside.agent;
        self.alice.hear(&self.room, agent, texts.last().unwrap()).await.unwrap();
        let said = self.alice.messages(&self.room);
        let said: Vec<_> =
            said.iter().filter(|message| message.sender == *agent).map(|it| it.text()).collect();
        assert_eq!(said, texts);
    }
}

fn plugins() -> Vec<(&'static str, std::sync::Arc<[u8]>)> {
    vec![("echo", crate::guests::example("echo")), ("deeds", crate::guests::guest("deeds"))]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_behind_is_waited_for_in_order() {
    let (scene, host) = Scene::new().await;
    let key = scene.alice.withhold(&scene.room).await.unwrap();
    scene.alice.say(&scene.room, "!echo first").await.unwrap();
    scene.alice.give(&key, &scene.inside.agent).await.unwrap();
    scene.alice.say(&scene.room, "!echo second").await.unwrap();
    scene.heard(&["there", "first", "second"]).await;
    // A stranger's key never comes, and nobody waits for it.
    scene.mallory.withhold(&scene.room).await.unwrap();
    scene.mallory.say(&scene.room, "!echo strange").await.unwrap();
    scene.alice.say(&scene.room, "!echo third").await.unwrap();
    scene.heard(&["there", "first", "second", "third"]).await;
    assert_eq!(host.count("decrypt"), 0, "{:?}", host.notices());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_comes_later_is_used_and_one_that_never_comes_is_said() {
    let (scene, host) = Scene::new().await;
    host.stop().await;
    let host = scene.start(Duration::from_millis(500), HOUR).await;
    let key = scene.alice.withhold(&scene.room).await.unwrap();
    scene.alice.say(&scene.room, "!extra").await.unwrap();
    // What is said with another key goes on without it.
    let other = scene.alice.withhold(&scene.room).await.unwrap();
    scene.alice.give(&other, &scene.inside.agent).await.unwrap();
    scene.alice.say(&scene.room, "!echo next").await.unwrap();
    scene.heard(&["there", "next"]).await;
    scene.alice.give(&key, &scene.inside.agent).await.unwrap();
    scene.heard(&["there", "next", r#"{"late":true}"#]).await;

    // Waiting outlives the host; and the key comes while it is down.
    let key = scene.alice.withhold(&scene.room).await.unwrap();
    let waits = scene.alice.say(&scene.room, "!echo kept").await.unwrap();
    let never = scene.alice.withhold(&scene.room).await.unwrap();
    let lost = scene.alice.say(&scene.room, "!echo lost").await.unwrap();
    let third = scene.alice.withhold(&scene.room).await.unwrap();
    scene.alice.give(&third, &scene.inside.agent).await.unwrap();
    scene.alice.say(&scene.room, "!echo between").await.unwrap();
    scene.alice.hear(&scene.room, &scene.inside.agent, "between").await.unwrap();
    host.stop().await;
    scene.alice.give(&key, &scene.inside.agent).await.unwrap();
    let host = scene.start(Duration::from_millis(500), HOUR).await;
    scene.alice.hear(&scene.room, &scene.inside.agent, "kept").await.unwrap();
    host.stop().await;
    let host = scene.start(Duration::from_millis(500), Duration::from_secs(1)).await;
    let line = host.noticed("could not decrypt").await;
    assert!(line.contains(&lost) && !line.contains(&waits), "{line}");
    scene.alice.give(&never, &scene.inside.agent).await.unwrap();
    scene.alice.say(&scene.room, "!echo end").await.unwrap();
    scene.heard(&["there", "next", r#"{"late":true}"#, "between", "kept", "end"]).await;
    assert_eq!(host.count("could not decrypt"), 1, "once");
    host.stop().await;
}

/// What was encrypted may be nothing that an agent hears of, and the journal does not take it for something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_opens_what_is_nothing_is_told_as_that() {
    let (scene, host) = Scene::new().await;
    let key = scene.alice.withhold(&scene.room).await.unwrap();
    let odd = scene.alice.send(&scene.room, "org.example.odd", json!({ "odd": true })).await.unwrap();
    let journal = rusqlite::Connection::open(scene.inside.journal()).unwrap();
    let found = |sql: &str| journal.query_row(sql, [&odd], |row| row.get::<_, Option<String>>(0)).ok();
    eventually(async || {
        found("SELECT event FROM locked NATURAL JOIN (SELECT sequence FROM event WHERE id = ?1)")
    })
    .await;
    scene.alice.give(&key, &scene.inside.agent).await.unwrap();
    let refused = eventually(async || found("SELECT refused FROM event WHERE id = ?1").flatten()).await;
    let denial: parlour::gate::Denial = serde_json::from_str(&refused).unwrap();
    assert_eq!(denial, parlour::gate::Denial::Unheard, "{denial}");
    scene.alice.say(&scene.room, "!echo next").await.unwrap();
    scene.heard(&["there", "next"]).await;
    host.stop().await;
}
