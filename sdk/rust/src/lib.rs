//! Write plugins for [Parlour](https://crates.io/crates/parlour-cli) in Rust.
//!
//! A plugin is a type without state that implements one or more of [`Commands`], [`Messages`],
//! [`Members`], [`Timers`] and [`Tools`], and names them in [`export!`]. This one is complete:
//!
//! ```
//! use parlour_plugin::prelude::*;
//!
//! struct Echo;
//!
//! impl Commands for Echo {
//!     fn list_commands() -> Vec<Command> {
//!         vec![Command::new("echo", "Says what you say").rest("text", "What to say")]
//!     }
//!
//!     fn run(call: Invocation) -> Result<(), Error> {
//!         outbox::say(call.rest)?;
//!         Ok(())
//!     }
//! }
//!
//! parlour_plugin::export!(Echo: commands);
//! ```
//!
//! The crate is a `cdylib`, and `parlour build` (or `cargo build --release --target wasm32-wasip2`) makes a
//! component of it. A handler works on a fresh instance each time: what is to be remembered belongs in
//! [`kv`]. What it wants done is queued in the [`outbox`] and leaves only once the handler has returned `Ok`.
//!
//! The modules bear the names of the contract's interfaces and hold its functions, with a few shorter ways
//! beside them. They call the host, so they work in a component only; keep what can be tested without one in
//! functions of its own.

#[doc(hidden)]
pub mod bindings;
mod command;
pub mod config;
mod error;
mod json;
pub mod kv;
pub mod llm;
pub mod log;
pub mod media;
pub mod outbox;
pub mod prelude;
pub mod random;
pub mod schedule;
pub mod secrets;
mod tool;
pub mod toolbox;

/// What a plugin that has commands implements.
pub use bindings::commands::exports::parlour::plugin::commands::Guest as Commands;
pub use bindings::commands::exports::parlour::plugin::commands::{Argument, Invocation};
/// What a plugin that wants to know who comes and goes implements.
pub use bindings::members::exports::parlour::plugin::members::Guest as Members;
pub use bindings::members::exports::parlour::plugin::members::{MemberChange, Membership};
/// What a plugin that answers messages implements.
pub use bindings::messages::exports::parlour::plugin::messages::Guest as Messages;
pub use bindings::messages::exports::parlour::plugin::messages::Outcome;

/// What a plugin that sets timers implements.
pub use bindings::timers::exports::parlour::plugin::timers::Firing;
pub use bindings::timers::exports::parlour::plugin::timers::Guest as Timers;
/// What a plugin that has tools for other plugins implements.
pub use bindings::tools::exports::parlour::plugin::tools::Guest as Tools;
pub use bindings::tools::exports::parlour::plugin::tools::{ToolCall, ToolResult};

pub use bindings::imports::parlour::plugin::directory;
pub use bindings::imports::parlour::plugin::progress;
pub use bindings::imports::parlour::plugin::types;
pub use bindings::imports::parlour::plugin::types::{
    Body, Command, Conversation, Error, ErrorKind, Message, Parameter, Role, Sender, Tool,
};

/// Makes a component of this crate that exports the named interfaces, and only those: the host looks at what
/// a component exports to know what it handles.
///
/// ```
/// # use parlour_plugin::prelude::*;
/// # struct Greeter;
/// # impl Messages for Greeter {
/// #     fn on_message(_: Message) -> Result<Outcome, Error> { Ok(Outcome::Pass) }
/// # }
/// # impl Members for Greeter {
/// #     fn on_member(_: MemberChange) -> Result<(), Error> { Ok(()) }
/// # }
/// parlour_plugin::export!(Greeter: messages, members);
/// ```
#[macro_export]
macro_rules! export {
    ($plugin:ident: $($interface:ident),+ $(,)?) => {
        $($crate::__export_one!($interface $plugin);)+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_one {
    (commands $plugin:ident) => {
        $crate::bindings::commands::commands!($plugin with_types_in $crate::bindings::commands);
    };
    (messages $plugin:ident) => {
        $crate::bindings::messages::messages!($plugin with_types_in $crate::bindings::messages);
    };
    (members $plugin:ident) => {
        $crate::bindings::members::members!($plugin with_types_in $crate::bindings::members);
    };
    (timers $plugin:ident) => {
        $crate::bindings::timers::timers!($plugin with_types_in $crate::bindings::timers);
    };
    (tools $plugin:ident) => {
        $crate::bindings::tools::tools!($plugin with_types_in $crate::bindings::tools);
    };
    ($other:ident $plugin:ident) => {
        ::core::compile_error!(::core::concat!(
            "a plugin exports `commands`, `messages`, `members`, `timers` or `tools`, not `",
            ::core::stringify!($other),
            "`"
        ));
    };
}
