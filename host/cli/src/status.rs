//! `parlour status`: how the host that runs here does.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use parlour::{
    control::{self, AgentStatus, Answer, NoAnswer, PluginState, PluginStatus, Question, Status},
    journal::{Happening, sqlite::Sqlite},
    text::escaped,
};

use crate::{audit::time, plugin::Config, print, verdict};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    config: Config,
    /// As JSON, for a script
    #[arg(long)]
    json: bool,
}

/// Prints it; where no host runs, what its journal tells, and ends with 1.
pub fn status(options: &Options) -> anyhow::Result<()> {
    let (settings, _) = options.config.load()?;
    let data = &settings.data;
    let (status, ended) = match ask(data, &Question::Status {}) {
        Ok(Answer::Status(status)) => (*status, None),
        Ok(_) => bail!("the host answers another question"),
        Err(error) if error.is::<crate::Verdict>() => match known(data)? {
            Some(status) => (status, Some(error)),
            None => return Err(error),
        },
        Err(error) => return Err(error),
    };
    if options.json {
        print(&(serde_json::to_string_pretty(&status)? + "\n"))?;
    } else {
        print(&shown(&status, now()))?;
    }
    ended.map_or(Ok(()), Err)
}

/// What the journal tells by itself; none where there is none.
fn known(data: &Path) -> anyhow::Result<Option<Status>> {
    let file = data.join("journal.db");
    if !file.try_exists().with_context(|| file.display().to_string())? {
        return Ok(None);
    }
    let journal = Sqlite::look(&file).map_err(|error| anyhow!("{error}"))?;
    let status = crate::runtime()?.block_on(control::look(&journal));
    status.map(Some).map_err(|error| anyhow!("{}: {error}", file.display()))
}

/// Asks the host that runs on this data.
///
/// # Errors
/// None runs, it does not answer, or it says no.
pub fn ask(data: &Path, question: &Question) -> anyhow::Result<Answer> {
    match control::ask(&socket(data), question) {
        Ok(Answer::Error(reason)) => bail!("{}", escaped(&reason, 500)),
        Ok(answer) => Ok(answer),
        Err(NoAnswer::NotRunning) => {
            Err(verdict(format!("no host runs on {}; `parlour run` starts one", data.display())))
        }
        Err(error) => bail!("{}: {error}", socket(data).display()),
    }
}

/// What the host that runs here, if one does, has counted and not written yet is written.
pub fn settle(data: &Path) {
    drop(control::ask(&socket(data), &Question::Status {}));
}

/// Where it listens.
pub fn socket(data: &Path) -> std::path::PathBuf {
    data.join("control.sock")
}

fn shown(status: &Status, now: i64) -> String {
    let mut lines: Vec<String> =
        status.uptime_s.map(|uptime| format!("up for {}", span(uptime))).into_iter().collect();
    lines.extend(status.agents.iter().flat_map(|of| agent(of, now)));
    lines.extend(status.plugins.iter().flat_map(plugin));
    if let Some(reason) = &status.journal {
        lines.push(format!("JOURNAL: {reason}; what waits and what happened last may not be told here"));
    }
    lines.push(format!("audit record: {} entries, the last one {}", status.audit_count, status.audit_hash));
    // What chats, files and servers say is in it.
    lines.push(String::new());
    lines.iter().map(|line| escaped(line, 2000)).collect::<Vec<_>>().join("\n")
}

fn agent(agent: &AgentStatus, now: i64) -> Vec<String> {
    let ago = |at: i64| ago(at, now);
    let serves = match (agent.serves_since, &agent.user) {
        (Some(since), Some(user)) => format!("serves since {} as {user}", time(since)),
        (Some(since), None) => format!("serves since {}", time(since)),
        (None, _) => "does not serve".into(),
    };
    let mut lines = vec![format!("agent {}: {serves}", agent.name)];
    let mut say = |what: &str, text: String| lines.push(format!("  {what:<14}{text}"));
    if let Some(connection) = &agent.connection {
        if let Some(device) = &connection.device {
            let since =
                connection.signed_in.map_or_else(String::new, |at| format!(", signed in {}", time(at)));
            say("device", format!("{device}{since}"));
        }
        let synced = connection.synced.map(&ago);
        match (&connection.outage, synced) {
            (Some(outage), synced) => {
                let last = synced.unwrap_or_else(|| "none in this run".into());
                let (since, reason) = (time(outage.since), &outage.reason);
                say("sync", format!("OUT OF REACH since {since}: {reason}; last answer: {last}"));
            }
            (None, Some(synced)) => say("sync", format!("answered {synced}")),
            (None, None) => {}
        }
        if let Some(it) = &connection.encryption {
            let verified = if it.verified { "device verified" } else { "device NOT VERIFIED" };
            let identity = if it.identity { "" } else { ", the identity's keys are not here" };
            let backup = if it.backup { "keys backed up" } else { "no key backup" };
            let last = agent.undecryptable.last();
            let last = last.map_or_else(String::new, |it| {
                format!(", the last {} in {}, {}: {}", it.event, it.room, ago(it.at), it.why)
            });
            let count = agent.undecryptable_count;
            say("encryption", format!("{verified}{identity}, {backup}; {count} undecryptable events{last}"));
        }
    }
    let oldest =
        |at: Option<i64>| at.map_or_else(String::new, |at| format!(" (the oldest came {})", ago(at)));
    let (events, effects) = (agent.events_waiting, agent.effects_unsent);
    let locked = match agent.events_locked {
        0 => String::new(),
        locked => format!(", {locked} for their keys"),
    };
    say(
        "waiting",
        format!(
            "{events} events{}{locked}, {effects} effects not sent{}; {} of {} lanes run",
            oldest(agent.last.oldest_event),
            oldest(agent.last.oldest_effect),
            agent.lanes_running,
            agent.lanes
        ),
    );
    let happened = |it: &Happening| {
        let event = it.event.as_ref().map_or_else(String::new, |event| format!("{event} "));
        let why = it.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        format!("{event}in {}, {}{why}", it.room, ago(it.at))
    };
    let last = &agent.last;
    for (what, it) in [("last accepted", &last.accepted), ("last dropped", &last.dropped)] {
        if let Some(it) = it {
            say(what, happened(it));
        }
    }
    if let Some(at) = agent.tried {
        let trouble = agent.trouble.as_ref().map_or_else(String::new, |trouble| {
            format!("; NOT TAKEN since {}: {}", time(trouble.since), trouble.reason)
        });
        say("last sent", format!("{}{trouble}", ago(at)));
    }
    for (what, it) in [("last taken", &last.acknowledged), ("last given up", &last.given_up)] {
        if let Some(it) = it {
            say(what, happened(it));
        }
    }
    if let (Some(said), Some(at)) = (&agent.said, agent.said_at) {
        say("said", format!("{}: {said}", time(at)));
    }
    lines
}

fn plugin(plugin: &PluginStatus) -> Vec<String> {
    let version = plugin.version.as_ref().map_or_else(String::new, |version| format!(" {version}"));
    let serves = match plugin.digest.as_deref().and_then(|digest| digest.get(..12)) {
        Some(digest) => format!(
            "loaded ({digest}), {}; {} calls, {} faults, {} of CPU time",
            if plugin.state == PluginState::Resting { "rests for some" } else { "serves" },
            plugin.calls,
            plugin.faults,
            cpu(plugin.cpu_us)
        ),
        None => "not loaded".into(),
    };
    let mut lines = vec![format!("plugin {}{version}: {serves}", plugin.name)];
    if let Some(well) = plugin.on_trial {
        lines.push(format!("  on trial: {well} events have ended well"));
    }
    if let Some(refusal) = &plugin.not_taken {
        let what = if refusal.waits { "its file" } else { "its file is refused" };
        lines.push(format!("  {what}: {}: {}", refusal.file, refusal.reason));
    }
    for rest in &plugin.rests {
        lines.push(format!("  rests from what {} does, for {} more", rest.user, span(rest.left_s)));
    }
    if !plugin.audit_only.is_empty() {
        let through = plugin.audit_only.join(", ");
        lines.push(format!("  AUDIT-ONLY: what is not granted of {through} is let through and counted"));
    }
    for (count, what) in
        [(plugin.denied, "denied"), (plugin.would_be_denied, "let through though not granted")]
    {
        if count > 0 {
            lines.push(format!("  {what}: {count} calls, named by `parlour plugin check {}`", plugin.name));
        }
    }
    lines
}

/// `3 s ago`.
fn ago(at: i64, now: i64) -> String {
    let seconds = u64::try_from(now.saturating_sub(at).max(0) / 1000).unwrap_or_default();
    format!("{} ago", span(seconds))
}

fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// `3.2 ms`.
fn cpu(microseconds: u64) -> String {
    let milliseconds = microseconds / 1000;
    if milliseconds < 1000 {
        format!("{milliseconds}.{} ms", microseconds % 1000 / 100)
    } else {
        span(milliseconds / 1000)
    }
}

/// `2 h 5 min`.
fn span(seconds: u64) -> String {
    let minutes = Duration::from_secs(seconds).as_secs() / 60;
    match (minutes / (24 * 60), minutes / 60 % 24, minutes % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}
