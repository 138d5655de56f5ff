//! Agents that refuse to start, each with one line that names the way out, while the others run.

use super::{Account, PASSWORD, Scene, settings};
use crate::{guests::example, host::Home, synapse::Synapse};

/// Runs a host with this agent and a good one: the line that it is refused with, while the other serves.
async fn refused(synapse: &Synapse, agent: &str) -> String {
    let good = Account::new(synapse, "good").await;
    let echo = example("echo");
    let both = settings(synapse, &[agent.to_owned(), good.settings("[\"echo\"]")], &[], &[]);
    let home = Home::new(&both, &[("echo", &echo)]);
    let host = home.run();
    host.said(&format!("agent {}: serves as", good.name)).await;
    let line = host.said("does not run").await;
    drop(host);

    // Alone, it ends the program.
    let alone = settings(synapse, &[agent.to_owned()], &[], &[]);
    let home = Home::new(&alone, &[("echo", &echo)]);
    let (code, log) = home.run().ended().await;
    assert_eq!(code, 2, "{log}");
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_or_password() {
    let synapse = Synapse::shared().await.unwrap();
    let line = refused(synapse, "[agents.bad]\ntoken = \"syt_wrong\"\nplugins = [\"echo\"]\n").await;
    assert!(line.contains("token"), "{line}");
    assert!(!line.contains("syt_wrong"), "{line}");
    let agent = Account::new(synapse, "bad").await;
    let line = refused(synapse, &agent.settings("[\"echo\"]").replace(PASSWORD, "wrong")).await;
    assert!(line.contains("password"), "{line}");
}

/// Signed out elsewhere while it serves, and even while a handler waits: the others go on, and alone it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_revoked() {
    let scene = Scene::new().await;
    let deeds = crate::guests::guest("deeds");
    scene.home.plugin("deeds", &deeds);
    let host = scene.run().await;
    let room = scene.room(crate::synapse::NewRoom::default()).await;
    scene.alice.say(&room, "!later").await.unwrap();
    scene.alice.wait_typing(crate::person::Mark::default(), &room, &scene.agent.user).await.unwrap();
    // A new sign-in of an administrator's: all of the account's sessions end.
    scene.synapse.log_out_everywhere(&scene.agent.user, PASSWORD).await.unwrap();
    let (code, log) = host.ended().await;
    assert_eq!(code, 2, "{log}");
    assert!(log.contains(&format!("agent {} does not run: ", scene.agent.name)), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_user() {
    let synapse = Synapse::shared().await.unwrap();
    let other = synapse.account("other").await.unwrap();
    let agent =
        format!("[agents.bad]\nuser = \"@bad:hs.test\"\ntoken = \"{}\"\nplugins = [\"echo\"]\n", other.token);
    let line = refused(synapse, &agent).await;
    assert!(line.contains(&other.user) && line.contains("@bad:hs.test"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_login_at_a_server_that_is_not_there() {
    let synapse = Synapse::shared().await.unwrap();
    let agent = "[agents.bad]\nhomeserver = \"http://127.0.0.1:1\"\nuser = \"@bad:hs.test\"\npassword = \"p\"\nplugins = [\"echo\"]\n";
    let line = refused(synapse, agent).await;
    assert!(line.contains("http://127.0.0.1:1"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_another_client_uses_with_keys() {
    let synapse = Synapse::shared().await.unwrap();
    let element = crate::person::Person::new(synapse, "element").await.unwrap();
    let agent = format!("[agents.bad]\ntoken = \"{}\"\nplugins = [\"echo\"]\n", element.token);
    let line = refused(synapse, &agent).await;
    assert!(line.contains(&element.device), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_account() {
    let scene = Scene::new().await;
    let host = scene.run().await;
    assert_eq!(host.stop().await, 0);
    let other = Account::new(scene.synapse, "other").await;
    let agent = Account { name: scene.agent.name.clone(), user: other.user.clone() };
    scene.home.settings(&settings(scene.synapse, &[agent.settings("[\"*\"]")], &[], &[]));
    let (code, log) = scene.home.run().ended().await;
    assert_eq!(code, 2, "{log}");
    assert!(log.contains(&scene.agent.user) && log.contains(&other.user), "{log}");
}
