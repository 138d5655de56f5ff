//! Compiled code on disk: one file for each component and engine, by digest, 0600 in a folder of 0700.
//!
//! A compiled artefact is native code. Only files that this host's user wrote are read, from a folder that only
//! that user can write to; a plugin never brings one.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write as _,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use wasmtime::{Engine, component::Component};

/// Where compiled code is kept.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
    /// The user that runs this host.
    user: u32,
}

impl Cache {
    /// Keeps compiled code in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// One line: the folder cannot be made, is another user's, or others may write to it.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let place = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(place)?;
        let about = fs::metadata(folder).map_err(place)?;
        if about.permissions().mode() & 0o022 != 0 {
            return Err(format!(
                "{}: others can write to it, and compiled code is run from it; chmod 700 it",
                folder.display()
            ));
        }
        // Whoever makes a file owns it: this is the user that runs this host.
        let own = tempfile::NamedTempFile::new_in(folder).and_then(|file| file.as_file().metadata());
        let user = own.map_err(place)?.uid();
        if about.uid() != user {
            return Err(format!(
                "{}: it belongs to another user, and compiled code is run from it; name another folder",
                folder.display()
            ));
        }
        Ok(Self { folder: folder.into(), user })
    }

    /// The compiled component, if it is there and fits the engine.
    pub fn get(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let file = self.file(engine, digest);
        let about = fs::symlink_metadata(&file).ok()?;
        if !about.is_file() || about.uid() != self.user || about.permissions().mode() & 0o022 != 0 {
            return None;
        }
        #[expect(unsafe_code, reason = "the file is this host's own: see the module's words")]
        // SAFETY: only files that `put` wrote are here: the folder and the file belong to the user that runs
        // this host, and nobody else can write to either.
        let loaded = unsafe { Component::deserialize_file(engine, &file) };
        loaded.ok()
    }

    /// Keeps a compiled component. A failure costs the next start some time, and nothing else.
    pub fn put(&self, engine: &Engine, digest: &str, component: &Component) -> Result<(), String> {
        let code = component.serialize().map_err(|error| error.to_string())?;
        let place = |error: std::io::Error| format!("{}: {error}", self.folder.display());
        // Its mode is 0600, and it takes its name when it is whole.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(place)?;
        file.write_all(&code).map_err(place)?;
        file.persist(self.file(engine, digest)).map_err(|error| place(error.error))?;
        Ok(())
    }

    fn file(&self, engine: &Engine, digest: &str) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.folder.join(format!("{digest}-{:016x}.cwasm", hasher.finish()))
    }
}
