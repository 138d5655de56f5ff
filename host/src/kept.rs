//! Components that were agreed to, by digest: when a file waits for somebody to agree, what was agreed to before goes
//! on, after a restart too. Files of 0600 in a folder of 0700; a digest is checked whenever one is read.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

/// SHA-256, in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Where they are kept.
#[derive(Debug, Clone)]
pub struct Kept {
    folder: PathBuf,
}

impl Kept {
    /// In this folder, which is made if it is not there.
    ///
    /// # Errors
    /// One line.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self { folder: folder.into() })
    }

    /// Whether a component is there.
    #[must_use]
    pub fn has(&self, digest: &str) -> bool {
        self.path(digest).exists()
    }

    /// Keeps a component.
    ///
    /// # Errors
    /// One line.
    pub fn put(&self, digest: &str, component: &[u8]) -> Result<(), String> {
        let path = self.path(digest);
        if path.exists() {
            return Ok(());
        }
        let place = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(place)?;
        file.write_all(component).and_then(|()| file.as_file().sync_all()).map_err(place)?;
        file.persist(&path).map_err(|error| place(error.error))?;
        Ok(())
    }

    /// A component, if it is there and is what it was.
    #[must_use]
    pub fn get(&self, digest: &str) -> Option<Vec<u8>> {
        let component = fs::read(self.path(digest)).ok()?;
        (self::digest(&component) == digest).then_some(component)
    }

    /// Forgets all others.
    pub fn only(&self, digests: &BTreeSet<String>) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            if !digests.contains(&stem) {
                drop(fs::remove_file(path));
            }
        }
    }

    fn path(&self, digest: &str) -> PathBuf {
        // It may come from a file that somebody edited.
        let plain: String = digest.chars().filter(char::is_ascii_hexdigit).collect();
        self.folder.join(format!("{plain}.wasm"))
    }
}
