//! `parlour plugin push`: a plugin goes into a registry.

use std::{io::Write as _, path::PathBuf};

use anyhow::{anyhow, ensure};
use clap::Args;
use parlour::engine::admission::{self, Refused};

use super::offer;
use crate::oci::{self, Reference};

#[derive(Args)]
pub struct Options {
    /// A component, such as weather.wasm, or a folder with a plugin.toml and one
    file: PathBuf,
    /// Where it goes, such as `oci://ghcr.io/me/weather:1.0`
    to: String,
}

/// Pushes it, and prints where it is for good.
pub fn push(options: &Options) -> anyhow::Result<()> {
    let Options { file, to } = options;
    let to: Reference = to.parse().map_err(|reason: anyhow::Error| reason.context(to.clone()))?;
    ensure!(to.tag.is_some() && to.digest.is_none(), "{to}: say which tag it gets, and no digest");
    let (bytes, from) = offer::read(file)?;
    let refused = |refused: Refused| anyhow!("{from}: {refused}");
    let surface = admission::surface(&bytes).map_err(refused)?;
    surface.admit().map_err(refused)?;
    let pushed = crate::runtime()?.block_on(oci::push(&to, bytes, &surface))?;
    drop(writeln!(std::io::stdout(), "{pushed}"));
    Ok(())
}
