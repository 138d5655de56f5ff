//! `parlour plugin check`: what a plugin asks for, what of it is granted, and what became of that.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use parlour::{
    audit::{Entry, What},
    engine::{
        admission::{self, Candidate},
        limits::Limits,
    },
    grant::Permissions,
    id::{AgentName, PluginName},
    lock::Lock,
    manifest::Asks,
    origin::Target,
    secret,
    settings::{Plugin, Settings},
    source::{self, Source},
    text::escaped,
};
use serde::Serialize;

use super::Config;
use crate::{
    audit::{read, time},
    print, verdict,
};

#[derive(Args)]
pub struct Options {
    /// A plugin by its name; or a component that was not added yet, or a folder with a plugin.toml and one
    #[arg(value_name = "NAME|FILE")]
    plugin: String,
    #[command(flatten)]
    config: Config,
    /// As JSON, for a script
    #[arg(long)]
    json: bool,
}

/// What is said of a plugin.
#[derive(Serialize)]
struct Report {
    name: String,
    version: Option<String>,
    digest: String,
    permissions: Vec<Row>,
    /// What is let through and counted, though it is not granted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    audit_only: Vec<String>,
    /// Whether its secrets would arrive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Secret>,
    /// Asked for and granted, and never used.
    unused: Vec<String>,
    /// Imported and not asked for: denied.
    imports_not_asked_for: Vec<String>,
    /// From when on was counted, in milliseconds since 1970; none where it has never run.
    since: Option<i64>,
}

/// A secret that it asks for.
#[derive(Serialize)]
struct Secret {
    name: String,
    /// For this agent, which has grants of its own; for all others, where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<AgentName>,
    arrives: bool,
    /// What the host would send, without the secret, or why it would not.
    how: String,
}

/// One permission.
#[derive(Serialize)]
struct Row {
    permission: String,
    asked: bool,
    reason: String,
    /// Everywhere, unless an agent has grants of its own.
    granted: bool,
    /// Agents with grants of their own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    agents: BTreeMap<AgentName, bool>,
    used: i64,
    /// In milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used: Option<i64>,
    denied: Vec<Denied>,
    would_be_denied: Vec<Denied>,
}

/// A call that was denied.
#[derive(Serialize)]
struct Denied {
    call: String,
    count: i64,
    /// In milliseconds since 1970.
    last: i64,
}

/// What was counted of a plugin, since this version has run with these grants.
#[derive(Default)]
struct Counted {
    digest: Option<String>,
    granted: BTreeMap<Option<String>, String>,
    since: Option<i64>,
    used: BTreeMap<String, (i64, i64)>,
    denied: BTreeMap<String, BTreeMap<String, (i64, i64)>>,
    would_be: BTreeMap<String, BTreeMap<String, (i64, i64)>>,
}

impl Counted {
    fn add(&mut self, entry: Entry) {
        if entry.is(What::Loaded) || entry.is(What::Swapped) {
            if self.digest.as_ref() != Some(&entry.detail) {
                *self = Self { digest: Some(entry.detail), since: Some(entry.at), ..Self::default() };
            }
        } else if entry.is(What::Granted) {
            let before = self.granted.insert(entry.agent, entry.detail.clone());
            if before.is_some_and(|before| before != entry.detail) {
                let (digest, granted) = (self.digest.take(), std::mem::take(&mut self.granted));
                *self = Self { digest, granted, since: Some(entry.at), ..Self::default() };
            }
        } else if entry.is(What::Removed) {
            *self = Self::default();
        } else if let Some(permission) = entry.permission.clone() {
            let of = if entry.is(What::Used) || entry.is(What::Secret) {
                self.used.entry(permission)
            } else if entry.is(What::Denied) {
                self.denied.entry(permission).or_default().entry(entry.detail)
            } else if entry.is(What::WouldBeDenied) {
                self.would_be.entry(permission).or_default().entry(entry.detail)
            } else {
                return;
            };
            let (count, last) = of.or_default();
            *count += entry.count;
            *last = entry.at.max(*last);
        }
    }
}

/// What is looked at.
struct Subject {
    name: PluginName,
    candidate: Candidate,
    /// It is here, and may have run.
    serves: bool,
}

/// Prints it.
pub fn check(options: &Options) -> anyhow::Result<()> {
    let file = Path::new(&options.plugin);
    let by_name = PluginName::parse(&options.plugin).ok().filter(|_| !file.exists());
    // A file can be looked at without any settings.
    let known = (by_name.is_some() || options.config.exists()).then(|| options.config.load()).transpose()?;
    let subject = match (by_name, &known) {
        (Some(name), Some((settings, lock))) => {
            serving(settings, &lock.read().map_err(anyhow::Error::msg)?, name)?
        }
        _ => offered(file)?,
    };
    let mut counted = Counted::default();
    if let Some((settings, _)) = known.as_ref().filter(|(settings, _)| subject.serves && has_run(settings)) {
        let whole = read(&settings.data, |recorded| {
            if recorded.entry.plugin.as_deref() == Some(subject.name.as_str()) {
                counted.add(recorded.entry);
            }
        })?;
        whole.map_err(|broken| anyhow!("{broken}; see `parlour audit`"))?;
    }
    let report = report(known.as_ref().map(|(settings, _)| settings), &subject, counted);
    if options.json {
        print(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        print(&shown(&report))?;
    }
    let denied = report.permissions.iter().any(|row| !row.denied.is_empty());
    let lost = report.secrets.iter().any(|secret| !secret.arrives);
    if denied || lost { Err(verdict("")) } else { Ok(()) }
}

fn has_run(settings: &Settings) -> bool {
    settings.data.join("journal.db").exists()
}

/// The version of a plugin that serves: its file, or what was agreed to while that waits.
fn serving(settings: &Settings, lock: &Lock, name: PluginName) -> anyhow::Result<Subject> {
    let files = settings.plugins.iter();
    let files = files.filter_map(|(name, plugin)| Some((name.clone(), plugin.source.clone()?))).collect();
    let folder = &settings.plugin_folder;
    let (mut found, _) = source::find(Some(folder), &files).with_context(|| folder.display().to_string())?;
    let Some(source) = found.remove(&name) else {
        bail!("there is no plugin {name} in {}", folder.display());
    };
    let file = candidate(&source);
    let agreed = lock.plugins.get(&name);
    let waits = match (&file, agreed) {
        (Ok(file), Some(agreed)) => !agreed.beyond(&file.offered()).is_empty(),
        (Err(_), _) => true,
        (Ok(_), None) => false,
    };
    let kept = agreed.filter(|_| waits).and_then(|agreed| {
        let kept = settings.data.join("plugins").join(format!("{}.wasm", agreed.digest));
        candidate(&Source::file(kept)).ok()
    });
    Ok(Subject { name, candidate: kept.map_or(file, Ok)?, serves: true })
}

/// A file that nobody has added.
fn offered(file: &Path) -> anyhow::Result<Subject> {
    let source = Source::folder(file).unwrap_or_else(|| Source::file(file));
    let candidate = candidate(&source)?;
    let said = candidate.surface.manifest.as_ref().map(|manifest| manifest.name.clone());
    let stem =
        || PathBuf::from(file).file_stem().and_then(|stem| PluginName::parse(stem.to_string_lossy()).ok());
    let unnamed = || anyhow!("{}: it has no name: no plugin.toml, and no plugin's file name", file.display());
    Ok(Subject { name: said.or_else(stem).ok_or_else(unnamed)?, candidate, serves: false })
}

fn candidate(source: &Source) -> anyhow::Result<Candidate> {
    let limit = Limits::default().component;
    let bytes = source.load(limit).map_err(anyhow::Error::msg)?;
    Candidate::read(bytes.into(), limit)
        .map_err(|refused| anyhow!("{}: {refused}", source.component.display()))
}

fn report(settings: Option<&Settings>, subject: &Subject, mut counted: Counted) -> Report {
    let Subject { name, candidate, .. } = subject;
    let asks = candidate.surface.asks();
    let plugin = settings.and_then(|settings| settings.plugins.get(name));
    let audit_only = plugin.is_some_and(|plugin| plugin.audit_only);
    let grants = plugin.map(|plugin| plugin.grants.clone()).unwrap_or_default();
    let permissions = Permissions::new(asks.clone(), grants).audit_only(audit_only);
    let agents: BTreeMap<AgentName, Permissions> = settings
        .into_iter()
        .flat_map(|settings| &settings.agents)
        .filter_map(|(agent, of)| Some((agent.clone(), permissions.with(of.grants.get(name)?.clone()))))
        .collect();
    let mut rows: Vec<Row> = asks
        .iter()
        .map(|(permission, reason)| {
            let holds = |of: &Permissions| of.holds(permission).is_ok();
            Row {
                asked: true,
                reason: reason.to_owned(),
                granted: holds(&permissions),
                agents: agents.iter().map(|(agent, of)| (agent.clone(), holds(of))).collect(),
                ..Row::of(permission.to_string(), &mut counted)
            }
        })
        .collect();
    // What it did not ask for, and tried.
    let tried: BTreeSet<String> = counted.denied.keys().chain(counted.used.keys()).cloned().collect();
    rows.extend(tried.into_iter().map(|permission| Row::of(permission, &mut counted)));
    let unused = rows.iter().filter(|row| row.asked && row.is_granted() && row.used == 0);
    let ours = candidate.surface.imports.iter().filter_map(|import| Some(admission::ours(import)?.0));
    let imports = ours.filter(|import| *import != "types");
    let imports = imports.filter(|import| !asks.iter().any(|(asked, _)| asked.to_string() == *import));
    let imports: BTreeSet<&str> = imports.collect();
    Report {
        name: name.to_string(),
        version: candidate.surface.manifest.as_ref().map(|manifest| manifest.version.to_string()),
        digest: candidate.digest.clone(),
        audit_only: permissions.spared(),
        secrets: secrets(settings, name, &asks, &permissions, &agents),
        unused: unused.map(|row| row.permission.clone()).collect(),
        imports_not_asked_for: imports.into_iter().map(str::to_owned).collect(),
        since: counted.since,
        permissions: rows,
    }
}

/// Whether the secrets that it asks for would arrive.
fn secrets(
    settings: Option<&Settings>,
    name: &PluginName,
    asks: &Asks,
    permissions: &Permissions,
    agents: &BTreeMap<AgentName, Permissions>,
) -> Vec<Secret> {
    let usual = Plugin::default();
    let plugin = settings.and_then(|settings| settings.plugins.get(name)).unwrap_or(&usual);
    let homeservers = settings.into_iter().flat_map(Settings::homeservers);
    let homeservers: Vec<Target> = homeservers.filter_map(|url| Target::of(url).ok()).collect();
    // What holds for nobody is of no interest.
    let others = settings.is_none_or(|settings| settings.agents.len() > agents.len() || agents.is_empty());
    let each: Vec<_> = others
        .then_some((None, permissions))
        .into_iter()
        .chain(agents.iter().map(|(agent, of)| (Some(agent), of)))
        .collect();
    let tried = asks.secrets.keys().flat_map(|name| each.iter().map(move |(agent, of)| (name, *agent, *of)));
    let tried = tried.map(|(name, agent, permissions)| {
        let arrival = secret::arrival(name, permissions, plugin, &homeservers);
        let arrives = arrival.is_ok();
        let how = arrival.unwrap_or_else(|reason| reason);
        Secret { name: name.clone(), agent: agent.cloned(), arrives, how }
    });
    tried.collect()
}

impl Row {
    /// What was counted of a permission, and nothing else yet.
    fn of(permission: String, counted: &mut Counted) -> Self {
        let used = counted.used.remove(&permission);
        let calls = |all: &mut BTreeMap<String, BTreeMap<String, (i64, i64)>>| {
            let calls = all.remove(&permission).unwrap_or_default().into_iter();
            calls.map(|(call, (count, last))| Denied { call, count, last }).collect()
        };
        Self {
            asked: false,
            reason: String::new(),
            granted: false,
            agents: BTreeMap::new(),
            used: used.map_or(0, |(count, _)| count),
            last_used: used.map(|(_, last)| last),
            denied: calls(&mut counted.denied),
            would_be_denied: calls(&mut counted.would_be),
            permission,
        }
    }

    /// For some agent at least.
    fn is_granted(&self) -> bool {
        self.granted || self.agents.values().any(|granted| *granted)
    }
}

fn shown(report: &Report) -> String {
    let version = report.version.as_ref().map_or_else(String::new, |version| format!(" {version}"));
    let mut lines = vec![format!("{}{version}  ({})", report.name, &report.digest[..12])];
    for row in &report.permissions {
        let granted = match (row.asked, row.granted) {
            (false, _) => "not asked for",
            (true, true) => "granted",
            (true, false) => "not granted",
        };
        let agents = row.agents.iter().filter(|(_, granted)| **granted != row.granted);
        let granted = agents.fold(granted.to_owned(), |line, (agent, granted)| {
            format!("{line}, {}granted for agent {agent}", if *granted { "" } else { "not " })
        });
        let used = match (row.last_used, report.since) {
            (Some(last), _) => format!("; used {}, last {}", times(row.used), time(last)),
            (None, Some(_)) if row.is_granted() => "; never used".into(),
            (None, _) => String::new(),
        };
        lines.push(format!("  {:<12}{granted}{used}", row.permission));
        if !row.reason.is_empty() {
            lines.push(format!("              \u{201c}{}\u{201d}", row.reason));
        }
        for (what, calls) in [("denied", &row.denied), ("would be denied", &row.would_be_denied)] {
            for Denied { call, count, last } in calls {
                let call = escaped(call, 500);
                lines.push(format!("              {what} {}, last {}: {call}", times(*count), time(*last)));
            }
        }
    }
    for Secret { name, agent, arrives, how } in &report.secrets {
        let arrives = if *arrives { "would arrive" } else { "would NOT arrive" };
        let agent = agent.as_ref().map_or_else(String::new, |agent| format!(" for agent {agent}"));
        lines.push(format!("Its secret {name} {arrives}{agent}: {}", escaped(how, 500)));
    }
    if !report.audit_only.is_empty() {
        let spared = report.audit_only.join(", ");
        lines.push(format!("AUDIT-ONLY: what is not granted of {spared} is let through and counted"));
    }
    if !report.imports_not_asked_for.is_empty() {
        lines.push(format!(
            "It imports and does not ask for, so that it is denied: {}",
            report.imports_not_asked_for.join(", ")
        ));
    }
    match report.since {
        Some(since) => {
            if !report.unused.is_empty() {
                lines.push(format!(
                    "It asks for, was granted and has never used: {}",
                    report.unused.join(", ")
                ));
            }
            lines.push(format!(
                "Counted since {}, when this version began to run with these grants.",
                time(since)
            ));
        }
        None => lines.push("It has never run here.".into()),
    }
    lines.push(String::new());
    lines.join("\n")
}

fn times(count: i64) -> String {
    if count == 1 { "once".into() } else { format!("{count} times") }
}
