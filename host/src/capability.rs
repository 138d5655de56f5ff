//! What a plugin may import, and what of it is really there. One file for each import, named as in `wit/`.
//!
//! A guest's call sees [`State`], which belongs to one instance and so to one delivery: identity comes from
//! there, never from an argument. What is not granted answers `denied`; nothing that a guest says traps the
//! host, and every number and text from it is bounded where it comes in.

pub mod answers;
pub mod clocks;
mod config;
pub mod directory;
pub mod files;
pub mod http;
pub mod kv;
pub mod llm;
pub mod logging;
pub mod media;
mod moving;
pub mod outbox;
mod poll;
pub mod progress;
pub mod random;
pub mod schedule;
mod secrets;
pub mod toolbox;
mod work;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64},
    },
};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::{
    command::Command,
    effect::Place,
    event::{Event, Kind},
    grant::{Denied, Permissions},
    id::{AgentName, DeliveryId, EventId, PluginName, SessionId, UserId},
    manifest::Permission,
    secret::Secrets,
    settings::{InFlight, Role},
    tally::Counts,
};

/// The contract in Rust, from `wit/`.
pub mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "plugin",
        imports: {
            "parlour:plugin/kv": async | trappable,
            "parlour:plugin/llm": async | trappable,
            "parlour:plugin/media": async | trappable,
            "parlour:plugin/outbox": async | trappable,
            "parlour:plugin/schedule": async | trappable,
            "parlour:plugin/toolbox": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        with: { "parlour:plugin/llm.answer": super::llm::Answering },
        require_store_data_send: true,
    });
}

pub use bindings::parlour::plugin::types;
pub use moving::Moving;
pub use work::Work;

/// What is being handled, as every capability sees it.
#[derive(Clone)]
pub struct Handling {
    /// Whose event.
    pub agent: AgentName,
    /// Its account.
    pub agent_id: UserId,
    /// Which plugin handles it.
    pub plugin: PluginName,
    /// Names this attempt's effects.
    pub delivery: DeliveryId,
    /// What came.
    pub event: Arc<Event>,
    /// Its text without the mention.
    pub text: String,
    /// It was addressed to the agent.
    pub addressed: bool,
    /// What the settings say of the sender.
    pub role: Role,
    /// What they say of the person whom the event is about.
    pub subject_role: Role,
    /// The sender is another agent of this host.
    pub sender_is_agent: bool,
    /// What shares history with it.
    pub session: SessionId,
    /// The agent's home.
    pub home: Option<Place>,
    /// The commands that this person may use.
    pub commands: Vec<Arc<Command>>,
    /// What the plugin may do.
    pub permissions: Arc<Permissions>,
    /// What it remembers.
    pub kv: Arc<dyn kv::Source>,
    /// The language model, where one is set up.
    pub llm: Option<Arc<dyn llm::Backend>>,
    /// What it may refer to.
    pub messages: Arc<dyn outbox::Messages>,
    /// Its timers.
    pub timers: Arc<dyn schedule::Source>,
    /// The files of its message.
    pub media: Arc<media::Files>,
    /// What the delivery has used up, over all its attempts.
    pub spent: Arc<Spent>,
    /// Where drafts go; nowhere in a tool.
    pub drafts: Option<Arc<dyn progress::Sink>>,
    /// Tools of the agent's plugins.
    pub tools: Arc<dyn toolbox::Tools>,
    /// In a tool: the plugins that wait for this one, the outermost first.
    pub callers: Vec<PluginName>,
    /// What it is told from outside.
    pub record: Arc<answers::Recorder>,
    /// Which call of a tool this is; empty in the handler itself.
    pub path: Arc<str>,
}

impl Handling {
    /// The conversation of the event.
    pub fn here(&self) -> Place {
        Place { room: self.event.room.id.clone(), thread: self.event.thread().cloned() }
    }

    /// Whether the event names this one: itself, its thread's root, or what it answers.
    fn mentions(&self, id: &EventId) -> bool {
        let message = match &self.event.kind {
            Kind::Message(message) => message,
            Kind::Member(_) => return self.event.id == *id,
            // It has no event that anybody else knows.
            Kind::Timer(_) => return self.event.thread() == Some(id),
        };
        let answered = message.reply_to.as_ref().map(|quoted| &quoted.id);
        self.event.id == *id || message.thread.as_ref() == Some(id) || answered == Some(id)
    }
}

/// What a delivery has used up, over all its attempts.
#[derive(Debug, Default)]
pub struct Spent {
    /// Questions to the language model.
    pub llm: AtomicU32,
    /// HTTP requests.
    pub http: AtomicU32,
    /// Calls of tools.
    pub tools: AtomicU32,
    /// Downloads of files.
    pub media: AtomicU32,
    /// A tool that it called was rolled back: the delivery begins anew.
    pub replaced: AtomicBool,
    /// CPU time, in nanoseconds.
    pub cpu: AtomicU64,
    /// Messages by whose they are and where they go to.
    pub messages: Mutex<BTreeMap<(PluginName, String), u32>>,
}

/// What belongs to one instance.
pub struct State {
    /// None while the host only asks what the plugin has.
    pub handling: Option<Handling>,
    /// The memory that it moves, in place of all else.
    pub moving: Option<Moving>,
    /// What it has done.
    pub work: Work,
    /// What it was allowed and denied, and how often; counted however the call ends.
    pub counts: Arc<Mutex<Counts>>,
    /// What it reads by `wasi:config/store`.
    pub config: Arc<BTreeMap<String, String>>,
    /// Where its requests may go.
    pub http: http::Http,
    /// The folder that it may see.
    pub files: files::Files,
    /// For the files of messages that its plugin holds.
    pub room: media::Room,
    /// What it reads the time by.
    pub clocks: clocks::Clocks,
    /// What becomes of what was under way when the host was ended.
    pub in_flight: Option<InFlight>,
    /// Its plugin handles timers.
    pub has_timers: bool,
    /// What its plugin has used of the model.
    pub tokens: Arc<llm::Tokens>,
    /// How much its plugin has said lately.
    pub said: Arc<outbox::Said>,
    /// What the host puts on them.
    pub secrets: Arc<Secrets>,
    /// Where its log lines go.
    pub log: logging::Log,
    /// Memory and tables.
    pub limiter: crate::engine::limits::Limiter,
    /// Whether it goes on.
    pub alive: answers::Alive,
    /// Standard interfaces, with nothing behind them.
    pub wasi: WasiCtx,
    /// What the guest holds handles of.
    pub table: ResourceTable,
}

impl State {
    /// What is being handled; `unsupported` while the host only lists.
    fn handling(&self) -> Result<&Handling, types::Error> {
        self.handling.as_ref().ok_or_else(|| error(types::ErrorKind::Unsupported, "nothing is being handled"))
    }

    /// Whether the plugin may do this, which is counted. `call` is what it wants to do, as `outbox.send to !room`: who is
    /// named in it is an id or an address, never what somebody said.
    fn may(
        &mut self,
        permission: Permission,
        call: impl fmt::Display,
        check: impl FnOnce(&Permissions) -> Result<(), Denied>,
    ) -> Result<(), types::Error> {
        let permissions = &self.handling()?.permissions;
        let checked = check(permissions);
        let spared = checked.is_err_and(|denied| permissions.spares(denied));
        let mut counts = self.counts();
        match checked {
            Ok(()) => counts.used(permission),
            Err(denied) => {
                counts.denied(denied, spared, &call.to_string());
                if !spared {
                    return Err(error(types::ErrorKind::Denied, denied.to_string()));
                }
            }
        }
        Ok(())
    }

    /// Whether the plugin may do something for which there is one permission as a whole.
    fn holds(&mut self, permission: Permission, call: &str) -> Result<(), types::Error> {
        self.may(permission, call, |permissions| permissions.holds(permission))
    }
}

impl State {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is said here may go out by this: what is said in an encrypted room stays there, until somebody
    /// has agreed that it leaves.
    fn leaves(&mut self, by: Permission, call: impl fmt::Display) -> Result<(), types::Error> {
        if self.handling()?.event.room.encrypted {
            self.may(by, call, |permissions| permissions.carries(by))?;
        }
        Ok(())
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl types::Host for State {}

/// An error for a guest.
pub fn error(kind: types::ErrorKind, message: impl Into<String>) -> types::Error {
    types::Error { kind, code: None, message: Some(message.into()), retry_after: None, extra: None }
}

/// Everything that a plugin may import: ours, and WASI with nothing behind it.
pub fn add_to_linker(linker: &mut wasmtime::component::Linker<State>) -> wasmtime::Result<()> {
    use bindings::{
        parlour::plugin::{directory, kv, llm, media, outbox, progress, schedule, secrets, toolbox},
        wasi::{config::store, logging::logging},
    };
    use wasmtime::component::HasSelf;

    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    files::add_to_linker(linker)?;
    poll::add_to_linker(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    types::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    outbox::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    kv::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    progress::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    llm::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    secrets::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    directory::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    toolbox::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    media::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    schedule::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    store::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    logging::add_to_linker::<State, HasSelf<State>>(linker, |state| state)
}
