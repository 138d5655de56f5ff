//! Runs plugins: a fresh instance for every event, from a component that was compiled once.
//!
//! The only folder, with [`crate::capability`], that names wasmtime. A guest runs on a fiber: it yields at
//! every tick, and while it waits in a host call the thread does other work. What it did is in [`Work`] when it
//! returns, and goes nowhere by itself.

pub mod admission;
mod background;
pub mod cache;
mod call;
pub mod compile;
mod convert;
pub mod limits;
mod migrate;
mod pool;
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio_util::task::AbortOnDropHandle;
use wasmtime::{
    Store,
    component::{Component, InstancePre, Linker},
};
use wasmtime_wasi::WasiCtx;

pub use self::call::{Call, Called, End, Fault, GuestError, GuestErrorKind};
pub(crate) use self::convert::OF_A_TOOL;
use self::{
    admission::{Candidate, Refused, Surface},
    background::{Background, HEAD, Panicked},
    cache::Cache,
    call::{charge, fault, run},
    compile::{Apart, Compiler},
    limits::{Limiter, Limits, Meter},
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
        random,
    },
    clock::Clock,
    command::Command,
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

/// Things of the host's that an instance may hold at once, such as streams and answers of a model.
const HANDLES: usize = 1000;
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
    /// What each plugin has used of the model, whatever versions of it come and go.
    tokens: Mutex<BTreeMap<PluginName, Arc<Tokens>>>,
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
    in_flight: Option<settings::InFlight>,
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
        let inner = pool::pooling(&limits)
            .or_else(|_| pool::on_demand())
            .map_err(|error| format!("wasmtime: {error:#}"))?;
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
            tokens: Mutex::default(),
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
        let tokens = {
            let mut all = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(plugin.clone()).or_default().clone()
        };
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
            tokens,
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
        let Some(room) = self.tool_room(plugin).await else { return Called::Busy(work) };
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

    /// Room for one more instance of a tool: of this plugin, and in all; none where there was none for [`ROOM`].
    async fn tool_room(&self, plugin: &Plugin) -> Option<[OwnedSemaphorePermit; 2]> {
        let room = async {
            let of_plugin = plugin.tool_slots.clone().acquire_owned().await.ok()?;
            Some([of_plugin, self.tool_slots.clone().acquire_owned().await.ok()?])
        };
        tokio::time::timeout(ROOM, room).await.ok()?
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

    /// Forgets compiled code that nobody has used for long, but for that of these components.
    pub fn forget_compiled(&self, but: &BTreeSet<String>) {
        if let Some(cache) = &self.cache {
            cache.only(&self.inner, but);
        }
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
        self.store_of(plugin, handling, work, sealed)
    }

    /// The same, where it is said whether what it logs may be words of an encrypted room.
    fn store_of(
        &self,
        plugin: &Plugin,
        handling: Option<Handling>,
        work: Work,
        sealed: bool,
    ) -> Store<State> {
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
            in_flight: plugin.in_flight,
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

/// How long a plugin may take to say what it has, compiling apart.
const LISTING: Duration = Duration::from_secs(10);
/// How long a tool waits for room: longer than most of them run, and shorter than a person waits.
pub const ROOM: Duration = Duration::from_secs(5);

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
