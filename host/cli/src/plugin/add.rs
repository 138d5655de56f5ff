//! `parlour plugin add`: what a plugin asks for is shown, and granted or not, before anything of it runs.

mod grants;
mod origin;

use std::{
    fmt, fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use inquire::Confirm;
use parlour::{
    engine::{
        admission::{Candidate, Refused},
        limits::Limits,
    },
    grant::Permissions,
    id::PluginName,
    lock::{Beyond, Locked},
    manifest::Asks,
    owner,
    settings::{Grants, Settings},
    signature::{self, Publisher},
};

use self::grants::Grant;
use super::{
    Config, edit, inspect,
    offer::{self, Origin},
};

#[derive(Args)]
pub struct Options {
    /// A component, such as weather.wasm, a folder with a plugin.toml and one, or `oci://REGISTRY/REPOSITORY:TAG`
    file: PathBuf,
    #[command(flatten)]
    config: Config,
    /// What it is called here; by default as it calls itself
    #[arg(long)]
    name: Option<PluginName>,
    /// Grant this: home, llm, media, timers, http and kv (what it asks for), files=FOLDER, rooms=!ID, people=@ID,
    /// tools=PLUGIN.TOOL, or encrypted (what it hears in encrypted rooms may leave them by the others); may be given
    /// again
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

/// Shows it, asks, and puts it where it serves.
pub fn add(options: &Options) -> anyhow::Result<()> {
    let (settings, lock) = options.config.load()?;
    let (bytes, from) = offer::read(&options.file)?;
    let refused = |refused: Refused| anyhow!("{from}: {refused}");
    let candidate = Candidate::read(bytes.into(), Limits::default().component).map_err(refused)?;
    let strangers: Vec<String> = candidate.surface.strangers().cloned().collect();
    ensure!(strangers.is_empty(), refused(Refused::Imports(strangers)));
    let name = name(options, &settings, &candidate, &from)?;
    let place = place(&settings, &name, from.component())?;
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
        bail!("{from}: {older}; --downgrade takes it all the same");
    }
    for new in &beyond {
        print(&format!("New: {new}.\n"));
    }
    origin::publisher(options, &name, &locked, by)?;
    origin::moved(&from, &name, &locked)?;

    let nothing = Grants::default();
    let before = settings.plugins.get(&name).map_or(&nothing, |plugin| &plugin.grants);
    let audit_only = settings.plugins.get(&name).is_some_and(|plugin| plugin.audit_only);
    replaces(options, &name, &from, agreed.as_ref(), &place, before, audit_only)?;
    let mut decided = grants::decide(options, &offered.asks, before)?;
    grants::absolute(&mut decided, &options.config.config)?;
    let granted = decided.len();
    if !decided.is_empty() {
        edit::grants(&options.config.config, &name, |table| grants::write(table, decided, &offered.asks))?;
    }
    if options.audit_only && !audit_only {
        edit::key(&options.config.config, &name, "audit_only", Some(true.into()))?;
    }
    let asks = offered.asks.clone();
    let entry = Locked { source: Some(from.source()), ..offered };
    put(&candidate.bytes, from.component(), &place)?;
    lock.change(|lock| drop(lock.plugins.insert(name.clone(), entry))).map_err(anyhow::Error::msg)?;
    print(&format!("\nplugin {name}: {}\n", place.display()));
    if options.audit_only || audit_only {
        let spared = Permissions::new(asks.clone(), before.clone()).audit_only(true).spared().join(", ");
        print(&format!(
            "AUDIT-ONLY: what is not granted of what it asks for ({spared}) is let through and counted, until `audit_only` is taken out of plugins.{name}.\n"
        ));
    }
    if granted > 0 || (options.audit_only && !audit_only) {
        print("What was granted holds when `parlour run` starts again.\n");
    }
    print(&unbound(&name, &asks, &settings));
    let serves = |listed: &String| *listed == "*" || listed == name.as_str();
    if !settings.agents.values().any(|agent| agent.plugins.iter().any(serves)) {
        print(&format!("No agent lists it yet: add \"{name}\" to its `plugins`.\n"));
    }
    Ok(())
}

/// As somebody says, or as its file is called where that serves already, or as it calls itself.
fn name(
    options: &Options,
    settings: &Settings,
    candidate: &Candidate,
    from: &Origin,
) -> anyhow::Result<PluginName> {
    if let Some(name) = &options.name {
        return Ok(name.clone());
    }
    let file = &options.file;
    let serves = file.parent().is_some_and(|parent| same(parent, &settings.plugin_folder));
    let said = candidate.surface.manifest.as_ref().map(|manifest| manifest.name.clone());
    if let Some(name) = said.filter(|_| !serves) {
        return Ok(name);
    }
    PluginName::parse(from.stem()).map_err(|error| anyhow!("{error}; say --name NAME"))
}

/// Where the plugin goes.
fn place(settings: &Settings, name: &PluginName, component: Option<&Path>) -> anyhow::Result<PathBuf> {
    let place = settings.plugin_folder.join(format!("{name}.wasm"));
    // A folder with a manifest stays one, where it already serves.
    let folder = settings.plugin_folder.join(name.as_str());
    let packed = component.filter(|it| it.parent().is_some_and(|parent| same(parent, &folder)));
    match settings.plugins.get(name).and_then(|plugin| plugin.source.as_ref()) {
        Some(source) => match component.filter(|component| same(source, component)) {
            Some(component) => Ok(component.to_owned()),
            None => bail!("plugins.{name}.source names another file, {}", source.display()),
        },
        None => Ok(packed.map_or(place, Path::to_owned)),
    }
}

/// Whether two paths are one file.
fn same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
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

/// A file calls itself what it likes: whoever adds it says that it shall take another one's place.
fn replaces(
    options: &Options,
    name: &PluginName,
    from: &Origin,
    agreed: Option<&Locked>,
    place: &Path,
    grants: &Grants,
    audit_only: bool,
) -> anyhow::Result<()> {
    let source = agreed.and_then(|agreed| agreed.source.as_deref());
    let again = source.is_some_and(|source| from.is_from(source));
    if options.name.is_some() || again || same(&options.file, place) || (agreed.is_none() && !place.exists())
    {
        return Ok(());
    }
    let version = agreed.and_then(|agreed| agreed.version.as_ref());
    let version = version.map_or_else(String::new, |version| format!(" {version}"));
    let held: Vec<String> = grants::held(grants).map(|permission| permission.to_string()).collect();
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

/// Puts the component where it serves, in one step.
fn put(bytes: &[u8], from: Option<&Path>, to: &Path) -> anyhow::Result<()> {
    if from.is_some_and(|from| same(from, to)) {
        return Ok(());
    }
    let place = || to.display().to_string();
    let folder = to.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    make(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(place)?;
    file.write_all(bytes).with_context(place)?;
    owner::inherit(file.as_file(), folder).with_context(place)?;
    file.persist(to).with_context(place)?;
    Ok(())
}

/// Makes a folder, which belongs to whoever the one above it belongs to.
fn make(folder: &Path) -> anyhow::Result<()> {
    if folder == Path::new("") || folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().unwrap_or(Path::new(""));
    make(above)?;
    let place = || folder.display().to_string();
    fs::create_dir(folder).with_context(place)?;
    let above = if above == Path::new("") { Path::new(".") } else { above };
    owner::inherit(&fs::File::open(folder).with_context(place)?, above).with_context(place)
}

/// Whoever reads only the beginning has seen enough.
fn print(text: &str) {
    drop(std::io::stdout().write_all(text.as_bytes()));
}
