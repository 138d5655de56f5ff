//! `parlour plugin add`: what a plugin asks for is shown, and granted or not, before anything of it runs.

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use inquire::{Confirm, Text};
use parlour::{
    engine::{
        admission::{Candidate, Refused},
        limits::Limits,
    },
    grant::Permissions,
    id::{PluginName, RoomId, UserId},
    lock::{Beyond, Locked},
    manifest::{Asks, Permission},
    settings::{Grants, Settings},
    source::Source,
};

use super::{Config, edit, inspect};

#[derive(Args)]
pub struct Options {
    /// A component, such as weather.wasm, or a folder with a plugin.toml and one
    file: PathBuf,
    #[command(flatten)]
    config: Config,
    /// What it is called here; by default as it calls itself
    #[arg(long)]
    name: Option<PluginName>,
    /// Grant this: home, llm, kv (what it asks for), rooms=!ID or people=@ID; may be given again
    #[arg(long, value_name = "WHAT")]
    grant: Vec<Grant>,
    /// Do not grant this, and do not ask
    #[arg(long, value_name = "WHAT")]
    deny: Vec<Grant>,
    /// Let through and count what it asks for and is not granted, until you have seen what it needs
    #[arg(long)]
    audit_only: bool,
    /// Take a version that is older than the one that was agreed to
    #[arg(long)]
    downgrade: bool,
}

/// `llm`, or `rooms=!abc:example.org`.
#[derive(Clone)]
struct Grant {
    permission: Permission,
    /// A room or a person.
    whom: Option<String>,
}

impl std::str::FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, whom) = text.split_once('=').map_or((text, None), |(name, whom)| (name, Some(whom)));
        let permission = NEED_A_GRANT.into_iter().find(|permission| permission.to_string() == name);
        let known = NEED_A_GRANT.map(|permission| permission.to_string()).join(", ");
        let permission = permission.ok_or_else(|| format!("it is none of {known}"))?;
        Ok(Self { permission, whom: whom.map(str::to_owned) })
    }
}

const NEED_A_GRANT: [Permission; 5] =
    [Permission::Kv, Permission::Home, Permission::Rooms, Permission::People, Permission::Llm];

/// Shows it, asks, and puts it where it serves.
pub fn add(options: &Options) -> anyhow::Result<()> {
    let (settings, lock) = options.config.load()?;
    let source = Source::folder(&options.file).unwrap_or_else(|| Source::file(&options.file));
    let limit = Limits::default().component;
    let bytes = source.load(limit).map_err(anyhow::Error::msg)?;
    let refused = |refused: Refused| anyhow!("{}: {refused}", options.file.display());
    let candidate = Candidate::read(bytes.into(), limit).map_err(refused)?;
    let strangers: Vec<String> = candidate.surface.strangers().cloned().collect();
    ensure!(strangers.is_empty(), refused(Refused::Imports(strangers)));
    let name = name(options, &settings, &candidate)?;
    let place = place(&settings, &name, &source.component)?;

    print(&inspect::summary(&candidate.surface));
    let offered = candidate.offered();
    let agreed = lock.read().map_err(anyhow::Error::msg)?.plugins.remove(&name);
    let beyond = agreed.as_ref().map(|agreed| agreed.beyond(&offered)).unwrap_or_default();
    let older =
        beyond.iter().find(|beyond| matches!(beyond, Beyond::Older { .. } | Beyond::Unversioned { .. }));
    if let Some(older) = older.filter(|_| !options.downgrade) {
        bail!("{}: {older}; --downgrade takes it all the same", options.file.display());
    }
    for new in &beyond {
        print(&format!("New: {new}.\n"));
    }

    let nothing = Grants::default();
    let before = settings.plugins.get(&name).map_or(&nothing, |plugin| &plugin.grants);
    let audit_only = settings.plugins.get(&name).is_some_and(|plugin| plugin.audit_only);
    replaces(options, &name, agreed.as_ref(), &place, before, audit_only)?;
    let decided = decide(options, &offered.asks, before)?;
    let granted = decided.len();
    if !decided.is_empty() {
        edit::grants(&options.config.config, &name, |table| {
            for grant in decided {
                let key = grant.permission.to_string();
                match (grant.permission, grant.whom) {
                    (Permission::Kv, _) => drop(table.insert(&key, remembering(&offered.asks))),
                    (_, Some(whom)) => edit::append(table, &key, &whom),
                    (_, None) => drop(table.insert(&key, toml_edit::value(true))),
                }
            }
        })?;
    }
    if options.audit_only && !audit_only {
        edit::key(&options.config.config, &name, "audit_only", Some(true.into()))?;
    }
    let from = options.file.display().to_string();
    let asks = offered.asks.clone();
    let entry = Locked { source: Some(from), ..offered };
    put(&candidate.bytes, &source.component, &place)?;
    lock.change(|lock| drop(lock.plugins.insert(name.clone(), entry))).map_err(anyhow::Error::msg)?;
    print(&format!("\nplugin {name}: {}\n", place.display()));
    if options.audit_only || audit_only {
        let spared = Permissions::new(asks, before.clone()).audit_only(true).spared().join(", ");
        print(&format!(
            "AUDIT-ONLY: what is not granted of what it asks for ({spared}) is let through and counted, until `audit_only` is taken out of plugins.{name}.\n"
        ));
    }
    if granted > 0 || (options.audit_only && !audit_only) {
        print("What was granted holds when `parlour run` starts again.\n");
    }
    let serves = |listed: &String| *listed == "*" || listed == name.as_str();
    if !settings.agents.values().any(|agent| agent.plugins.iter().any(serves)) {
        print(&format!("No agent lists it yet: add \"{name}\" to its `plugins`.\n"));
    }
    Ok(())
}

/// As somebody says, or as its file is called where that serves already, or as it calls itself.
fn name(options: &Options, settings: &Settings, candidate: &Candidate) -> anyhow::Result<PluginName> {
    if let Some(name) = &options.name {
        return Ok(name.clone());
    }
    let file = &options.file;
    let serves = file.parent().is_some_and(|parent| same(parent, &settings.plugin_folder));
    let said = candidate.surface.manifest.as_ref().map(|manifest| manifest.name.clone());
    if let Some(name) = said.filter(|_| !serves) {
        return Ok(name);
    }
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    PluginName::parse(&stem).map_err(|error| anyhow!("{error}; say --name NAME"))
}

/// Where the plugin goes.
fn place(settings: &Settings, name: &PluginName, component: &Path) -> anyhow::Result<PathBuf> {
    let place = settings.plugin_folder.join(format!("{name}.wasm"));
    // A folder with a manifest stays one, where it already serves.
    let packed =
        component.parent().is_some_and(|parent| same(parent, &settings.plugin_folder.join(name.as_str())));
    match settings.plugins.get(name).and_then(|plugin| plugin.source.as_ref()) {
        Some(source) if !same(source, component) => {
            bail!("plugins.{name}.source names another file, {}", source.display())
        }
        None if !packed => Ok(place),
        _ => Ok(component.to_owned()),
    }
}

/// Whether two paths are one file.
fn same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// What is newly granted: of all that is asked for and was not granted before.
fn decide(options: &Options, asks: &Asks, before: &Grants) -> anyhow::Result<Vec<Grant>> {
    for grant in options.grant.iter().chain(&options.deny) {
        ensure!(asks.has(grant.permission), "--grant: it does not ask for {}", grant.permission);
    }
    for denied in options.deny.iter().map(|grant| grant.permission) {
        let held = denied != Permission::Kv && has(before, denied);
        ensure!(!held, "--deny: {denied} is granted already; take it out of the settings");
    }
    let terminal = on_a_terminal();
    let mut decided = Vec::new();
    let mut open = Vec::new();
    let kv = Permissions::new(asks.clone(), before.clone()).wants_more();
    let needs_grant =
        |permission: &Permission| !permission.is_free() || (*permission == Permission::Kv && kv);
    for permission in asks.iter().map(|(permission, _)| permission).filter(needs_grant) {
        let named = |grants: &[Grant]| {
            let grants = grants.iter().filter(|grant| grant.permission == permission);
            grants.cloned().collect::<Vec<_>>()
        };
        let granted = named(&options.grant);
        if !granted.is_empty() {
            decided.extend(granted);
        } else if !named(&options.deny).is_empty()
            || (permission != Permission::Kv && has(before, permission))
        {
        } else if terminal {
            decided.extend(ask(permission)?);
        } else if !options.audit_only {
            open.push(permission);
        }
    }
    if let [first, ..] = open[..] {
        let open: Vec<_> = open.iter().map(ToString::to_string).collect();
        bail!(
            "it asks for {}, which nobody has granted or denied; say --grant {first}{} or --deny {first}",
            open.join(", "),
            example(first)
        );
    }
    for grant in &decided {
        check(grant)?;
    }
    if terminal && decided.is_empty() && !Confirm::new("Add it?").with_default(true).prompt()? {
        bail!("it was not added");
    }
    Ok(decided)
}

/// A file calls itself what it likes: whoever adds it says that it shall take another one's place.
fn replaces(
    options: &Options,
    name: &PluginName,
    agreed: Option<&Locked>,
    place: &Path,
    grants: &Grants,
    audit_only: bool,
) -> anyhow::Result<()> {
    let again =
        agreed.is_some_and(|agreed| agreed.source.as_deref() == Some(&*options.file.display().to_string()));
    if options.name.is_some() || again || same(&options.file, place) || (agreed.is_none() && !place.exists())
    {
        return Ok(());
    }
    let version = agreed.and_then(|agreed| agreed.version.as_ref());
    let version = version.map_or_else(String::new, |version| format!(" {version}"));
    let held: Vec<String> = NEED_A_GRANT
        .into_iter()
        .filter(|permission| *permission != Permission::Kv && has(grants, *permission))
        .map(|permission| permission.to_string())
        .collect();
    let held = if held.is_empty() {
        String::new()
    } else {
        format!(", with what is granted to it: {}", held.join(", "))
    };
    let watched = if audit_only { ", and it is audit-only" } else { "" };
    let line = format!("it takes the place of plugin {name}{version}{held}{watched}");
    if !on_a_terminal() {
        bail!("{line}; say --name {name} if it shall");
    }
    print(&format!("\nNote: {line}.\n"));
    ensure!(Confirm::new("Shall it?").with_default(false).prompt()?, "it was not added");
    Ok(())
}

fn on_a_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

fn has(grants: &Grants, permission: Permission) -> bool {
    match permission {
        Permission::Home => grants.home,
        Permission::Llm => grants.llm,
        Permission::Rooms => !grants.rooms.is_empty(),
        Permission::People => !grants.people.is_empty(),
        Permission::Outbox | Permission::Kv | Permission::Progress | Permission::Directory => true,
    }
}

fn example(permission: Permission) -> &'static str {
    match permission {
        Permission::Rooms => "=!abc:example.org",
        Permission::People => "=@alice:example.org",
        _ => "",
    }
}

/// Whether what is granted is something.
fn check(grant: &Grant) -> anyhow::Result<()> {
    let whom = grant.whom.as_deref();
    let fits = match grant.permission {
        Permission::Rooms => whom.is_some_and(|room| room == "*" || RoomId::parse(room).is_ok()),
        Permission::People => {
            whom.is_some_and(|user| user == "*" || user.starts_with("*:") || UserId::parse(user).is_ok())
        }
        _ => whom.is_none(),
    };
    ensure!(
        fits,
        "--grant {}: say --grant {}{}",
        grant.permission,
        grant.permission,
        example(grant.permission)
    );
    Ok(())
}

/// `kv = { bytes = …, keys = … }`: what it asks for.
fn remembering(asks: &Asks) -> toml_edit::Item {
    let mut table = toml_edit::InlineTable::new();
    let kv = asks.kv.clone().unwrap_or_default();
    for (key, count) in [("bytes", kv.bytes), ("keys", kv.keys)] {
        if let Some(count) = count.and_then(|count| i64::try_from(count).ok()) {
            table.insert(key, count.into());
        }
    }
    toml_edit::value(table)
}

/// Asks the person at the terminal.
fn ask(permission: Permission) -> anyhow::Result<Vec<Grant>> {
    let more = if permission == Permission::Kv { ", as much as it asks for" } else { "" };
    let question = format!("May it {}{more}?", permission.meaning());
    if !Confirm::new(&question).with_default(false).prompt()? {
        return Ok(vec![]);
    }
    if example(permission).is_empty() {
        return Ok(vec![Grant { permission, whom: None }]);
    }
    let which = Text::new("Which? Ids with spaces between, or * for all").prompt()?;
    let grants = which.split_whitespace().map(|whom| Grant { permission, whom: Some(whom.to_owned()) });
    Ok(grants.collect())
}

/// Puts the component where it serves, in one step.
fn put(bytes: &[u8], from: &Path, to: &Path) -> anyhow::Result<()> {
    if same(from, to) {
        return Ok(());
    }
    let place = || to.display().to_string();
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(place)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(place)?;
    file.write_all(bytes).with_context(place)?;
    file.persist(to).with_context(place)?;
    Ok(())
}

/// Whoever reads only the beginning has seen enough.
fn print(text: &str) {
    drop(std::io::stdout().write_all(text.as_bytes()));
}
