//! The program is asked how it does.

use super::Scene;
use crate::{
    audit::{parlour, text},
    synapse::NewRoom,
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
