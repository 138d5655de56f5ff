//! One agent at work: what its chat hands over is stored, judged, put into lanes and handled.

pub(crate) mod began;
mod deliver;
mod delivery;
mod files;
mod handle;
mod health;
mod home;
mod intake;
mod invitation;
mod learnt;
pub(crate) mod ledger;
mod locked;
mod past;
mod rehearsal;
mod serving;
mod standing;
mod tidy;
mod timers;
mod toolbox;
mod typing;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicI64},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

pub use self::locked::KeyPatience;
use self::{home::Home, locked::Locked, serving::Servings, toolbox::Toolbox, typing::Typing};
use crate::{
    addressing,
    capability::llm,
    chat::{Chat, Ended, Identity},
    clock::Clock,
    engine::Engine,
    event::{Event, Kind},
    gate::Policy,
    id::{AgentName, DeliveryId, PluginName, RoomId, UserId},
    journal::{self, Journal},
    lane::Lanes,
    notice::{Notice, Notices},
    outbox::Outbox,
    registry::Registry,
    settings::{Access, Behaviour, Grants},
    standing::Standing,
    tally::Tally,
};

/// After a failure of the journal.
const AGAIN: Duration = Duration::from_secs(2);
/// How many waiting events are read at once at a start.
const PENDING: u32 = 100;

/// An agent as it is set up: a name, a chat, and who may talk.
pub struct Agent {
    pub(crate) name: AgentName,
    pub(crate) chat: Arc<dyn Chat>,
    pub(crate) plugins: Vec<String>,
    pub(crate) access: Access,
    pub(crate) behaviour: Behaviour,
    pub(crate) own_account: bool,
    pub(crate) grants: BTreeMap<PluginName, Grants>,
    pub(crate) key_patience: KeyPatience,
}

impl Agent {
    /// An agent that talks on `chat`. Nobody may talk to it, and every plugin serves it.
    pub fn new(name: AgentName, chat: impl Chat) -> Self {
        Self {
            name,
            chat: Arc::new(chat),
            plugins: vec!["*".into()],
            access: Access::default(),
            behaviour: Behaviour::default(),
            own_account: false,
            grants: BTreeMap::new(),
            key_patience: KeyPatience::default(),
        }
    }

    /// Which plugins serve it, in the order in which they are asked; `"*"` stands for every other one.
    #[must_use]
    pub fn plugins(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.plugins = names.into_iter().map(Into::into).collect();
        self
    }

    /// Who may talk.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// How it behaves in rooms.
    #[must_use]
    pub fn behaviour(mut self, behaviour: Behaviour) -> Self {
        self.behaviour = behaviour;
        self
    }

    /// What single plugins may do for it, in place of what they may do elsewhere.
    #[must_use]
    pub fn grants(mut self, grants: BTreeMap<PluginName, Grants>) -> Self {
        self.grants = grants;
        self
    }

    /// How long it waits for the keys to what it cannot read.
    #[must_use]
    pub fn key_patience(mut self, patience: KeyPatience) -> Self {
        self.key_patience = patience;
        self
    }

    /// The account is a person's own: what they write themselves is heard.
    #[must_use]
    pub fn own_account(mut self, own: bool) -> Self {
        self.own_account = own;
        self
    }
}

/// What all agents of a host share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub engine: Arc<Engine>,
    pub registry: Arc<Registry>,
    pub journal: Arc<dyn Journal>,
    pub llm: Option<Arc<dyn llm::Backend>>,
    pub clock: Clock,
    pub notices: Notices,
    /// What the audit record is written from.
    pub tally: Arc<Tally>,
    /// How things stand, for whoever asks, and for homes.
    pub standing: Arc<Standing>,
    /// The accounts of all agents that serve.
    pub accounts: Arc<Mutex<BTreeSet<UserId>>>,
    /// What has ended is kept for a while.
    pub keeps: bool,
}

/// An agent at work.
pub(crate) struct Running {
    agent: Agent,
    shared: Shared,
    identity: OnceLock<Identity>,
    servings: Arc<Servings>,
    toolbox: Arc<Toolbox>,
    lanes: Lanes,
    locked: Mutex<Locked>,
    /// Something came that cannot be read.
    locks: Notify,
    outbox: Arc<Outbox>,
    typing: Arc<Typing>,
    /// Told when a timer was set.
    timers_set: Notify,
    /// Held from when an event gets its number until it is in its lane: lanes get events in that order.
    entering: tokio::sync::Mutex<()>,
    /// The agent's home, once it was looked up: nobody but the agent changes it.
    home: tokio::sync::Mutex<Home>,
    /// Rooms that were never encrypted, as far as the journal remembers.
    clear: Mutex<HashSet<RoomId>>,
    /// Why deliveries that have not ended began anew.
    noted: Mutex<HashMap<DeliveryId, String>>,
    /// What was received up to here came before this start: a handler may have begun with it.
    before: AtomicI64,
    tasks: TaskTracker,
    /// No new handler starts.
    draining: CancellationToken,
    /// Running handlers end, and nothing is sent any more.
    closing: CancellationToken,
}

/// How an agent ended.
pub(crate) enum Finished {
    /// It was asked to, or its chat is over.
    Closed,
    /// It cannot serve, or no longer: the reason was reported.
    Lost,
}

impl Running {
    pub fn new(agent: Agent, shared: Shared, closing: &CancellationToken) -> Arc<Self> {
        let closing = closing.child_token();
        let (name, chat) = (agent.name.clone(), agent.chat.clone());
        let outbox = Outbox::new(
            name.clone(),
            chat.clone(),
            shared.journal.clone(),
            shared.notices.clone(),
            closing.clone(),
        );
        let servings = Arc::new(Servings::new(&agent, &shared));
        let toolbox = Toolbox::new(servings.clone(), agent.grants.clone(), &shared);
        Arc::new(Self {
            agent,
            shared,
            identity: OnceLock::new(),
            servings,
            toolbox: Arc::new(toolbox),
            lanes: Lanes::default(),
            locked: Mutex::default(),
            locks: Notify::new(),
            outbox: Arc::new(outbox),
            home: tokio::sync::Mutex::default(),
            clear: Mutex::default(),
            noted: Mutex::default(),
            typing: Typing::new(chat),
            timers_set: Notify::new(),
            entering: tokio::sync::Mutex::default(),
            before: AtomicI64::new(i64::MIN),
            tasks: TaskTracker::new(),
            draining: closing.child_token(),
            closing,
        })
    }

    /// Serves until `stop`, or until the chat ends; then what is running ends, and what is queued is sent.
    pub async fn serve(self: Arc<Self>, stop: CancellationToken) -> Finished {
        let start = async {
            // What an earlier start of it has received is on the disk.
            self.journalled(|| self.shared.journal.settle()).await;
            let position = self.journalled(|| self.shared.journal.position(&self.agent.name)).await;
            self.agent.chat.remember(self.past());
            self.agent.chat.start(position).await
        };
        let started = tokio::select! {
            started = start => started,
            () = stop.cancelled() => return Finished::Closed,
        };
        let identity = match started {
            Ok(identity) => identity,
            Err(error) => return self.lost(error.to_string()),
        };
        let user = identity.user.clone();
        lock(&self.shared.accounts).insert(user.clone());
        drop(self.identity.set(identity));
        self.shared
            .notices
            .say(Notice::AgentReady { agent: self.agent.name.clone(), text: format!("serves as {user}") });
        // What is wrong with the plugins' commands is said now, and not at the first event.
        drop(self.servings.now());
        let _telling = AbortOnDropHandle::new(tokio::spawn(self.clone().tell_home()));
        let _tidying = AbortOnDropHandle::new(tokio::spawn(self.clone().tidy()));
        let mut attending = None;
        let finished = loop {
            let batch = tokio::select! {
                // Whoever is asked to stop asks the chat for nothing more.
                biased;
                () = stop.cancelled() => {
                    self.draining.cancel();
                    break Finished::Closed;
                }
                batch = self.agent.chat.next() => batch,
            };
            match batch {
                Ok(batch) => {
                    // What the agent had said before it ended is among what comes first.
                    self.acknowledge(&batch.own).await;
                    if attending.is_none() {
                        self.resume_locked().await;
                        self.resume().await;
                        let opening = AbortOnDropHandle::new(tokio::spawn(self.clone().open_locked()));
                        // What was fired before has its turn first.
                        let keeping = AbortOnDropHandle::new(tokio::spawn(self.clone().keep_time()));
                        attending = Some((opening, keeping));
                    }
                    self.take_in(batch).await;
                    self.outbox.caught_up();
                    // Where there is always another batch, what was taken in has its turn all the same.
                    tokio::task::yield_now().await;
                }
                Err(Ended::Closed) => break Finished::Closed,
                Err(Ended::Lost(reason)) => {
                    // Nothing can be sent any more: what has not ended is run again when the account is back.
                    self.closing.cancel();
                    break self.lost(reason);
                }
            }
        };
        // No timer fires any more.
        let (_opening, keeping) = attending.unzip();
        if let Some(keeping) = keeping {
            keeping.abort();
            drop(keeping.await);
        }
        self.tasks.close();
        self.tasks.wait().await;
        self.outbox.finish().await;
        lock(&self.shared.accounts).remove(&user);
        finished
    }

    fn lost(&self, reason: String) -> Finished {
        self.shared.notices.say(Notice::AgentStopped { agent: self.agent.name.clone(), reason });
        Finished::Lost
    }

    fn addressed(&self, event: &Event) -> addressing::Addressed {
        match &event.kind {
            Kind::Message(message) => {
                let identity = self.identity();
                addressing::read(message, &identity.user, identity.display_name.as_deref())
            }
            Kind::Member(_) | Kind::Timer(_) => {
                addressing::Addressed { mentioned: false, text: String::new(), command: None }
            }
        }
    }

    fn identity(&self) -> &Identity {
        self.identity.get().expect("an agent serves after its chat has started")
    }

    fn policy<'a>(&'a self, agents: &'a BTreeSet<UserId>) -> Policy<'a> {
        Policy {
            agents,
            own: &self.identity().user,
            own_account: self.agent.own_account,
            access: &self.agent.access,
            behaviour: &self.agent.behaviour,
        }
    }

    fn say(&self, text: String) {
        self.shared.notices.say(Notice::Agent { agent: self.agent.name.clone(), text });
    }

    /// Asks the journal until it answers, or the host closes down for good.
    async fn journalled<T: Default, F: Future<Output = Result<T, journal::Error>>>(
        &self,
        what: impl Fn() -> F,
    ) -> T {
        loop {
            match what().await {
                Ok(value) => return value,
                Err(error) => {
                    self.shared.notices.say(Notice::Journal { reason: error.to_string() });
                    tokio::select! {
                        () = tokio::time::sleep(AGAIN) => {}
                        () = self.closing.cancelled() => return T::default(),
                    }
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
