//! `parlour audit`: the record of what plugins were granted, did and were denied.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use chrono::{DateTime, Local};
use clap::Args;
use parlour::{
    audit::{Broken, Entry, Hash, Head, Recorded},
    id::PluginName,
    journal::{self, Unreviewed, sqlite::Sqlite},
    text::escaped,
};
use serde::Serialize;

use crate::{plugin::Config, print, verdict};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    config: Config,
    /// Show this plugin's entries only
    #[arg(long, value_name = "NAME")]
    plugin: Option<PluginName>,
    /// Show what came after the entry with this hash, which must still be there; an earlier `parlour audit` printed it
    #[arg(long, value_name = "HASH")]
    since: Option<Hash>,
    /// As JSON, for a script
    #[arg(long)]
    json: bool,
}

/// An entry, for a script.
#[derive(Serialize)]
struct Shown {
    number: u64,
    #[serde(flatten)]
    entry: Entry,
    hash: String,
}

/// The record, for a script.
#[derive(Serialize)]
struct Report {
    entries: Vec<Shown>,
    /// How many there are, of all plugins.
    count: u64,
    /// The last one's.
    hash: String,
    /// What is wrong with it.
    broken: Option<String>,
}

/// Prints it.
pub fn audit(options: &Options) -> anyhow::Result<()> {
    let (settings, _) = options.config.load()?;
    let mut kept = Vec::new();
    let mut since = Since::new(options.since);
    let read = read(&settings.data, |recorded| {
        let ours = options
            .plugin
            .as_ref()
            .is_none_or(|name| recorded.entry.plugin.as_deref() == Some(name.as_str()));
        if since.passed(&recorded) && ours {
            kept.push(recorded);
        }
    })?;
    let broken = match &read {
        Err(broken) => Some(broken.to_string()),
        Ok(_) if since.found.is_none() => Some(
            "the record has no entry with that hash any more: it was written anew, or its end was cut off"
                .into(),
        ),
        Ok(_) => None,
    };
    let head = read.unwrap_or(Head { count: since.seen, hash: since.last });
    if options.json {
        let shown = |Recorded { number, entry, hash }| Shown { number, entry, hash: hash.to_string() };
        let entries = kept.into_iter().map(shown).collect();
        let report =
            Report { entries, count: head.count, hash: head.hash.to_string(), broken: broken.clone() };
        print(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        print(&kept.iter().map(line).collect::<String>())?;
        if let (None, Some(found)) = (&broken, since.found) {
            print(&summary(head, found, options.since.is_some()))?;
        }
    }
    broken.map_or(Ok(()), |broken| Err(verdict(broken)))
}

/// Reads the record, beside a host that may run.
///
/// # Errors
/// It cannot be read; that it is broken is an answer.
pub fn read(data: &Path, each: impl FnMut(Recorded)) -> anyhow::Result<Result<Head, Broken>> {
    let file = data.join("journal.db");
    crate::status::settle(data);
    if !file.try_exists().with_context(|| file.display().to_string())? {
        bail!("there is no {} yet: no host has run here", file.display());
    }
    let journal = Sqlite::look(&file).map_err(|error| anyhow!("{error}"))?;
    match crate::runtime()?.block_on(journal::review(&journal, each)) {
        Ok(head) => Ok(Ok(head)),
        Err(Unreviewed::Broken(broken)) => Ok(Err(broken)),
        Err(Unreviewed::Journal(error)) => bail!("{}: {error}", file.display()),
    }
}

/// Where the part begins that is shown.
struct Since {
    wanted: Hash,
    /// The number of the entry that has this hash; 0 stands for the beginning.
    found: Option<u64>,
    seen: u64,
    last: Hash,
}

impl Since {
    fn new(since: Option<Hash>) -> Self {
        let wanted = since.unwrap_or_default();
        Self { wanted, found: (wanted == Hash::default()).then_some(0), seen: 0, last: Hash::default() }
    }

    /// Whether an entry came after it.
    fn passed(&mut self, recorded: &Recorded) -> bool {
        (self.seen, self.last) = (recorded.number, recorded.hash);
        let passed = self.found.is_some();
        if recorded.hash == self.wanted {
            self.found = Some(recorded.number);
        }
        passed
    }
}

fn summary(head: Head, found: u64, since: bool) -> String {
    let after = if since {
        format!("Entry {found} is still there, and {} came after it. ", head.count - found)
    } else {
        String::new()
    };
    format!(
        "{after}{} entries, as they were written.\nTo see later whether all of them are still there, note the last hash elsewhere, for --since:\n{}\n",
        head.count, head.hash
    )
}

/// For a person. Somebody may have written what steers a terminal.
fn line(recorded: &Recorded) -> String {
    let Recorded { number, entry, .. } = recorded;
    let mut line = format!("{number:>6}  {}  {:<15}", time(entry.at), entry.what);
    line.push_str(&format!("  {}", entry.plugin.as_deref().unwrap_or("-")));
    if let Some(agent) = &entry.agent {
        line.push_str(&format!(" for agent {agent}"));
    }
    for part in entry.permission.iter().chain(Some(&entry.detail).filter(|detail| !detail.is_empty())) {
        line.push_str(&format!(": {part}"));
    }
    if entry.count > 1 {
        line.push_str(&format!(" ({} times)", entry.count));
    }
    format!("{}\n", escaped(&line, 2000))
}

/// When, as the person's clock says it.
pub fn time(at: i64) -> String {
    match DateTime::from_timestamp_millis(at) {
        Some(at) => at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string(),
        None => format!("{at} ms"),
    }
}
