//! `wasi:random`: numbers that nobody can foresee, and that are the same when the same handler runs again. They are drawn from
//! a hash, keyed with a secret of the host, of what is being handled.

use std::{
    convert::Infallible,
    fmt,
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use rand_core::TryRng;
use tempfile::NamedTempFile;
use wasmtime_wasi::WasiCtxBuilder;

use super::Handling;

/// What nobody else knows.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// For as long as this process runs.
    ///
    /// # Errors
    /// The system has none, in one line.
    pub fn new() -> Result<Self, String> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| format!("random numbers: {error}"))?;
        Ok(Self(secret))
    }

    /// In a file of 0600, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be read or made, others can read it, or it is none: one line.
    pub fn open(path: &Path) -> Result<Self, String> {
        let place = |error: std::io::Error| format!("{}: {error}", path.display());
        if path.try_exists().map_err(place)? {
            return Self::read(path);
        }
        let secret = Self::new()?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        // Whoever finds it finds all of it. It is of 0600 from the beginning.
        let mut file = NamedTempFile::new_in(folder).map_err(place)?;
        file.write_all(&secret.0).and_then(|()| file.as_file().sync_all()).map_err(place)?;
        match file.persist_noclobber(path) {
            Ok(_) => {}
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => return Self::read(path),
            Err(error) => return Err(place(error.error)),
        }
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(place)?;
        Ok(secret)
    }

    fn read(path: &Path) -> Result<Self, String> {
        let place = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut file = File::open(path).map_err(place)?;
        let about = file.metadata().map_err(place)?;
        if about.permissions().mode() & 0o077 != 0 {
            return Err(format!(
                "{}: others can read it; remove it, and another one is made",
                path.display()
            ));
        }
        let mut secret = [0; 32];
        let read =
            if about.len() == 32 { file.read_exact(&mut secret) } else { Err(ErrorKind::InvalidData.into()) };
        read.map_err(|_| {
            format!("{}: it is no secret of 32 bytes; remove it, and another one is made", path.display())
        })?;
        Ok(Self(secret))
    }

    fn drawn(&self, what: &str, handling: &Handling) -> Numbers {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        let Handling { agent, delivery, plugin, path, .. } = handling;
        for part in [what, agent.as_str(), delivery.as_str(), plugin.as_str(), path] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Numbers(hasher.finalize_xof())
    }

    /// What a guest draws from, for what it handles.
    pub fn give(&self, wasi: &mut WasiCtxBuilder, handling: &Handling) {
        let mut seed = [0; 16];
        self.drawn("seed", handling).0.fill(&mut seed);
        wasi.secure_random(self.drawn("secure", handling))
            .insecure_random(self.drawn("insecure", handling))
            .insecure_random_seed(u128::from_le_bytes(seed));
    }
}

/// It is said nowhere.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A hash that goes on as long as somebody wants.
struct Numbers(blake3::OutputReader);

impl Numbers {
    fn next<const SIZE: usize>(&mut self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        self.0.fill(&mut bytes);
        bytes
    }
}

impl TryRng for Numbers {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(self.next()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(self.next()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_for_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let made = Secret::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Secret::open(&path).unwrap().0, made.0);
        assert_ne!(Secret::new().unwrap().0, made.0);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Secret::open(&path).unwrap_err().contains("others can read it"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "short").unwrap();
        assert!(Secret::open(&path).unwrap_err().contains("no secret of 32 bytes"));
    }
}
