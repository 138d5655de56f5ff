//! `parlour plugin inspect`: what a component is, in plain words, before anything of it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Write as _},
    path::Path,
};

use anyhow::{Context, anyhow};
use parlour::{
    engine::{
        admission::{self, CONTRACT, Refused, Surface},
        limits::Limits,
    },
    grant::Permissions,
    manifest::{Asks, Manifest, Permission},
    settings::{CallLimits, Grants},
    source::Source,
};

use super::Config;

/// What an interface means for the person who reads it.
fn meaning(interface: &str) -> &'static str {
    match interface {
        "commands" => "has commands that people type",
        "messages" => "answers messages that are no commands",
        "members" => "is told who comes and goes",
        "outbox" => "sends, edits and removes messages, reacts, and names a home",
        "kv" => "remembers things of its own",
        "progress" => "shows a draft while it works",
        "llm" => "asks the language model",
        "directory" => "sees the commands that a person may use",
        _ => "something that this version does not know",
    }
}

/// What a WASI package means here.
fn wasi(name: &str) -> &'static str {
    match name.trim_start_matches("wasi:").split(['/', '@']).next().unwrap_or_default() {
        "config" => "reads its own settings",
        "logging" => "writes log lines",
        "random" => "draws random numbers",
        "clocks" => "reads clocks",
        "io" => "waits for streams",
        "cli" => "prints to the log; its environment, arguments and input are empty",
        "filesystem" => "files: it is given none",
        "sockets" => "the network: denied",
        "http" => "the web: not available",
        _ => "something that this version does not know",
    }
}

/// Prints what a component says of itself, asks for, exports and imports.
///
/// # Errors
/// One line, where this host cannot load it.
pub fn inspect(file: &Path, config: &Config) -> anyhow::Result<()> {
    let refused = |refused: Refused| anyhow!("{}: {refused}", file.display());
    let source = Source::folder(file).unwrap_or_else(|| Source::file(file));
    let bytes = source.load(Limits::default().component).map_err(anyhow::Error::msg)?;
    let surface = admission::surface(&bytes).map_err(refused)?;
    let mut report = format!(
        "{}  {} KiB\n{}{}",
        file.display(),
        bytes.len().div_ceil(1024),
        summary(&surface),
        describe(&surface)
    );
    report.push_str(&watched(file, &surface, config)?);
    let strangers: Vec<String> = surface.strangers().cloned().collect();
    let verdict = match surface.admit() {
        Ok(()) if strangers.is_empty() => {
            report.push_str("\nThis host can load it, by the names of what it imports and exports.\n");
            Ok(())
        }
        Ok(()) => Err(refused(Refused::Imports(strangers))),
        Err(reason) => Err(refused(reason)),
    };
    // Whoever reads only the beginning has seen enough.
    match std::io::stdout().write_all(report.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => verdict,
    }
}

/// Whether the settings, where there are some, let it do what nobody has granted: under the name that it says, or under
/// that of its file.
fn watched(file: &Path, surface: &Surface, config: &Config) -> anyhow::Result<String> {
    if !config.exists() {
        return Ok(String::new());
    }
    let (settings, _) = config.load()?;
    let said = surface.manifest.as_ref().map(|manifest| manifest.name.to_string());
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let names: BTreeSet<String> = said.into_iter().chain(stem).collect();
    let mut text = String::new();
    for name in names {
        if settings.plugins.get(name.as_str()).is_some_and(|plugin| plugin.audit_only) {
            let spared = Permissions::new(surface.asks(), Grants::default()).audit_only(true).spared();
            let spared = spared.join(", ");
            text.push_str(&format!(
                "\nAUDIT-ONLY: as plugin {name} it may do without a grant what it asks for: {spared}\n"
            ));
        }
    }
    Ok(text)
}

/// What it says of itself, and asks for.
pub fn summary(surface: &Surface) -> String {
    let mut lines = about(surface.manifest.as_ref());
    lines.extend(asked(&surface.asks()));
    lines.extend(surface.manifest.as_ref().and_then(|manifest| wanted(manifest.limits)));
    lines.push(String::new());
    lines.join("\n")
}

/// What it exports and imports.
fn describe(surface: &Surface) -> String {
    let asks = surface.asks();
    let mut lines = vec!["\nIt exports:".to_owned()];
    for name in &surface.exports {
        lines.push(match admission::ours(name) {
            Some((interface, version)) => format!("  {interface:<12}{}{}", meaning(interface), of(version)),
            None => format!("  {name}  (not used by this host)"),
        });
    }
    if !surface.exports.iter().any(|name| admission::ours(name).is_some()) {
        lines.push(format!("  nothing of {CONTRACT}"));
    }
    lines.push("\nIt imports, which grants nothing by itself:".to_owned());
    let mut packages = BTreeMap::new();
    for name in &surface.imports {
        match admission::ours(name) {
            Some(("types", _)) => {}
            Some((interface, version)) => {
                let asked = asks.iter().any(|(permission, _)| permission.to_string() == interface);
                let denied = if asked { "" } else { "  (not asked for: denied)" };
                lines.push(format!("  {interface:<12}{}{}{denied}", meaning(interface), of(version)));
            }
            None => {
                let package = name.split('/').next().unwrap_or(name);
                packages.insert(package, wasi(name));
            }
        }
    }
    lines.extend(packages.into_iter().map(|(package, meaning)| format!("  {package:<18}{meaning}")));
    lines.push(String::new());
    lines.join("\n")
}

/// Who it is, as it says.
fn about(manifest: Option<&Manifest>) -> Vec<String> {
    let Some(manifest) = manifest else { return vec!["\nIt has no manifest.".into()] };
    let more: Vec<&str> =
        [&manifest.license, &manifest.homepage].into_iter().flatten().map(String::as_str).collect();
    let mut lines = vec![format!("\n{} {}: {}", manifest.name, manifest.version, manifest.description)];
    lines.extend((!more.is_empty()).then(|| more.join("  ")));
    lines
}

/// What it asks for, and why.
fn asked(asks: &Asks) -> Vec<String> {
    let mut lines = vec!["\nIt asks to:".to_owned()];
    for (permission, reason) in asks.iter() {
        let granted = if permission.is_free() { "" } else { "  (needs a grant)" };
        lines.push(format!("  {:<12}{}{granted}", permission.to_string(), permission.meaning()));
        if !reason.is_empty() {
            lines.push(format!("              \u{201c}{reason}\u{201d}"));
        }
        if let Some(kv) = asks.kv.as_ref().filter(|_| permission == Permission::Kv) {
            let wants = [(kv.bytes, "bytes"), (kv.keys, "keys")];
            let wants = wants.into_iter().filter_map(|(count, what)| Some(format!("{} {what}", count?)));
            let wants: Vec<String> = wants.collect();
            lines.extend((!wants.is_empty()).then(|| format!("              up to {}", wants.join(" and "))));
        }
    }
    if lines.len() == 1 {
        lines.push("  do nothing at all".into());
    }
    lines
}

/// What a call of it wants to take, where that is not the usual.
fn wanted(limits: CallLimits) -> Option<String> {
    let wants = [
        (limits.cpu_ms, "ms of CPU time (cpu_ms)"),
        (limits.wall_s, "s from its beginning to its end (wall_s)"),
        (limits.memory_mib, "MiB of memory (memory_mib)"),
    ];
    let wants = wants.into_iter().filter_map(|(count, what)| Some(format!("  {} {what}", count?)));
    let wants: Vec<String> = wants.collect();
    let head = "\nA call of it wants, and where that is more than usual needs [plugins.NAME.limits]:\n";
    (!wants.is_empty()).then(|| format!("{head}{}", wants.join("\n")))
}

fn of(version: &str) -> String {
    if version == admission::VERSION { String::new() } else { format!("  (contract {version})") }
}
