//! The file: made so that nobody else can read it, known by its number, brought up to the version that is spoken
//! here, and set so that what was answered is on disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

/// What SQLite calls the application id: `parl`.
pub(super) const APPLICATION: i32 = 0x7061_726c;

/// Each brings the file from one version to the next; the number of the last is the version. One that was
/// released is never changed.
pub(super) const MIGRATIONS: [&str; 13] = [
    include_str!("1.sql"),
    include_str!("2.sql"),
    include_str!("3.sql"),
    include_str!("4.sql"),
    include_str!("5.sql"),
    include_str!("6.sql"),
    include_str!("7.sql"),
    include_str!("8.sql"),
    include_str!("9.sql"),
    include_str!("10.sql"),
    include_str!("11.sql"),
    include_str!("12.sql"),
    include_str!("13.sql"),
];

/// How long to wait while another process writes. Nobody but this one should, for longer than a glance.
const BUSY: Duration = Duration::from_secs(5);

/// In bytes. Each event changes a few rows on each of a dozen pages, which are written whole; a value of many pages, or a
/// search through a million rows, is slower for it. Files that were made with larger pages keep them.
pub(super) const PAGE: u32 = 2048;

/// More than there are statements, so that each is compiled once.
const STATEMENTS: usize = 256;

/// Why the file is not opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("not a journal of Parlour")]
    Foreign,
    #[error("written by a newer Parlour: its version is {found}, the newest known here is {}", MIGRATIONS.len())]
    Newer { found: i64 },
    #[error("written by an older Parlour, whose host brings it up to date when it starts")]
    Older,
    #[error("folder {} can't be made: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
}

/// Opens it, or makes it; through the file system of this name, or else the machine's.
pub(super) fn open(path: &Path, vfs: Option<&str>) -> Result<Connection, Error> {
    make(path)?;
    // Without SQLITE_OPEN_URI: a path is a path, whatever it looks like.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
        None => Connection::open_with_flags(path, flags),
    }?;
    db.busy_timeout(BUSY)?;
    // Before anything is written: it may be somebody else's.
    version(&db)?;
    set(&db)?;
    // A host that was killed, or whose disk failed, may have written to the log what it never heard to be on disk, and that is
    // read now: before anybody acts on it, it is there.
    db.query_row("PRAGMA wal_checkpoint", [], |_| Ok(()))?;
    migrate(&mut db)?;
    Ok(db)
}

/// Opens it as it is, and only to be read.
pub(super) fn look(path: &Path) -> Result<Connection, Error> {
    // Not READ_ONLY: what a host that was killed has left in the log is read, too.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY)?;
    match version(&db)? {
        version if version == MIGRATIONS.len() => {}
        _ => return Err(Error::Older),
    }
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    db.execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY;")?;
    Ok(db)
}

/// SQLite gives the files beside it (`-wal`, `-shm`) the mode of this one, and makes this one 0644.
fn make(path: &Path) -> Result<(), Error> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder).map_err(|source| Error::Folder { path: folder.into(), source })?;
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(_) if path.is_dir() => Err(Error::Foreign),
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

/// The version of a file that is ours; 0 of an empty one.
fn version(db: &Connection) -> Result<usize, Error> {
    let number = |sql| db.query_row(sql, [], |row| row.get::<_, i64>(0));
    let application = match number("PRAGMA application_id") {
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) => {
            return Err(Error::Foreign);
        }
        other => other?,
    };
    let version = number("PRAGMA user_version")?;
    if application == 0 && version == 0 && number("SELECT count(*) FROM sqlite_schema")? == 0 {
        return Ok(0);
    }
    if application != i64::from(APPLICATION) {
        return Err(Error::Foreign);
    }
    usize::try_from(version)
        .ok()
        .filter(|version| *version <= MIGRATIONS.len())
        .ok_or(Error::Newer { found: version })
}

/// What a connection has to be told each time.
fn set(db: &Connection) -> Result<(), Error> {
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // Before the mode, after which it is fixed.
    db.pragma_update(None, "page_size", PAGE)?;
    // Answers with the mode, and does not fail where it can't be had. Its row comes before it is written, so that whoever asks
    // for no second one is not told that this has failed.
    let mut mode = db.prepare("PRAGMA journal_mode = WAL")?;
    let mode: Vec<String> = mode.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    if mode != ["wal"] {
        return Err(Error::Io(io::Error::other("this file system has no room for a write-ahead log")));
    }
    // FULL: each commit waits for the disk, and on macOS for the disk's own cache.
    // secure_delete: what is deleted is overwritten, not left in free pages.
    // temp_store: what a transaction may have to take back stays here, and is not left in files elsewhere.
    db.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA fullfsync = ON;
         PRAGMA checkpoint_fullfsync = ON;
         PRAGMA foreign_keys = ON;
         PRAGMA secure_delete = ON;
         PRAGMA temp_store = MEMORY;",
    )?;
    Ok(())
}

fn migrate(db: &mut Connection) -> Result<(), Error> {
    if version(db)? == MIGRATIONS.len() {
        return Ok(());
    }
    // Tables are made anew that others refer to.
    db.pragma_update(None, "foreign_keys", false)?;
    // Asked again under the lock: another opener may have been quicker.
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in &MIGRATIONS[version(&transaction)?..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
    transaction.commit()?;
    db.pragma_update(None, "foreign_keys", true)?;
    Ok(())
}
