//! `parlour why`: what an event met, and what became of it. Read from the journal, beside a host that may run.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use clap::Args;
use parlour::{
    control::Question,
    gate::Verdict,
    id::{AgentName, EventId},
    journal::{Became, EffectKind, Fate, Journal as _, Outcome, Story, Told, sqlite::Sqlite},
    text::escaped,
};
use serde::Serialize;

use crate::{audit::time, plugin::Config, print, verdict};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    config: Config,
    /// The event's id, as clients show it among a message's details: $…
    event: EventId,
    /// What this agent made of it only
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentName>,
    /// As JSON, for a script
    #[arg(long)]
    json: bool,
}

/// What one agent made of it, for a script.
#[derive(Serialize)]
struct Shown {
    agent: AgentName,
    event: String,
    room: String,
    /// The lane in which it waits, or did.
    session: String,
    /// Milliseconds since 1970, as every time here.
    received: Option<i64>,
    /// How often it came again, and counted no more.
    again: u32,
    /// Why it may not pass; none: it may.
    refused: Option<String>,
    /// It has not ended.
    waits: bool,
    /// It cannot be decrypted yet.
    locked: bool,
    /// Of the agent's own message: the event that it was sent for.
    sent_for: Option<String>,
    deliveries: Vec<Told>,
}

/// Prints it.
pub fn why(options: &Options) -> anyhow::Result<()> {
    let (settings, _) = options.config.load()?;
    let data = &settings.data;
    let stories = read(data, options)?;
    if stories.is_empty() {
        return Err(verdict(unknown(options)));
    }
    // Whether somebody is at work on it.
    let running = crate::status::ask(data, &Question::Status {}).is_ok();
    if options.json {
        print(&(serde_json::to_string_pretty(&stories)? + "\n"))
    } else {
        let lines: Vec<_> = stories.iter().flat_map(|story| lines(story, running)).collect();
        print(&lines.iter().map(|line| escaped(line, 2000) + "\n").collect::<String>())
    }
}

fn read(data: &Path, options: &Options) -> anyhow::Result<Vec<Shown>> {
    let file = data.join("journal.db");
    if !file.try_exists().with_context(|| file.display().to_string())? {
        return Err(verdict(format!("there is no {} yet: no host has run here", file.display())));
    }
    let journal = Sqlite::look(&file).map_err(|error| anyhow!("{error}"))?;
    let failed = |error| anyhow!("{}: {error}", file.display());
    crate::runtime()?.block_on(async {
        let agents = journal.agents().await.map_err(failed)?;
        if let Some(agent) = options.agent.as_ref().filter(|agent| !agents.contains(agent)) {
            return Err(verdict(format!("there is no agent {agent} in {}", file.display())));
        }
        let mut stories = Vec::new();
        for agent in agents.into_iter().filter(|name| options.agent.as_ref().is_none_or(|of| of == name)) {
            if let Some(story) = journal.story(&agent, &options.event).await.map_err(failed)? {
                stories.push(shown(agent, story));
            }
        }
        Ok(stories)
    })
}

fn shown(agent: AgentName, story: Story) -> Shown {
    Shown {
        agent,
        event: story.event.to_string(),
        room: story.room.to_string(),
        session: story.session.to_string(),
        received: story.received,
        again: story.again,
        refused: match story.verdict {
            Verdict::Allow => None,
            Verdict::Deny(denial) => Some(denial.to_string()),
        },
        waits: story.waits,
        locked: story.locked,
        sent_for: story.sent_for.map(|event| event.to_string()),
        deliveries: story.deliveries,
    }
}

/// Nobody has received it, in a line.
fn unknown(options: &Options) -> String {
    let event = &options.event;
    let who = options.agent.as_ref().map_or_else(|| "no agent".into(), |name| format!("agent {name} never"));
    let has = if options.agent.is_some() { "received" } else { "here has received" };
    format!(
        "{who} {has} {event}: it is older than the first contact or than what is kept, is no message, or is in a room where no agent is"
    )
}

fn lines(story: &Shown, running: bool) -> Vec<String> {
    let at = |at: Option<i64>| at.map_or_else(|| "at a time that was not noted".into(), time);
    let Shown { agent, event, room, session, received, .. } = story;
    let mut lines = vec![format!("agent {agent}: received {event} in {room}, {}", at(*received))];
    if story.again > 0 {
        lines.push(format!("  duplicate: it came {} more times, and counted once", story.again));
    }
    if let Some(cause) = &story.sent_for {
        lines.push(format!("  it is the agent's answer to {cause}"));
    }
    match &story.refused {
        Some(reason) => lines.push(format!("  gate: dropped: {reason}")),
        None => lines.push(format!("  gate: passed, into the lane of `{session}`")),
    }
    for told in &story.deliveries {
        let who = told.plugin.as_ref().map_or_else(|| "host".into(), |name| format!("plugin {name}"));
        let line = told.line.as_ref().map_or_else(String::new, |line| format!(": {line}"));
        lines.push(format!("  {who}: {}{line}, {}", outcome(told.outcome), at(told.at)));
        lines.extend(told.effects.iter().map(|effect| format!("    {}", fate(effect, told.at))));
    }
    if story.locked {
        lines.push("  it cannot be decrypted yet, and waits for its key".into());
    } else if story.waits {
        lines.push(if running {
            "  it has not ended: it waits for its turn, or a plugin is at work on it".into()
        } else {
            "  it has not ended, and no host runs: it goes on at the next start".into()
        });
    }
    lines
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Refused => "refused",
        Outcome::Faulted => "faulted",
        Outcome::Cancelled => "cancelled",
        Outcome::Rested => "not called",
    }
}

fn fate(fate: &Fate, queued: Option<i64>) -> String {
    let what = fate.kind.map_or("effect", EffectKind::word);
    let to = fate.to.as_ref().map_or_else(String::new, |to| format!(" to {to}"));
    let tool = fate.tool.as_ref().map_or_else(String::new, |tool| format!(" (by a tool of plugin {tool})"));
    let at = |at: Option<i64>| at.map_or_else(String::new, |at| format!(", {}", time(at)));
    let became = match &fate.became {
        Became::Waiting => match queued {
            Some(since) => format!("waits to be sent since {}", time(since)),
            None => "waits to be sent".into(),
        },
        Became::Sent { event, at: when } => format!("sent as {event}{}", at(*when)),
        Became::GivenUp { reason, at: when } => format!("given up: {reason}{}", at(*when)),
        Became::Done => "done".into(),
    };
    format!("{what}{to}{tool}: {became}")
}
