//! How much a folder holds: one count for each, whoever writes to it.
//!
//! What is written is charged before it is there. What was removed is found by measuring anew, when the count says that
//! a folder is full: on a thread for such work, one at a time, with a pause behind it, so that nobody waits but who is
//! told that it is full otherwise. A file that has lost its name is counted as long as somebody has it open.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::sync::{Mutex as Turn, RwLock, RwLockReadGuard};

/// What a file or folder costs beside its bytes: a block.
pub const ENTRY: u64 = 4096;
/// A folder that is written to has so many files and folders at the most: they are counted now and then.
const ENTRIES: usize = 10_000;
/// A pause after measuring, in times of what that took: no more than a fifth of a thread goes into one folder.
const PAUSE: u32 = 4;

/// What names a file or folder, whatever its path: device and inode.
type Inode = (u64, u64);

/// All folders that plugins were granted.
#[derive(Default)]
pub struct Folders(Mutex<HashMap<Inode, Arc<Folder>>>);

impl Folders {
    /// The count of a folder, the same one by whichever path it is named.
    ///
    /// # Errors
    /// It is not there.
    pub fn of(&self, path: &Path) -> io::Result<Arc<Folder>> {
        let about = fs::metadata(path)?;
        let mut all = lock(&self.0);
        let folder = all.entry((about.dev(), about.ino())).or_default().clone();
        drop(all);
        path.clone_into(&mut lock(&folder.count).path);
        Ok(folder)
    }
}

/// What one folder holds.
#[derive(Default)]
pub struct Folder {
    count: Mutex<Count>,
    /// Whose turn it is to measure, and when that may begin.
    turn: Turn<Option<Instant>>,
    /// What is measured stays where it is meanwhile: nothing is renamed out of its way.
    still: RwLock<()>,
}

#[derive(Default)]
struct Count {
    path: PathBuf,
    /// Bytes, as far as anybody knows; none until they were measured.
    used: Option<u64>,
    /// Of those, what is being written: it may be there, or not yet.
    pending: u64,
    /// Charged since the last measuring began.
    since: u64,
    /// How often measuring has begun.
    begun: u64,
    /// Files that may have lost their names.
    open: Vec<Weak<File>>,
}

/// Bytes that are being written; given back, or written, when it is dropped.
pub struct Charge {
    folder: Arc<Folder>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut count = lock(&self.folder.count);
        count.pending = count.pending.saturating_sub(self.bytes);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Folder {
    /// Charges bytes, if they are known to be free.
    pub fn try_take(self: &Arc<Self>, bytes: u64, limit: u64) -> Option<Charge> {
        let mut count = lock(&self.count);
        let used = count.used?.checked_add(bytes).filter(|used| *used <= limit)?;
        count.used = Some(used);
        count.pending = count.pending.saturating_add(bytes);
        count.since = count.since.saturating_add(bytes);
        Some(Charge { folder: self.clone(), bytes })
    }

    /// Charges bytes, after measuring where they are not known to be free; none where it is full.
    pub async fn take(self: &Arc<Self>, bytes: u64, limit: u64) -> Option<Charge> {
        let seen = lock(&self.count).begun;
        if let Some(charge) = self.try_take(bytes, limit) {
            return Some(charge);
        }
        // It goes on where nobody waits for it any more: whoever gives up does not begin another one.
        tokio::spawn(self.clone().measured(seen)).await.ok()?;
        self.try_take(bytes, limit)
    }

    /// Counts a file for as long as somebody has it open.
    pub fn opened(&self, file: &Arc<File>) {
        let mut count = lock(&self.count);
        if count.open.len() == count.open.capacity() {
            count.open.retain(|file| file.strong_count() > 0);
        }
        count.open.push(Arc::downgrade(file));
    }

    /// While this is held nothing is measured.
    pub async fn still(&self) -> RwLockReadGuard<'_, ()> {
        self.still.read().await
    }

    /// Measures, unless that has begun since somebody looked.
    async fn measured(self: Arc<Self>, seen: u64) {
        let mut turn = self.turn.lock().await;
        if lock(&self.count).begun != seen {
            return;
        }
        if let Some(rested) = *turn {
            tokio::time::sleep_until(rested.into()).await;
        }
        let still = self.still.write().await;
        let began = Instant::now();
        let (path, open, before) = {
            let mut count = lock(&self.count);
            count.begun += 1;
            count.since = 0;
            (count.path.clone(), count.open.iter().filter_map(Weak::upgrade).collect(), count.pending)
        };
        let used = tokio::task::spawn_blocking(move || measure(&path, open)).await;
        drop(still);
        // What was being written may have been seen or not.
        let used = used.ok().and_then(Result::ok).unwrap_or(u64::MAX).saturating_add(before);
        let mut count = lock(&self.count);
        count.used = Some(used.saturating_add(count.since));
        let took = began.elapsed().max(Duration::from_micros(1));
        *turn = Some(Instant::now() + took * PAUSE);
    }
}

/// What a folder holds, in bytes, an entry's own included, and those of these files that have no name in it. No link is
/// followed.
fn measure(folder: &Path, open: Vec<Arc<File>>) -> io::Result<u64> {
    let inode = |about: &fs::Metadata| (about.dev(), about.ino());
    let mut nameless = HashMap::new();
    for file in open {
        let about = file.metadata()?;
        nameless.insert(inode(&about), about.len());
    }
    let (mut used, mut entries) = (0_u64, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let listed = match fs::read_dir(&folder) {
            // It was removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound && entries > 0 => continue,
            listed => listed?,
        };
        for entry in listed {
            let entry = entry?;
            let about = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                about => about?,
            };
            entries += 1;
            if entries > ENTRIES {
                return Ok(u64::MAX);
            }
            used = used.saturating_add(ENTRY).saturating_add(if about.is_file() { about.len() } else { 0 });
            nameless.remove(&inode(&about));
            if about.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(nameless.values().fold(used, |used, bytes| used.saturating_add(ENTRY).saturating_add(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_has_one_count_whoever_names_it() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let other = tempfile::tempdir().expect("another one");
        let link = other.path().join("link");
        std::os::unix::fs::symlink(place.path(), &link).expect("a link");
        let folders = Folders::default();
        let (one, same) = (folders.of(place.path()).expect("it is there"), folders.of(&link).expect("it is"));
        assert!(Arc::ptr_eq(&one, &same));
        let first = one.take(600, 1000).await;
        assert!(first.is_some() && same.take(600, 1000).await.is_none(), "the other one counts it, too");
        assert!(same.take(600, 2000).await.is_some(), "each has a limit of its own");
        assert!(folders.of(&place.path().join("nowhere")).is_err());
    }

    #[tokio::test]
    async fn what_is_being_written_is_counted_while_it_is_measured_and_what_is_removed_is_free_again() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = Folders::default().of(place.path()).expect("it is there");
        let writing = folder.take(900, 1000).await.expect("there is room");
        assert!(folder.take(200, 1000).await.is_none(), "none of it is there yet");
        drop(writing);
        assert!(folder.take(200, 1000).await.is_some(), "nothing came of it");
    }

    #[tokio::test]
    async fn a_file_without_a_name_is_counted_until_it_is_closed() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = Folders::default().of(place.path()).expect("it is there");
        let path = place.path().join("file");
        fs::write(&path, vec![0; 100_000]).expect("it is written");
        let file = Arc::new(File::open(&path).expect("it is there"));
        folder.opened(&file);
        assert!(folder.take(1, 110_000).await.is_some(), "with a name it is counted once");
        fs::remove_file(&path).expect("it is removed");
        assert!(folder.take(50_000, 110_000).await.is_none());
        drop(file);
        assert!(folder.take(50_000, 110_000).await.is_some());
    }

    #[tokio::test]
    async fn a_thread_of_the_hosts_measures_nothing_and_nobody_with_room_waits() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = Folders::default().of(place.path()).expect("it is there");
        let mut full = std::pin::pin!(folder.take(2000, 1000));
        assert!(futures_util::poll!(&mut full).is_pending(), "it waits for another thread");
        assert!(full.await.is_none());
        let _measuring = (folder.turn.lock().await, folder.still.write().await);
        assert!(futures_util::poll!(std::pin::pin!(folder.take(500, 1000))).is_ready());
    }
}
