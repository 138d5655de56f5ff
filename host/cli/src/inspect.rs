//! `parlour plugin inspect`: what a component is, in plain words, before anything of it runs.

use std::path::Path;

use anyhow::{Context, bail};
use parlour::{
    engine::admission::{self, CONTRACT, Refused},
    notice::escaped,
};

/// A name is shown up to here.
const NAME: usize = 200;

/// What an interface means for the person who reads it.
fn meaning(interface: &str) -> &'static str {
    match interface {
        "commands" => "has commands that people type",
        "messages" => "answers messages that are no commands",
        "members" => "is told who comes and goes",
        "outbox" => "sends, edits and removes messages, reacts, and names a home (with the grant `home`)",
        "kv" => "remembers things of its own",
        "progress" => "shows a draft while it works",
        "llm" => "asks the language model (with the grant `llm`)",
        "directory" => "sees the commands that a person may use",
        "types" => "the words of the contract",
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

/// Prints what a component exports and imports.
pub fn inspect(file: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let surface = match admission::surface(&bytes) {
        Ok(surface) => surface,
        Err(refused) => bail!("{}: {refused}", file.display()),
    };
    println!("{}  {} KiB", file.display(), bytes.len().div_ceil(1024));
    println!("\nIt exports:");
    let mut handled = 0;
    for name in &surface.exports {
        match admission::ours(name) {
            Some((interface, version)) => {
                handled += 1;
                println!("  {interface:<12}{}{}", meaning(interface), of(version));
            }
            None => println!("  {}  (not used by this host)", escaped(name, NAME)),
        }
    }
    if handled == 0 {
        println!("  nothing of {CONTRACT}");
    }
    println!("\nIt imports, which grants nothing by itself:");
    for name in
        surface.imports.iter().filter(|name| !name.ends_with("/types@0.1.0") || !name.starts_with(CONTRACT))
    {
        match admission::ours(name) {
            Some((interface, version)) => println!("  {interface:<12}{}{}", meaning(interface), of(version)),
            None => println!("  {:<38}{}", escaped(name, NAME), wasi(name)),
        }
    }
    match surface.admit() {
        Ok(()) => {
            if surface.strangers().next().is_none() {
                println!("\nThis host can load it.");
                return Ok(());
            }
            let strangers = surface.strangers().map(|name| escaped(name, NAME)).collect();
            bail!("{}: {}", file.display(), Refused::Imports(strangers))
        }
        Err(refused) => bail!("{}: {refused}", file.display()),
    }
}

fn of(version: &str) -> String {
    if version == admission::VERSION {
        String::new()
    } else {
        format!("  (contract {})", escaped(version, NAME))
    }
}
