//! An agent whose databases cannot be written for a while: nothing that came meanwhile is lost, neither by a host that lives
//! on nor by one that is killed there.

use parlour::settings::Access;
use rusqlite::Connection;

use crate::{
    inside::{Inside, Serving},
    person::Person,
    synapse::{NewRoom, Synapse},
};

struct Scene {
    inside: Inside,
    bob: Person,
    room: String,
}

impl Scene {
    /// An encrypted room with somebody whose device the agent has never heard of.
    async fn new() -> (Self, Serving) {
        let synapse = Synapse::shared().await.unwrap();
        let inside = Inside::new(synapse).await;
        let bob = Person::new(synapse, "bob").await.unwrap();
        let mut scene = Self { inside, bob, room: String::new() };
        let host = scene.start().await;
        let invite = vec![scene.inside.agent.clone()];
        let room = NewRoom { encrypted: true, direct: true, invite, ..NewRoom::default() };
        scene.room = scene.bob.create_room(&room).await.unwrap();
        scene.bob.wait_member(&scene.room, &scene.inside.agent, "join").await.unwrap();
        (scene, host)
    }

    async fn start(&self) -> Serving {
        let access = Access { users: [self.bob.user.parse().unwrap()].into(), ..Access::default() };
        self.inside.start_with(|agent| agent.access(access)).await
    }

    fn keys(&self) -> Connection {
        let file = self.inside.folder.path().join("agent/matrix-sdk-crypto.sqlite3");
        let keys = Connection::open(file).unwrap();
        keys.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        keys
    }

    /// No room's key can be written, and all else can.
    fn refuse_room_keys(&self) {
        let refuse = "CREATE TRIGGER refused BEFORE INSERT ON inbound_group_session
             BEGIN SELECT RAISE(ABORT, ''); END";
        self.keys().execute_batch(refuse).unwrap();
    }

    fn take_room_keys(&self) {
        self.keys().execute_batch("DROP TRIGGER refused").unwrap();
    }

    /// Somebody speaks who has never spoken to the agent, so that the first message begins a session and has the room's
    /// key, which cannot be written.
    async fn speak(&self, host: &Serving) {
        self.refuse_room_keys();
        self.bob.say(&self.room, "/echo hello").await.unwrap();
        host.noticed("a trigger fired").await;
    }

    async fn is_answered(&self) {
        self.bob.hear(&self.room, &self.inside.agent, "hello").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_dies_before_it_has_a_rooms_key_gets_it_again() {
    let (scene, host) = Scene::new().await;
    scene.speak(&host).await;
    host.kill().await;
    scene.take_room_keys();
    let host = scene.start().await;
    scene.is_answered().await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_could_not_write_a_rooms_key_gets_it_again() {
    let (scene, host) = Scene::new().await;
    scene.speak(&host).await;
    scene.take_room_keys();
    scene.is_answered().await;
    host.stop().await;
}
