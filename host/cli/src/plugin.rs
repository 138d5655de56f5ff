//! `parlour plugin`: what plugins are, what they ask for, and what they may do.

mod add;
mod check;
mod edit;
mod inspect;
mod key;
mod list;
mod offer;
mod push;
mod remove;
mod resume;
mod sign;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use parlour::{
    lock::LockFile,
    settings::{self, Settings},
};

#[derive(Subcommand)]
pub enum Plugin {
    /// Show in plain words what a component asks for, exports and imports
    #[command(after_help = "Example: parlour plugin inspect echo.wasm")]
    Inspect {
        /// A component, such as echo.wasm, a folder with a plugin.toml and one, or `oci://REGISTRY/REPOSITORY:TAG`
        file: PathBuf,
        #[command(flatten)]
        config: Config,
    },
    /// Show what a plugin asks for, agree or not, and put it into the plugin folder
    ///
    /// On a terminal it asks. In a script, each thing that needs a grant is named: --grant llm, or --deny llm.
    #[command(
        after_help = "Example: parlour plugin add weather.wasm --grant llm --grant rooms=!abc:example.org"
    )]
    Add(add::Options),
    /// Show what a plugin asks for, what of it is granted, what it used and what it was denied
    ///
    /// What was counted is since this version ran with these grants. Ends with 1 where a call was denied.
    #[command(after_help = "Example: parlour plugin check weather")]
    Check(check::Options),
    /// List the plugins, what they may do, and which wait for somebody to agree
    #[command(after_help = "Example: parlour plugin list --json")]
    List(list::Options),
    /// Let a plugin serve again that rests after too many faults, or try a version again that was rolled back
    #[command(after_help = "Example: parlour plugin resume weather --user @alice:example.org")]
    Resume(resume::Options),
    /// Remove a plugin, what was granted to it and what was agreed to
    #[command(after_help = "Example: parlour plugin remove weather")]
    Remove(remove::Options),
    /// Make a key to sign plugins with, and show its public half
    #[command(after_help = "Example: parlour plugin keygen publisher.key")]
    Keygen {
        /// Where it goes; by default parlour/publisher.key where your settings are
        file: Option<PathBuf>,
    },
    /// Sign a plugin: whoever has it sees whether it is as you made it
    ///
    /// The signature goes into the file itself. Sign what is finished: a later change needs a new one.
    #[command(after_help = "Example: parlour plugin sign weather.wasm --key publisher.key")]
    Sign(sign::Options),
    /// Check that a plugin is as its publisher made it, and show who that is
    #[command(after_help = "Example: parlour plugin verify weather.wasm")]
    Verify(verify::Options),
    /// Put a plugin into an OCI registry, where `parlour plugin add` finds it
    ///
    /// Who you are there is what `docker login` wrote down. It prints the reference that names this very plugin.
    #[command(after_help = "Example: parlour plugin push weather.wasm oci://ghcr.io/me/weather:1.0")]
    Push(push::Options),
}

/// The settings that are read and changed.
#[derive(Args)]
pub struct Config {
    /// The settings
    #[arg(short, long, default_value = "parlour.toml")]
    config: PathBuf,
}

/// Does it.
pub fn plugin(command: Plugin) -> anyhow::Result<()> {
    match command {
        Plugin::Inspect { file, config } => inspect::inspect(&file, &config),
        Plugin::Add(options) => add::add(&options),
        Plugin::Check(options) => check::check(&options),
        Plugin::List(options) => list::list(&options),
        Plugin::Resume(options) => resume::resume(&options),
        Plugin::Remove(options) => remove::remove(&options),
        Plugin::Keygen { file } => key::make(file),
        Plugin::Sign(options) => sign::sign(&options),
        Plugin::Verify(options) => verify::verify(&options),
        Plugin::Push(options) => push::push(&options),
    }
}

impl Config {
    /// Where they are, if they are there.
    fn exists(&self) -> bool {
        self.config.is_file()
    }

    pub fn load(&self) -> anyhow::Result<(Settings, LockFile)> {
        let file = &self.config;
        if !file.try_exists().with_context(|| file.display().to_string())? {
            bail!("there is no {}; `parlour run` says what to write", file.display());
        }
        let settings = settings::load(file)?;
        let lock = LockFile::open(lock_of(file)).map_err(anyhow::Error::msg)?;
        Ok((settings, lock))
    }
}

/// Where it is written what was agreed to.
pub fn lock_of(settings: &Path) -> PathBuf {
    settings.with_file_name("parlour.lock")
}
