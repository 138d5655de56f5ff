//! People to whom an agent writes first: whatever happens meanwhile, there is one direct chat with each.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use parlour::{
    Agent,
    chat::{
        Chat as _, SendError,
        matrix::{Account, Matrix},
    },
    notice::Notices,
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

/// How this host says in the creation of a room whose direct chat it is.
const MARK: &str = "chat.parlour.direct";

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

    fn account(&self) -> Account {
        Account { encryption: Encryption::Off, ..self.inside.account() }
    }

    async fn start(&self) -> Serving {
        let (serving, heard) = Serving::heard();
        let people = Grants { people: ["*:hs.test".into()].into(), ..Grants::default() };
        let agent = Agent::new("agent".parse().unwrap(), Matrix::new(self.account(), heard.clone()))
            .access(self.inside.access())
            .grants([("deeds".parse().unwrap(), people)].into());
        serving.run(&self.inside, vec![agent], heard).await
    }

    /// A host, and its direct chat with Alice.
    async fn serving(&self) -> (Serving, String) {
        let host = self.start().await;
        let alices = self.inside.room(NewRoom { direct: true, ..NewRoom::default() }).await;
        (host, alices)
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
        assert_eq!(self.marked(&self.bob.user).await, json!([room]));
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

    /// What `m.direct` says of somebody.
    async fn marked(&self, user: &str) -> Value {
        let path = ["v3", "user", &self.inside.agent, "account_data", "m.direct"];
        let said = self.inside.api.get(&self.own.token, &path).await;
        said.map_or(Value::Null, |said| said[user].clone())
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
    let (host, alices) = errand.serving().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_makes_no_other_room() {
    let errand = Errand::new().await;
    errand.proxy.rule(|request| if request.contains("createRoom") { Fault::Lost } else { Fault::None });
    let (host, alices) = errand.serving().await;
    errand.send(&alices, "first").await;
    errand.writes(&alices, &["first"]).await;
    errand.send(&alices, "second").await;
    errand.writes(&alices, &["first", "second"]).await;
    assert_eq!(errand.proxy.count("createRoom"), 1);
    host.stop().await;
}

/// The server has the room, and no sync has brought it: it is neither made anew nor written to before one does.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_is_not_seen_yet_is_waited_for() {
    let errand = Errand::new().await;
    errand.proxy.rule(|request| if request.contains("createRoom") { Fault::Lost } else { Fault::None });
    let chat = Matrix::new(errand.account(), Notices::default());
    chat.start(None).await.unwrap();
    let bob = errand.bob.user.parse().unwrap();
    while errand.proxy.count("joined_rooms") < 2 {
        assert!(matches!(chat.direct(&bob).await, Err(SendError::Later { .. })));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(errand.proxy.count("createRoom"), 1);
    let found = async || {
        chat.next().await.unwrap();
        chat.direct(&bob).await.ok()
    };
    let room = eventually(found).await;
    assert_eq!(errand.rooms("").await, [room.to_string()].into());
    assert_eq!(errand.proxy.count("createRoom"), 1);
}

/// The room is there, and the host that asked for it is not, before it has heard so or has said whose room it is.
async fn who_is_killed_makes_no_other_room(after: &'static str) {
    let errand = Errand::new().await;
    let (host, alices) = errand.serving().await;
    // Of that room the agent says so, too.
    let alice = &errand.inside.alice.user;
    eventually(async || (errand.marked(alice).await == json!([alices])).then_some(())).await;
    let cut = AtomicBool::new(false);
    errand.proxy.rule(move |request| {
        if cut.load(SeqCst) {
            return Fault::Reset;
        }
        cut.store(request.contains(after), SeqCst);
        match request {
            _ if !request.contains(after) => Fault::None,
            _ if request.contains("createRoom") => Fault::Lost,
            _ => Fault::Reset,
        }
    });
    errand.send(&alices, "first").await;
    eventually(async || {
        (errand.rooms(&alices).await.len() == 1 && errand.proxy.count(after) > 0).then_some(())
    })
    .await;
    host.kill().await;
    errand.proxy.always(Fault::None);
    let host = errand.start().await;
    errand.writes(&alices, &["first"]).await;
    errand.send(&alices, "second").await;
    errand.writes(&alices, &["first", "second"]).await;
    assert_eq!(errand.proxy.count("createRoom"), 1);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_killed_before_the_room_is_known_makes_no_other() {
    who_is_killed_makes_no_other_room("createRoom").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_killed_before_the_room_is_marked_makes_no_other() {
    who_is_killed_makes_no_other_room("m.direct").await;
}

/// What the server has not done is asked for again, whatever it says.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_was_not_made_is_made_later() {
    let errand = Errand::new().await;
    let odd = [
        (429, r#"{"errcode":"M_LIMIT_EXCEEDED","error":"slowly","retry_after_ms":100}"#),
        (502, "<html>bad gateway</html>"),
    ];
    let left = std::sync::Mutex::new(odd.into_iter());
    errand.proxy.rule(move |request| {
        let odd = request.contains("createRoom").then(|| left.lock().unwrap().next()).flatten();
        odd.map_or(Fault::None, |(status, body)| Fault::Answer(status, body.into()))
    });
    let (host, alices) = errand.serving().await;
    errand.send(&alices, "first").await;
    errand.writes(&alices, &["first"]).await;
    assert_eq!(errand.proxy.count("createRoom"), 3);
    host.stop().await;
}

/// A server that makes a room and then fails to invite leaves a room without the person.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_to_which_nobody_was_invited_is_used() {
    let errand = Errand::new().await;
    let (host, alices) = errand.serving().await;
    let half = json!({ "preset": "trusted_private_chat", "creation_content": { MARK: errand.bob.user } });
    errand.inside.api.post(&errand.own.token, &["v3", "createRoom"], half).await.unwrap();
    errand.send(&alices, "first").await;
    errand.writes(&alices, &["first"]).await;
    assert_eq!(errand.proxy.count("createRoom"), 0);
    host.stop().await;
}

/// Whoever makes a room says what it is for, and nobody says so for somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_somebody_else_has_made_is_not_taken_for_ones_own() {
    let errand = Errand::new().await;
    let (host, alices) = errand.serving().await;
    let invite = [&errand.inside.agent, &errand.bob.user];
    // Of a kind, too, that no client can read.
    let forged = json!({ "invite": invite, "creation_content": { MARK: errand.bob.user, "type": 5 } });
    let forged =
        errand.inside.api.post(&errand.inside.alice.token, &["v3", "createRoom"], forged).await.unwrap();
    let forged = forged["room_id"].as_str().unwrap().to_owned();
    eventually(async || errand.rooms(&alices).await.contains(&forged).then_some(())).await;
    errand.send(&alices, "secret").await;
    let written = eventually(async || {
        let mut rooms = errand.rooms(&alices).await;
        rooms.remove(&forged);
        rooms.pop_first()
    })
    .await;
    eventually(async || (errand.said(&written).await == ["secret"]).then_some(())).await;
    assert_eq!(errand.said(&forged).await, Vec::<String>::new());
    host.stop().await;
}

/// What a handler says in a direct chat, and to the person whose chat it is, has one order.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_and_the_person_in_it_have_one_order() {
    let errand = Errand::new().await;
    let (host, alices) = errand.serving().await;
    errand.inside.say(&alices, &format!("/turns {}", errand.inside.alice.user)).await;
    assert_eq!(errand.inside.answers(&alices, 6).await, ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(errand.rooms(&alices).await, BTreeSet::new());
    host.stop().await;
}
