//! `parlour`: runs agents on Matrix, or one in the terminal, with sandboxed plugins.

mod build;
mod chat;
mod log;
mod plugin;
mod run;

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
            eprintln!("parlour: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The runtime of everything that runs.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
