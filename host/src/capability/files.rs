//! `wasi:filesystem`: the one folder that the plugin was granted, as `/files`.
//!
//! wasmtime-wasi resolves paths below the folder and nowhere else. Here stands what it does not know: how much may be
//! written, that nothing but files and folders is opened, and that no links are made. What is written is there at
//! once: files are not part of the commit.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::{
    FsPerms, WasiCtxBuilder,
    filesystem::{Descriptor, WasiFilesystemView as _},
    p2::{
        DynInputStream, DynOutputStream, FsError, FsResult, OutputStream, Pollable, StreamError,
        StreamResult,
        bindings::filesystem::types::{
            self, DescriptorFlags, DescriptorType, ErrorCode, Host, HostDescriptor, HostDirectoryEntryStream,
            OpenFlags, PathFlags,
        },
    },
};

use super::State;
use crate::{
    grant::{Denied, Permissions, Reach},
    manifest::Permission,
};

/// Where a guest finds the folder.
const PLACE: &str = "/files";
/// What a file or folder costs beside its bytes: a block.
const ENTRY: u64 = 4096;
/// A folder that is written to has so many files and folders at the most: they are counted now and then.
const ENTRIES: usize = 10_000;

/// Files, folders and listings that an instance has open at once.
const OPEN: usize = 32;

/// The folder of one instance.
#[derive(Default)]
pub struct Files {
    open: usize,
    budget: Option<Arc<Budget>>,
    /// Why it may not be written to.
    no_writes: Option<Denied>,
}

impl Files {
    /// The folder that a plugin may see, if there is one. In an encrypted room it is read only, until somebody agreed
    /// that what is said there may leave it.
    ///
    /// # Errors
    /// The folder cannot be opened.
    pub fn open(
        permissions: &Permissions,
        encrypted: bool,
        budgets: &Budgets,
        wasi: &mut WasiCtxBuilder,
    ) -> Result<Self, String> {
        let Ok(Reach { folder, write, bytes }) = permissions.files() else { return Ok(Self::default()) };
        let consent = if encrypted { permissions.carries(Permission::Files) } else { Ok(()) };
        let writes = write && consent.is_ok();
        let perms = if writes { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        let opened = wasi.preopened_dir(folder, PLACE, perms);
        opened.map_err(|error| format!("{}: {}", folder.display(), error.root_cause()))?;
        Ok(Self {
            open: 0,
            budget: writes.then(|| budgets.of(folder, bytes)),
            no_writes: consent.err().filter(|_| write),
        })
    }
}

/// How much may still be written to each folder, for all instances of a plugin.
#[derive(Default)]
pub struct Budgets(Mutex<Vec<Arc<Budget>>>);

impl Budgets {
    fn of(&self, folder: &Path, bytes: u64) -> Arc<Budget> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.iter().find(|budget| budget.folder == folder && budget.bytes == bytes) {
            return found.clone();
        }
        let budget = Arc::new(Budget { folder: folder.to_owned(), bytes, left: Mutex::default() });
        all.push(budget.clone());
        budget
    }
}

/// How much may still be written to a folder.
struct Budget {
    folder: PathBuf,
    bytes: u64,
    /// Known to be free: what is removed is found when this is used up.
    left: Mutex<u64>,
}

impl Budget {
    fn take(&self, bytes: u64) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if *left < bytes {
            let used = measure(&self.folder).unwrap_or(u64::MAX);
            *left = self.bytes.saturating_sub(used);
        }
        let taken = left.checked_sub(bytes);
        *left = taken.unwrap_or(*left);
        taken.is_some()
    }
}

/// What a folder holds, in bytes, an entry's own included. No link is followed.
fn measure(folder: &Path) -> io::Result<u64> {
    let (mut used, mut entries) = (0_u64, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let about = entry.metadata()?;
            entries += 1;
            if entries > ENTRIES {
                return Ok(u64::MAX);
            }
            used = used.saturating_add(ENTRY).saturating_add(if about.is_file() { about.len() } else { 0 });
            if about.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(used)
}

/// A growing file and a new entry are charged before they are there.
impl State {
    /// Whether this may be written to the folder.
    fn charge(&mut self, bytes: u64) -> FsResult<()> {
        if let Some(denied) = self.files.no_writes {
            self.counts().denied(denied, false, "files: a write");
            return Err(ErrorCode::NotPermitted.into());
        }
        match &self.files.budget {
            Some(budget) if budget.take(bytes) => Ok(()),
            Some(_) => Err(ErrorCode::InsufficientSpace.into()),
            None => Err(ErrorCode::NotPermitted.into()),
        }
    }

    /// Whether one more may be opened.
    fn room(&self) -> FsResult<()> {
        if self.files.open < OPEN { Ok(()) } else { Err(ErrorCode::InsufficientMemory.into()) }
    }

    /// By how much a file grows that is written to here.
    async fn growth(&mut self, fd: &Resource<Descriptor>, end: u64) -> FsResult<u64> {
        let size = self.filesystem().stat(again(fd)).await?.size;
        Ok(end.saturating_sub(size))
    }

    /// Files and folders only: opening a pipe waits for its other end, and a device is no file.
    async fn plain(&mut self, fd: &Resource<Descriptor>, how: PathFlags, path: &str) -> FsResult<bool> {
        match self.filesystem().stat_at(again(fd), how, path.to_owned()).await {
            Ok(about) if matches!(about.type_, DescriptorType::RegularFile | DescriptorType::Directory) => {
                Ok(true)
            }
            // Without following it, a link is refused where it is opened.
            Ok(about) if about.type_ == DescriptorType::SymbolicLink => Ok(true),
            Ok(_) => Err(ErrorCode::NotPermitted.into()),
            Err(_) => Ok(false),
        }
    }

    /// Of a file that is touched now, the time is now. Who has read what is nobody's business: reading in an encrypted
    /// room would be seen outside of it.
    fn rounded(&self, about: types::DescriptorStat) -> types::DescriptorStat {
        let round = |time: Option<_>| time.map(|time| self.clocks.round(time));
        types::DescriptorStat {
            data_access_timestamp: None,
            data_modification_timestamp: round(about.data_modification_timestamp),
            status_change_timestamp: round(about.status_change_timestamp),
            ..about
        }
    }

    fn charged(
        &mut self,
        stream: Resource<DynOutputStream>,
        gap: u64,
    ) -> FsResult<Resource<DynOutputStream>> {
        let budget = self.files.budget.clone().ok_or(ErrorCode::NotPermitted)?;
        if !budget.take(gap) {
            self.table.delete(stream)?;
            return Err(ErrorCode::InsufficientSpace.into());
        }
        let inner = self.table.delete(stream)?;
        let charged: DynOutputStream = Box::new(Charged { inner, budget });
        Ok(self.table.push(charged)?)
    }
}

/// The same handle, for a call that takes it.
fn again(fd: &Resource<Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(fd.rep())
}

/// A stream into a file, which costs what goes through it.
struct Charged {
    inner: DynOutputStream,
    budget: Arc<Budget>,
}

#[async_trait]
impl OutputStream for Charged {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if !self.budget.take(bytes.len() as u64) {
            let full = io::Error::from(rustix::io::Errno::NOSPC);
            return Err(StreamError::LastOperationFailed(full.into()));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }

    /// Waits for what is being written: nobody leaves it behind.
    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[async_trait]
impl Pollable for Charged {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

/// Puts our own `wasi:filesystem/types` in the place of wasmtime-wasi's.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    types::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    linker.allow_shadowing(false);
    Ok(())
}

impl Host for State {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.filesystem().convert_error_code(error)
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        self.filesystem().filesystem_error_code(error)
    }
}

type Fd = Resource<Descriptor>;

impl HostDescriptor for State {
    async fn set_size(&mut self, fd: Fd, size: u64) -> FsResult<()> {
        let growth = self.growth(&fd, size).await?;
        self.charge(growth)?;
        self.filesystem().set_size(fd, size).await
    }

    async fn write(&mut self, fd: Fd, bytes: Vec<u8>, offset: u64) -> FsResult<u64> {
        let growth = self.growth(&fd, offset.saturating_add(bytes.len() as u64)).await?;
        self.charge(growth)?;
        self.filesystem().write(fd, bytes, offset).await
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.charge(ENTRY)?;
        self.filesystem().create_directory_at(fd, path).await
    }

    async fn open_at(
        &mut self,
        fd: Fd,
        how: PathFlags,
        path: String,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Fd> {
        self.room()?;
        let there = self.plain(&fd, how, &path).await?;
        let creates = !there && open.contains(OpenFlags::CREATE);
        let writes = flags.intersects(DescriptorFlags::WRITE) || open.contains(OpenFlags::TRUNCATE);
        if creates || writes {
            self.charge(if creates { ENTRY } else { 0 })?;
        }
        let opened = self.filesystem().open_at(fd, how, path, open, flags).await?;
        self.files.open += 1;
        Ok(opened)
    }

    async fn rename_at(&mut self, fd: Fd, old: String, new_fd: Fd, new: String) -> FsResult<()> {
        self.charge(0)?;
        self.filesystem().rename_at(fd, old, new_fd, new).await
    }

    /// A second name would be charged once and stay after the first is gone; and nobody needs one.
    async fn link_at(&mut self, _: Fd, _: PathFlags, _: String, _: Fd, _: String) -> FsResult<()> {
        Err(ErrorCode::NotPermitted.into())
    }

    async fn symlink_at(&mut self, _: Fd, _: String, _: String) -> FsResult<()> {
        Err(ErrorCode::NotPermitted.into())
    }

    fn write_via_stream(&mut self, fd: Fd, offset: u64) -> FsResult<Resource<DynOutputStream>> {
        self.charge(0)?;
        let size = match self.table.get(&fd)? {
            Descriptor::File(file) => file.file.metadata()?.len(),
            Descriptor::Dir(_) => return Err(ErrorCode::IsDirectory.into()),
        };
        let stream = self.filesystem().write_via_stream(fd, offset)?;
        self.charged(stream, offset.saturating_sub(size))
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        self.charge(0)?;
        let stream = self.filesystem().append_via_stream(fd)?;
        self.charged(stream, 0)
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.charge(0)?;
        self.filesystem().unlink_file_at(fd, path).await
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.charge(0)?;
        self.filesystem().remove_directory_at(fd, path).await
    }

    // What reads, and what changes neither size nor names.

    async fn read(&mut self, fd: Fd, length: u64, offset: u64) -> FsResult<(Vec<u8>, bool)> {
        self.filesystem().read(fd, length, offset).await
    }

    fn read_via_stream(&mut self, fd: Fd, offset: u64) -> FsResult<Resource<DynInputStream>> {
        self.filesystem().read_via_stream(fd, offset)
    }

    async fn read_directory(&mut self, fd: Fd) -> FsResult<Resource<types::DirectoryEntryStream>> {
        self.room()?;
        let listing = self.filesystem().read_directory(fd).await?;
        self.files.open += 1;
        Ok(listing)
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        self.filesystem().readlink_at(fd, path).await
    }

    async fn stat(&mut self, fd: Fd) -> FsResult<types::DescriptorStat> {
        let about = self.filesystem().stat(fd).await?;
        Ok(self.rounded(about))
    }

    async fn stat_at(&mut self, fd: Fd, how: PathFlags, path: String) -> FsResult<types::DescriptorStat> {
        let about = self.filesystem().stat_at(fd, how, path).await?;
        Ok(self.rounded(about))
    }

    async fn set_times(
        &mut self,
        fd: Fd,
        accessed: types::NewTimestamp,
        changed: types::NewTimestamp,
    ) -> FsResult<()> {
        self.charge(0)?;
        self.filesystem().set_times(fd, accessed, changed).await
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        how: PathFlags,
        path: String,
        accessed: types::NewTimestamp,
        changed: types::NewTimestamp,
    ) -> FsResult<()> {
        self.charge(0)?;
        self.plain(&fd, how, &path).await?;
        self.filesystem().set_times_at(fd, how, path, accessed, changed).await
    }

    async fn advise(&mut self, fd: Fd, offset: u64, length: u64, advice: types::Advice) -> FsResult<()> {
        self.filesystem().advise(fd, offset, length, advice).await
    }

    async fn sync(&mut self, fd: Fd) -> FsResult<()> {
        self.filesystem().sync(fd).await
    }

    async fn sync_data(&mut self, fd: Fd) -> FsResult<()> {
        self.filesystem().sync_data(fd).await
    }

    async fn get_flags(&mut self, fd: Fd) -> FsResult<DescriptorFlags> {
        self.filesystem().get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Fd) -> FsResult<DescriptorType> {
        self.filesystem().get_type(fd).await
    }

    async fn is_same_object(&mut self, one: Fd, other: Fd) -> wasmtime::Result<bool> {
        self.filesystem().is_same_object(one, other).await
    }

    async fn metadata_hash(&mut self, fd: Fd) -> FsResult<types::MetadataHashValue> {
        self.filesystem().metadata_hash(fd).await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Fd,
        how: PathFlags,
        path: String,
    ) -> FsResult<types::MetadataHashValue> {
        self.filesystem().metadata_hash_at(fd, how, path).await
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        self.files.open = self.files.open.saturating_sub(1);
        HostDescriptor::drop(&mut self.filesystem(), fd)
    }
}

impl HostDirectoryEntryStream for State {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<types::DirectoryEntryStream>,
    ) -> FsResult<Option<types::DirectoryEntry>> {
        self.filesystem().read_directory_entry(stream).await
    }

    fn drop(&mut self, stream: Resource<types::DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.files.open = self.files.open.saturating_sub(1);
        HostDirectoryEntryStream::drop(&mut self.filesystem(), stream)
    }
}
