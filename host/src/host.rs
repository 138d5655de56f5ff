//! The host: puts the parts together and runs them. The only file that knows every other.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    agent::{Agent, Finished, Running, Shared},
    capability::{
        http::{Resolver, System, client::Clients},
        llm,
        random::Secret,
    },
    clock::Clock,
    control::{Bound, Server},
    engine::{Engine, Link, cache::Cache, compile::Compiler, limits::Limits},
    folder::{Folder, NotTaken, Sources},
    forget,
    id::PluginName,
    journal::{Journal, memory::Memory},
    kept::Kept,
    lock::LockFile,
    notice::{Notice, Notices},
    origin::Target,
    record,
    registry::{self, Agreed, Registry},
    settings,
    signature::Publisher,
    standing::Standing,
    tally::Tally,
};

/// How long running handlers may go on after the host was asked to end. What has not ended by then is run
/// again at the next start.
const GRACE: Duration = Duration::from_secs(5);

/// A host that cannot be built: one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The machine cannot run it, or a folder cannot be used.
    #[error("{0}")]
    Engine(String),
    /// A plugin was refused.
    #[error("{file}: {reason}")]
    Plugin {
        /// Its file, or its name where it came as bytes.
        file: String,
        /// Why.
        reason: String,
    },
    /// Two agents have one name.
    #[error("agent {0} is there twice")]
    Twice(crate::id::AgentName),
}

/// No agent serves any more: each has said why.
#[derive(Debug, thiserror::Error)]
#[error("no agent is left")]
pub struct NoAgentLeft;

/// What a host is made of. Everything has a default but the agents.
#[must_use]
pub struct HostBuilder {
    agents: Vec<Agent>,
    bytes: Vec<(PluginName, Arc<[u8]>)>,
    sources: Sources,
    plugins: BTreeMap<PluginName, settings::Plugin>,
    journal: Arc<dyn Journal>,
    llm: Option<Arc<dyn llm::Backend>>,
    compiler: Compiler,
    cache: Option<Result<Cache, String>>,
    limits: Limits,
    clock: Clock,
    notices: Notices,
    links: Vec<Link>,
    resolver: Arc<dyn Resolver>,
    homeservers: Vec<String>,
    secret: Option<PathBuf>,
    keep: Duration,
    agreed: Option<Result<Agreed, String>>,
    publishers: Option<BTreeSet<Publisher>>,
    strict: bool,
    tally: Arc<Tally>,
    standing: Arc<Standing>,
    control: Option<Result<PathBuf, PathBuf>>,
}

/// Agents with their plugins, ready to run.
pub struct Host {
    agents: Vec<Agent>,
    shared: Shared,
    folder: Option<Folder>,
    control: Option<Bound>,
    keep: Duration,
}

impl Host {
    /// A host with nothing in it: no agent, no plugin, the journal in memory.
    pub fn builder() -> HostBuilder {
        HostBuilder {
            agents: vec![],
            bytes: vec![],
            sources: Sources::default(),
            plugins: BTreeMap::new(),
            journal: Arc::new(Memory::default()),
            llm: None,
            compiler: Compiler::default(),
            cache: None,
            limits: Limits::default(),
            clock: Clock::default(),
            notices: Notices::default(),
            links: vec![],
            resolver: Arc::new(System),
            homeservers: vec![],
            secret: None,
            keep: Duration::ZERO,
            agreed: None,
            publishers: None,
            strict: false,
            tally: Arc::default(),
            standing: Arc::default(),
            control: None,
        }
    }

    /// The commands of the plugins, as they are whenever it is asked.
    #[must_use]
    pub fn commands(&self) -> Commands {
        Commands(self.shared.registry.clone())
    }

    /// Serves until `shutdown` is ready, or until every chat is over. Then running handlers get a few seconds,
    /// and what has not ended is run again at the next start.
    ///
    /// # Errors
    /// [`NoAgentLeft`] when every agent has refused to start or was lost.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), NoAgentLeft> {
        let Self { agents, shared, folder, control, keep } = self;
        let mut names = Vec::new();
        let stop = CancellationToken::new();
        let closing = CancellationToken::new();
        // Whoever drops this future ends all that runs, too.
        let _ended = closing.clone().drop_guard();
        shared.registry.until(closing.clone());
        let mut serving = JoinSet::new();
        for agent in agents {
            let name = agent.name.clone();
            let running = Running::new(agent, shared.clone(), &closing);
            names.push((name, Arc::downgrade(&running)));
            serving.spawn(running.serve(stop.clone()));
        }
        let (tally, journal, notices) =
            (shared.tally.clone(), shared.journal.clone(), shared.notices.clone());
        let recorded = CancellationToken::new();
        let (to, stopped) = (journal.clone(), recorded.clone());
        let recording = tokio::spawn(record::follow(tally.clone(), to, notices.clone(), stopped));
        let recording = AbortOnDropHandle::new(recording);
        let keeping = forget::follow(shared.clone(), keep);
        let server = Server { shared, agents: names, started: Instant::now() };
        let answering = control.map(|bound| AbortOnDropHandle::new(tokio::spawn(server.serve(bound))));
        let _keeping = AbortOnDropHandle::new(tokio::spawn(keeping));
        let _following = folder.map(|folder| AbortOnDropHandle::new(tokio::spawn(folder.follow())));
        let finished = async {
            let mut lost = true;
            while let Some(finished) = serving.join_next().await {
                lost &= matches!(finished, Ok(Finished::Lost) | Err(_));
            }
            lost
        };
        let mut finished = std::pin::pin!(finished);
        let lost = tokio::select! {
            lost = &mut finished => lost,
            () = shutdown => {
                stop.cancel();
                if tokio::time::timeout(GRACE, &mut finished).await.is_err() {
                    closing.cancel();
                    finished.await;
                }
                false
            }
        };
        // What is left is written when nothing else happens any more.
        if let Some(answering) = answering {
            answering.abort();
            drop(answering.await);
        }
        recorded.cancel();
        drop(recording.await);
        if let Err(reason) = record::write(&tally, &*journal, true).await {
            notices.say(Notice::Journal { reason });
        }
        if lost { Err(NoAgentLeft) } else { Ok(()) }
    }
}

/// The commands of a host's plugins, for a completion.
#[derive(Clone)]
pub struct Commands(Arc<Registry>);

impl Commands {
    /// The names of those that a role may use, in byte order.
    #[must_use]
    pub fn names(&self, role: settings::Role) -> Vec<String> {
        let loaded = self.0.loaded();
        let commands = loaded.plugins.values().flat_map(|plugin| &plugin.listing.commands);
        let commands = commands.filter(|command| command.role <= role);
        let mut names: BTreeSet<String> = commands.map(|command| command.name.clone()).collect();
        names.insert(crate::router::STOP.into());
        names.into_iter().collect()
    }
}

impl HostBuilder {
    /// Adds an agent.
    pub fn agent(mut self, agent: Agent) -> Self {
        self.agents.push(agent);
        self
    }

    /// Adds a plugin from its component's bytes.
    pub fn plugin(mut self, name: PluginName, component: impl Into<Arc<[u8]>>) -> Self {
        self.bytes.push((name, component.into()));
        self
    }

    /// Loads every `NAME.wasm` in a folder, and every folder `NAME` in it with a `plugin.toml` and a component; and
    /// follows what is dropped in, replaced and removed.
    pub fn plugin_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.sources.folder = Some(folder.into());
        self
    }

    /// Loads a plugin from a file, or from a folder with a `plugin.toml` and a component, and follows it.
    pub fn plugin_file(mut self, name: PluginName, file: impl Into<PathBuf>) -> Self {
        self.sources.files.insert(name, file.into());
        self
    }

    /// What a plugin may do, and its own settings.
    pub fn plugin_settings(mut self, name: PluginName, settings: settings::Plugin) -> Self {
        self.plugins.insert(name, settings);
        self
    }

    /// Where events, effects and memories are kept; in memory by default.
    pub fn journal(mut self, journal: impl Journal) -> Self {
        self.journal = Arc::new(journal);
        self
    }

    /// The language model; none by default.
    pub fn llm(mut self, backend: impl llm::Backend) -> Self {
        self.llm = Some(Arc::new(backend));
        self
    }

    /// Which program compiles plugins; by default this one, which calls [`crate::compile_if_asked`] first thing in its
    /// `main`.
    pub fn compiler(mut self, compiler: Compiler) -> Self {
        self.compiler = compiler;
        self
    }

    /// Where compiled code is kept; nowhere by default.
    pub fn cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(Cache::open(&folder.into()));
        self
    }

    /// Where compiled code is kept, if that folder can be used; otherwise it is said, and nothing is kept.
    pub fn cache_if_possible(mut self, folder: impl Into<PathBuf>) -> Self {
        match Cache::open(&folder.into()) {
            Ok(cache) => self.cache = Some(Ok(cache)),
            Err(reason) => tracing::warn!(target: "parlour", "compiled code is not kept: {reason}"),
        }
        self
    }

    /// What a call may take.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What time it is, for timers and for plugins; by default the machine's clock says it.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Where the host's own words go; to `tracing` by default.
    pub fn notices(mut self, notices: Notices) -> Self {
        self.notices = notices;
        self
    }

    /// Answers at this Unix socket how the host does ([`crate::control`]); nowhere by default. Its folder should be for
    /// this user alone.
    pub fn control(mut self, socket: impl Into<PathBuf>) -> Self {
        self.control = Some(Ok(socket.into()));
        self
    }

    /// The same, if that is possible; otherwise it is said, and nobody is answered.
    pub fn control_if_possible(mut self, socket: impl Into<PathBuf>) -> Self {
        self.control = Some(Err(socket.into()));
        self
    }

    /// Where a chat of this host may speak, so that the host hears it too: what was set by [`Self::notices`] before.
    #[must_use]
    pub fn heard(&self) -> Notices {
        let (tally, standing, to) = (self.tally.clone(), self.standing.clone(), self.notices.clone());
        Notices::new(move |notice| {
            tally.hear(&notice);
            standing.hear(&notice);
            to.say(notice);
        })
    }

    /// Adds interfaces of your own to every plugin's imports. The one door to wasmtime.
    pub fn link(mut self, link: Link) -> Self {
        self.links.push(link);
        self
    }

    /// What finds the addresses of names for plugins' requests; the machine's own resolver by default. Whatever it
    /// finds is vetted.
    pub fn resolver(mut self, resolver: impl Resolver) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    /// A file of 32 bytes that nobody else may read, which is made if it is not there: what plugins' random numbers are
    /// drawn with, so that a handler that runs again after a restart draws the same. Without it that holds for one process.
    pub fn secret(mut self, file: impl Into<PathBuf>) -> Self {
        self.secret = Some(file.into());
        self
    }

    /// For how long an event, what its handlers learnt from outside and what they did is kept when it has ended, so that it
    /// can be looked at; by default it is not.
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// Where agents sign in, a URL: no plugin's request goes there, unless its grant names that very origin.
    pub fn homeserver(mut self, url: impl Into<String>) -> Self {
        self.homeservers.push(url.into());
        self
    }

    /// Holds plugin files to what was agreed to: `lock` is `parlour.lock`, and in `kept` stay the components that were.
    /// Without it, whatever is dropped in serves, with the grants of its name.
    pub fn lock(mut self, lock: impl Into<PathBuf>, kept: impl Into<PathBuf>) -> Self {
        let kept = Kept::open(&kept.into());
        self.agreed = Some(kept.and_then(|kept| Ok(Agreed { lock: LockFile::open(lock)?, kept })));
        self
    }

    /// Takes only plugin files that one of these has signed, but for those whose own settings name a publisher. Without
    /// it, anybody may have signed them, or nobody.
    pub fn publishers(mut self, publishers: BTreeSet<Publisher>) -> Self {
        self.publishers = Some(publishers);
        self
    }

    /// A file that is refused now fails the build; by default it is reported, and may be replaced while the host
    /// runs.
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Compiles and loads the plugins.
    ///
    /// # Errors
    /// [`BuildError`] in one line.
    pub async fn build(self) -> Result<Host, BuildError> {
        let mut names = BTreeSet::new();
        for agent in &self.agents {
            if !names.insert(agent.name.clone()) {
                return Err(BuildError::Twice(agent.name.clone()));
            }
        }
        let (notices, tally) = (self.heard(), self.tally.clone());
        let control = match self.control.clone() {
            Some(Ok(socket)) => Some(Bound::open(&socket).map_err(BuildError::Engine)?),
            Some(Err(socket)) => {
                let said =
                    |reason| tracing::warn!(target: "parlour", "nobody is told how the host does: {reason}");
                Bound::open(&socket).map_err(said).ok()
            }
            None => None,
        };
        let cache = self.cache.transpose().map_err(BuildError::Engine)?;
        let homeservers = self.homeservers.iter().map(|url| Target::of(url));
        let homeservers: Result<_, _> = homeservers.collect();
        let homeservers =
            homeservers.map_err(|reason| BuildError::Engine(format!("homeserver: {reason}")))?;
        let clients = Clients::new(self.resolver, homeservers);
        let secret = self.secret.as_deref().map_or_else(Secret::new, Secret::open);
        let secret = secret.map_err(BuildError::Engine)?;
        let engine = Engine::new(
            self.limits,
            self.compiler,
            cache,
            &self.links,
            clients,
            secret,
            notices.clone(),
            tally.clone(),
        );
        let engine = Arc::new(engine.map_err(BuildError::Engine)?.by(self.clock.clone()));
        let agreed = self.agreed.transpose().map_err(BuildError::Engine)?;
        let registry = Registry::new(
            engine.clone(),
            self.plugins,
            agreed,
            self.publishers,
            self.journal.clone(),
            notices.clone(),
            tally.clone(),
        );
        let registry = Arc::new(registry);
        // Of one name the last one counts.
        let bytes: BTreeMap<_, _> = self.bytes.into_iter().collect();
        let loads = stream::iter(bytes).map(|(name, bytes)| {
            let registry = &registry;
            async move {
                let refused = |reason: crate::engine::admission::Refused| BuildError::Plugin {
                    file: name.to_string(),
                    reason: reason.to_string(),
                };
                registry.load(&name, Bytes::from_owner(bytes)).await.map_err(refused)
            }
        });
        loads.buffered(registry::side_by_side()).try_collect::<()>().await?;
        registry.keep();
        let watched = self.sources.folder.is_some() || !self.sources.files.is_empty();
        let mut folder = watched.then(|| Folder::new(self.sources, registry.clone(), notices.clone()));
        if let Some(folder) = &mut folder {
            for refused in folder.read().await {
                if self.strict && !refused.reason.waits() {
                    let NotTaken { file, reason, .. } = refused;
                    return Err(BuildError::Plugin { file, reason: reason.to_string() });
                }
                notices.say(refused.notice(&registry));
            }
        }
        let shared = Shared {
            engine,
            registry,
            journal: self.journal,
            llm: self.llm,
            clock: self.clock,
            notices,
            tally,
            standing: self.standing,
            accounts: Arc::new(Mutex::default()),
            keeps: !self.keep.is_zero(),
        };
        Ok(Host { agents: self.agents, shared, folder, control, keep: self.keep })
    }
}
