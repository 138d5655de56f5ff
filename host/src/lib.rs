//! A WebAssembly plugin host for agents on Matrix.
//!
//! One host owns the Matrix connections and their end-to-end encryption, and runs sandboxed components that
//! bring the behaviour. This crate is the host as a library; the program `parlour` is its first embedder.
//!
//! ```no_run
//! use parlour::{Agent, Host, chat::memory::Rooms, id::PluginName, settings::Access};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! // First thing in `main`: plugins are compiled by this program in a process apart.
//! parlour::compile_if_asked();
//! let rooms = Rooms::new();
//! let room = rooms.create_direct("@alice:memory", "@agent:memory");
//! let access = Access { users: ["@alice:memory".parse()?].into(), ..Access::default() };
//! let host = Host::builder()
//!     .agent(Agent::new("agent".parse()?, rooms.account("@agent:memory")).access(access))
//!     .plugin("echo".parse()?, std::fs::read("echo.wasm")?)
//!     .build()
//!     .await?;
//! rooms.say("@alice:memory", &room, "/echo hello");
//! host.run(std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! An event's way, and the modules in that order: [`chat`] hands over a batch, [`gate`] judges it, [`journal`]
//! stores it, a lane orders it, the [`router`] finds the plugin, the [`engine`] runs it, the journal commits what
//! it did, and the outbox sends that through the chat.

// What comes in and goes out.
pub mod answers;
pub mod audit;
pub mod command;
pub mod effect;
pub mod event;
pub mod id;
pub mod manifest;
mod mistake;
pub mod notice;
pub mod origin;
pub mod settings;
pub mod signature;
pub mod text;
pub mod timer;
pub mod tool;

// What is decided.
pub mod addressing;
pub mod backlog;
mod config;
pub mod gate;
pub mod grant;
mod migration;
mod mime;
mod rate;
mod rhythm;
pub mod router;
mod scrub;
pub mod secret;
mod session;
mod suspension;
mod tally;
mod trial;

// The three branches: they never name each other.
pub mod chat;
pub mod engine;
pub mod journal;

pub(crate) mod capability;
pub mod package;
mod render;
pub mod source;

// The host.
mod agent;
mod backoff;
mod begin;
pub mod clock;
pub mod control;
mod draft;
mod folder;
mod forget;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod host;
mod kept;
mod lane;
pub mod lock;
mod outbox;
pub mod owner;
mod record;
mod registry;
pub mod replay;
mod standing;

pub use agent::{Agent, KeyPatience};
pub use capability::{http, llm};
pub use engine::compile::{Compiler, compile_if_asked};
pub use host::{BuildError, Commands, Host, HostBuilder, NoAgentLeft};
