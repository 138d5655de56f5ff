//! A file system of SQLite's ("VFS") that stands between it and that of the machine: it writes down all that is done to the
//! journal's files, and lets of it fail what it is told to. SQLite knows it by its name; nobody else in this process has it.
//!
//! Not the crate `sqlite-plugin`: that one reads SQLite's headers anew, for which everybody who builds this would need libclang.

#![expect(unsafe_code, reason = "SQLite calls, and is called, in C")]

use std::{
    cell::Cell,
    collections::BTreeSet,
    ffi::{CStr, CString, c_char, c_int, c_void},
    ptr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use rusqlite::ffi::{
    SQLITE_CANTOPEN, SQLITE_FULL, SQLITE_IOERR_DELETE, SQLITE_IOERR_FSYNC, SQLITE_IOERR_TRUNCATE,
    SQLITE_IOERR_WRITE, SQLITE_OK, SQLITE_OPEN_CREATE, SQLITE_OPEN_MAIN_JOURNAL, SQLITE_OPEN_WAL,
    sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs, sqlite3_vfs_find, sqlite3_vfs_register,
    sqlite3_vfs_unregister,
};

use super::disk::{Files, Name, Operation};

const NAMES: [Name; 3] = ["journal.db", "journal.db-wal", "journal.db-journal"];

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The how-manieth of what is asked of the disk from now on, from zero.
    pub at: usize,
    /// So does all that is asked later.
    pub lasts: bool,
    /// What there is no room for is written in part, and the rest works; else the disk does not take anything.
    pub full: bool,
    /// What a sync could not write is lost, see [`Operation::Lose`]; else a later one writes it.
    pub loses: bool,
}

/// The file system of one folder.
pub struct Vfs {
    name: CString,
    shared: Arc<Shared>,
    registered: *mut sqlite3_vfs,
}

struct Shared {
    machine: *mut sqlite3_vfs,
    state: Mutex<State>,
}

// SAFETY: the machine's file system stays for ever, and SQLite itself calls it from any thread; the rest is locked.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

#[derive(Default)]
struct State {
    there: BTreeSet<Name>,
    operations: Vec<Operation>,
    fault: Option<Fault>,
    /// Since `fault` was set, and whether it was to write.
    asked: Vec<bool>,
    failed: usize,
}

impl Vfs {
    /// That of a folder with these files.
    pub fn new(files: &Files) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("parlour-power-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(name).unwrap();
        let state = State { there: files.keys().copied().collect(), ..State::default() };
        // SAFETY: without a name it answers with the machine's own, which stays for ever.
        let machine = unsafe { sqlite3_vfs_find(ptr::null()) };
        assert!(!machine.is_null());
        let shared = Arc::new(Shared { machine, state: Mutex::new(state) });
        // SAFETY: as above.
        let (room, path) = unsafe { ((*machine).szOsFile, (*machine).mxPathname) };
        let vfs = sqlite3_vfs {
            iVersion: 1,
            szOsFile: room + size_of::<File>() as c_int,
            mxPathname: path,
            pNext: ptr::null_mut(),
            zName: name.as_ptr(),
            pAppData: Arc::as_ptr(&shared).cast_mut().cast(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: None,
            xCurrentTimeInt64: None,
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        };
        let registered = Box::into_raw(Box::new(vfs));
        // SAFETY: it and all that it points to live until it is dropped, which takes it back.
        assert_eq!(unsafe { sqlite3_vfs_register(registered, 0) }, SQLITE_OK);
        Self { name, shared, registered }
    }

    /// The name by which SQLite knows it.
    pub fn name(&self) -> &str {
        self.name.to_str().unwrap()
    }

    /// What was done, in order.
    pub fn operations(&self) -> Vec<Operation> {
        self.shared.state().operations.clone()
    }

    /// How much was done.
    pub fn done(&self) -> usize {
        self.shared.state().operations.len()
    }

    /// Lets something fail from now on, or nothing.
    pub fn fail(&self, fault: Option<Fault>) {
        let mut state = self.shared.state();
        (state.fault, state.asked) = (fault, Vec::new());
    }

    /// What was asked of the disk since: whether it was to write something.
    pub fn asked(&self) -> Vec<bool> {
        self.shared.state().asked.clone()
    }

    /// How often something failed.
    pub fn failed(&self) -> usize {
        self.shared.state().failed
    }
}

impl Drop for Vfs {
    /// Whoever has opened a file by it has closed it before.
    fn drop(&mut self) {
        // SAFETY: it was made by `Box::into_raw` and registered in `new`, and nobody has a file of it.
        unsafe {
            sqlite3_vfs_unregister(self.registered);
            drop(Box::from_raw(self.registered));
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    /// Asks whether it may be done; the answer is SQLite's number for why not.
    fn ask(&mut self, write: bool, error: c_int) -> Result<(), c_int> {
        let number = self.asked.len();
        self.asked.push(write);
        match self.fault {
            Some(fault)
                if (number == fault.at || fault.lasts && number > fault.at) && (write || !fault.full) =>
            {
                self.failed += 1;
                Err(if fault.full { SQLITE_FULL } else { error })
            }
            _ => Ok(()),
        }
    }

    fn note(&mut self, operation: Operation) {
        match operation {
            Operation::Create(name) => drop(self.there.insert(name)),
            Operation::Delete(name) => drop(self.there.remove(name)),
            _ => {}
        }
        self.operations.push(operation);
    }
}

/// An open file; in memory, that of the machine's file system comes behind it.
#[repr(C)]
struct File {
    base: sqlite3_file,
    shared: *const Shared,
    /// None of a temporary file, which no start finds again.
    name: Option<Name>,
    /// As SQLite does on Unix, its first sync is one of the folder, too.
    new: Cell<bool>,
}

/// SAFETY (here and below): SQLite calls only with what `new` has registered and `open` has filled.
unsafe fn shared<'a>(vfs: *mut sqlite3_vfs) -> &'a Shared {
    unsafe { &*(*vfs).pAppData.cast::<Shared>() }
}

unsafe fn ours<'a>(file: *mut sqlite3_file) -> (&'a File, &'a Shared) {
    unsafe {
        let file = &*file.cast::<File>();
        (file, &*file.shared)
    }
}

/// That of the machine.
unsafe fn theirs(file: *mut sqlite3_file) -> *mut sqlite3_file {
    unsafe { file.cast::<File>().add(1).cast() }
}

unsafe fn name(path: *const c_char) -> Option<Name> {
    if path.is_null() {
        return None;
    }
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    NAMES.into_iter().find(|name| path.ends_with(format!("/{name}").as_bytes()))
}

/// What the machine's file system, or file, does when it is asked for the same.
macro_rules! vfs {
    ($vfs:expr, $method:ident($($argument:expr),*)) => {
        ((*$vfs).$method.expect("the machine's file system has it"))($vfs, $($argument),*)
    };
}
macro_rules! file {
    ($file:expr, $method:ident($($argument:expr),*)) => {{
        let file = theirs($file);
        ((*(*file).pMethods).$method.expect("the machine's files have it"))(file, $($argument),*)
    }};
}

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    path: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    unsafe {
        // Whoever fails leaves nothing to be closed.
        (*file).pMethods = ptr::null();
        (*theirs(file)).pMethods = ptr::null();
        let (shared, name) = (shared(vfs), name(path));
        let mut state = shared.state();
        let fresh = name.filter(|name| !state.there.contains(name));
        if fresh.is_some()
            && flags & SQLITE_OPEN_CREATE != 0
            && let Err(error) = state.ask(false, SQLITE_CANTOPEN)
        {
            return error;
        }
        let opened = vfs!(shared.machine, xOpen(path, theirs(file), flags, out));
        if opened != SQLITE_OK {
            return opened;
        }
        if let Some(name) = fresh {
            state.note(Operation::Create(name));
        }
        let new =
            flags & SQLITE_OPEN_CREATE != 0 && flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL) != 0;
        let base = sqlite3_file { pMethods: &METHODS };
        file.cast::<File>().write(File { base, shared, name, new: Cell::new(new) });
        SQLITE_OK
    }
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, path: *const c_char, folder: c_int) -> c_int {
    unsafe {
        let (shared, name) = (shared(vfs), name(path));
        let mut state = shared.state();
        let there = name.filter(|name| state.there.contains(name));
        if there.is_some()
            && let Err(error) = state.ask(false, SQLITE_IOERR_DELETE)
        {
            return error;
        }
        let deleted = vfs!(shared.machine, xDelete(path, folder));
        if deleted == SQLITE_OK
            && let Some(name) = there
        {
            state.note(Operation::Delete(name));
            if folder != 0 {
                state.note(Operation::SyncFolder);
            }
        }
        deleted
    }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    from: *const c_void,
    count: c_int,
    at: sqlite3_int64,
) -> c_int {
    unsafe {
        let (File { name, .. }, shared) = ours(file);
        let Some(name) = *name else { return file!(file, xWrite(from, count, at)) };
        let mut state = shared.state();
        let asked = state.ask(true, SQLITE_IOERR_WRITE);
        let taken = match asked {
            Ok(()) => count,
            Err(SQLITE_FULL) => count / 2,
            Err(error) => return error,
        };
        let written = file!(file, xWrite(from, taken, at));
        if written == SQLITE_OK {
            let bytes = std::slice::from_raw_parts(from.cast::<u8>(), taken as usize);
            state.note(Operation::Write(name, at as usize, bytes.to_vec()));
        }
        asked.map_or_else(|error| error, |()| written)
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    unsafe {
        let (File { name, .. }, shared) = ours(file);
        let Some(name) = *name else { return file!(file, xTruncate(size)) };
        let mut state = shared.state();
        if let Err(error) = state.ask(false, SQLITE_IOERR_TRUNCATE) {
            return error;
        }
        let truncated = file!(file, xTruncate(size));
        if truncated == SQLITE_OK {
            state.note(Operation::Truncate(name, size as usize));
        }
        truncated
    }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    unsafe {
        let (File { name, new, .. }, shared) = ours(file);
        let Some(name) = *name else { return file!(file, xSync(flags)) };
        let mut state = shared.state();
        if let Err(error) = state.ask(false, SQLITE_IOERR_FSYNC) {
            if state.fault.is_some_and(|fault| fault.loses) {
                state.note(Operation::Lose(name));
            }
            return error;
        }
        let synced = file!(file, xSync(flags));
        if synced == SQLITE_OK {
            state.note(Operation::Sync(name));
            if new.take() {
                state.note(Operation::SyncFolder);
            }
        }
        synced
    }
}

/// What is not the disk's affair is the machine's.
macro_rules! passed_on {
    ($($ours:ident = $method:ident($($argument:ident: $of:ty),*);)*) => {$(
        unsafe extern "C" fn $ours(file: *mut sqlite3_file, $($argument: $of),*) -> c_int {
            unsafe { file!(file, $method($($argument),*)) }
        }
    )*};
    (vfs: $($ours:ident = $method:ident($($argument:ident: $of:ty),*);)*) => {$(
        unsafe extern "C" fn $ours(vfs: *mut sqlite3_vfs, $($argument: $of),*) -> c_int {
            unsafe { vfs!(shared(vfs).machine, $method($($argument),*)) }
        }
    )*};
}

passed_on! {
    close = xClose();
    read = xRead(to: *mut c_void, count: c_int, at: sqlite3_int64);
    file_size = xFileSize(size: *mut sqlite3_int64);
    lock = xLock(level: c_int);
    unlock = xUnlock(level: c_int);
    is_reserved = xCheckReservedLock(answer: *mut c_int);
    control = xFileControl(what: c_int, with: *mut c_void);
    sector_size = xSectorSize();
    characteristics = xDeviceCharacteristics();
    map = xShmMap(page: c_int, size: c_int, extend: c_int, to: *mut *mut c_void);
    lock_map = xShmLock(at: c_int, count: c_int, flags: c_int);
    unmap = xShmUnmap(delete: c_int);
}

passed_on! { vfs:
    access = xAccess(path: *const c_char, flags: c_int, answer: *mut c_int);
    full_pathname = xFullPathname(path: *const c_char, room: c_int, to: *mut c_char);
    randomness = xRandomness(count: c_int, to: *mut c_char);
    sleep = xSleep(microseconds: c_int);
    current_time = xCurrentTime(to: *mut f64);
}

unsafe extern "C" fn barrier(file: *mut sqlite3_file) {
    unsafe { file!(file, xShmBarrier()) }
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // Without mapping the files themselves, which would write past this.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(is_reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(map),
    xShmLock: Some(lock_map),
    xShmBarrier: Some(barrier),
    xShmUnmap: Some(unmap),
    xFetch: None,
    xUnfetch: None,
};
