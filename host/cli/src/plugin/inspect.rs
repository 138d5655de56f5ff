//! `parlour plugin inspect`: what a component is, in plain words, before anything of it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Write as _},
    path::Path,
};

use anyhow::{Context, anyhow};
use parlour::{
    engine::admission::{self, CONTRACT, Refused, Surface},
    grant::Permissions,
    manifest::{AskHttp, Asks, Manifest, Permission},
    origin::Method,
    settings::{CallLimits, Grants},
};

use super::{Config, offer};

/// What an interface means for the person who reads it.
fn meaning(interface: &str) -> &'static str {
    match interface {
        "commands" => "has commands that people type",
        "messages" => "answers messages that are no commands",
        "members" => "is told who comes and goes",
        "timers" => "is called when its timers are due",
        "schedule" => "sets timers",
        "tools" => "has tools that other plugins may call",
        "toolbox" => "calls tools of other plugins",
        "outbox" => "sends, edits and removes messages, reacts, and names a home",
        "kv" => "remembers things of its own",
        "progress" => "shows a draft while it works",
        "llm" => "asks the language model",
        "secrets" => "learns which secrets are put on its requests",
        "media" => "reads the files of messages that it handles, and makes files",
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
        "filesystem" => "files: of the folder that it is granted",
        "sockets" => "the network: denied",
        "http" => "sends HTTP requests, to where it may",
        _ => "something that this version does not know",
    }
}

/// Prints what a component says of itself, asks for, exports and imports.
///
/// # Errors
/// One line, where this host cannot load it.
pub fn inspect(file: &Path, config: &Config) -> anyhow::Result<()> {
    let (bytes, from) = offer::read(file)?;
    let refused = |refused: Refused| anyhow!("{from}: {refused}");
    let surface = admission::surface(&bytes).map_err(refused)?;
    let mut report = format!(
        "{}  {} KiB\n{}{}",
        from.source(),
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

/// What it says of itself, who signed it, and what it asks for.
pub fn summary(surface: &Surface) -> String {
    let mut lines = about(surface.manifest.as_ref());
    lines.push(
        surface
            .publisher
            .map_or_else(|| "Nobody has signed it.".into(), |publisher| format!("Signed by {publisher}.")),
    );
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
                let named = |permission: Permission| match permission {
                    Permission::Tools => interface == "toolbox",
                    permission => permission.to_string() == interface,
                };
                let asked = asks.iter().any(|(permission, _)| named(permission));
                let denied = if asked { "" } else { "  (not asked for: denied)" };
                lines.push(format!("  {interface:<12}{}{}{denied}", meaning(interface), of(version)));
            }
            None => {
                let package = name.split('/').next().unwrap_or(name);
                let denied = package == "wasi:http" && asks.http.is_none();
                packages.insert(
                    package,
                    format!("{}{}", wasi(name), if denied { "  (not asked for: denied)" } else { "" }),
                );
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
        let granted = match permission {
            Permission::Secrets => "  (needs to be bound)",
            permission if permission.is_free() => "",
            _ => "  (needs a grant)",
        };
        lines.push(format!("  {:<12}{}{granted}", permission.to_string(), permission.meaning()));
        if !reason.is_empty() {
            lines.push(format!("              \u{201c}{reason}\u{201d}"));
        }
        if let Some(http) = asks.http.as_ref().filter(|_| permission == Permission::Http) {
            lines.push(format!("              to {}", reach(http)));
        }
        if let Some(files) =
            asks.files.as_ref().filter(|files| files.write && permission == Permission::Files)
        {
            let bytes = files.bytes.map_or_else(String::new, |bytes| format!(", up to {bytes} bytes"));
            lines.push(format!("              and write them{bytes}"));
        }
        if let Some(media) = asks.media.as_ref().filter(|_| permission == Permission::Media) {
            lines.extend(media.bytes.map(|bytes| format!("              of up to {bytes} bytes")));
        }
        if let Some(timers) = asks.timers.as_ref().filter(|_| permission == Permission::Timers) {
            lines.extend(timers.count.map(|count| format!("              up to {count} of them")));
        }
        if permission == Permission::Secrets {
            for (name, secret) in &asks.secrets {
                lines.push(format!("              {name}, to {}", secret.audience));
                lines.push(format!("              \u{201c}{}\u{201d}", secret.reason));
            }
        }
        if let Some(kv) = asks.kv.as_ref().filter(|_| permission == Permission::Kv) {
            let wants = [(kv.bytes, "bytes"), (kv.keys, "keys")];
            let wants = wants.into_iter().filter_map(|(count, what)| Some(format!("{} {what}", count?)));
            let wants: Vec<String> = wants.collect();
            lines.extend((!wants.is_empty()).then(|| format!("              up to {}", wants.join(" and "))));
        }
        if let Some(tools) = asks.tools.as_ref().filter(|_| permission == Permission::Tools) {
            let names: Vec<&str> = tools.names.iter().map(String::as_str).collect();
            lines.extend((!names.is_empty()).then(|| format!("              {}", names.join(", "))));
        }
    }
    if lines.len() == 1 {
        lines.push("  do nothing at all".into());
    }
    lines
}

/// Where its requests go: `https://api.example.org, with GET`.
pub fn reach(http: &AskHttp) -> String {
    let hosts: Vec<String> = http.hosts.iter().map(ToString::to_string).collect();
    let methods: Vec<&str> = http.methods.iter().map(Method::as_str).collect();
    let with = if methods.is_empty() { String::new() } else { format!(", with {}", methods.join(" ")) };
    format!("{}{with}", hosts.join(", "))
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
