//! `parlour plugin list`: the plugins, what they may do, and which wait for somebody to agree.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Write as _},
};

use anyhow::Context;
use clap::Args;
use parlour::{
    engine::{admission::Candidate, limits::Limits},
    grant::Permissions,
    id::{AgentName, PluginName},
    lock::{Lock, Locked},
    manifest::Permission,
    settings::Settings,
    signature::{self, Publisher},
    source::{self, Source},
};
use serde::Serialize;

use super::Config;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    config: Config,
    /// As JSON, for a script
    #[arg(long)]
    json: bool,
}

/// One plugin.
#[derive(Serialize)]
struct Entry {
    name: PluginName,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// SHA-256 of what was agreed to, or else of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// Who signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    publisher: Option<Publisher>,
    /// What it may do.
    may: Vec<String>,
    /// What it asks for and was not granted.
    missing: Vec<String>,
    /// What is let through and counted, though it is not granted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    audit_only: Vec<String>,
    /// What it may do for agents that have grants of their own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    agents: BTreeMap<AgentName, Vec<String>>,
    /// Why its file waits for somebody to agree, or is refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waits: Vec<String>,
}

/// Prints them.
pub fn list(options: &Options) -> anyhow::Result<()> {
    let (settings, lock) = options.config.load()?;
    let lock = lock.read().map_err(anyhow::Error::msg)?;
    let files = settings.plugins.iter();
    let files = files.filter_map(|(name, plugin)| Some((name.clone(), plugin.source.clone()?))).collect();
    let folder = &settings.plugin_folder;
    let (found, _) = source::find(Some(folder), &files).with_context(|| folder.display().to_string())?;
    let entries: Vec<Entry> =
        found.into_iter().map(|(name, source)| entry(&settings, &lock, name, &source)).collect();
    let text = if options.json {
        serde_json::to_string_pretty(&entries)? + "\n"
    } else if entries.is_empty() {
        format!("There is no plugin in {} yet.\n", settings.plugin_folder.display())
    } else {
        entries.iter().map(shown).collect()
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}

fn entry(settings: &Settings, lock: &Lock, name: PluginName, source: &Source) -> Entry {
    let limit = Limits::default().component;
    let file: Result<Locked, String> = source.load(limit).and_then(|bytes| {
        let candidate = Candidate::read(bytes.into(), limit).map_err(|refused| refused.to_string())?;
        Ok(candidate.offered())
    });
    let agreed = lock.plugins.get(&name);
    let waits = match (&file, agreed) {
        (Err(reason), _) => vec![reason.clone()],
        (Ok(offered), agreed) => {
            let signed = signature::required(offered.publisher, settings.publishers_of(&name));
            let beyond = agreed.map(|agreed| agreed.beyond(offered)).unwrap_or_default();
            let beyond = beyond.iter().map(ToString::to_string);
            signed.err().map(|refused| refused.to_string()).into_iter().chain(beyond).collect()
        }
    };
    // What serves is what was agreed to, while another waits.
    let serves = if waits.is_empty() { file.ok() } else { agreed.cloned() };
    let grants = settings.plugins.get(&name).map(|plugin| plugin.grants.clone()).unwrap_or_default();
    let asks = serves.as_ref().map(|serves| serves.asks.clone()).unwrap_or_default();
    let audit_only = settings.plugins.get(&name).is_some_and(|plugin| plugin.audit_only);
    let permissions = Permissions::new(asks.clone(), grants).audit_only(audit_only);
    let missing: Vec<Permission> = permissions.missing().collect();
    let may = |permissions: &Permissions| {
        let held = asks.iter().map(|(asked, _)| asked).filter(|asked| permissions.holds(*asked).is_ok());
        held.map(|permission| permission.to_string()).collect::<Vec<_>>()
    };
    let agents = settings.agents.iter().filter_map(|(agent, of)| {
        let grants = of.grants.get(&name)?;
        Some((agent.clone(), may(&permissions.with(grants.clone()))))
    });
    Entry {
        may: may(&permissions),
        audit_only: permissions.spared(),
        agents: agents.collect(),
        missing: missing.iter().map(ToString::to_string).collect(),
        version: serves.as_ref().and_then(|serves| serves.version.as_ref()).map(ToString::to_string),
        publisher: serves.as_ref().and_then(|serves| serves.publisher),
        digest: serves.map(|serves| serves.digest),
        waits,
        name,
    }
}

fn shown(entry: &Entry) -> String {
    let version = entry.version.as_ref().map_or_else(String::new, |version| format!(" {version}"));
    let digest = entry.digest.as_deref().and_then(|digest| digest.get(..12)).unwrap_or("nothing serves");
    let mut text = format!("{}{version}  ({digest})\n", entry.name);
    if let Some(publisher) = entry.publisher {
        text.push_str(&format!("  signed by {publisher}\n"));
    }
    for (what, items) in [
        ("may", &entry.may),
        ("asks for, not granted", &entry.missing),
        ("AUDIT-ONLY, let through and counted where not granted", &entry.audit_only),
        ("its file waits", &entry.waits),
    ] {
        if !items.is_empty() {
            text.push_str(&format!("  {what}: {}\n", items.join(", ")));
        }
    }
    for (agent, may) in &entry.agents {
        text.push_str(&format!("  may for agent {agent}: {}\n", may.join(", ")));
    }
    text
}
