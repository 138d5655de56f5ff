//! Programs of somebody else's that make components.

use std::{
    env,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, bail};

/// A tool of somebody else's that this program runs, in the version that it was tried with.
pub struct Tool {
    pub name: &'static str,
    /// Names another executable to run in its place.
    pub variable: &'static str,
    pub install: &'static str,
}

impl Tool {
    /// What to run: what the variable names, or what npm has put beside the plugin or above it, or what the
    /// path has.
    pub fn executable(&self, folder: &Path) -> PathBuf {
        let local = || folder.ancestors().map(|folder| folder.join("node_modules/.bin").join(self.name));
        env::var_os(self.variable)
            .map(PathBuf::from)
            .or_else(|| local().find(|executable| executable.exists()))
            .unwrap_or_else(|| self.name.into())
    }

    pub fn run(&self, command: &mut Command) -> Result<()> {
        self.check(&self.start(command)?)
    }

    pub fn start(&self, command: &mut Command) -> Result<Output> {
        // A tool's own backtrace would bury what it says about the plugin.
        match command.env("RUST_BACKTRACE", "0").env("RUST_LIB_BACKTRACE", "0").output() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("{} is not installed: {}", self.name, self.install)
            }
            result => result.with_context(|| format!("cannot run {}", self.name)),
        }
    }

    pub fn check(&self, output: &Output) -> Result<()> {
        if output.status.success() {
            return Ok(());
        }
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed\n{}", self.name, [stdout.trim(), stderr.trim()].join("\n").trim());
    }
}
