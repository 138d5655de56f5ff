//! An agent's folder: who may open it, and the session and recovery key in it. The databases beside them are
//! matrix-sdk's.
//!
//! The folder is 0700 and every file in it 0600. One process at a time: two that share a crypto store use the
//! same keys twice, and what they then send can be read by nobody.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::chat::StartError;

/// matrix-sdk creates its databases with 0644; SQLite gives an existing file's mode to what it puts beside it.
const DATABASES: [&str; 4] = [
    "matrix-sdk-crypto.sqlite3",
    "matrix-sdk-state.sqlite3",
    "matrix-sdk-event-cache.sqlite3",
    "matrix-sdk-media.sqlite3",
];

const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// A signed-in device.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Session {
    pub user: String,
    pub device: String,
    pub token: String,
    /// Since when, in milliseconds since 1970; none where an older Parlour noted none.
    #[serde(default)]
    pub since: Option<i64>,
    /// Gets the next token, where this one ends; servers that know of none give none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<String>,
}

/// An agent's folder, locked for as long as this lives.
pub(super) struct Store {
    folder: PathBuf,
    _lock: File,
}

impl Store {
    /// Waits a moment for a lock that is held: an account that was stopped lets go of it when its last request
    /// has ended.
    pub async fn open(folder: &Path) -> Result<Self, StartError> {
        let failed =
            |what: &str, error: io::Error| StartError::new(format!("{what} {}: {error}", folder.display()));
        create_private_folder(folder).map_err(|error| failed("cannot use the store folder", error))?;
        let lock = private(OpenOptions::new().create(true).truncate(false).write(true))
            .open(folder.join("lock"))
            .map_err(|error| failed("cannot lock the store folder", error))?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { folder: folder.to_owned(), _lock: lock }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(StartError::new(format!(
                        "another process or agent uses the store folder {}: stop it, or give each agent a folder of its own",
                        folder.display()
                    )));
                }
                Err(TryLockError::Error(error)) => return Err(failed("cannot lock the store folder", error)),
            }
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the databases' files before matrix-sdk does, so that they are private.
    pub fn prepare_databases(&self) -> io::Result<()> {
        for name in DATABASES {
            match private(OpenOptions::new().create_new(true).write(true)).open(self.folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether there are keys of a device here.
    pub fn has_keys(&self) -> bool {
        fs::metadata(self.folder.join(DATABASES[0])).is_ok_and(|file| file.len() > 0)
    }

    /// The stored session. One that cannot be read is an error: signing in anew would leave its device behind.
    pub fn session(&self) -> Result<Option<Session>, StartError> {
        let path = self.folder.join("session.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StartError::new(format!("cannot read {}: {error}", path.display()))),
        };
        // The error of the parser is left out: it may quote the token.
        serde_json::from_slice(&text).map(Some).map_err(|_| {
            StartError::new(format!(
                "{} is damaged: put it back from a backup, or move the folder away to sign in as a new device",
                path.display()
            ))
        })
    }

    pub fn keep_session(&self, session: &Session) -> io::Result<()> {
        let text = serde_json::to_vec(session)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join("session.json"))?;
        self.sync_folder()
    }

    pub fn recovery_key_path(&self) -> PathBuf {
        self.folder.join("recovery.key")
    }

    pub fn recovery_key(&self) -> Option<String> {
        fs::read_to_string(self.recovery_key_path()).ok().map(|key| key.trim().to_owned())
    }

    /// Writes the recovery key, never over another one.
    pub fn keep_recovery_key(&self, key: &str) -> io::Result<()> {
        let mut file =
            private(OpenOptions::new().create_new(true).write(true)).open(self.recovery_key_path())?;
        writeln!(file, "{key}")?;
        file.sync_all()?;
        self.sync_folder()
    }

    /// Says that a recovery key is being made: until [`Self::recovery_settled`], a server that has one while no
    /// file holds it lost it in a crash. (Where the file is merely gone, somebody has put it in a safe place.)
    pub fn recovery_begins(&self) -> io::Result<()> {
        private(OpenOptions::new().create(true).truncate(true).write(true))
            .open(self.pending())?
            .sync_all()?;
        self.sync_folder()
    }

    pub fn recovery_was_begun(&self) -> bool {
        self.pending().exists()
    }

    pub fn recovery_settled(&self) -> io::Result<()> {
        match fs::remove_file(self.pending()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn pending(&self) -> PathBuf {
        self.folder.join("recovery.pending")
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(unix)]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600)
}

#[cfg(unix)]
fn create_private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

#[cfg(not(unix))]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

#[cfg(not(unix))]
fn create_private_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}
