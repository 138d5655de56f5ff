//! People to whom an agent writes first: whatever happens meanwhile, there is one direct chat with each.

use std::{collections::BTreeSet, time::Duration};

use parlour::{
    Agent,
    chat::matrix::{Account, Matrix},
    settings::{Encryption, Grants},
};
use serde_json::{Value, json};

use super::{Scene, settings};
use crate::{
    guests::guest,
    inside::{Inside, PASSWORD, Serving, eventually},
    person::Seen,
    proxy::{Fault, Proxy},
    synapse::{NewRoom, Synapse, api::Login},
};

/// An agent in clear behind a proxy, which writes to Bob when Alice tells it to.
struct Errand {
    proxy: Proxy,
    inside: Inside,
    bob: Login,
    /// Another session of the agent's account, which looks and makes what is to be found.
    own: Login,
}

impl Errand {
    async fn new() -> Self {
        let synapse = Synapse::shared().await.unwrap();
        let proxy = Proxy::before(synapse.base_url()).await;
        let inside = Inside { homeserver: proxy.url(), ..Inside::new(synapse).await };
        let plugins = vec![("deeds", guest("deeds")), ("echo", crate::guests::example("echo"))];
        let own = synapse.login(&inside.agent, PASSWORD).await.unwrap();
        let bob = synapse.account("bob").await.unwrap();
        Self { proxy, inside: Inside { plugins, ..inside }, bob, own }
    }

    async fn start(&self) -> Serving {
        let (serving, heard) = Serving::heard();
        let account = Account { encryption: Encryption::Off, ..self.inside.account() };
        let people = Grants { people: ["*:hs.test".into()].into(), ..Grants::default() };
        let agent = Agent::new("agent".parse().unwrap(), Matrix::new(account, heard.clone()))
            .access(self.inside.access())
            .grants([("deeds".parse().unwrap(), people)].into());
        serving.run(&self.inside, vec![agent], heard).await
    }

    /// Alice has the agent write to Bob.
    async fn send(&self, room: &str, text: &str) {
        self.inside.say(room, &format!("/direct {} {text}", self.bob.user)).await;
    }

    /// The rooms that the agent is in, but for this one.
    async fn rooms(&self, but: &str) -> BTreeSet<String> {
        let joined = self.inside.api.get(&self.own.token, &["v3", "joined_rooms"]).await.unwrap();
        let rooms = joined["joined_rooms"].as_array().unwrap().iter();
        rooms.map(|room| room.as_str().unwrap().to_owned()).filter(|room| room != but).collect()
    }

    /// What the agent has said in a room.
    async fn said(&self, room: &str) -> Vec<String> {
        let events = self.inside.api.messages(&self.own.token, room).await.unwrap();
        let by = |event: &&Value| event["sender"] == *self.inside.agent && event["type"] == "m.room.message";
        events.iter().filter(by).map(|event| event["content"]["body"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until the agent has written so much to Bob: into one room, which it has made, and of which `m.direct` knows.
    async fn writes(&self, alices: &str, expected: &[&str]) -> String {
        let room = eventually(async || {
            for room in self.rooms(alices).await {
                if self.said(&room).await.len() >= expected.len() {
                    return Some(room);
                }
            }
            None
        })
        .await;
        assert_eq!(self.said(&room).await, expected);
        assert_eq!(self.rooms(alices).await, [room.clone()].into());
        let members = self.inside.api.members(&self.own.token, &room).await.unwrap();
        assert!(["invite", "join"].contains(&&*members[&self.bob.user]), "{members:?}");
        assert_eq!(self.invitations().await, 1);
        assert_eq!(self.marked().await, json!([room]));
        room
    }

    /// To how many rooms Bob has been invited, or has joined.
    async fn invitations(&self) -> usize {
        let seen = self.inside.api.sync(&self.bob.token, None, Duration::ZERO).await.unwrap();
        ["invite", "join"]
            .map(|kind| seen["rooms"][kind].as_object().map_or(0, |rooms| rooms.len()))
            .iter()
            .sum()
    }

    /// What `m.direct` says of Bob.
    async fn marked(&self) -> Value {
        let path = ["v3", "user", &self.inside.agent, "account_data", "m.direct"];
        let said = self.inside.api.get(&self.own.token, &path).await;
        said.map_or(Value::Null, |said| said[&self.bob.user].clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_written_to_in_one_room() {
    let scene = Scene::new().await;
    let people = "[plugins.deeds.grants]\npeople = [\"*:hs.test\"]\n";
    let settings =
        settings(scene.synapse, &[scene.agent.settings("[\"*\"]")], &[&scene.bob.user], &[&scene.alice.user])
            .replace("[plugins.deeds.grants]\n", people);
    scene.home.settings(&settings);
    scene.home.plugin("deeds", &guest("deeds"));
    let host = scene.run().await;
    let room = scene.room(NewRoom::default()).await;
    scene.alice.say(&room, &*format!("!direct {} first", scene.bob.user)).await.unwrap();
    let invited = |seen: &Seen| match seen {
        Seen::Invite { room, sender } if *sender == scene.agent.user => Some(room.clone()),
        _ => None,
    };
    let direct = scene.bob.wait("an invitation", |log| log.seen.iter().find_map(invited)).await.unwrap();
    scene.bob.join(&direct).await.unwrap();
    for text in ["second", "third"] {
        scene.alice.say(&room, &*format!("!direct {} {text}", scene.bob.user)).await.unwrap();
        assert!(scene.bob.hear(&direct, &scene.agent.user, text).await.unwrap().sealed());
    }
    // What was said before he joined is there, too.
    let events = scene.synapse.messages(&scene.bob.token, &direct).await.unwrap();
    let said = events.iter().filter(|event| event["type"] == "m.room.encrypted");
    assert_eq!(said.count(), 3);
    assert_eq!(scene.bob.log().seen.iter().filter_map(invited).collect::<BTreeSet<_>>(), [direct].into());
    assert_eq!(host.stop().await, 0);
}

/// A server that does not say who is in a room is asked again, and nobody is invited anew.
async fn a_look_that_fails_makes_no_other_room(fault: Fault) {
    let errand = Errand::new().await;
    let host = errand.start().await;
    let alices = errand.inside.room(NewRoom { direct: true, ..NewRoom::default() }).await;
    errand.proxy.rule(move |request| if request.contains("/members") { fault.clone() } else { Fault::None });
    errand.send(&alices, "first").await;
    let failed = async || {
        let looked = errand.proxy.count("/members") > 12 || errand.rooms(&alices).await.len() > 1;
        looked.then_some(())
    };
    eventually(failed).await;
    errand.proxy.always(Fault::None);
    errand.writes(&alices, &["first"]).await;
    errand.send(&alices, "second").await;
    errand.writes(&alices, &["first", "second"]).await;
    assert_eq!(errand.proxy.count("createRoom"), 1);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_out_of_order_makes_no_other_room() {
    let broken = r#"{"errcode":"M_UNKNOWN","error":"oh"}"#;
    a_look_that_fails_makes_no_other_room(Fault::Answer(500, broken.into())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_asked_too_often_makes_no_other_room() {
    let limited = r#"{"errcode":"M_LIMIT_EXCEEDED","error":"slowly","retry_after_ms":100}"#;
    a_look_that_fails_makes_no_other_room(Fault::Answer(429, limited.into())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_makes_no_other_room() {
    a_look_that_fails_makes_no_other_room(Fault::Reset).await;
}
