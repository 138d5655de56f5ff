//! Compiled code on disk: one file for each component and engine, by digest, 0600 in a folder of 0700.
//!
//! A compiled artefact is native code. Only what this host had compiled is mapped: each file ends in a seal, a keyed hash of
//! its name and its bytes, whose key is in the folder too. It is checked in the very file that is mapped then, before it
//! is. That finds what a disk, a backup or somebody else's hand has changed; whoever can read the key is this host's user,
//! who can do all that the host can. A plugin never brings compiled code. Components' digests are noted beside it in the
//! same way.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{ErrorKind, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use wasmtime::{Engine, component::Component};

use super::compile::fingerprint;
use crate::kept;

/// Bytes of a key, and of a seal.
const SEAL: usize = 32;
/// Bytes that are read at once: they stay in the processor's cache until they are hashed.
const PIECE: usize = 256 * 1024;
/// What was not used for so long, and nobody needs, is forgotten: it costs a start at the most.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Where compiled code is kept.
#[derive(Clone)]
pub struct Cache {
    folder: PathBuf,
    /// The user that runs this host.
    user: u32,
    key: [u8; SEAL],
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Cache {
    /// Keeps compiled code in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// One line: the folder cannot be made, is another user's, or others may look into it.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let place = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(place)?;
        let about = fs::metadata(folder).map_err(place)?;
        if about.permissions().mode() & 0o077 != 0 {
            return Err(format!(
                "{}: others can look into it, and compiled code is run from it; chmod 700 it",
                folder.display()
            ));
        }
        // Whoever makes a file owns it: this is the user that runs this host.
        let own = tempfile::NamedTempFile::new_in(folder).map_err(place)?;
        let user = own.as_file().metadata().map_err(place)?.uid();
        if about.uid() != user {
            return Err(format!(
                "{}: it belongs to another user, and compiled code is run from it; name another folder",
                folder.display()
            ));
        }
        let key = key(folder, user, own).map_err(|error| format!("{}: key: {error}", folder.display()))?;
        Ok(Self { folder: folder.into(), user, key })
    }

    /// SHA-256 of a component, as [`kept::digest`]. It is noted for the next start under the component's BLAKE3, which
    /// takes a fourth of the time.
    #[must_use]
    pub fn digest(&self, component: &[u8]) -> String {
        let name = format!("{}.digest", self.hasher("component").update(component).finalize().to_hex());
        if let Some(noted) = self.noted(&name) {
            return noted;
        }
        let digest = kept::digest(component);
        if let Err(reason) = self.write(&name, digest.as_bytes()) {
            tracing::warn!(target: "parlour", "a digest is not kept: {reason}");
        }
        digest
    }

    /// A digest that is as it was noted.
    fn noted(&self, name: &str) -> Option<String> {
        let whole = fs::read(self.folder.join(name)).ok()?;
        let (digest, seal) = whole.split_last_chunk::<SEAL>()?;
        let is_ours = self.hasher(name).update(digest).finalize() == blake3::Hash::from_bytes(*seal);
        if is_ours && let Ok(file) = File::open(self.folder.join(name)) {
            is_used(&file);
        }
        String::from_utf8(digest.into()).ok().filter(|_| is_ours)
    }

    /// The compiled component, if it is there.
    ///
    /// # Errors
    /// One line: the file is not as it was kept. It is gone now.
    pub fn get(&self, engine: &Engine, digest: &str) -> Result<Option<Component>, String> {
        let name = name(engine, digest);
        let path = self.folder.join(&name);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("its compiled code cannot be read: {error}")),
        };
        if !self.is_sealed(&name, &mut file).unwrap_or(false) {
            drop(fs::remove_file(&path));
            return Err("its compiled code is not as it was kept".into());
        }
        is_used(&file);
        // Under this name it is opened again, whatever its own one stands for by now.
        let same = PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()));
        #[expect(unsafe_code, reason = "the file is this host's own: see the module's words")]
        // SAFETY: it is what this host had compiled, by its seal, and only the user that runs this host can write to it.
        let mapped = unsafe { Component::deserialize_file(engine, &same) };
        mapped.map(Some).map_err(|error| format!("its compiled code cannot be used: {error:#}"))
    }

    /// Keeps compiled code. A failure costs the next start some time, and nothing else.
    pub fn put(&self, engine: &Engine, digest: &str, code: &[u8]) -> Result<(), String> {
        self.write(&name(engine, digest), code)
    }

    /// Forgets what nobody has used for a month: other hosts may share the folder, and older ones may come back. What was
    /// compiled of `needed` by this engine stays.
    pub(super) fn only(&self, engine: &Engine, needed: &BTreeSet<String>) {
        let needed: BTreeSet<_> = needed.iter().map(|digest| name(engine, digest)).collect();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let is_ours = file.ends_with(".sealed") || file.ends_with(".digest");
            let unused = || Some(entry.metadata().ok()?.modified().ok()?.elapsed().ok()? > UNUSED);
            if is_ours && !needed.contains(&file) && unused().unwrap_or(false) {
                drop(fs::remove_file(entry.path()));
            }
        }
    }

    /// Writes a file and its seal.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let place = |error: std::io::Error| format!("{}: {error}", self.folder.display());
        let seal = self.hasher(name).update(bytes).finalize();
        // Its mode is 0600, and it takes its name when it is whole.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(place)?;
        file.write_all(bytes).and_then(|()| file.write_all(seal.as_bytes())).map_err(place)?;
        file.persist(self.folder.join(name)).map_err(|error| place(error.error))?;
        Ok(())
    }

    /// Whether this file is what was kept under this name.
    fn is_sealed(&self, name: &str, file: &mut File) -> std::io::Result<bool> {
        let about = file.metadata()?;
        let Some(mut left) = usize::try_from(about.len()).ok().and_then(|size| size.checked_sub(SEAL)) else {
            return Ok(false);
        };
        if !about.is_file() || !is_private(&about, self.user) {
            return Ok(false);
        }
        let mut hasher = self.hasher(name);
        let mut piece = vec![0; PIECE.min(left)];
        while left > 0 {
            let piece = &mut piece[..PIECE.min(left)];
            file.read_exact(piece)?;
            hasher.update(piece);
            left -= piece.len();
        }
        let mut seal = [0; SEAL];
        file.read_exact(&mut seal)?;
        Ok(hasher.finalize() == blake3::Hash::from_bytes(seal))
    }

    /// None of the names begins with another.
    fn hasher(&self, name: &str) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(name.as_bytes());
        hasher
    }
}

/// What this host has just had compiled.
///
/// # Errors
/// It does not fit the engine, such as more memories than an instance may have.
pub(super) fn fresh(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    #[expect(unsafe_code, reason = "the code is this host's own: see the module's words")]
    // SAFETY: it is the answer of the compiler, which is this program or one that its embedder named.
    let component = unsafe { Component::deserialize(engine, code) };
    component
}

/// A file whose time is not that of its last use goes too early, and is made anew.
fn is_used(file: &File) {
    drop(file.set_modified(SystemTime::now()));
}

fn name(engine: &Engine, digest: &str) -> String {
    format!("{digest}-{}.sealed", fingerprint(engine))
}

/// Only this user can have written it, or read it.
fn is_private(about: &fs::Metadata, user: u32) -> bool {
    about.uid() == user && about.permissions().mode() & 0o777 == 0o600
}

/// The key of this folder. The first host to need one makes it, from `new`, an empty file of its own.
fn key(folder: &Path, user: u32, mut new: tempfile::NamedTempFile) -> std::io::Result<[u8; SEAL]> {
    let path = folder.join("key");
    let read = || -> std::io::Result<Option<[u8; SEAL]>> {
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let about = file.metadata()?;
        let mut key = [0; SEAL];
        if !about.is_file() || about.len() != key.len() as u64 || !is_private(&about, user) {
            return Ok(None);
        }
        file.read_exact(&mut key)?;
        Ok(Some(key))
    };
    if let Some(key) = read()? {
        return Ok(key);
    }
    let mut key = [0; SEAL];
    getrandom::fill(&mut key).map_err(std::io::Error::other)?;
    new.write_all(&key)?;
    match new.persist_noclobber(&path) {
        Ok(_) => return Ok(key),
        Err(error) if error.error.kind() != ErrorKind::AlreadyExists => return Err(error.error),
        // Another host was faster; or it is no key, and what was kept with it is worth nothing.
        Err(error) => new = error.file,
    }
    if let Some(key) = read()? {
        return Ok(key);
    }
    new.persist(&path).map_err(|error| error.error)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    fn engine() -> Engine {
        Engine::new(&super::super::pool::features()).unwrap()
    }

    fn private() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        folder
    }

    #[test]
    fn only_what_was_kept_under_a_name_is_found_there() {
        let (folder, engine) = (private(), engine());
        let code = engine.precompile_component(COMPONENT).unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        assert!(matches!(cache.get(&engine, "a"), Ok(None)));
        cache.put(&engine, "a", &code).unwrap();
        assert!(matches!(Cache::open(folder.path()).unwrap().get(&engine, "a"), Ok(Some(_))));

        let changed = || Err("its compiled code is not as it was kept".to_owned());
        let file = |digest: &str| folder.path().join(name(&engine, digest));
        let found = |cache: &Cache, digest: &str| cache.get(&engine, digest).map(|found| found.is_some());
        // Another's code, nothing of a file, the beginning of one, and one that others can write to.
        fs::copy(file("a"), file("b")).unwrap();
        assert_eq!(found(&cache, "b"), changed());
        assert!(!file("b").exists(), "it is removed");
        for size in [0, SEAL, code.len() / 2] {
            fs::copy(file("a"), file("b")).unwrap();
            fs::OpenOptions::new().write(true).open(file("b")).unwrap().set_len(size as u64).unwrap();
            assert_eq!(found(&cache, "b"), changed());
        }
        fs::set_permissions(file("a"), fs::Permissions::from_mode(0o622)).unwrap();
        assert_eq!(found(&cache, "a"), changed());

        // What was kept with another key.
        cache.put(&engine, "a", &code).unwrap();
        assert_eq!(found(&cache, "a"), Ok(true));
        fs::write(folder.path().join("key"), "short").unwrap();
        let other = Cache::open(folder.path()).unwrap();
        assert_eq!(found(&other, "a"), changed());
        other.put(&engine, "a", &code).unwrap();
        assert_eq!(found(&Cache::open(folder.path()).unwrap(), "a"), Ok(true));
    }

    #[test]
    fn what_nobody_uses_is_forgotten_and_what_is_needed_stays() {
        let (folder, engine) = (private(), engine());
        let code = engine.precompile_component(COMPONENT).unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let aged = |name: &str| {
            let file = File::options().append(true).open(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - UNUSED - Duration::from_secs(1)).unwrap();
        };
        let files = || {
            let files = fs::read_dir(folder.path()).unwrap();
            files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
        };
        for digest in ["needed", "used", "old", "new"] {
            cache.put(&engine, digest, &code).unwrap();
        }
        fs::write(folder.path().join("needed-of-another-engine.sealed"), "").unwrap();
        assert_eq!(cache.digest(COMPONENT), kept::digest(COMPONENT));
        let note = files().into_iter().find(|name| name.ends_with(".digest")).unwrap();
        let [needed, used, old, new] = ["needed", "used", "old", "new"].map(|digest| name(&engine, digest));
        for file in [&needed, &used, &old, &note, "needed-of-another-engine.sealed", "key"] {
            aged(file);
        }
        assert!(matches!(cache.get(&engine, "used"), Ok(Some(_))));
        cache.only(&engine, &["needed".to_owned()].into());
        assert_eq!(files(), [needed.clone(), used.clone(), new.clone(), "key".to_owned()].into());
        assert_eq!(cache.digest(COMPONENT), kept::digest(COMPONENT));
        aged(&note);
        assert_eq!(cache.digest(COMPONENT), kept::digest(COMPONENT));
        cache.only(&engine, &BTreeSet::new());
        assert!(files().contains(&note), "it is used");
        assert!(!files().contains(&needed));
    }

    #[test]
    fn a_noted_digest_is_believed_only_as_it_was_noted() {
        let folder = private();
        let cache = Cache::open(folder.path()).unwrap();
        let digest = kept::digest(COMPONENT);
        assert_eq!(cache.digest(COMPONENT), digest);
        let files = || fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let noted = files().find(|path| path.extension().is_some()).unwrap();
        let sealed = fs::read(&noted).unwrap();
        assert_eq!(cache.digest(COMPONENT), digest);

        // Another digest, another component's note, part of a note.
        let other = [COMPONENT, b"\0\x01\0"].concat();
        assert_eq!(cache.digest(&other), kept::digest(&other));
        let others = files().find(|path| path.extension().is_some() && *path != noted).unwrap();
        let forged = [&kept::digest(&other).into_bytes()[..], &sealed[64..]].concat();
        for changed in [forged, fs::read(others).unwrap(), sealed[..40].to_vec(), vec![]] {
            fs::write(&noted, changed).unwrap();
            assert_eq!(cache.digest(COMPONENT), digest);
            assert_eq!(fs::read(&noted).unwrap(), sealed, "it is noted anew");
        }
        // It is what is read that counts, and that is the note.
        let marked = "f".repeat(64);
        let name = noted.file_name().unwrap().to_str().unwrap();
        cache.write(name, marked.as_bytes()).unwrap();
        assert_eq!(cache.digest(COMPONENT), marked);
    }

    #[test]
    fn a_folder_that_others_look_into_is_refused() {
        let folder = private();
        for mode in [0o755, 0o722, 0o710] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            let refused = Cache::open(folder.path()).unwrap_err();
            assert!(
                refused.ends_with("others can look into it, and compiled code is run from it; chmod 700 it")
            );
        }
    }
}
