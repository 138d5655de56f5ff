//! `parlour`: runs agents on Matrix, or one in the terminal, with sandboxed plugins.

mod audit;
mod build;
mod chat;
mod log;
mod oci;
mod plugin;
mod replay;
mod run;
mod status;
mod why;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

/// Events are many small values that come and go on several threads, which glibc's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Agents on Matrix, made of sandboxed WebAssembly plugins.
///
/// Without a command it opens a chat in this terminal, with the example plugins.
#[derive(Parser)]
#[command(
    name = "parlour",
    version,
    max_term_width = 100,
    after_help = "Example: printf '/help\\n/roll 2d6\\n' | parlour chat"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Chat with the plugins in this terminal: no homeserver, no settings needed
    #[command(after_help = "Example: parlour chat --plugins ./plugins --as bob")]
    Chat(chat::Options),
    /// Run the agents of parlour.toml
    #[command(after_help = "Example: parlour run -c parlour.toml")]
    Run(run::Options),
    /// Look at plugins
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// Read what plugins were granted, did and were denied, and whether that record is as it was written
    ///
    /// Ends with 1 where the record was changed.
    #[command(after_help = "Example: parlour audit --plugin weather")]
    Audit(audit::Options),
    /// Run a past event again, from what is kept of it: nobody is asked, nothing is sent, nothing is kept
    ///
    /// Ends with 1 where it does something else than then, and with 2 where it cannot be run.
    #[command(after_help = "Files of messages are not kept: a plugin that reads one gets an error.\n\n\
                            Example: parlour replay '$abc' --plugin weather --with new.wasm")]
    Replay(replay::Options),
    /// Say how the host that runs here does: its agents, its plugins, and what waits
    ///
    /// Ends with 1 where none runs, and shows what its journal tells. In what --json prints, times are in milliseconds
    /// since 1970: `uptime_s`, `journal` (why it does not answer); of each of `agents` `name`, the account (`user`),
    /// `serves_since`, `said`, `said_at`, `connection` (`device`, `signed_in`, `synced`, `outage`, `encryption`), what waits (`events_waiting`, `events_locked`, `effects_unsent`, `oldest_event`, `oldest_effect`, `lanes`,
    /// `lanes_running`) and what could not be decrypted
    /// (`undecryptable_count`, `undecryptable`) and what happened last (`accepted`, `dropped`, `tried`, `trouble`, `acknowledged`, `given_up`); of
    /// each of `plugins` `name`, `version`, `digest`, `state` (serving, resting, waiting, refused), `not_taken`, `on_trial`,
    /// `rests`, `audit_only`, `denied`, `would_be_denied`, `calls`, `faults` and `cpu_us`; `audit_count` and `audit_hash`.
    #[command(after_help = "Example: parlour status --json")]
    Status(status::Options),
    /// Say what became of an event: what the gate said, which plugins had it, what they queued, and whether that was sent
    ///
    /// It needs no host. What was said is not shown. Ends with 1 where no agent has received the event.
    #[command(after_help = "Example: parlour why '$Zx3hK…' --agent helper")]
    Why(why::Options),
    /// Build a plugin's folder into one .wasm file
    ///
    /// A folder with a Cargo.toml is Rust; otherwise its plugin.toml says what it is.
    #[command(after_help = "Example: parlour build plugins/greet --out greet.wasm")]
    Build(Build),
}

#[derive(Args)]
struct Build {
    /// The plugin's folder
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Where the component goes, a file or a folder; by default NAME.wasm in the plugin's folder
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    parlour::compile_if_asked();
    let cli = Cli::parse();
    let done = match cli.command {
        None => chat::chat(chat::Options::default()),
        Some(Command::Chat(options)) => chat::chat(options),
        Some(Command::Run(options)) => run::run(&options),
        Some(Command::Plugin(command)) => plugin::plugin(command),
        Some(Command::Status(options)) => status::status(&options),
        Some(Command::Why(options)) => why::why(&options),
        Some(Command::Audit(options)) => audit::audit(&options),
        Some(Command::Replay(options)) => replay::replay(&options),
        Some(Command::Build(Build { folder, out })) => {
            build::build(&folder, out.as_deref()).map(|file| {
                // Nobody may read it.
                drop(writeln!(std::io::stdout(), "{}", file.display()));
            })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let verdict = error.downcast_ref::<Verdict>();
            if verdict.is_none_or(|verdict| !verdict.line.is_empty()) {
                eprintln!("parlour: {error:#}");
            }
            ExitCode::from(verdict.map_or(2, |verdict| verdict.code))
        }
    }
}

/// What a command found, where that is not good: no failure of its own.
#[derive(Debug)]
struct Verdict {
    code: u8,
    /// What is said of it; nothing where all was said.
    line: String,
}

/// Ends the program with 1, and this line.
fn verdict(line: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Verdict { code: 1, line: line.into() })
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for Verdict {}

/// Prints for somebody who may read only the beginning.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("standard output"))
        }
        _ => Ok(()),
    }
}

/// The runtime of everything that runs.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
