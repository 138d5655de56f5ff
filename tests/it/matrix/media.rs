//! Files that people send.

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
