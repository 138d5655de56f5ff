//! Runs plugins: a fresh instance for every event, from a component that was compiled once.
//!
//! The only folder, with [`crate::capability`], that names wasmtime. A guest runs on a fiber: it yields at
//! every tick, and while it waits in a host call the thread does other work. What it did is in [`Work`] when it
//! returns, and goes nowhere by itself.

pub mod admission;
mod background;
pub mod cache;
pub mod compile;
mod convert;
pub mod limits;
mod migrate;
mod rehearse;
mod ticker;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use semver::Version;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::task::AbortOnDropHandle;
use wasmtime::{
    Config, InstanceAllocationStrategy, PoolingAllocationConfig, Store, Trap, UpdateDeadline,
    component::{Component, InstancePre, Linker},
};
use wasmtime_wasi::WasiCtx;

pub(crate) use self::convert::OF_A_TOOL;
use self::{
    admission::{Candidate, Refused, Surface},
    background::{Background, HEAD, Panicked},
    cache::Cache,
    compile::{Apart, Compiler},
    limits::{LARGEST_MEMORY, Limiter, Limits, Meter},
    ticker::Ticker,
};
pub use crate::capability::{Handling, Spent, State, Work};
use crate::{
    capability::{
        self,
        answers::Alive,
        bindings::exports::parlour::plugin::{commands, lifecycle, members, messages, timers, tools},
        clocks::Clocks,
        files::{Files, Folders},
        http::{Http, client::Clients},
        llm::Tokens,
        logging::Log,
        media::Room,
        outbox::Said,
        random, types,
    },
    clock::Clock,
    command::{Argument, Command},
    config,
    grant::{Denied, Permissions},
    id::{AgentName, PluginName, UserId},
    kept,
    notice::{Notice, Notices, Words},
    router::Listing,
    secret::Secrets,
    settings,
    suspension::Suspension,
    tally::{Counts, Tally},
    text::escaped,
    tool::Tool,
};

/// A deep recursion ends here; guests' own stacks are in their memory.
const STACK: usize = 512 * 1024;
/// Things of the host's that an instance may hold at once, such as streams and answers of a model.
const HANDLES: usize = 1000;
/// What one component may have: Python's has some twenty core modules, most of them without a memory.
const CORE_INSTANCES: u32 = 24;
const MEMORIES: u32 = 2;
const TABLES: u32 = 4;

/// Adds interfaces of an embedder's own.
pub type Link = Box<dyn Fn(&mut Linker<State>) -> wasmtime::Result<()> + Send + Sync>;

/// Compiles and runs components.
pub struct Engine {
    inner: wasmtime::Engine,
    linker: Linker<State>,
    cache: Option<Cache>,
    compiler: Apart,
    limits: Limits,
    slots: Semaphore,
    /// Of tools: their callers hold slots of their own, and nobody waits for those while they hold one.
    tool_slots: Arc<Semaphore>,
    ticker: Ticker,
    background: Background,
    /// How plugins' requests leave.
    clients: Arc<Clients>,
    /// What random numbers are drawn with.
    secret: random::Secret,
    /// What is in the folders that they write to.
    folders: Folders,
    /// What time it is, for guests too.
    clock: Clock,
    notices: Notices,
    tally: Arc<Tally>,
}

/// A component that is ready to run.
pub struct Plugin {
    /// What it has.
    pub listing: Arc<Listing>,
    /// Its own version, where it says one.
    pub version: Option<Version>,
    instance: InstancePre<State>,
    commands: Option<commands::GuestIndices>,
    messages: Option<messages::GuestIndices>,
    members: Option<members::GuestIndices>,
    timers: Option<timers::GuestIndices>,
    tools: Option<tools::GuestIndices>,
    lifecycle: Option<lifecycle::GuestIndices>,
    /// What it may do.
    pub permissions: Arc<Permissions>,
    config: Arc<BTreeMap<String, String>>,
    secrets: Arc<Secrets>,
    room: Room,
    /// How much it says.
    said: Arc<Said>,
    /// What becomes of its requests that a crash cut off.
    in_flight: settings::InFlight,
    /// What it has used of the model.
    tokens: Arc<Tokens>,
    /// What a call of it may take.
    limits: Limits,
    slots: Semaphore,
    tool_slots: Arc<Semaphore>,
    /// What it was denied before: each is said once.
    denied: Mutex<BTreeSet<Denied>>,
    /// How it has been doing for each person: nobody can switch it off for others.
    suspensions: Mutex<HashMap<UserId, Suspension>>,
    /// What its calls took.
    pub took: Took,
}

/// What the calls of a plugin took since this version was loaded.
#[derive(Debug, Default)]
pub struct Took {
    /// Calls that have ended, however they did.
    pub calls: AtomicU64,
    /// Those that ended in a fault.
    pub faults: AtomicU64,
    /// CPU time of all of them, in microseconds.
    pub cpu: AtomicU64,
}

impl Plugin {
    /// For whom it rests, and for how much longer.
    pub fn resting(&self, now: Instant) -> Vec<(UserId, Duration)> {
        let all = self.suspensions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut resting: Vec<_> =
            all.iter().filter_map(|(user, of)| Some((user.clone(), of.left(now)?))).collect();
        resting.sort();
        resting
    }

    /// Ends its rest for one person, or for all; answers for whom it rested.
    pub fn resume(&self, whom: Option<&UserId>) -> Vec<UserId> {
        let resting = self.resting(Instant::now()).into_iter().map(|(user, _)| user);
        let resting: Vec<_> = resting.filter(|user| whom.is_none_or(|whom| whom == user)).collect();
        let mut all = self.suspensions.lock().unwrap_or_else(PoisonError::into_inner);
        for user in &resting {
            all.remove(user);
        }
        resting
    }

    /// How it has been doing for somebody, to be looked at or changed.
    pub fn suspension<T>(&self, whom: &UserId, how: impl FnOnce(&mut Suspension) -> T) -> T {
        let mut all = self.suspensions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut suspension = all.remove(whom).unwrap_or_default();
        let answer = how(&mut suspension);
        if suspension != Suspension::default() {
            all.insert(whom.clone(), suspension);
        }
        answer
    }
}

/// What a plugin is called for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Call {
    /// One of its commands.
    Command {
        /// Which.
        name: String,
        /// What was typed after it.
        rest: String,
        /// The same, parsed.
        arguments: Vec<Argument>,
    },
    /// A message.
    Message,
    /// Somebody came or went.
    Member,
    /// A timer is due.
    Timer,
    /// One of its tools.
    Tool {
        /// Which, by the name that the plugin gives it.
        name: String,
        /// A JSON object that its schema allows.
        arguments: String,
    },
}

/// How a call ended.
#[derive(Debug)]
pub enum End {
    /// Ok.
    Handled,
    /// Ok, and the next plugin shall have it too.
    Pass,
    /// What a tool answered.
    Answer(String),
    /// The guest's own error.
    Error(GuestError),
    /// It was ended.
    Fault(Fault),
}

impl End {
    /// Whether the plugin is to blame.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Fault(_) | Self::Error(GuestError { kind: GuestErrorKind::Failed, .. }))
    }
}

/// How a call of a tool ended. The work is the caller's, with what the tool has added.
pub enum Called {
    /// As it did.
    Ended(End, Work),
    /// There was no room for it.
    Busy(Work),
    /// The host itself failed, and what the caller has done is lost.
    Lost,
}

/// An error that a guest returned, as plain data.
#[derive(Debug, Clone)]
pub struct GuestError {
    /// What to do about it.
    pub kind: GuestErrorKind,
    /// For a person: one line, bounded.
    pub message: String,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// The guest's own word for it.
    pub word: types::ErrorKind,
}

/// What to do about a guest's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestErrorKind {
    /// Trying again changes nothing, and the person can be told why.
    Refused,
    /// It may work later.
    Later,
    /// Something is wrong with the plugin.
    Failed,
}

/// Why a call was ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It ran too long.
    #[error("it used up its {} of CPU time", seconds(*.0))]
    Cpu(Duration),
    /// It took too long.
    #[error("it took longer than {}", seconds(*.0))]
    Wall(Duration),
    /// It wanted too much memory.
    #[error("it wanted more than its {} MiB of memory", .0 / (1024 * 1024))]
    Memory(usize),
    /// It trapped.
    #[error("it crashed: {0}")]
    Trap(String),
}

fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds >= 120.0 { format!("{:.0} minutes", seconds / 60.0) } else { format!("{seconds} s") }
}

/// The guest was interrupted because its time was over.
#[derive(Debug, thiserror::Error)]
#[error("the CPU time is used up")]
struct CpuOver;

impl Engine {
    /// An engine that has components compiled by `compiler`, and keeps compiled code in `cache`.
    ///
    /// # Errors
    /// One line, where the machine cannot run it, or nothing can compile.
    #[expect(clippy::too_many_arguments, reason = "what an engine is made of, once")]
    pub fn new(
        limits: Limits,
        compiler: Compiler,
        cache: Option<Cache>,
        links: &[Link],
        clients: Clients,
        secret: random::Secret,
        notices: Notices,
        tally: Arc<Tally>,
    ) -> Result<Self, String> {
        let inner =
            pooling(&limits).or_else(|_| on_demand()).map_err(|error| format!("wasmtime: {error:#}"))?;
        let mut linker = Linker::new(&inner);
        capability::add_to_linker(&mut linker).map_err(|error| format!("wasmtime: {error:#}"))?;
        for link in links {
            link(&mut linker).map_err(|error| format!("an embedder's interface: {error:#}"))?;
        }
        let ticker = Ticker::start(&inner)?;
        let background = Background::start()?;
        let slots = Semaphore::new(limits.instances);
        let compiler = Apart::new(compiler, inner.clone())?;
        let clients = Arc::new(clients);
        let tool_slots = Arc::new(Semaphore::new(limits.tools));
        Ok(Self {
            inner,
            linker,
            cache,
            compiler,
            limits,
            slots,
            tool_slots,
            ticker,
            background,
            clients,
            secret,
            folders: Folders::default(),
            clock: Clock::default(),
            notices,
            tally,
        })
    }

    /// The same by another clock.
    #[must_use]
    pub fn by(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Makes a plugin of a component: has it compiled (or finds it compiled), links, and asks it what it
    /// has. Compiling takes some ten seconds of CPU time for a Python component.
    ///
    /// # Errors
    /// [`Refused`], in one line.
    pub async fn load(
        self: &Arc<Self>,
        plugin: PluginName,
        candidate: Candidate,
        settings: &settings::Plugin,
    ) -> Result<Plugin, Refused> {
        let Candidate { bytes, digest, surface } = candidate;
        let version = surface.manifest.as_ref().map(|manifest| manifest.version.clone());
        let wanted = surface.manifest.as_ref().map(|manifest| manifest.limits).unwrap_or_default();
        let config = config::resolve(surface.manifest.as_ref(), settings).map_err(Refused::Declaration)?;
        let permissions = Permissions::new(surface.asks(), settings.grants.clone());
        let permissions = permissions.audit_only(settings.audit_only);
        let secrets = Secrets::bind(&permissions, settings).map_err(Refused::Declaration)?;
        let (component, fresh) = self.component(&plugin, bytes, &digest).await?;
        let instance =
            self.linker.instantiate_pre(&component).map_err(|error| unlinkable(&surface, &error))?;
        let shape = |error: wasmtime::Error| Refused::Shape(format!("{error:#}"));
        let commands = surface
            .handles("commands")
            .then(|| commands::GuestIndices::new(&instance))
            .transpose()
            .map_err(shape)?;
        let messages = surface
            .handles("messages")
            .then(|| messages::GuestIndices::new(&instance))
            .transpose()
            .map_err(shape)?;
        let members = surface
            .handles("members")
            .then(|| members::GuestIndices::new(&instance))
            .transpose()
            .map_err(shape)?;
        let timers = surface
            .handles("timers")
            .then(|| timers::GuestIndices::new(&instance))
            .transpose()
            .map_err(shape)?;
        let tools = surface
            .handles("tools")
            .then(|| tools::GuestIndices::new(&instance))
            .transpose()
            .map_err(shape)?;
        let lifecycle = surface
            .handles("lifecycle")
            .then(|| lifecycle::GuestIndices::new(&instance))
            .transpose()
            .map_err(shape)?;
        let listing = Listing {
            plugin,
            digest,
            commands: vec![],
            messages: messages.is_some(),
            members: members.is_some(),
            timers: timers.is_some(),
            tools: vec![],
        };
        let mut loaded = Plugin {
            listing: Arc::new(listing),
            version,
            instance,
            commands,
            messages,
            members,
            timers,
            tools,
            lifecycle,
            permissions: Arc::new(permissions),
            config: Arc::new(config),
            secrets: Arc::new(secrets),
            room: Room::default(),
            said: Arc::new(Said::new(self.limits.messages)),
            in_flight: settings.in_flight,
            tokens: Arc::default(),
            limits: self.limits.of(wanted, settings.limits),
            slots: Semaphore::new(self.limits.instances_per_plugin),
            tool_slots: Arc::new(Semaphore::new(self.limits.instances_per_plugin)),
            denied: Mutex::default(),
            suspensions: Mutex::default(),
            took: Took::default(),
        };
        let listed = self.list(&loaded).await;
        // What is refused for what it is leaves no file.
        if listed.as_ref().err().is_none_or(Refused::may_change) {
            self.keep(&loaded.listing.digest, fresh).await;
        }
        let (commands, tools) = listed?;
        if let Some(listing) = Arc::get_mut(&mut loaded.listing) {
            listing.commands = commands;
            listing.tools = tools;
        }
        Ok(loaded)
    }

    /// Calls a plugin, in an instance of its own. Dropping the future ends the guest at once.
    pub async fn call(self: &Arc<Self>, plugin: &Arc<Plugin>, call: Call, handling: Handling) -> (End, Work) {
        let meter = Meter::new(plugin.limits.cpu);
        let mut work = Work::default();
        work.begin(&handling.plugin, &plugin.listing.digest);
        let (engine, plugin, metered) = (self.clone(), plugin.clone(), meter.clone());
        let running = async move {
            let _slots = engine.slots(&plugin).await;
            engine.run(&plugin, call, handling, work, metered).await
        };
        let ended = self.background.run(running, || meter.used() < HEAD).await;
        ended.unwrap_or_else(|Panicked| {
            (End::Fault(Fault::Trap("the host itself failed".into())), Work::default())
        })
    }

    /// Calls a tool of a plugin, for another one that waits and whose work goes along; as [`Self::call`] otherwise.
    ///
    /// It is a task of its own, so that its time is not its caller's. It waits for room no longer than [`ROOM`]: tools
    /// that wait for tools may hold all there is.
    pub async fn call_tool(
        self: &Arc<Self>,
        plugin: &Arc<Plugin>,
        call: Call,
        handling: Handling,
        work: Work,
    ) -> Called {
        let room = async {
            let of_plugin = plugin.tool_slots.clone().acquire_owned().await.ok()?;
            Some((of_plugin, self.tool_slots.clone().acquire_owned().await.ok()?))
        };
        let Ok(Some(room)) = tokio::time::timeout(ROOM, room).await else { return Called::Busy(work) };
        let (engine, plugin) = (self.clone(), plugin.clone());
        let task = async move {
            let meter = Meter::new(plugin.limits.cpu);
            let (of, metered) = (engine.clone(), meter.clone());
            let running = async move {
                let _room = room;
                of.run(&plugin, call, handling, work, metered).await
            };
            engine.background.run(running, || meter.used() < HEAD).await
        };
        match AbortOnDropHandle::new(tokio::spawn(task)).await {
            Ok(Ok((end, work))) => Called::Ended(end, work),
            Ok(Err(Panicked)) | Err(_) => Called::Lost,
        }
    }

    async fn run(
        self: &Arc<Self>,
        plugin: &Arc<Plugin>,
        call: Call,
        handling: Handling,
        work: Work,
        meter: Arc<Meter>,
    ) -> (End, Work) {
        let (agent, sealed) = (handling.agent.clone(), handling.event.room.encrypted);
        let spent = handling.spent.clone();
        let mut store = self.store(plugin, Some(handling), work);
        let counts = store.data().counts.clone();
        let _counted = Counted {
            engine: self.clone(),
            plugin: plugin.clone(),
            agent,
            sealed,
            counts,
            meter: meter.clone(),
        };
        let end = self.run_in(&mut store, plugin, &call, meter.clone()).await;
        spent.cpu.fetch_add(u64::try_from(meter.used().as_nanos()).unwrap_or(u64::MAX), Relaxed);
        if end.is_fault() {
            plugin.took.faults.fetch_add(1, Relaxed);
        }
        (end, std::mem::take(&mut store.data_mut().work))
    }

    /// Runs it, and counts nothing.
    async fn run_in(&self, store: &mut Store<State>, plugin: &Plugin, call: &Call, meter: Arc<Meter>) -> End {
        charge(store, meter.clone());
        // Dropped before the store, where somebody ends this.
        let runs = store.data().alive.runs();
        let _ticking = self.ticker.tick();
        let run = run(plugin, call, store);
        let wall = plugin.limits.wall;
        let ended = tokio::time::timeout(wall, meter.measure(run)).await;
        runs.ended();
        store.data().log.finish();
        match ended {
            Err(_) => End::Fault(Fault::Wall(wall)),
            Ok(Err(error)) => End::Fault(fault(&error, plugin.limits.cpu, &store.data().limiter)),
            Ok(Ok(end)) => end,
        }
    }

    /// Asks a plugin for its commands and tools, with nothing granted; loading the other exports checks their types.
    async fn list(&self, plugin: &Plugin) -> Result<(Vec<Arc<Command>>, Vec<Arc<Tool>>), Refused> {
        let _slots = self.slots(plugin).await;
        let mut store = self.store(plugin, None, Work::default());
        let meter = Meter::new(plugin.limits.cpu);
        charge(&mut store, meter.clone());
        let listing = async {
            let instance = plugin.instance.instantiate_async(&mut store).await?;
            if let Some(messages) = &plugin.messages {
                messages.load(&mut store, &instance)?;
            }
            if let Some(members) = &plugin.members {
                members.load(&mut store, &instance)?;
            }
            if let Some(timers) = &plugin.timers {
                timers.load(&mut store, &instance)?;
            }
            if let Some(lifecycle) = &plugin.lifecycle {
                lifecycle.load(&mut store, &instance)?;
            }
            let commands = match &plugin.commands {
                Some(commands) => {
                    commands.load(&mut store, &instance)?.call_list_commands(&mut store).await?
                }
                None => vec![],
            };
            let tools = match &plugin.tools {
                Some(tools) => tools.load(&mut store, &instance)?.call_list_tools(&mut store).await?,
                None => vec![],
            };
            wasmtime::Result::Ok((commands, tools))
        };
        let _ticking = self.ticker.tick();
        let listed = tokio::time::timeout(LISTING, meter.measure(listing)).await;
        let (commands, tools) = match listed {
            Err(_) => return Err(Refused::Slow(LISTING)),
            Ok(Err(error)) => {
                store.data().log.finish();
                return Err(match fault(&error, plugin.limits.cpu, &store.data().limiter) {
                    // The machine may have been busy: what is measured is time.
                    Fault::Cpu(limit) => Refused::Slow(limit),
                    fault => Refused::Listing(fault.to_string()),
                });
            }
            Ok(Ok(listed)) => listed,
        };
        let commands = convert::commands(commands).map_err(Refused::Declaration)?;
        Ok((commands, convert::tools(tools).map_err(Refused::Declaration)?))
    }

    /// Counts what a call was allowed and denied, and says what is new.
    fn count(&self, plugin: &Plugin, agent: &AgentName, sealed: bool, counts: Counts) {
        let name = &plugin.listing.plugin;
        for (denied, call) in counts.denials() {
            let mut before = plugin.denied.lock().unwrap_or_else(PoisonError::into_inner);
            if before.insert(denied) {
                let (plugin, call) = (name.clone(), Words { text: call.to_owned(), sealed });
                self.notices.say(Notice::PluginDenied { plugin, call, denied });
            }
        }
        self.tally.count(agent, name, counts);
    }

    /// Room for one more instance: of this plugin, and in all. Nobody closes these semaphores.
    async fn slots<'a>(&'a self, plugin: &'a Plugin) -> [Option<SemaphorePermit<'a>>; 2] {
        let of_plugin = plugin.slots.acquire().await.ok();
        [of_plugin, self.slots.acquire().await.ok()]
    }

    /// Reads a component, which takes a while.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn candidate(&self, bytes: Bytes) -> Result<Candidate, Refused> {
        let digest = |bytes: &[u8]| match &self.cache {
            Some(cache) => cache.digest(bytes),
            None => kept::digest(bytes),
        };
        Candidate::read_with(bytes, self.largest(), digest)
    }

    /// Bytes of the largest component that is taken.
    pub fn largest(&self) -> usize {
        self.limits.component
    }

    /// How long a host call waits for the journal.
    pub fn lookup(&self) -> Duration {
        self.limits.lookup
    }

    /// The component compiled, and its code where that is not kept yet.
    async fn component(
        self: &Arc<Self>,
        plugin: &PluginName,
        bytes: Bytes,
        digest: &str,
    ) -> Result<(Component, Option<Vec<u8>>), Refused> {
        let failed = |error| Refused::Host(format!("loading compiled code failed: {error}"));
        let (engine, named) = (self.clone(), digest.to_owned());
        let find = move || engine.cache.as_ref().map(|cache| cache.get(&engine.inner, &named)).transpose();
        match tokio::task::spawn_blocking(find).await.map_err(failed)? {
            Ok(Some(Some(component))) => return Ok((component, None)),
            Ok(_) => {}
            Err(reason) => self.notices.say(Notice::CompiledAgain { plugin: plugin.clone(), reason }),
        }
        let code = self.compiler.compile(bytes, &self.limits).await?;
        let engine = self.clone();
        let load = move || cache::fresh(&engine.inner, &code).map(|component| (component, Some(code)));
        let loaded = tokio::task::spawn_blocking(load).await.map_err(failed)?;
        loaded.map_err(|error| Refused::Invalid(first_line(&format!("{error:#}"))))
    }

    /// Keeps compiled code for the next start.
    async fn keep(self: &Arc<Self>, digest: &str, code: Option<Vec<u8>>) {
        let (Some(code), Some(cache)) = (code, self.cache.clone()) else { return };
        let (engine, digest) = (self.clone(), digest.to_owned());
        let kept = tokio::task::spawn_blocking(move || cache.put(&engine.inner, &digest, &code)).await;
        if let Err(reason) = kept.unwrap_or_else(|error| Err(error.to_string())) {
            tracing::warn!(target: "parlour", "compiled code is not kept: {reason}");
        }
    }

    fn store(&self, plugin: &Plugin, handling: Option<Handling>, work: Work) -> Store<State> {
        let sealed = handling.as_ref().is_some_and(|handling| handling.event.room.encrypted);
        let log = Log::new(plugin.listing.plugin.clone(), self.notices.clone(), sealed);
        let mut table = wasmtime::component::ResourceTable::new();
        table.set_max_capacity(HANDLES);
        let mut wasi = WasiCtx::builder();
        wasi.stdout(log.clone()).stderr(log.clone());
        let handled = handling.as_ref().map(|it| it.record.clock());
        let clocks = Clocks::new(self.limits.clock, self.clock.clone(), handled);
        clocks.give(&mut wasi);
        if let Some(handling) = &handling {
            self.secret.give(&mut wasi, handling);
        }
        let files = handling.as_ref().map(|Handling { permissions, event, .. }| {
            Files::open(permissions, event.room.encrypted, &self.folders, &mut wasi)
        });
        let files = files.unwrap_or_else(|| Ok(Files::default())).unwrap_or_else(|reason| {
            self.notices.say(Notice::PluginFiles { plugin: plugin.listing.plugin.clone(), reason });
            Files::default()
        });
        let wasi = wasi.build();
        let counts = Arc::<Mutex<Counts>>::default();
        let alive = Alive::default();
        let mut http = Http::new(self.clients.of(&plugin.listing.plugin), plugin.secrets.clone());
        if let Some(handling) = &handling {
            http = http.with(handling, counts.clone(), plugin.in_flight, alive.clone());
        }
        let state = State {
            handling,
            moving: None,
            http,
            files,
            room: plugin.room.clone(),
            clocks,
            has_timers: plugin.timers.is_some(),
            said: plugin.said.clone(),
            tokens: plugin.tokens.clone(),
            secrets: plugin.secrets.clone(),
            work,
            config: plugin.config.clone(),
            counts,
            log,
            limiter: Limiter::new(plugin.limits.memory),
            alive,
            wasi,
            table,
        };
        let mut store = Store::new(&self.inner, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(self.limits.host_call);
        store
    }
}

/// Counts what a call did when it has ended, though somebody may have stopped it.
struct Counted {
    engine: Arc<Engine>,
    plugin: Arc<Plugin>,
    agent: AgentName,
    /// What is named in a call may be words of an encrypted room.
    sealed: bool,
    counts: Arc<Mutex<Counts>>,
    meter: Arc<Meter>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let took = &self.plugin.took;
        took.calls.fetch_add(1, Relaxed);
        took.cpu.fetch_add(u64::try_from(self.meter.used().as_micros()).unwrap_or(u64::MAX), Relaxed);
        let counts = std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner));
        self.engine.count(&self.plugin, &self.agent, self.sealed, counts);
    }
}

/// Why a call was ended.
fn fault(error: &wasmtime::Error, cpu: Duration, limiter: &Limiter) -> Fault {
    if error.is::<CpuOver>() {
        return Fault::Cpu(cpu);
    }
    if limiter.refused {
        return Fault::Memory(limiter.memory());
    }
    match error.downcast_ref::<Trap>() {
        Some(trap) => Fault::Trap(trap.to_string()),
        None => Fault::Trap(first_line(&error.root_cause().to_string())),
    }
}

/// The guest yields at every tick, and ends when its time is over.
fn charge(store: &mut Store<State>, meter: Arc<Meter>) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        if meter.is_over() { Err(wasmtime::Error::new(CpuOver)) } else { Ok(UpdateDeadline::Yield(1)) }
    });
}

/// How long a plugin may take to say what it has, compiling apart.
const LISTING: Duration = Duration::from_secs(10);
/// How long a tool waits for room: longer than most of them run, and shorter than a person waits.
pub const ROOM: Duration = Duration::from_secs(5);

async fn run(plugin: &Plugin, call: &Call, store: &mut Store<State>) -> wasmtime::Result<End> {
    let instance = plugin.instance.instantiate_async(&mut *store).await?;
    let absent = || wasmtime::Error::msg("the plugin does not export what it is called for");
    let Some(handling) = &store.data().handling else { return Err(absent()) };
    let ended = match call {
        Call::Command { name, rest, arguments } => {
            let invocation = convert::invocation(handling, name, rest, arguments);
            let guest = plugin.commands.as_ref().ok_or_else(absent)?.load(&mut *store, &instance)?;
            guest.call_run(&mut *store, &invocation).await?.map(|()| End::Handled)
        }
        Call::Message => {
            let message = convert::message(handling);
            let guest = plugin.messages.as_ref().ok_or_else(absent)?.load(&mut *store, &instance)?;
            guest.call_on_message(&mut *store, &message).await?.map(|outcome| match outcome {
                messages::Outcome::Handled => End::Handled,
                messages::Outcome::Pass => End::Pass,
            })
        }
        Call::Member => {
            let change = convert::member_change(handling);
            let guest = plugin.members.as_ref().ok_or_else(absent)?.load(&mut *store, &instance)?;
            guest.call_on_member(&mut *store, &change).await?.map(|()| End::Pass)
        }
        Call::Timer => {
            let firing = convert::firing(handling).ok_or_else(absent)?;
            let guest = plugin.timers.as_ref().ok_or_else(absent)?.load(&mut *store, &instance)?;
            guest.call_on_timer(&mut *store, &firing).await?.map(|()| End::Handled)
        }
        Call::Tool { name, arguments } => {
            let call = convert::tool_call(handling, name, arguments);
            let guest = plugin.tools.as_ref().ok_or_else(absent)?.load(&mut *store, &instance)?;
            guest.call_call(&mut *store, &call).await?.map(|result| End::Answer(result.text))
        }
    };
    let of_a_tool = store.data().work.tool_failed;
    Ok(ended.unwrap_or_else(|error: types::Error| End::Error(convert::guest_error(error, of_a_tool))))
}

fn features() -> Config {
    let mut config = Config::new();
    // QuickJS and others' components need the feature, though the contract is synchronous.
    config.wasm_component_model(true).wasm_component_model_async(true);
    config.epoch_interruption(true).max_wasm_stack(STACK).async_stack_size(STACK * 4);
    // What no guest of ours needs is attack surface; threads are not even compiled in.
    config.wasm_memory64(false).wasm_relaxed_simd(false);
    config
}

fn pooling(limits: &Limits) -> wasmtime::Result<wasmtime::Engine> {
    let mut pool = PoolingAllocationConfig::default();
    let instances = u32::try_from(limits.instances + limits.tools).unwrap_or(u32::MAX);
    pool.total_component_instances(instances).total_stacks(instances);
    pool.total_core_instances(instances.saturating_mul(CORE_INSTANCES))
        .total_memories(instances.saturating_mul(MEMORIES))
        .total_tables(instances.saturating_mul(TABLES));
    // No component takes what others shall have.
    pool.max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES);
    pool.max_memory_size(limits.memory.max(LARGEST_MEMORY));
    let mut config = features();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    wasmtime::Engine::new(&config)
}

/// Where the address space is too small for a pool.
fn on_demand() -> wasmtime::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&features())
}

fn unlinkable(surface: &Surface, error: &wasmtime::Error) -> Refused {
    let strangers: Vec<String> = surface.strangers().cloned().collect();
    if strangers.is_empty() {
        Refused::Shape(first_line(&format!("{error:#}")))
    } else {
        Refused::Imports(strangers)
    }
}

fn first_line(text: &str) -> String {
    escaped(text.lines().next().unwrap_or_default(), 300)
}
