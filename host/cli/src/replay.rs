//! `parlour replay`: a past event again, from what is kept of it.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use parlour::{
    Compiler,
    id::{EventId, PluginName},
    journal::sqlite::Sqlite,
    replay::{Replay, Replayed},
    text::escaped,
};

use crate::{audit::time, plugin::Config, print, verdict};

#[derive(Args)]
pub struct Options {
    /// The event's id, such as `$abc`
    event: EventId,
    /// Run this plugin only, of those that handled it
    #[arg(long, value_name = "NAME")]
    plugin: Option<PluginName>,
    /// Run this component in place of the version that ran then
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
    #[command(flatten)]
    config: Config,
    /// As JSON, for a script
    #[arg(long)]
    json: bool,
}

/// Runs it, and prints what came of it.
pub fn replay(options: &Options) -> anyhow::Result<()> {
    let (settings, lock) = options.config.load()?;
    let file = settings.data.join("journal.db");
    if !file.try_exists().with_context(|| file.display().to_string())? {
        bail!("there is no {} yet: no host has run here", file.display());
    }
    let with =
        options.with.as_ref().map(|with| std::fs::read(with).with_context(|| with.display().to_string()));
    let with = with.transpose()?;
    let journal = Sqlite::look(&file).map_err(|error| anyhow!("{error}"))?;
    let replay = Replay { settings, lock, compiler: Compiler::default(), with };
    let run = replay.run(Arc::new(journal), &options.event, options.plugin.as_ref());
    let replayed = crate::runtime()?.block_on(run)?;
    if options.json {
        print(&(serde_json::to_string_pretty(&replayed)? + "\n"))?;
    } else {
        print(&replayed.iter().map(shown).collect::<String>())?;
    }
    if replayed.iter().all(|of| of.same) { Ok(()) } else { Err(verdict("")) }
}

/// For a person. What people and plugins say is in it.
fn shown(of: &Replayed) -> String {
    let short = |digest: &str| digest.get(..12).unwrap_or(digest).to_owned();
    let (agent, plugin) = (&of.agent, &of.plugin);
    let mut lines =
        vec![format!("plugin {plugin} ({}) for agent {agent}, {}", short(&of.component), time(of.ended))];
    if of.with != of.component {
        lines.push(format!("run now: {}", short(&of.with)));
    }
    lines.extend(of.now.iter().map(|line| format!("  {line}")));
    lines.extend(of.log.iter().map(|line| format!("  log: {line}")));
    lines.push(format!("  {:.1} ms of CPU time", of.cpu_ms));
    if of.same {
        lines.push("the same as then".into());
    } else {
        lines.push("not the same as then:".into());
        lines.extend(of.unknown.iter().map(|line| format!("  ! never asked then: {line}")));
        lines.extend(difference(&of.then, &of.now));
    }
    lines.push(String::new());
    lines.iter().map(|line| escaped(line, 2000)).collect::<Vec<_>>().join("\n")
}

/// Lines of the one that the other does not have, in order.
fn difference(then: &[String], now: &[String]) -> Vec<String> {
    let mut left: Vec<&String> = now.iter().collect();
    let mut lines = Vec::new();
    for line in then {
        match left.iter().position(|other| *other == line) {
            Some(at) => drop(left.remove(at)),
            None => lines.push(format!("  - {line}")),
        }
    }
    if lines.is_empty() && left.is_empty() && then != now {
        return vec!["  the same in another order".into()];
    }
    lines.extend(left.into_iter().map(|line| format!("  + {line}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_shown() {
        let lines = |all: &[&str]| all.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let then = lines(&["ok", "a", "b", "b"]);
        assert_eq!(difference(&then, &lines(&["ok", "b", "c", "a"])), ["  - b", "  + c"]);
        assert_eq!(difference(&then, &then), [""; 0]);
        assert_eq!(difference(&then, &lines(&["ok", "b", "a", "b"])), ["  the same in another order"]);
    }
}
