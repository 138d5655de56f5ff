//! A host in this process with an agent on Matrix: what outlives it is in a folder, so that it can be started again.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use parlour::{
    Agent,
    chat::matrix::{Account, Matrix, Secret},
    engine::limits::Limits,
    journal::sqlite::Sqlite,
    notice::{Notice, Notices},
    settings::{Access, Behaviour, Encryption},
};
use serde_json::{Value, json};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{
    stage::PATIENCE,
    synapse::{Api, NewRoom, Synapse, unique},
};

pub const PASSWORD: &str = "a password of an agent";

/// An agent's account and what is kept of it, and Alice, who is listed, and whose client does not encrypt.
pub struct Inside {
    pub folder: tempfile::TempDir,
    pub agent: String,
    pub alice: crate::synapse::api::Login,
    /// As the agent is to reach it: the server, or what stands before it.
    pub homeserver: String,
    pub behaviour: Behaviour,
    pub plugins: Vec<(&'static str, Arc<[u8]>)>,
    pub api: Api,
}

impl Inside {
    pub async fn new(synapse: &Synapse) -> Self {
        let agent = synapse.register(&unique("agent"), PASSWORD).await.unwrap();
        Self {
            folder: crate::synapse::temporary("parlour-inside-").unwrap(),
            agent,
            alice: synapse.account("alice").await.unwrap(),
            homeserver: synapse.base_url().to_owned(),
            behaviour: Behaviour::default(),
            plugins: vec![("echo", crate::guests::example("echo"))],
            api: synapse.api().clone(),
        }
    }

    /// The agent's account, as the settings say it.
    pub fn account(&self) -> Account {
        Account {
            agent: "agent".parse().unwrap(),
            homeserver: self.homeserver.clone(),
            user: Some(self.agent.parse().unwrap()),
            secret: Secret::Password(PASSWORD.into()),
            device_id: None,
            device_name: "Parlour".into(),
            encryption: Encryption::AsRoom,
            recovery_key: None,
            store: self.folder.path().join("agent"),
        }
    }

    pub fn access(&self) -> Access {
        Access { admins: [self.alice.user.parse().unwrap()].into(), ..Access::default() }
    }

    /// Starts a host, and waits until it serves.
    pub async fn start(&self) -> Serving {
        self.start_with(|agent| agent).await
    }

    pub async fn start_with(&self, also: impl FnOnce(Agent) -> Agent) -> Serving {
        let (serving, heard) = Serving::heard();
        let agent = Agent::new("agent".parse().unwrap(), Matrix::new(self.account(), heard.clone()));
        let agent = also(agent.access(self.access()).behaviour(self.behaviour.clone()));
        serving.run(self, vec![agent], heard).await
    }

    /// The journal's file.
    pub fn journal(&self) -> std::path::PathBuf {
        self.folder.path().join("journal.db")
    }

    /// A room of Alice's that the agent has joined.
    pub async fn room(&self, room: NewRoom) -> String {
        let room = NewRoom { invite: vec![self.agent.clone()], ..room };
        let room = self.api.create_room(&self.alice.token, &room).await.unwrap();
        eventually(async || {
            let members = self.api.members(&self.alice.token, &room).await.unwrap();
            (members.get(&self.agent).map(String::as_str) == Some("join")).then_some(())
        })
        .await;
        room
    }

    /// Alice writes.
    pub async fn say(&self, room: &str, text: &str) -> String {
        let content = json!({ "msgtype": "m.text", "body": text });
        self.api.send_event(&self.alice.token, room, "m.room.message", content).await.unwrap()
    }

    /// What somebody has said in a room, in order.
    pub async fn said_by(&self, room: &str, user: &str) -> Vec<String> {
        let events = self.api.messages(&self.alice.token, room).await.unwrap();
        let by = events.iter().filter(|event| event["sender"] == user && event["type"] == "m.room.message");
        by.filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
    }

    /// Waits until the agent has said so many things.
    pub async fn answers(&self, room: &str, count: usize) -> Vec<String> {
        eventually(async || {
            let said = self.said_by(room, &self.agent).await;
            (said.len() >= count).then_some(said)
        })
        .await
    }

    /// Alice asks for an echo of something new, and what the agent has said up to then is all that it will say.
    pub async fn to_the_end(&self, room: &str) -> Vec<String> {
        self.say(room, "/echo the end").await;
        eventually(async || {
            let said = self.said_by(room, &self.agent).await;
            (said.last().map(String::as_str) == Some("the end")).then_some(said)
        })
        .await
    }
}

/// Waits until there is something.
pub async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(2 * PATIENCE, wait).await.expect("it comes to be")
}

/// A host that serves.
pub struct Serving {
    notices: Arc<Mutex<Vec<Notice>>>,
    noticed: watch::Receiver<()>,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<Result<(), parlour::NoAgentLeft>>>,
}

impl Serving {
    /// One that is not started yet, and what hears for it.
    pub fn heard() -> (Self, Notices) {
        let notices: Arc<Mutex<Vec<Notice>>> = Arc::default();
        let (tell, noticed) = watch::channel(());
        let hears = notices.clone();
        let heard = Notices::new(move |notice| {
            hears.lock().unwrap().push(notice);
            tell.send_replace(());
        });
        (Self { notices, noticed, stop: None, serving: None }, heard)
    }

    pub async fn run(mut self, of: &Inside, agents: Vec<Agent>, heard: Notices) -> Self {
        let count = agents.len();
        let mut builder = crate::guests::host()
            .cache(crate::guests::cache())
            .limits(Limits { cpu: Duration::from_secs(1), ..Limits::default() })
            .journal(Sqlite::open(of.journal()).unwrap())
            .notices(heard);
        for agent in agents {
            builder = builder.agent(agent);
        }
        for (name, component) in &of.plugins {
            builder = builder.plugin(name.parse().unwrap(), component.clone());
        }
        let host = builder.build().await.unwrap();
        let (stop, stopped) = oneshot::channel();
        self.serving = Some(tokio::spawn(host.run(async move { drop(stopped.await) })));
        self.stop = Some(stop);
        self.noticed_times("serves as", count).await;
        self
    }

    pub fn notices(&self) -> Vec<String> {
        self.notices.lock().unwrap().iter().map(ToString::to_string).collect()
    }

    pub fn count(&self, what: &str) -> usize {
        self.notices().iter().filter(|notice| notice.contains(what)).count()
    }

    /// Waits for a line of the host's.
    pub async fn noticed(&self, what: &str) -> String {
        self.noticed_times(what, 1).await;
        self.notices().into_iter().find(|notice| notice.contains(what)).unwrap()
    }

    pub async fn noticed_times(&self, what: &str, count: usize) {
        let mut noticed = self.noticed.clone();
        let wait = async {
            while self.count(what) < count {
                noticed.changed().await.unwrap();
            }
        };
        let found = tokio::time::timeout(2 * PATIENCE, wait).await;
        found.unwrap_or_else(|_| panic!("nobody said {what:?}: {:#?}", self.notices()));
    }

    /// Ends the host as an operator does.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        self.serving.take().unwrap().await.unwrap().unwrap();
    }

    /// Ends it in the middle of whatever it does; what it has not written is lost.
    pub async fn kill(mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        drop(serving.await);
    }

    /// How it ended by itself.
    pub async fn ended(mut self) -> bool {
        let serving = self.serving.take().unwrap();
        tokio::time::timeout(2 * PATIENCE, serving).await.expect("it ends").unwrap().is_ok()
    }

    pub fn is_running(&self) -> bool {
        self.serving.as_ref().is_some_and(|serving| !serving.is_finished())
    }
}

/// One number in an event of the server's.
pub fn sent_at(event: &Value) -> u64 {
    event["origin_server_ts"].as_u64().unwrap()
}
