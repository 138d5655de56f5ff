//! A plugin that somebody offers: a file, a folder, or an artefact in a registry; its bytes and where they come from.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use parlour::{engine::limits::Limits, source::Source};

use crate::oci::{self, Reference};

/// Where a plugin comes from.
pub enum Origin {
    /// A file, or a folder with one.
    File {
        /// As somebody named it.
        named: PathBuf,
        /// The component itself.
        component: PathBuf,
    },
    /// An artefact in a registry.
    Registry {
        /// As somebody named it.
        named: Reference,
        /// With the digest that it has.
        found: Reference,
    },
}

/// Reads or pulls a plugin.
///
/// # Errors
/// One line that names it.
pub fn read(named: &Path) -> Result<(Vec<u8>, Origin)> {
    let limit = Limits::default().component;
    if let Some(text) = named.to_str().filter(|text| Reference::is_one(text)) {
        let named: Reference = text.parse().with_context(|| text.to_owned())?;
        let (bytes, found) = crate::runtime()?.block_on(oci::pull(&named, limit))?;
        return Ok((bytes, Origin::Registry { named, found }));
    }
    let source = Source::folder(named).unwrap_or_else(|| Source::file(named));
    let bytes = source.load(limit).map_err(|reason| anyhow!(reason))?;
    Ok((bytes, Origin::File { named: named.to_owned(), component: source.component }))
}

impl Origin {
    /// Its component, where it is a file.
    pub fn component(&self) -> Option<&Path> {
        match self {
            Self::File { component, .. } => Some(component),
            Self::Registry { .. } => None,
        }
    }

    /// Its file's name, or its repository's.
    pub fn stem(&self) -> String {
        match self {
            Self::File { named, .. } => {
                named.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
            }
            Self::Registry { named, .. } => {
                named.repository.rsplit('/').next().unwrap_or_default().to_owned()
            }
        }
    }

    /// Whether it comes from where something came from before, as [`Self::source`] said.
    pub fn is_from(&self, source: &str) -> bool {
        match self {
            Self::File { named, .. } => named.display().to_string() == source,
            Self::Registry { named, .. } => {
                source.parse::<Reference>().is_ok_and(|source| source.same_place(named))
            }
        }
    }

    /// What is written down of it: an artefact's with its digest.
    pub fn source(&self) -> String {
        match self {
            Self::File { named, .. } => named.display().to_string(),
            Self::Registry { found, .. } => found.to_string(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { named, .. } => named.display().fmt(f),
            Self::Registry { named, .. } => named.fmt(f),
        }
    }
}
