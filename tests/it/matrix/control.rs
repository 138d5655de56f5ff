//! The program is asked how it does.

use std::{path::Path, time::Duration};

use serde_json::Value;

use super::{Account, Scene, settings};
use crate::{
    audit::{parlour, text},
    guests::example,
    host::{Home, PATIENCE},
    person::Person,
    synapse::{NewRoom, Options, Synapse},
};

#[tokio::test(flavor = "multi_thread")]
async fn parlour_run_says_how_it_does_also_after_it_was_killed() {
    let scene = Scene::new().await;
    let folder = scene.home.path();
    let host = scene.run().await;
    let room = scene.room(NewRoom::default()).await;
    scene.ask(&scene.alice, &room, "!echo hello", "hello").await;
    let shown = text(&parlour(folder, &["status"]).stdout);
    assert!(shown.contains(&format!("agent {}: serves since 20", scene.agent.name)), "{shown}");
    assert!(shown.contains("plugin echo 0.1.0: loaded ("), "{shown}");
    let said = parlour(folder, &["plugin", "resume", "echo"]);
    assert_eq!(text(&said.stderr), "parlour: plugin echo does not rest\n");
    // What was counted is written when somebody asks.
    let shown = text(&parlour(folder, &["plugin", "check", "echo"]).stdout);
    assert!(shown.contains("  outbox      granted; used once, last 20"), "{shown}");

    host.kill();
    assert!(scene.home.data().join("control.sock").exists(), "it had no time to tidy up");
    assert_eq!(parlour(folder, &["status"]).status.code(), Some(1));
    assert!(parlour(folder, &["audit"]).status.success(), "the record needs no host");
    let host = scene.run().await;
    assert!(parlour(folder, &["status"]).status.success());
    assert_eq!(host.stop().await, 0);
    assert!(!scene.home.data().join("control.sock").exists());
}

/// Waits until the agent's status is as it should be.
async fn until(folder: &Path, condition: impl Fn(&Value) -> bool) -> Value {
    let mut agent = Value::Null;
    let wait = async {
        loop {
            let said = parlour(folder, &["status", "--json"]);
            let status: Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
            agent = status["agents"][0].clone();
            if condition(&agent) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, wait).await;
    assert!(found.is_ok(), "it did not come to be: {agent:#}");
    agent
}

/// A homeserver that stops, and comes back: what is said is what was heard, not that a socket is open.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_shows_and_its_end_too() {
    let synapse = Synapse::start(Options::default()).await.unwrap();
    let (agent, alice) =
        (Account::new(&synapse, "agent").await, Person::new(&synapse, "alice").await.unwrap());
    let settings = settings(&synapse, &[agent.settings("[\"*\"]")], &[], &[&alice.user]);
    let home = Home::new(&settings, &[("echo", &example("echo"))]);
    let host = home.run();
    host.said("serves as").await;
    let folder = home.path();
    let begun = until(folder, |agent| agent["connection"]["synced"].is_i64()).await;
    let connection = &begun["connection"];
    assert!(connection["outage"].is_null() && connection["signed_in"].is_i64(), "{begun:#}");
    assert!(connection["device"].as_str().is_some_and(|device| !device.is_empty()));
    assert_eq!(begun["user"], agent.user.as_str());
    let encryption = &connection["encryption"];
    assert_eq!(
        (&encryption["verified"], &encryption["identity"], &encryption["backup"]),
        (&true.into(), &true.into(), &true.into()),
        "{begun:#}"
    );
    assert_eq!(begun["undecryptable_count"], 0);

    synapse.stop().await.unwrap();
    let out = until(folder, |agent| agent["connection"]["outage"].is_object()).await;
    let outage = &out["connection"]["outage"];
    assert!(outage["since"].as_i64() >= begun["connection"]["synced"].as_i64(), "{out:#}");
    assert!(outage["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{out:#}");
    let shown = text(&parlour(folder, &["status"]).stdout);
    assert!(shown.contains("  sync          OUT OF REACH since 20"), "{shown}");
    assert!(shown.contains("; last answer: "), "{shown}");

    synapse.restart().await.unwrap();
    let back = until(folder, |agent| agent["connection"]["outage"].is_null()).await;
    assert!(back["connection"]["synced"].as_i64() > outage["since"].as_i64(), "{back:#}");
    let shown = text(&parlour(folder, &["status"]).stdout);
    assert!(shown.contains("  sync          answered ") && !shown.contains("OUT OF REACH"), "{shown}");
    assert!(
        shown.contains("  encryption    device verified, keys backed up; 0 undecryptable events\n"),
        "{shown}"
    );
    assert_eq!(host.stop().await, 0);
}

/// In an encrypted room: what became of an event is told, and no word of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_an_encrypted_room_is_told_of_without_its_words() {
    let scene = Scene::new().await;
    let folder = scene.home.path();
    let host = scene.run().await;
    let room = scene.room(NewRoom { encrypted: true, ..NewRoom::default() }).await;
    let mark = scene.alice.mark();
    let asked = scene.alice.say(&room, "!echo asecretword").await.unwrap();
    let answer = scene.alice.hear_since(mark, &room, &scene.agent.user, "asecretword").await.unwrap();
    let accepted = |agent: &Value| agent["acknowledged"]["event"] == answer.id.as_str();
    let status = until(folder, accepted).await;
    assert_eq!(status["accepted"]["event"], asked.as_str());
    assert_eq!(status["accepted"]["room"], room.as_str());
    let said = parlour(folder, &["why", &asked]);
    let shown = text(&said.stdout);
    for line in [
        format!("agent {}: received {asked} in {room}, 20", scene.agent.name),
        format!("  gate: passed, into the lane of `{room}"),
        "  plugin echo: done, 20".into(),
        format!("    message to {room}: sent as {}, 20", answer.id),
    ] {
        assert!(shown.contains(&line), "{line}: {shown}");
    }
    assert!(!shown.contains("asecretword"));
    host.kill();
    assert_eq!(text(&parlour(folder, &["why", &asked]).stdout), shown, "the same without a host");
    // What matrix-sdk keeps are keys and people, and no messages.
    for file in super::files(&scene.home.data().join("agents")) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("asecretword"), "{}", file.display());
    }
}
