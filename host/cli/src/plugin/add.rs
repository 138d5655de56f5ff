//! `parlour plugin add`: what a plugin asks for is shown, and granted or not, before anything of it runs.

use std::{
    fmt, fs,
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
    lock::{Beyond, Lock, Locked},
    manifest::{Asks, Permission},
    origin::Pattern,
    settings::{Grants, Settings},
    signature::{self, Publisher},
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
    /// Grant this: home, llm, http and kv (what it asks for), files=FOLDER, rooms=!ID, people=@ID, or encrypted (what it hears in
    /// encrypted rooms may leave them by the others); may be given again
    #[arg(long, value_name = "WHAT")]
    grant: Vec<Grant>,
    /// Do not grant this, and do not ask
    #[arg(long, value_name = "WHAT")]
    deny: Vec<Grant>,
    /// Take a version that is older than the one that was agreed to
    #[arg(long)]
    downgrade: bool,
    /// Who shall have signed it, or `nobody`: agrees to another one than before
    #[arg(long, value_name = "KEY")]
    publisher: Option<By>,
}

/// `ed25519:…`, or `nobody`.
#[derive(Clone)]
struct By(Option<Publisher>);

impl std::str::FromStr for By {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let publisher = (text != "nobody").then(|| text.parse().map_err(|error| format!("{error}")));
        publisher.transpose().map(Self)
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(publisher) => publisher.fmt(f),
            None => f.write_str("nobody"),
        }
    }
}

/// `llm`, or `rooms=!abc:example.org`.
#[derive(Clone)]
struct Grant {
    what: What,
    /// A room, a person or an origin.
    whom: Option<String>,
}

/// What can be granted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Permission(Permission),
    /// That what is said in encrypted rooms leaves them by what is granted.
    Encrypted,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permission(permission) => permission.fmt(f),
            Self::Encrypted => f.write_str("encrypted"),
        }
    }
}

impl std::str::FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, whom) = text.split_once('=').map_or((text, None), |(name, whom)| (name, Some(whom)));
        let known = || NEED_A_GRANT.into_iter().map(What::Permission).chain([What::Encrypted]);
        let what = known().find(|what| what.to_string() == name).ok_or_else(|| {
            let known: Vec<_> = known().map(|what| what.to_string()).collect();
            format!("it is none of {}", known.join(", "))
        })?;
        Ok(Self { what, whom: whom.map(str::to_owned) })
    }
}

const NEED_A_GRANT: [Permission; 7] = [
    Permission::Kv,
    Permission::Home,
    Permission::Rooms,
    Permission::People,
    Permission::Llm,
    Permission::Http,
    Permission::Files,
];
/// What carries words out of the room in which they were said.
const CARRY_OUT: [Permission; 5] =
    [Permission::Rooms, Permission::People, Permission::Llm, Permission::Http, Permission::Files];

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
    let by = candidate.surface.publisher;
    let signed = signature::required(by, settings.publishers_of(&name));
    signed.map_err(|reason| refused(Refused::Publisher(reason)))?;

    print(&inspect::summary(&candidate.surface));
    let offered = candidate.offered();
    let locked = lock.read().map_err(anyhow::Error::msg)?;
    let agreed = locked.plugins.get(&name).cloned();
    let beyond = agreed.as_ref().map(|agreed| agreed.beyond(&offered)).unwrap_or_default();
    let older =
        beyond.iter().find(|beyond| matches!(beyond, Beyond::Older { .. } | Beyond::Unversioned { .. }));
    if let Some(older) = older.filter(|_| !options.downgrade) {
        bail!("{}: {older}; --downgrade takes it all the same", options.file.display());
    }
    for new in &beyond {
        print(&format!("New: {new}.\n"));
    }
    publisher(options, &name, &locked, by)?;

    let nothing = Grants::default();
    let before = settings.plugins.get(&name).map_or(&nothing, |plugin| &plugin.grants);
    replaces(options, &name, agreed.as_ref(), &place, before)?;
    let mut decided = decide(options, &offered.asks, before)?;
    decided.extend(consent(options, &decided, &offered.asks, before)?);
    confirm(&decided)?;
    let granted = decided.len();
    if !decided.is_empty() {
        edit::grants(&options.config.config, &name, |table| {
            for grant in decided {
                let key = grant.what.to_string();
                match (grant.what, grant.whom) {
                    (What::Permission(Permission::Kv), _) => {
                        table.insert(&key, remembering(&offered.asks));
                    }
                    (What::Permission(Permission::Files), Some(folder)) => {
                        table.insert(&key, files(&offered.asks, &folder));
                    }
                    (What::Permission(Permission::Http), None) => {
                        let hosts = offered.asks.http.iter().flat_map(|http| &http.hosts);
                        hosts.for_each(|host| edit::append(table, &key, &host.to_string()));
                    }
                    (_, Some(whom)) => edit::append(table, &key, &whom),
                    (_, None) => drop(table.insert(&key, toml_edit::value(true))),
                }
            }
        })?;
    }
    let from = options.file.display().to_string();
    let entry_asks = offered.asks.clone();
    let entry = Locked { source: Some(from), ..offered };
    put(&candidate.bytes, &source.component, &place)?;
    lock.change(|lock| drop(lock.plugins.insert(name.clone(), entry))).map_err(anyhow::Error::msg)?;
    print(&format!("\nplugin {name}: {}\n", place.display()));
    if granted > 0 {
        print("What was granted holds when `parlour run` starts again.\n");
    }
    print(&unbound(&name, &entry_asks, &settings));
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
        if let What::Permission(permission) = grant.what {
            ensure!(asks.has(permission), "--grant: it does not ask for {permission}");
        }
    }
    for denied in options.deny.iter().map(|grant| grant.what) {
        let held = match denied {
            What::Permission(Permission::Kv) => false,
            What::Permission(permission) => has(before, asks, permission),
            What::Encrypted => before.encrypted,
        };
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
            let grants = grants.iter().filter(|grant| grant.what == What::Permission(permission));
            grants.cloned().collect::<Vec<_>>()
        };
        let granted = named(&options.grant);
        if !granted.is_empty() {
            decided.extend(granted);
        } else if !named(&options.deny).is_empty()
            || (permission != Permission::Kv && has(before, asks, permission))
        {
        } else if terminal {
            decided.extend(ask(permission, asks)?);
        } else {
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
    Ok(decided)
}

/// Whether what it hears in encrypted rooms may leave them: one consent for all that carries words out.
fn consent(
    options: &Options,
    decided: &[Grant],
    asks: &Asks,
    before: &Grants,
) -> anyhow::Result<Option<Grant>> {
    let consent = Grant { what: What::Encrypted, whom: None };
    let said = |grants: &[Grant]| grants.iter().any(|grant| grant.what == What::Encrypted);
    let granted = |permission: &Permission| {
        asks.has(*permission)
            && (decided.iter().any(|grant| grant.what == What::Permission(*permission))
                || has(before, asks, *permission))
    };
    let ways: Vec<String> =
        CARRY_OUT.into_iter().filter(granted).map(|permission| permission.to_string()).collect();
    if said(&options.grant) {
        return Ok(Some(consent));
    }
    if ways.is_empty() || before.encrypted || said(&options.deny) {
        return Ok(None);
    }
    let ways = ways.join(", ");
    if !on_a_terminal() {
        print(&format!(
            "What is said in encrypted rooms does not leave them by {ways}: --grant encrypted lets it.\n"
        ));
        return Ok(None);
    }
    let question = format!("May what it hears in encrypted rooms leave them, by {ways}?");
    Ok(Confirm::new(&question).with_default(false).prompt()?.then_some(consent))
}

/// Where nothing was asked, whether it shall be added at all.
fn confirm(decided: &[Grant]) -> anyhow::Result<()> {
    if on_a_terminal() && decided.is_empty() && !Confirm::new("Add it?").with_default(true).prompt()? {
        bail!("it was not added");
    }
    Ok(())
}

/// The secrets that it asks for and that nobody has bound, and how to.
fn unbound(name: &PluginName, asks: &Asks, settings: &Settings) -> String {
    let bound = settings.plugins.get(name).map(|plugin| &plugin.secrets);
    let open =
        asks.secrets.iter().filter(|(secret, _)| bound.is_none_or(|bound| !bound.contains_key(*secret)));
    let lines = open.map(|(secret, ask)| {
        format!(
            "It needs the secret {secret}. Bind it:\n\n    [plugins.{name}.secrets.{secret}]\n    \
             value = {{ env = \"NAME\" }}\n    audience = \"{}\"\n\n",
            ask.audience
        )
    });
    lines.collect()
}

/// Who signed it is said where that is new, and agreed to where it has changed.
fn publisher(
    options: &Options,
    name: &PluginName,
    locked: &Lock,
    by: Option<Publisher>,
) -> anyhow::Result<()> {
    let file = options.file.display();
    if let Some(wanted) = &options.publisher {
        ensure!(wanted.0 == by, "{file}: it is signed by {}, not by {wanted}", By(by));
        return Ok(());
    }
    let before = locked.plugins.get(name).and_then(|agreed| agreed.publisher);
    if before == by {
        return Ok(());
    }
    if let Some(before) = before {
        let line = format!("it is signed by {}, and was by {before}", By(by));
        if !on_a_terminal() {
            bail!("{file}: {line}; say --publisher {} if it shall", By(by));
        }
        ensure!(Confirm::new("Take it all the same?").with_default(false).prompt()?, "it was not added");
    }
    let Some(by) = by else { return Ok(()) };
    let others = locked.plugins.iter().filter(|(other, of)| *other != name && of.publisher == Some(by));
    let others: Vec<_> = others.map(|(other, _)| other.as_str()).collect();
    print(&match others[..] {
        [] => {
            "New: its publisher; a version that somebody else has signed, or nobody, will wait.\n".to_owned()
        }
        _ => format!("Its publisher signed {}, too.\n", others.join(", ")),
    });
    Ok(())
}

/// A file calls itself what it likes: whoever adds it says that it shall take another one's place.
fn replaces(
    options: &Options,
    name: &PluginName,
    agreed: Option<&Locked>,
    place: &Path,
    grants: &Grants,
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
        .filter(|permission| *permission != Permission::Kv && held(grants, *permission))
        .map(|permission| permission.to_string())
        .collect();
    let held = if held.is_empty() {
        String::new()
    } else {
        format!(", with what is granted to it: {}", held.join(", "))
    };
    let line = format!("it takes the place of plugin {name}{version}{held}");
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

/// Whether what is asked for of this kind is granted.
fn has(grants: &Grants, asks: &Asks, permission: Permission) -> bool {
    let Some(http) = asks.http.as_ref().filter(|_| permission == Permission::Http) else {
        return held(grants, permission);
    };
    http.hosts.iter().all(|host| grants.http.iter().any(|grant| grant.url.covers(host)))
}

/// Whether anything of this kind is granted.
fn held(grants: &Grants, permission: Permission) -> bool {
    match permission {
        Permission::Home => grants.home,
        Permission::Llm => grants.llm,
        Permission::Rooms => !grants.rooms.is_empty(),
        Permission::People => !grants.people.is_empty(),
        Permission::Http => !grants.http.is_empty(),
        Permission::Files => grants.files.is_some(),
        Permission::Outbox
        | Permission::Kv
        | Permission::Progress
        | Permission::Directory
        | Permission::Secrets => true,
    }
}

fn example(permission: Permission) -> &'static str {
    match permission {
        Permission::Rooms => "=!abc:example.org",
        Permission::Files => "=FOLDER",
        Permission::People => "=@alice:example.org",
        // Without more, it is what the plugin asks for.
        _ => "",
    }
}

/// Whether what is granted is something.
fn check(grant: &Grant) -> anyhow::Result<()> {
    let whom = grant.whom.as_deref();
    let What::Permission(permission) = grant.what else {
        ensure!(whom.is_none(), "--grant encrypted: it stands alone");
        return Ok(());
    };
    let fits = match permission {
        Permission::Files => whom.is_some_and(|folder| !folder.is_empty()),
        Permission::Http => whom.is_none_or(|host| host.parse::<Pattern>().is_ok()),
        Permission::Rooms => whom.is_some_and(|room| room == "*" || RoomId::parse(room).is_ok()),
        Permission::People => {
            whom.is_some_and(|user| user == "*" || user.starts_with("*:") || UserId::parse(user).is_ok())
        }
        _ => whom.is_none(),
    };
    ensure!(fits, "--grant {permission}: say --grant {permission}{}", example(permission));
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

/// `files = { folder = …, write = true }`: the folder, and what it asks for.
fn files(asks: &Asks, folder: &str) -> toml_edit::Item {
    let mut table = toml_edit::InlineTable::new();
    let asked = asks.files.clone().unwrap_or_default();
    table.insert("folder", folder.into());
    if asked.write {
        table.insert("write", true.into());
    }
    if let Some(bytes) = asked.bytes.and_then(|bytes| i64::try_from(bytes).ok()) {
        table.insert("bytes", bytes.into());
    }
    toml_edit::value(table)
}

/// Asks the person at the terminal.
fn ask(permission: Permission, asks: &Asks) -> anyhow::Result<Vec<Grant>> {
    let more = match (permission, &asks.http) {
        (Permission::Kv, _) => ", as much as it asks for".to_owned(),
        (Permission::Http, Some(http)) => format!(" to {}", inspect::reach(http)),
        _ => String::new(),
    };
    let question = format!("May it {}{more}?", permission.meaning());
    if !Confirm::new(&question).with_default(false).prompt()? {
        return Ok(vec![]);
    }
    if example(permission).is_empty() {
        return Ok(vec![Grant { what: What::Permission(permission), whom: None }]);
    }
    if permission == Permission::Files {
        let folder = Text::new("Which folder?").prompt()?;
        return Ok(vec![Grant { what: What::Permission(permission), whom: Some(folder) }]);
    }
    let which = Text::new("Which? Ids with spaces between, or * for all").prompt()?;
    let what = What::Permission(permission);
    let grants = which.split_whitespace().map(|whom| Grant { what, whom: Some(whom.to_owned()) });
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
