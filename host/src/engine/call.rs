//! What a plugin is called for, the call, and how it ended.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use wasmtime::{Store, Trap, UpdateDeadline};

use super::{
    Plugin, State, Work, convert, first_line,
    limits::{Limiter, Meter},
};
use crate::{
    capability::{bindings::exports::parlour::plugin::messages, types},
    command::Argument,
};

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

pub(super) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds >= 120.0 { format!("{:.0} minutes", seconds / 60.0) } else { format!("{seconds} s") }
}

/// The guest was interrupted because its time was over.
#[derive(Debug, thiserror::Error)]
#[error("the CPU time is used up")]
struct CpuOver;

/// Why a call was ended.
pub(super) fn fault(error: &wasmtime::Error, cpu: Duration, limiter: &Limiter) -> Fault {
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
pub(super) fn charge(store: &mut Store<State>, meter: Arc<Meter>) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        if meter.is_over() { Err(wasmtime::Error::new(CpuOver)) } else { Ok(UpdateDeadline::Yield(1)) }
    });
}

/// Calls it, in an instance of its own.
pub(super) async fn run(plugin: &Plugin, call: &Call, store: &mut Store<State>) -> wasmtime::Result<End> {
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
