//! `parlour plugin sign`: a signature over all of a component, put into it.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use parlour::{
    engine::{
        admission::{self, Refused},
        limits::Limits,
    },
    signature,
    source::Source,
};

use super::key;

#[derive(Args)]
pub struct Options {
    /// A component, such as weather.wasm, or a folder with a plugin.toml and one, which gets the plugin.toml into it
    file: PathBuf,
    /// The key; by default the one that `parlour plugin keygen` made
    #[arg(long, value_name = "KEYFILE")]
    key: Option<PathBuf>,
    /// Where the signed component goes; by default it takes the place of the unsigned one
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Signs it.
pub fn sign(options: &Options) -> anyhow::Result<()> {
    let place = options.file.display();
    let folder = Source::folder(&options.file);
    let packed = folder.is_some();
    let source = folder.unwrap_or_else(|| Source::file(&options.file));
    let limit = Limits::default().component;
    let bytes = source.load(limit).map_err(anyhow::Error::msg)?;
    let refused = |refused: Refused| anyhow!("{place}: {refused}");
    let surface = admission::surface(&bytes).map_err(refused)?;
    surface.admit().map_err(refused)?;
    // Its plugin.toml could not be put into it any more, and it would be no plugin there.
    if let Some(folder) = beside(&source.component).filter(|_| !packed && surface.manifest.is_none()) {
        bail!("{place}: its plugin.toml is beside it and not in it; sign its folder, {}", folder.display());
    }
    let key = key::read(options.key.as_deref())?;
    let bare = match surface.publisher {
        Some(_) => signature::strip(bytes),
        None => bytes,
    };
    let signed = signature::sign(bare, &key);
    if signed.len() > limit {
        let size = signed.len().div_ceil(1024 * 1024);
        return Err(refused(Refused::TooLarge { size, limit: limit / (1024 * 1024) }));
    }
    let out = options.out.as_deref().unwrap_or(&source.component);
    put(out, &signed, &source.component).with_context(|| out.display().to_string())?;
    let by = key.publisher();
    let before = match surface.publisher {
        Some(before) if before != by => format!(", in place of {before}"),
        _ => String::new(),
    };
    drop(writeln!(std::io::stdout(), "{}: signed by {by}{before}", out.display()));
    Ok(())
}

/// In one step, with the mode that the component has.
fn put(out: &Path, signed: &[u8], component: &Path) -> std::io::Result<()> {
    // A link stays one.
    let out = &out.canonicalize().unwrap_or_else(|_| out.to_owned());
    let folder = out.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let mut written = tempfile::NamedTempFile::new_in(folder)?;
    written.write_all(signed)?;
    written.as_file().set_permissions(fs::metadata(component)?.permissions())?;
    written.persist(out).map_err(|error| error.error)?;
    Ok(())
}

/// The folder of a component that has a `plugin.toml`, too.
fn beside(component: &Path) -> Option<&Path> {
    let folder = component.parent()?;
    let folder = if folder == Path::new("") { Path::new(".") } else { folder };
    folder.join("plugin.toml").is_file().then_some(folder)
}
