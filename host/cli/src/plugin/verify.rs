//! `parlour plugin verify`: whether a plugin is as its publisher made it.

use std::{io::Write as _, path::PathBuf};

use anyhow::{anyhow, bail};
use clap::Args;
use parlour::{
    engine::admission,
    signature::{self, Publisher},
};

use super::offer;

#[derive(Args)]
pub struct Options {
    /// A component, such as weather.wasm, a folder with a plugin.toml and one, or `oci://REGISTRY/REPOSITORY:TAG`
    file: PathBuf,
    /// Who must have signed it, such as ed25519:uVhN…; by default anybody may have
    #[arg(long, value_name = "KEY")]
    publisher: Option<Publisher>,
}

/// Checks it, and prints who signed it.
pub fn verify(options: &Options) -> anyhow::Result<()> {
    let (bytes, from) = offer::read(&options.file)?;
    let place = from.source();
    let surface = admission::surface(&bytes).map_err(|refused| anyhow!("{place}: {refused}"))?;
    let wanted = signature::wanted(options.publisher, None);
    signature::required(surface.publisher, wanted).map_err(|refused| anyhow!("{place}: {refused}"))?;
    let Some(by) = surface.publisher else { bail!("{place}: nobody has signed it") };
    drop(writeln!(std::io::stdout(), "{place}: signed by {by}"));
    Ok(())
}
