//! One agent at work: what its chat hands over is stored, judged, put into lanes and handled.

mod deliver;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    addressing,
    backoff::Backoff,
    capability::{kv, llm, outbox},
    chat::{Chat, Ended, Identity, SendError},
    engine::{Engine, Plugin},
    event::{Batch, Event, Invite, Kind, Position},
    gate::{self, Policy, Verdict},
    id::{AgentName, EventId, PluginName, RoomId, SessionId, UserId},
    journal::{self, Arrival, Journal, KeyQuery, Known, Named, Namespace, Pending, Sequence, Stored},
    lane::{Lanes, Next, Waiting},
    notice::{Notice, Notices},
    outbox::Outbox,
    registry::Registry,
    router::Catalogue,
    session,
    settings::{Access, Behaviour},
};

/// After a failure of the journal.
const AGAIN: Duration = Duration::from_secs(2);
/// How long people see that the agent types, where its answer does not get through.
const TYPING_AFTER: Duration = Duration::from_secs(30);
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
    pub notices: Notices,
    /// The accounts of all agents that serve.
    pub accounts: Arc<Mutex<BTreeSet<UserId>>>,
}

/// An agent at work.
pub(crate) struct Running {
    agent: Agent,
    shared: Shared,
    identity: OnceLock<Identity>,
    serving: ArcSwap<Serving>,
    lanes: Lanes,
    outbox: Arc<Outbox>,
    typing: Mutex<HashMap<RoomId, u32>>,
    /// What was received up to here came before this start: a handler may have begun with it.
    before: AtomicI64,
    tasks: TaskTracker,
    /// No new handler starts.
    draining: CancellationToken,
    /// Running handlers end, and nothing is sent any more.
    closing: CancellationToken,
}

/// What an agent's plugins have, at one moment.
#[derive(Default)]
struct Serving {
    generation: Option<u64>,
    catalogue: Catalogue,
    plugins: HashMap<PluginName, Arc<Plugin>>,
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
        let outbox = Outbox::new(name, chat, shared.journal.clone(), shared.notices.clone(), closing.clone());
        Arc::new(Self {
            agent,
            shared,
            identity: OnceLock::new(),
            serving: ArcSwap::default(),
            lanes: Lanes::default(),
            outbox: Arc::new(outbox),
            typing: Mutex::default(),
            before: AtomicI64::new(i64::MIN),
            tasks: TaskTracker::new(),
            draining: closing.child_token(),
            closing,
        })
    }

    /// Serves until `stop`, or until the chat ends; then what is running ends, and what is queued is sent.
    pub async fn serve(self: Arc<Self>, stop: CancellationToken) -> Finished {
        let start = async {
            let position = self.journalled(|| self.shared.journal.position(&self.agent.name)).await;
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
        self.resume().await;
        let finished = loop {
            let batch = tokio::select! {
                batch = self.agent.chat.next() => batch,
                () = stop.cancelled() => {
                    self.draining.cancel();
                    break Finished::Closed;
                }
            };
            match batch {
                Ok(batch) => self.take_in(batch).await,
                Err(Ended::Closed) => break Finished::Closed,
                Err(Ended::Lost(reason)) => {
                    // Nothing can be sent any more: what has not ended is run again when the account is back.
                    self.closing.cancel();
                    break self.lost(reason);
                }
            }
        };
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

    /// What was not sent is sent, and what was received and has not ended is handled.
    async fn resume(self: &Arc<Self>) {
        let name = &self.agent.name;
        let unsent = self.journalled(|| self.shared.journal.unsent(name)).await;
        self.outbox.push(unsent);
        let mut after = None;
        loop {
            let pending = self.journalled(|| self.shared.journal.pending(name, None, after, PENDING)).await;
            let Some(last) = pending.last() else { return };
            after = Some(last.sequence);
            self.before.store(last.sequence.0, Ordering::Relaxed);
            for pending in pending {
                self.dispatch(self.waiting(pending));
            }
        }
    }

    fn waiting(&self, pending: Pending) -> Waiting {
        let Pending { sequence, event, session, ended } = pending;
        let resumed = sequence.0 <= self.before.load(Ordering::Relaxed);
        Waiting { sequence, event: Arc::new(event), session, ended, resumed }
    }

    /// Stores a batch, and hands on what may pass.
    async fn take_in(self: &Arc<Self>, batch: Batch) {
        let Batch { events, invites, position } = batch;
        let arrivals: Vec<Arrival> = events.into_iter().map(|event| self.judge(event)).collect();
        let sequences = self.receive(&arrivals, &position).await;
        for (arrival, sequence) in arrivals.into_iter().zip(sequences) {
            if arrival.event.room.encrypted {
                self.outbox.is_encrypted(&arrival.event.room.id);
            }
            let Some(sequence) = sequence else { continue };
            let Arrival { event, session, .. } = arrival;
            let event = Arc::new(event);
            self.dispatch(Waiting { sequence, event, session, ended: vec![], resumed: false });
        }
        for invite in invites {
            let running = self.clone();
            self.tasks.spawn(async move { running.answer(invite).await });
        }
    }

    /// The answer is in hand, so the write is tried until it is done: the next sync would skip it.
    async fn receive(&self, arrivals: &[Arrival], position: &Position) -> Vec<Option<Sequence>> {
        self.journalled(|| self.shared.journal.receive(&self.agent.name, arrivals, position)).await
    }

    fn judge(&self, event: Event) -> Arrival {
        let addressed = self.addressed(&event);
        let known =
            addressed.command.as_ref().is_some_and(|typed| self.serving().catalogue.knows(&typed.name));
        let verdict = gate::authorize(self.policy(&lock(&self.shared.accounts)), &event, &addressed, known);
        let session = session::of(&event, &self.agent.behaviour);
        Arrival { event, verdict, session }
    }

    fn addressed(&self, event: &Event) -> addressing::Addressed {
        match &event.kind {
            Kind::Message(message) => {
                let identity = self.identity();
                addressing::read(message, &identity.user, identity.display_name.as_deref())
            }
            Kind::Member(_) => addressing::Addressed { mentioned: false, text: String::new(), command: None },
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

    /// Puts an event into its lane. From here on people may see that it was read.
    fn dispatch(self: &Arc<Self>, waiting: Waiting) {
        let addressed = self.addressed(&waiting.event);
        if waiting.resumed {
            let accounts = lock(&self.shared.accounts);
            let verdict = gate::authorize(self.policy(&accounts), &waiting.event, &addressed, true);
            drop(accounts);
            if matches!(verdict, Verdict::Deny(_)) {
                // The settings have changed while it waited.
                let running = self.clone();
                self.tasks.spawn(async move { running.end(&waiting).await });
                return;
            }
        }
        if let Kind::Message(message) = &waiting.event.kind {
            self.agent.chat.read(&waiting.event.room.id, &waiting.event.id, message.thread.as_ref());
            if Catalogue::stops(&addressed) {
                // At once, and in the order in which events came: only the answer takes its time.
                let stopped = self.lanes.stop(&waiting.session);
                let running = self.clone();
                self.tasks.spawn(async move { running.answer_stop(waiting, stopped).await });
                return;
            }
        }
        let session = waiting.session.clone();
        if self.lanes.push(waiting) {
            let running = self.clone();
            self.tasks.spawn(async move { running.run_lane(session).await });
        }
    }

    async fn run_lane(self: Arc<Self>, session: SessionId) {
        loop {
            if self.draining.is_cancelled() {
                return;
            }
            match self.lanes.next(&session) {
                Next::Handle(waiting, stopped) => {
                    let typing = self.typing(&waiting);
                    self.handle(&waiting, &stopped).await;
                    if let Some(typing) = typing {
                        self.tasks.spawn(typing.until_sent());
                    }
                }
                Next::Refill(after) => {
                    let (name, limit) = (&self.agent.name, Lanes::refill_limit());
                    let pending = self
                        .journalled(|| self.shared.journal.pending(name, Some(&session), after, limit))
                        .await;
                    let pending = pending.into_iter().map(|pending| self.waiting(pending));
                    self.lanes.refill(&session, pending.collect());
                }
                Next::Nothing => return,
            }
        }
    }

    /// People see that the agent is at work, while one of its handlers in the room runs.
    fn typing(self: &Arc<Self>, waiting: &Waiting) -> Option<Typing> {
        let room = match &waiting.event.kind {
            Kind::Message(_) => waiting.event.room.id.clone(),
            Kind::Member(_) => return None,
        };
        let mut typing = lock(&self.typing);
        let count = typing.entry(room.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.agent.chat.typing(&room, true);
        }
        drop(typing);
        Some(Typing { running: self.clone(), room })
    }

    async fn answer(&self, invite: Invite) {
        let accept = gate::accepts(self.policy(&lock(&self.shared.accounts)), &invite);
        let mut backoff = Backoff::default();
        loop {
            let answer = tokio::select! {
                answer = self.agent.chat.answer(&invite.room, accept) => answer,
                () = self.draining.cancelled() => return,
            };
            match answer {
                Ok(()) => break,
                Err(SendError::Final { reason, .. }) => {
                    self.say(format!("the invitation to {} came to nothing: {reason}", invite.room));
                    return;
                }
                Err(SendError::Later { after, .. }) => tokio::select! {
                    () = tokio::time::sleep(backoff.next(after)) => {}
                    () = self.draining.cancelled() => return,
                },
            }
        }
        let by = invite.inviter.as_ref().map_or("somebody", UserId::as_str);
        let done = if accept { "joined" } else { "declined the invitation to" };
        let (agent, text) = (self.agent.name.clone(), format!("{done} {} (invited by {by})", invite.room));
        self.shared.notices.say(Notice::Invitation { agent, text });
    }

    fn say(&self, text: String) {
        self.shared.notices.say(Notice::Agent { agent: self.agent.name.clone(), text });
    }

    /// What the plugins of this agent have now.
    fn serving(&self) -> Arc<Serving> {
        let loaded = self.shared.registry.loaded();
        let serving = self.serving.load_full();
        if serving.generation == Some(loaded.generation) {
            return serving;
        }
        let mut plugins = HashMap::new();
        let mut listings = Vec::new();
        for name in self.ordered(loaded.plugins.keys()) {
            if let Some(plugin) = loaded.plugins.get(&name) {
                listings.push(plugin.listing.clone());
                plugins.insert(name, plugin.clone());
            }
        }
        let catalogue = Catalogue::new(listings);
        for (plugin, command) in &catalogue.shadowed {
            self.say(format!("/{command} of plugin {plugin} is not used: another plugin before it has one"));
        }
        let serving = Arc::new(Serving { generation: Some(loaded.generation), catalogue, plugins });
        self.serving.store(serving.clone());
        serving
    }

    fn ordered<'a>(&self, loaded: impl Iterator<Item = &'a PluginName>) -> Vec<PluginName> {
        let named = |name: &PluginName| self.agent.plugins.iter().any(|listed| listed == name.as_str());
        let others: Vec<PluginName> = loaded.filter(|name| !named(name)).cloned().collect();
        let listed = self.agent.plugins.iter().flat_map(|listed| {
            if listed == "*" { others.clone() } else { PluginName::parse(listed).into_iter().collect() }
        });
        let mut seen = BTreeSet::new();
        listed.filter(|name| seen.insert(name.clone())).collect()
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

/// Ends when it is dropped.
struct Typing {
    running: Arc<Running>,
    room: RoomId,
}

impl Typing {
    /// An answer is on its way: the agent types until it is there.
    async fn until_sent(self) {
        let sent = tokio::time::timeout(TYPING_AFTER, self.running.outbox.idle(&self.room));
        tokio::select! {
            _ = sent => {}
            () = self.running.draining.cancelled() => {}
        }
    }
}

impl Drop for Typing {
    fn drop(&mut self) {
        let mut typing = lock(&self.running.typing);
        if let Some(count) = typing.get_mut(&self.room) {
            *count -= 1;
            if *count == 0 {
                typing.remove(&self.room);
                self.running.agent.chat.typing(&self.room, false);
            }
        }
    }
}

/// The journal as capabilities read it.
pub(crate) struct FromJournal(pub Arc<dyn Journal>);

#[async_trait::async_trait]
impl kv::Source for FromJournal {
    async fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Stored>, journal::Error> {
        self.0.get(namespace, key).await
    }

    async fn keys(&self, namespace: &Namespace, query: &KeyQuery) -> Result<Vec<String>, journal::Error> {
        self.0.keys(namespace, query).await
    }
}

#[async_trait::async_trait]
impl outbox::Messages for FromJournal {
    async fn known(&self, agent: &AgentName, event: &EventId) -> Result<Option<Known>, journal::Error> {
        self.0.known(agent, event).await
    }

    async fn named(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        name: &str,
    ) -> Result<Option<Named>, journal::Error> {
        self.0.named(agent, plugin, name).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
