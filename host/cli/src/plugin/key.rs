//! `parlour plugin keygen`, and the files of the keys that plugins are signed with.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail, ensure};
use parlour::signature::Key;

/// No key file is so long.
const LARGEST: u64 = 4096;

/// Makes a key and prints its public half: the only thing that a script wants to read.
pub fn make(file: Option<PathBuf>) -> anyhow::Result<()> {
    let file = file.map_or_else(usual, Ok)?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).context("there are no random numbers")?;
    let key = Key::new(&secret);
    write(&file, &key).with_context(|| file.display().to_string())?;
    drop(writeln!(std::io::stdout(), "{}", key.publisher()));
    drop(writeln!(
        std::io::stderr(),
        "The secret half is in {}: whoever has it signs in your name, and without it nobody does.",
        file.display()
    ));
    Ok(())
}

/// Whole or not at all, for this user alone, and never over another one.
fn write(file: &Path, key: &Key) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // 0600 from its beginning.
    let mut written = tempfile::NamedTempFile::new_in(folder)?;
    written.write_all(key.file().as_bytes())?;
    written.as_file().sync_all()?;
    written.persist_noclobber(file).map_err(|error| error.error)?;
    Ok(())
}

/// Reads a key that nobody else can read.
pub fn read(file: Option<&Path>) -> anyhow::Result<Key> {
    let file = &file.map_or_else(usual, |file| Ok(file.to_owned()))?;
    let place = || file.display().to_string();
    // A pipe with that name would be waited for.
    let open = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(file);
    let open =
        open.with_context(|| format!("{}: there is no key; `parlour plugin keygen` makes one", place()))?;
    let about = open.metadata().with_context(place)?;
    ensure!(about.is_file(), "{}: it is no file", place());
    if about.permissions().mode() & 0o077 != 0 {
        bail!("{}: others can read it; chmod 600 it, or make a new one", place());
    }
    let mut text = String::new();
    open.take(LARGEST).read_to_string(&mut text).with_context(place)?;
    Key::parse(&text).map_err(|reason| anyhow!("{}: {reason}", place()))
}

/// A publisher is a person: their key is where their settings are.
fn usual() -> anyhow::Result<PathBuf> {
    let settings = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let settings = settings.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
    let settings = settings.context("there is no home to keep a key in; name its file")?;
    Ok(settings.join("parlour").join("publisher.key"))
}
