//! `parlour status`: how the host that runs here does.

use std::{path::Path, time::Duration};

use anyhow::bail;
use clap::Args;
use parlour::{
    control::{self, AgentStatus, Answer, NoAnswer, PluginStatus, Question, Status},
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

/// Prints it.
pub fn status(options: &Options) -> anyhow::Result<()> {
    let (settings, _) = options.config.load()?;
    let Answer::Status(status) = ask(&settings.data, &Question::Status {})? else {
        bail!("the host answers another question");
    };
    if options.json {
        print(&(serde_json::to_string_pretty(&status)? + "\n"))
    } else {
        print(&shown(&status))
    }
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

fn shown(status: &Status) -> String {
    let mut lines = vec![format!("up for {}", span(status.uptime_s))];
    lines.extend(status.agents.iter().map(agent));
    lines.extend(status.plugins.iter().flat_map(plugin));
    lines.push(format!("audit record: {} entries, the last one {}", status.audit_count, status.audit_hash));
    // What chats, files and servers say is in it.
    lines.push(String::new());
    lines.iter().map(|line| escaped(line, 2000)).collect::<Vec<_>>().join("\n")
}

fn agent(agent: &AgentStatus) -> String {
    let AgentStatus { name, serves_since, said, said_at, events_waiting, events_locked, effects_unsent } =
        agent;
    let serves = match serves_since {
        Some(since) => format!("serves since {}", time(*since)),
        None => "does not serve".into(),
    };
    let said = match (said, said_at) {
        (Some(said), Some(at)) => format!("; {}: {said}", time(*at)),
        _ => String::new(),
    };
    let locked = match events_locked {
        0 => String::new(),
        locked => format!(", {locked} for their keys"),
    };
    format!(
        "agent {name}: {serves}; {events_waiting} events wait{locked}, {effects_unsent} effects are not sent{said}"
    )
}

fn plugin(plugin: &PluginStatus) -> Vec<String> {
    let version = plugin.version.as_ref().map_or_else(String::new, |version| format!(" {version}"));
    let serves = match plugin.digest.as_deref().and_then(|digest| digest.get(..12)) {
        Some(digest) => format!("loaded ({digest})"),
        None => "not loaded".into(),
    };
    let mut lines = vec![format!("plugin {}{version}: {serves}", plugin.name)];
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
