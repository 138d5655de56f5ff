//! A host over rooms in memory, and what a person in them says and sees.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use parlour::{
    Agent, HostBuilder,
    chat::memory::{Line, Rooms},
    engine::limits::Limits,
    id::{EventId, RoomId},
    notice::{Notice, Notices},
    settings::{Access, Behaviour, Grants, Plugin},
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

pub const AGENT: &str = "@agent:memory";
pub const ALICE: &str = "@alice:memory";
pub const BOB: &str = "@bob:memory";
pub const MALLORY: &str = "@mallory:memory";

/// Longer than anything takes here, shorter than a person waits for a failed test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A host that serves. Alice is an admin, Bob is listed, Mallory is not.
pub struct Stage {
    pub rooms: Rooms,
    /// Alice's direct chat with the agent.
    pub room: RoomId,
    notices: Arc<Mutex<Vec<Notice>>>,
    noticed: watch::Receiver<()>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<(), parlour::NoAgentLeft>>,
}

pub fn access() -> Access {
    Access {
        users: [BOB.parse().unwrap()].into(),
        admins: [ALICE.parse().unwrap()].into(),
        ..Access::default()
    }
}

pub fn granted(grants: Grants) -> Plugin {
    Plugin { grants, ..Plugin::default() }
}

impl Stage {
    /// A host with one agent whose plugins are these guests.
    pub async fn with(guests: &[(&str, Arc<[u8]>)]) -> Self {
        Self::start(guests, |builder| builder).await
    }

    /// A host with one agent and whatever else is said of it.
    pub async fn start(guests: &[(&str, Arc<[u8]>)], also: impl FnOnce(HostBuilder) -> HostBuilder) -> Self {
        let rooms = Rooms::new();
        let room = rooms.create_direct(ALICE, AGENT);
        let agent = Agent::new("agent".parse().unwrap(), rooms.account(AGENT)).access(access());
        Self::start_with(rooms, room, agent, guests, also).await
    }

    /// A host that mentions are not asked of.
    pub fn free() -> Behaviour {
        Behaviour { require_mention: false, ..Behaviour::default() }
    }

    pub async fn start_with(
        rooms: Rooms,
        room: RoomId,
        agent: Agent,
        guests: &[(&str, Arc<[u8]>)],
        also: impl FnOnce(HostBuilder) -> HostBuilder,
    ) -> Self {
        let notices: Arc<Mutex<Vec<Notice>>> = Arc::default();
        let (tell, noticed) = watch::channel(());
        let heard = notices.clone();
        let mut builder = crate::guests::host()
            .agent(agent)
            .cache(crate::guests::cache())
            // Debug builds are slow, and the machine is shared.
            .limits(Limits { cpu: Duration::from_secs(1), ..Limits::default() })
            .notices(Notices::new(move |notice| {
                heard.lock().unwrap().push(notice);
                tell.send_replace(());
            }));
        for (name, component) in guests {
            builder = builder.plugin(name.parse().unwrap(), component.clone());
        }
        let host = also(builder).build().await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(host.run(async move { drop(stopped.await) }));
        Self { rooms, room, notices, noticed, stop: Some(stop), serving }
    }

    /// Alice writes in her direct chat, and this is the next thing that the agent writes there.
    pub async fn ask(&self, text: &str) -> String {
        self.ask_as(ALICE, &self.room, text).await
    }

    /// Somebody writes somewhere, and this is the next thing that the agent writes there.
    pub async fn ask_as(&self, user: &str, room: &RoomId, text: &str) -> String {
        let asked = self.rooms.say(user, room, text);
        self.answer_to(room, &asked).await.text
    }

    /// The first thing that the agent writes after this event.
    pub async fn answer_to(&self, room: &RoomId, asked: &EventId) -> Line {
        let find = |lines: &[Line]| {
            let mut after = lines.iter().skip_while(|line| line.id != *asked).skip(1);
            after.find(|line| line.sender.as_str() == AGENT).cloned()
        };
        match self.rooms.until(room, PATIENCE, |lines| find(lines).is_some()).await {
            Ok(lines) => find(&lines).unwrap(),
            Err(lines) => panic!("no answer to {asked} in {lines:#?}\n{:#?}", self.notices()),
        }
    }

    /// Waits until the transcript is as it should be.
    pub async fn until(&self, room: &RoomId, condition: impl Fn(&[Line]) -> bool) -> Vec<Line> {
        match self.rooms.until(room, PATIENCE, condition).await {
            Ok(lines) => lines,
            Err(lines) => panic!("it did not come to be: {lines:#?}\n{:#?}", self.notices()),
        }
    }

    /// Waits until people see that the agent is at work: a handler runs.
    pub async fn until_it_types(&self, room: &RoomId) {
        let wait = async {
            while self.rooms.typing(room).is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the agent types");
    }

    /// Waits until an event has its place: what comes now comes after it.
    pub async fn until_read(&self, room: &RoomId, event: &EventId) {
        let wait = async {
            while !self.rooms.reads(room).iter().any(|(_, read)| read == event) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it is read");
    }

    /// What is said in a room: `alice: hello`.
    pub fn transcript(&self, room: &RoomId) -> String {
        let lines = self.rooms.transcript(room);
        lines.iter().map(|line| format!("{}: {}\n", line.sender.localpart(), line.text)).collect()
    }

    /// What the host has said to its operator so far.
    pub fn notices(&self) -> Vec<Notice> {
        self.notices.lock().unwrap().clone()
    }

    /// Waits for a line of the host's.
    pub async fn noticed(&self, what: &str) -> Notice {
        let mut noticed = self.noticed.clone();
        let wait = async {
            loop {
                if let Some(notice) =
                    self.notices().into_iter().find(|notice| notice.to_string().contains(what))
                {
                    return notice;
                }
                noticed.changed().await.unwrap();
            }
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.unwrap_or_else(|_| panic!("nobody said {what:?}: {:#?}", self.notices()))
    }

    /// Ends the host in the middle of whatever it does, and drops what it had in mind.
    pub async fn kill(mut self) -> Rooms {
        self.serving.abort();
        drop((&mut self.serving).await);
        self.rooms
    }

    /// Ends the host as an operator does.
    pub async fn stop(mut self) -> Rooms {
        drop(self.stop.take());
        self.serving.await.unwrap().unwrap();
        self.rooms
    }
}
