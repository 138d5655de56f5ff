//! Runs plugins: a fresh instance for every event, from a component that was compiled once.
//!
//! The only folder, with [`crate::capability`], that names wasmtime. A guest runs on a fiber: it yields at
//! every tick, and while it waits in a host call the thread does other work. What it did is in [`Work`] when it
//! returns, and goes nowhere by itself.

pub mod admission;
mod background;
pub mod cache;
mod convert;
pub mod limits;
mod ticker;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::{
    Config, InstanceAllocationStrategy, PoolingAllocationConfig, Store, Trap, UpdateDeadline,
    component::{Component, InstancePre, Linker},
};
use wasmtime_wasi::WasiCtx;

use self::{
    admission::{Candidate, Refused, Surface},
    background::{Background, HEAD, Panicked},
    cache::Cache,
    limits::{LARGEST_MEMORY, Limiter, Limits, Meter},
    ticker::Ticker,
};
pub use crate::capability::{Handling, Spent, State, Work};
use crate::{
    capability::{
        self,
        bindings::exports::parlour::plugin::{commands, members, messages},
        clocks::Clocks,
        files::{Budgets, Files},
        http::{Http, client::Clients},
        logging::Log,
        outbox::Said,
        types,
    },
    command::Argument,
    config,
    grant::{Denied, Permissions},
    id::{PluginName, UserId},
    notice::{Notice, Notices},
    router::Listing,
    secret::Secrets,
    settings,
    suspension::Suspension,
    text::escaped,
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
    limits: Limits,
    slots: Semaphore,
    ticker: Ticker,
    background: Background,
    /// How plugins' requests leave.
    clients: Arc<Clients>,
    notices: Notices,
}

/// A component that is ready to run.
pub struct Plugin {
    /// What it has.
    pub listing: Arc<Listing>,
    instance: InstancePre<State>,
    commands: Option<commands::GuestIndices>,
    messages: Option<messages::GuestIndices>,
    members: Option<members::GuestIndices>,
    /// What it may do.
    pub permissions: Arc<Permissions>,
    config: Arc<BTreeMap<String, String>>,
    secrets: Arc<Secrets>,
    budgets: Budgets,
    /// How much it says.
    said: Arc<Said>,
    /// What a call of it may take.
    limits: Limits,
    slots: Semaphore,
    /// What it was denied before: each is said once.
    denied: Mutex<BTreeMap<Denied, u64>>,
    /// How it has been doing for each person: nobody can switch it off for others.
    suspensions: Mutex<HashMap<UserId, Suspension>>,
}

impl Plugin {
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
#[derive(Debug, Clone)]
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
}

/// How a call ended.
#[derive(Debug)]
pub enum End {
    /// Ok.
    Handled,
    /// Ok, and the next plugin shall have it too.
    Pass,
    /// The guest's own error.
    Error(GuestError),
    /// It was ended.
    Fault(Fault),
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
    /// An engine that keeps compiled code in `cache`.
    ///
    /// # Errors
    /// One line, where the machine cannot run it.
    pub fn new(
        limits: Limits,
        cache: Option<Cache>,
        links: &[Link],
        clients: Clients,
        notices: Notices,
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
        let clients = Arc::new(clients);
        Ok(Self { inner, linker, cache, limits, slots, ticker, background, clients, notices })
    }

    /// Makes a plugin of a component: compiles (or finds it compiled), links, and asks it what it
    /// has. Blocks while it compiles: some ten seconds of CPU time for a Python component.
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
        let wanted = surface.manifest.as_ref().map(|manifest| manifest.limits).unwrap_or_default();
        let config = config::resolve(surface.manifest.as_ref(), settings).map_err(Refused::Declaration)?;
        let permissions = Permissions::new(surface.asks(), settings.grants.clone());
        let secrets = Secrets::bind(&permissions, settings).map_err(Refused::Declaration)?;
        let (engine, named) = (self.clone(), digest.clone());
        let component = tokio::task::spawn_blocking(move || engine.compile(&bytes, &named))
            .await
            .map_err(|error| Refused::Host(format!("compiling failed: {error}")))??;
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
        let listing = Listing {
            plugin,
            digest,
            commands: vec![],
            messages: messages.is_some(),
            members: members.is_some(),
        };
        let mut loaded = Plugin {
            listing: Arc::new(listing),
            instance,
            commands,
            messages,
            members,
            permissions: Arc::new(permissions),
            config: Arc::new(config),
            secrets: Arc::new(secrets),
            budgets: Budgets::default(),
            said: Arc::new(Said::new(self.limits.messages)),
            limits: self.limits.of(wanted, settings.limits),
            slots: Semaphore::new(self.limits.instances_per_plugin),
            denied: Mutex::default(),
            suspensions: Mutex::default(),
        };
        let commands = self.list(&loaded).await?;
        if let Some(listing) = Arc::get_mut(&mut loaded.listing) {
            listing.commands = commands;
        }
        Ok(loaded)
    }

    /// Calls a plugin, in an instance of its own. Dropping the future ends the guest at once.
    pub async fn call(self: &Arc<Self>, plugin: &Arc<Plugin>, call: Call, handling: Handling) -> (End, Work) {
        let meter = Meter::new(plugin.limits.cpu);
        let running = self.clone().run(plugin.clone(), call, handling, meter.clone());
        let ended = self.background.run(running, || meter.used() < HEAD).await;
        ended.unwrap_or_else(|Panicked| {
            (End::Fault(Fault::Trap("the host itself failed".into())), Work::default())
        })
    }

    async fn run(
        self: Arc<Self>,
        plugin: Arc<Plugin>,
        call: Call,
        handling: Handling,
        meter: Arc<Meter>,
    ) -> (End, Work) {
        let _slots = self.slots(&plugin).await;
        let mut store = self.store(&plugin, Some(handling));
        charge(&mut store, meter.clone());
        let _ticking = self.ticker.tick();
        let run = run(&plugin, &call, &mut store);
        let wall = plugin.limits.wall;
        let ended = tokio::time::timeout(wall, meter.measure(run)).await;
        store.data().log.finish();
        let end = match ended {
            Err(_) => End::Fault(Fault::Wall(wall)),
            Ok(Err(error)) => End::Fault(fault(&error, plugin.limits.cpu, &store.data().limiter)),
            Ok(Ok(end)) => end,
        };
        let state = store.data_mut();
        for (denied, times) in state.http.denied() {
            *state.denied.entry(denied).or_default() += times;
        }
        self.count(&plugin, std::mem::take(&mut state.denied));
        (end, std::mem::take(&mut state.work))
    }

    /// Asks a plugin for its commands, with nothing granted; loading the other exports checks their types.
    async fn list(&self, plugin: &Plugin) -> Result<Vec<Arc<crate::command::Command>>, Refused> {
        let _slots = self.slots(plugin).await;
        let mut store = self.store(plugin, None);
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
            match &plugin.commands {
                Some(commands) => commands.load(&mut store, &instance)?.call_list_commands(&mut store).await,
                None => Ok(vec![]),
            }
        };
        let _ticking = self.ticker.tick();
        let listed = tokio::time::timeout(LISTING, meter.measure(listing)).await;
        let listed = match listed {
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
        convert::commands(listed).map_err(Refused::Declaration)
    }

    /// Counts what was denied, and says what is new.
    fn count(&self, plugin: &Plugin, denied: BTreeMap<Denied, u32>) {
        if denied.is_empty() {
            return;
        }
        let mut before = plugin.denied.lock().unwrap_or_else(PoisonError::into_inner);
        for (denied, times) in denied {
            let count = before.entry(denied).or_default();
            if *count == 0 {
                self.notices.say(Notice::PluginDenied { plugin: plugin.listing.plugin.clone(), denied });
            }
            *count += u64::from(times);
        }
    }

    /// Room for one more instance: of this plugin, and in all. Nobody closes these semaphores.
    async fn slots<'a>(&'a self, plugin: &'a Plugin) -> [Option<SemaphorePermit<'a>>; 2] {
        let of_plugin = plugin.slots.acquire().await.ok();
        [of_plugin, self.slots.acquire().await.ok()]
    }

    /// Bytes of the largest component that is taken.
    pub fn largest(&self) -> usize {
        self.limits.component
    }

    fn compile(&self, bytes: &[u8], digest: &str) -> Result<Component, Refused> {
        if let Some(found) = self.cache.as_ref().and_then(|cache| cache.get(&self.inner, digest)) {
            return Ok(found);
        }
        let component = Component::from_binary(&self.inner, bytes)
            .map_err(|error| Refused::Invalid(first_line(&format!("{error:#}"))))?;
        if let Some(cache) = &self.cache
            && let Err(reason) = cache.put(&self.inner, digest, &component)
        {
            tracing::warn!(target: "parlour", "compiled code is not kept: {reason}");
        }
        Ok(component)
    }

    fn store(&self, plugin: &Plugin, handling: Option<Handling>) -> Store<State> {
        let log = Log::new(plugin.listing.plugin.clone(), self.notices.clone());
        let mut table = wasmtime::component::ResourceTable::new();
        table.set_max_capacity(HANDLES);
        let mut wasi = WasiCtx::builder();
        wasi.stdout(log.clone()).stderr(log.clone());
        let clocks = Clocks::new(self.limits.clock);
        clocks.give(&mut wasi);
        let files = handling.as_ref().map(|Handling { permissions, event, .. }| {
            Files::open(permissions, event.room.encrypted, &plugin.budgets, &mut wasi)
        });
        let files = files.unwrap_or_else(|| Ok(Files::default())).unwrap_or_else(|reason| {
            self.notices.say(Notice::PluginFiles { plugin: plugin.listing.plugin.clone(), reason });
            Files::default()
        });
        let wasi = wasi.build();
        let mut http = Http::new(self.clients.clone(), plugin.secrets.clone());
        if let Some(Handling { permissions, event, spent, .. }) = &handling {
            http = http.with(permissions.clone(), event.room.encrypted, spent.clone());
        }
        let state = State {
            handling,
            http,
            files,
            clocks,
            said: plugin.said.clone(),
            secrets: plugin.secrets.clone(),
            work: Work::default(),
            config: plugin.config.clone(),
            denied: BTreeMap::new(),
            log,
            limiter: Limiter::new(plugin.limits.memory),
            wasi,
            table,
        };
        let mut store = Store::new(&self.inner, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(self.limits.host_call);
        store
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

async fn run(plugin: &Plugin, call: &Call, store: &mut Store<State>) -> wasmtime::Result<End> {
    let instance = plugin.instance.instantiate_async(&mut *store).await?;
    let absent = || wasmtime::Error::msg("the plugin does not export what it is called for");
    let Some(handling) = &store.data().handling else { return Err(absent()) };
    let ended = match call {
        Call::Command { name, rest, arguments } => {
            let invocation = convert::invocation(handling, name, rest, arguments);
            let guest = plugin.commands.as_ref().ok_or_else(absent)?.load(&mut *store, &instance)?;
            guest.call_run(store, &invocation).await?.map(|()| End::Handled)
        }
        Call::Message => {
            let message = convert::message(handling);
            let guest = plugin.messages.as_ref().ok_or_else(absent)?.load(&mut *store, &instance)?;
            guest.call_on_message(store, &message).await?.map(|outcome| match outcome {
                messages::Outcome::Handled => End::Handled,
                messages::Outcome::Pass => End::Pass,
            })
        }
        Call::Member => {
            let change = convert::member_change(handling);
            let guest = plugin.members.as_ref().ok_or_else(absent)?.load(&mut *store, &instance)?;
            guest.call_on_member(store, &change).await?.map(|()| End::Pass)
        }
    };
    Ok(ended.unwrap_or_else(|error: types::Error| End::Error(convert::guest_error(error))))
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
    let instances = u32::try_from(limits.instances).unwrap_or(u32::MAX);
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
