//! Files that people send, and that are sent to them.

use serde_json::{Value, json};

use super::{Account, Scene, settings};
use crate::{
    guests::guest,
    host::Home,
    person::{Person, Say},
    synapse::{NewRoom, Synapse},
};

/// A file with a caption.
fn file(caption: &str, uploaded: &Value, size: usize) -> Say {
    let say = Say::text(caption).msgtype("m.file").extra("filename", json!("note.txt"));
    let say = say.extra("info", json!({ "mimetype": "image/png", "size": size }));
    uploaded.as_object().unwrap().iter().fold(say, |say, (key, value)| say.extra(key, value.clone()))
}

#[tokio::test]
async fn a_file_is_read_as_it_was_sent_encrypted_or_not() {
    let synapse = Synapse::shared().await.unwrap();
    let (agent, alice) = (Account::new(synapse, "agent").await, Person::new(synapse, "alice").await.unwrap());
    let granted = "[plugins.media.grants]\nmedia = true\n";
    let settings = settings(synapse, &[agent.settings("[\"*\"]")], &[], &[&alice.user]) + granted;
    let home = Home::new(&settings, &[("media", &*guest("media"))]);
    let bob = Person::new(synapse, "bob").await.unwrap();
    let scene = Scene { synapse, home, agent, alice, bob };
    let _host = scene.run().await;
    for encrypted in [false, true] {
        let room = scene.room(NewRoom { encrypted, ..NewRoom::default() }).await;
        let secret = format!("thesecretofafile{encrypted}");
        let uploaded = scene.alice.upload(&secret, "text/plain", encrypted).await.unwrap();
        let size = secret.len();
        let ask = async |say: Say, words: &str| {
            let mark = scene.alice.mark();
            scene.alice.say(&room, say).await.unwrap();
            scene.alice.hear_since(mark, &room, &scene.agent.user, words).await.unwrap()
        };
        let answer = ask(file("!text", &uploaded, size), &secret).await;
        assert_eq!(answer.sealed(), encrypted);
        let look = format!("note.txt: {size} bytes, says image/png, is nothing");
        ask(file("!look", &uploaded, size), &look).await;
        let too_large = format!("ErrorKind::TooLarge: the file has more than {} bytes", size - 1);
        ask(file("!look", &uploaded, size - 1), &too_large).await;
        if encrypted {
            // It went through the server, and the server has nothing of it.
            assert_eq!(synapse.places_of(&secret).unwrap(), Vec::<String>::new());
            let other = scene.alice.upload("another file", "text/plain", true).await.unwrap();
            let mut swapped = uploaded.clone();
            swapped["file"]["url"] = other["file"]["url"].clone();
            let altered = "ErrorKind::NotFound (altered): the file is not the one that was sent";
            ask(file("!look", &swapped, size), altered).await;
        }
        let nowhere = json!({ "url": "mxc://hs.test/nothing" });
        let gone =
            "ErrorKind::NotFound: the file is not there: M_NOT_FOUND: the server answers 404 Not Found";
        ask(file("!look", &nowhere, 3), gone).await;
    }
}

/// Another client downloads and opens what a plugin has made, and what it has forwarded; the server has nothing of it in
/// an encrypted room.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_arrives_as_it_was_made_encrypted_or_not() {
    let synapse = Synapse::shared().await.unwrap();
    let (agent, alice) = (Account::new(synapse, "agent").await, Person::new(synapse, "alice").await.unwrap());
    let granted = "[plugins.media.grants]\nmedia = true\nrooms = [\"*\"]\nencrypted = true\n";
    let settings = settings(synapse, &[agent.settings("[\"*\"]")], &[], &[&alice.user]) + granted;
    let home = Home::new(&settings, &[("media", &*guest("media"))]);
    let bob = Person::new(synapse, "bob").await.unwrap();
    let scene = Scene { synapse, home, agent, alice, bob };
    let _host = scene.run().await;
    let clear = scene.room(NewRoom::default()).await;
    for encrypted in [true, false] {
        let room = scene.room(NewRoom { encrypted, ..NewRoom::default() }).await;
        let hears = async |room: &str, say: Say, name: &str| {
            let mark = scene.alice.mark();
            scene.alice.say(room, say).await.unwrap();
            let what = format!("a file called {name}");
            let is_it = |message: &crate::person::Message| {
                message.sender == scene.agent.user && message.content["filename"] == name
            };
            let find = |log: &crate::person::Log| log.messages_since(mark, room).into_iter().find(is_it);
            scene.alice.wait(&what, find).await.unwrap()
        };
        let secret = format!("thesecretofamadefile{encrypted}");
        let name = format!("aname{encrypted}.csv");
        let made = hears(&room, Say::text(format!("!call {name} text/csv {secret}")), &name).await;
        assert_eq!((made.sealed(), made.msgtype(), made.body()), (encrypted, "m.file", name.as_str()));
        assert_eq!(made.content["info"], json!({ "mimetype": "text/csv", "size": secret.len() }));
        assert_eq!(made.content.get("file").is_some(), encrypted);
        assert_eq!(made.content.get("url").is_some(), !encrypted);
        assert_eq!(scene.alice.download(&made.content).await.unwrap(), secret.as_bytes());

        // One of a MiB and a bit, and one that came: it goes on with a key of its own.
        let large = hears(&room, Say::text("!large 1048579"), "large").await;
        assert_eq!(scene.alice.download(&large.content).await.unwrap(), vec![7; 1_048_579]);
        let came = format!("thesecretofafilethatcame{encrypted}");
        let uploaded = scene.alice.upload(&came, "text/plain", encrypted).await.unwrap();
        let say = file("!send here *look*", &uploaded, came.len());
        let passed = hears(&room, say, "note.txt").await;
        assert_eq!((passed.body(), passed.sealed()), ("*look*", encrypted));
        assert_eq!(passed.formatted_body(), Some("<p><em>look</em></p>"));
        assert_eq!(scene.alice.download(&passed.content).await.unwrap(), came.as_bytes());
        if encrypted {
            assert_ne!(passed.content["file"]["key"]["k"], uploaded["file"]["key"]["k"]);
            for secret in [&secret, &came, &name] {
                assert_eq!(synapse.places_of(secret).unwrap(), Vec::<String>::new());
            }
            // By consent it leaves, and is in clear where the room is.
            let mark = scene.alice.mark();
            scene
                .alice
                .say(&room, file(&format!("!send {clear} *look*"), &uploaded, came.len()))
                .await
                .unwrap();
            let left = scene.alice.hear_since(mark, &clear, &scene.agent.user, "*look*").await.unwrap();
            assert_eq!(scene.alice.download(&left.content).await.unwrap(), came.as_bytes());
            assert!(!left.encrypted() && left.content.get("url").is_some());
        }
    }
}
