//! `toolbox`: tools of the agent's other plugins. A tool runs in an instance of its own, with its own plugin's grants,
//! limits and memory, and for the same event; what it answers is data.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;

use super::{
    Handling, State, Work,
    bindings::parlour::plugin::toolbox as wit,
    error,
    types::{self, Error, ErrorKind},
};
use crate::{
    engine::{Call, Called, End, Fault, GuestError, OF_A_TOOL, ROOM},
    manifest::Permission,
    router::{Catalogue, Listing, Offer},
    text::visible,
    tool::{RESULT, Tool, Unfit},
};

/// Plugins that wait for each other, one up the line of the other: as deep as anybody has a reason for.
const DEPTH: usize = 8;
/// Calls of one delivery, over all its attempts: more is a loop.
const CALLS: u32 = 128;

/// The agent's plugins, as far as they have tools.
#[async_trait]
pub trait Tools: Send + Sync {
    /// What they have at this moment.
    fn now(&self) -> Arc<Catalogue>;
    /// Why a plugin is not called for this event, if it is not.
    fn absence(&self, of: &Arc<Listing>, handling: &Handling) -> Option<Absence>;
    /// Calls a tool of a plugin, for another one whose work goes along.
    async fn call(&self, of: &Arc<Listing>, call: Call, caller: Handling, work: Work) -> Called;
}

/// Why a plugin is not called.
pub enum Absence {
    /// Another version has taken its place, or it is gone.
    Replaced,
    /// It rests for so long, after too many faults.
    Rests(Duration),
}

type Reply<T> = wasmtime::Result<Result<T, Error>>;

impl wit::Host for State {
    async fn list_tools(&mut self, known: Option<u32>) -> Reply<wit::Listing> {
        Ok(self.tools_listed(known))
    }

    async fn call_tool(
        &mut self,
        name: String,
        arguments: String,
        generation: Option<u32>,
    ) -> Reply<wit::Output> {
        let (offer, arguments) = match self.tool_found(&name, &arguments, generation) {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        let mut handling = match self.handling() {
            Ok(handling) => handling.clone(),
            Err(error) => return Ok(Err(error)),
        };
        handling.path = handling.record.tool(&handling.path, &offer.name);
        let tools = handling.tools.clone();
        let mut work = std::mem::take(&mut self.work);
        work.begin(&offer.listing.plugin, &offer.listing.digest);
        let call = Call::Tool { name: offer.tool.name.clone(), arguments };
        let (answer, mut work) = match tools.call(&offer.listing, call, handling, work).await {
            Called::Ended(end, work) => (answer(&offer.name, end), work),
            Called::Busy(work) => (Err(busy()), work),
            Called::Lost => return Err(wasmtime::Error::msg("the host itself failed in a tool")),
        };
        work.end(answer.is_ok());
        work.tool_failed |= answer.as_ref().is_err_and(|error| error.code.as_deref() == Some(OF_A_TOOL));
        self.work = work;
        Ok(answer)
    }
}

impl State {
    fn tools_listed(&mut self, known: Option<u32>) -> Result<wit::Listing, Error> {
        let handling = self.handling()?;
        // Where nothing was granted, there is nothing: only who does not ask is told so.
        if !handling.permissions.asks(Permission::Tools) {
            self.holds(Permission::Tools, "toolbox.list-tools")?;
        }
        let handling = self.handling()?;
        let catalogue = handling.tools.now();
        let (generation, offers) = catalogue.toolbox(&handling.plugin, &handling.permissions);
        if known == Some(generation) {
            return Ok(wit::Listing::Unchanged);
        }
        let tools = offers.into_iter().map(|offer| described(&offer.name, &offer.tool)).collect();
        Ok(wit::Listing::Changed(wit::Catalogue { generation, tools }))
    }

    /// A tool that may be called, and its arguments, checked.
    fn tool_found(
        &mut self,
        name: &str,
        arguments: &str,
        generation: Option<u32>,
    ) -> Result<(Offer, String), Error> {
        // Before anything else: whoever is not granted a tool learns nothing of it.
        let call = format_args!("toolbox.call-tool {name}");
        self.may(Permission::Tools, call, |permissions| permissions.tool(name))?;
        self.leaves(Permission::Tools, call)?;
        let handling = self.handling()?;
        if handling.spent.tools.fetch_add(1, Relaxed) >= CALLS {
            return Err(error(ErrorKind::TooLarge, "one delivery calls tools at most 128 times"));
        }
        let catalogue = handling.tools.now();
        if generation
            .is_some_and(|known| known != catalogue.toolbox(&handling.plugin, &handling.permissions).0)
        {
            return Err(stale());
        }
        let Some(offer) = catalogue.tool(name) else {
            return Err(error(ErrorKind::NotFound, format!("there is no tool {name}")));
        };
        let plugin = &offer.listing.plugin;
        if *plugin == handling.plugin || handling.callers.contains(plugin) {
            let line = format!("{name}: its plugin is at work already, and waits for this one");
            return Err(coded(ErrorKind::Invalid, "cycle", line));
        }
        // The callers, this plugin, and that one.
        if handling.callers.len() + 2 > DEPTH {
            let line = format!("{name}: {DEPTH} plugins wait for each other already");
            return Err(coded(ErrorKind::TooLarge, "depth", line));
        }
        let arguments = offer.tool.arguments(arguments).map_err(|unfit| match unfit {
            Unfit::TooLarge(line) => error(ErrorKind::TooLarge, format!("{name}: {line}")),
            Unfit::Invalid(line) => coded(ErrorKind::Invalid, "arguments", format!("{name}: {line}")),
        })?;
        match handling.tools.absence(&offer.listing, handling) {
            None => Ok((offer.clone(), arguments)),
            Some(Absence::Replaced) => Err(stale()),
            Some(Absence::Rests(left)) => {
                let line = format!("{name}: its plugin rests after too many faults");
                Err(Error { retry_after: milliseconds(left), ..error(ErrorKind::Unavailable, line) })
            }
        }
    }
}

fn described(name: &str, tool: &Tool) -> types::Tool {
    types::Tool {
        name: name.to_owned(),
        title: tool.title.clone(),
        description: tool.description.clone(),
        parameters: tool.parameters.clone(),
        read_only: tool.read_only,
        extra: None,
    }
}

/// What the caller is told of how a tool ended.
fn answer(name: &str, end: End) -> Result<wit::Output, Error> {
    let of_the_tool = |kind, line: String| coded(kind, OF_A_TOOL, format!("{name}: {line}"));
    match end {
        End::Answer(text) if text.len() > RESULT => {
            Err(of_the_tool(ErrorKind::TooLarge, "its answer has over 256 KiB".into()))
        }
        End::Answer(text) => {
            Ok(wit::Output { tool: name.to_owned(), untrusted: visible(&text), extra: None })
        }
        End::Error(GuestError { word, message, retry_after, .. }) => {
            let line = if message.is_empty() { "that did not work".into() } else { visible(&message) };
            let retry_after = retry_after.and_then(milliseconds);
            Err(Error { retry_after, ..of_the_tool(word, line) })
        }
        End::Fault(fault) => {
            let kind = match fault {
                Fault::Cpu(_) | Fault::Wall(_) => ErrorKind::Timeout,
                Fault::Memory(_) => ErrorKind::TooLarge,
                Fault::Trap(_) => ErrorKind::Other,
            };
            Err(of_the_tool(kind, format!("stopped: {fault}")))
        }
        End::Handled | End::Pass => Err(of_the_tool(ErrorKind::Internal, "it is no tool".into())),
    }
}

fn coded(kind: ErrorKind, code: &str, message: String) -> Error {
    Error { code: Some(code.into()), ..error(kind, message) }
}

fn stale() -> Error {
    coded(ErrorKind::Conflict, "stale", "the tools have changed; list them again".into())
}

fn busy() -> Error {
    let busy = error(ErrorKind::RateLimited, "too many tools run; try again");
    Error { retry_after: milliseconds(ROOM), ..busy }
}

fn milliseconds(duration: Duration) -> Option<u32> {
    u32::try_from(duration.as_millis()).ok()
}
