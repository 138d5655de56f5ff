//! `wasi:filesystem`: the one folder that the plugin was granted, as `/files`.
//!
//! wasmtime-wasi resolves paths below the folder and nowhere else. Here stands what it does not know: how much may be
//! written, that nothing but files and folders is opened, and that no links are made. What is written is there at
//! once: files are not part of the commit.

mod folder;
mod open;
mod stream;

use std::{sync::Arc, time::Duration};

use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::{
    FsPerms, WasiCtxBuilder,
    filesystem::{Descriptor, WasiFilesystemView as _},
    p2::{
        DynInputStream, DynOutputStream, FsError, FsResult,
        bindings::filesystem::types::{
            self, DescriptorFlags, DescriptorType, ErrorCode, Host, HostDescriptor, HostDirectoryEntryStream,
            OpenFlags, PathFlags,
        },
    },
    runtime::spawn_blocking,
};

pub use self::folder::Folders;
use self::{
    folder::{Charge, ENTRY, Folder},
    open::Opening,
    stream::{Charged, Read},
};
use super::State;
use crate::{
    grant::{Denied, Permissions, Reach},
    manifest::Permission,
};

/// Where a guest finds the folder.
const PLACE: &str = "/files";
/// How long a call waits for the disk: what takes longer hangs.
const WITHIN: Duration = Duration::from_secs(30);
/// Files, folders and listings that an instance has open at once.
const OPEN: usize = 32;

/// The folder of one instance.
#[derive(Default)]
pub struct Files {
    open: usize,
    folder: Option<Arc<Folder>>,
    /// How many bytes the folder may have where it may be written to.
    limit: Option<u64>,
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
        folders: &Folders,
        wasi: &mut WasiCtxBuilder,
    ) -> Result<Self, String> {
        let Ok(Reach { folder, write, bytes }) = permissions.files() else { return Ok(Self::default()) };
        let consent = if encrypted { permissions.carries(Permission::Files) } else { Ok(()) };
        let writes = write && consent.is_ok();
        let perms = if writes { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        let opened = wasi.preopened_dir(folder, PLACE, perms);
        opened.map_err(|error| format!("{}: {}", folder.display(), error.root_cause()))?;
        let counted = folders.of(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self {
            open: 0,
            folder: Some(counted),
            limit: writes.then_some(bytes),
            no_writes: consent.err().filter(|_| write),
        })
    }
}

/// A growing file and a new entry are charged before they are there.
impl State {
    /// Whether the folder may be written to: its count, and how many bytes it may have.
    fn writable(&mut self) -> FsResult<(Arc<Folder>, u64)> {
        if let Some(denied) = self.files.no_writes {
            self.counts().denied(denied, false, "files: a write");
            return Err(ErrorCode::NotPermitted.into());
        }
        match (&self.files.folder, self.files.limit) {
            (Some(folder), Some(limit)) => Ok((folder.clone(), limit)),
            _ => Err(ErrorCode::NotPermitted.into()),
        }
    }

    /// Whether this may be written to the folder; it is being written while the charge is held.
    async fn charge(&mut self, bytes: u64) -> FsResult<Option<Charge>> {
        let (folder, limit) = self.writable()?;
        if bytes == 0 {
            return Ok(None);
        }
        let charge = soon(async { Ok(folder.take(bytes, limit).await) }).await?;
        charge.map(Some).ok_or_else(|| ErrorCode::InsufficientSpace.into())
    }

    /// Whether one more may be opened.
    fn room(&self) -> FsResult<()> {
        if self.files.open < OPEN { Ok(()) } else { Err(ErrorCode::InsufficientMemory.into()) }
    }

    /// By how much a file grows that is written to here.
    async fn growth(&mut self, fd: &Resource<Descriptor>, end: u64) -> FsResult<u64> {
        let size = soon(self.filesystem().stat(again(fd))).await?.size;
        Ok(end.saturating_sub(size))
    }

    /// Files and folders only: opening a pipe waits for its other end, and a device is no file.
    async fn plain(&mut self, fd: &Resource<Descriptor>, how: PathFlags, path: &str) -> FsResult<bool> {
        match soon(self.filesystem().stat_at(again(fd), how, path.to_owned())).await {
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

    /// A stream into a file that begins at a place, or at its end.
    fn charged(
        &mut self,
        fd: &Fd,
        stream: Resource<DynOutputStream>,
        count: (Arc<Folder>, u64),
        begins: Option<u64>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let inner = self.table.delete(stream)?;
        let Descriptor::File(file) = self.table.get(fd)? else { return Err(ErrorCode::IsDirectory.into()) };
        let charged: DynOutputStream = Box::new(Charged::new(inner, file.file.clone(), count, begins));
        Ok(self.table.push(charged)?)
    }
}

/// A disk answers at once, or, where it is somewhere in a network, perhaps never.
async fn soon<T>(working: impl Future<Output = FsResult<T>>) -> FsResult<T> {
    tokio::time::timeout(WITHIN, working).await.unwrap_or_else(|_| Err(ErrorCode::Io.into()))
}

/// The same handle, for a call that takes it.
fn again(fd: &Resource<Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(fd.rep())
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
        let _charge = self.charge(growth).await?;
        soon(self.filesystem().set_size(fd, size)).await
    }

    async fn write(&mut self, fd: Fd, bytes: Vec<u8>, offset: u64) -> FsResult<u64> {
        let growth = self.growth(&fd, offset.saturating_add(bytes.len() as u64)).await?;
        let _charge = self.charge(growth).await?;
        soon(self.filesystem().write(fd, bytes, offset)).await
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let _charge = self.charge(ENTRY).await?;
        soon(self.filesystem().create_directory_at(fd, path)).await
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
        let writes = flags.contains(DescriptorFlags::WRITE) || open.contains(OpenFlags::TRUNCATE);
        let _charge =
            if creates || writes { self.charge(if creates { ENTRY } else { 0 }).await? } else { None };
        let Descriptor::Dir(below) = self.table.get(&fd)? else { return Err(ErrorCode::NotDirectory.into()) };
        let (opening, below) = (Opening::new(how, open, flags, below.perms)?, below.dir.clone());
        let folder = self.files.folder.clone();
        let opened = spawn_blocking(move || {
            let opened = opening.open(&below, &path)?;
            if let (Some(folder), Descriptor::File(file)) = (folder, &opened) {
                folder.opened(&file.file);
            }
            std::io::Result::Ok(opened)
        });
        let opened = soon(async { Ok(opened.await?) }).await?;
        let opened = self.table.push(opened)?;
        self.files.open += 1;
        Ok(opened)
    }

    async fn rename_at(&mut self, fd: Fd, old: String, new_fd: Fd, new: String) -> FsResult<()> {
        let (folder, _) = self.writable()?;
        let _still = soon(async { Ok(folder.still().await) }).await?;
        soon(self.filesystem().rename_at(fd, old, new_fd, new)).await
    }

    /// A second name would be charged once and stay after the first is gone; and nobody needs one.
    async fn link_at(&mut self, _: Fd, _: PathFlags, _: String, _: Fd, _: String) -> FsResult<()> {
        Err(ErrorCode::NotPermitted.into())
    }

    async fn symlink_at(&mut self, _: Fd, _: String, _: String) -> FsResult<()> {
        Err(ErrorCode::NotPermitted.into())
    }

    fn write_via_stream(&mut self, fd: Fd, offset: u64) -> FsResult<Resource<DynOutputStream>> {
        let count = self.writable()?;
        let stream = self.filesystem().write_via_stream(again(&fd), offset)?;
        self.charged(&fd, stream, count, Some(offset))
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        let count = self.writable()?;
        let stream = self.filesystem().append_via_stream(again(&fd))?;
        self.charged(&fd, stream, count, None)
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.writable()?;
        soon(self.filesystem().unlink_file_at(fd, path)).await
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.writable()?;
        soon(self.filesystem().remove_directory_at(fd, path)).await
    }

    // What reads, and what changes neither size nor names.

    async fn read(&mut self, fd: Fd, length: u64, offset: u64) -> FsResult<(Vec<u8>, bool)> {
        soon(self.filesystem().read(fd, length, offset)).await
    }

    fn read_via_stream(&mut self, fd: Fd, offset: u64) -> FsResult<Resource<DynInputStream>> {
        let stream = self.filesystem().read_via_stream(fd, offset)?;
        let read: DynInputStream = Box::new(Read::new(self.table.delete(stream)?));
        Ok(self.table.push(read)?)
    }

    async fn read_directory(&mut self, fd: Fd) -> FsResult<Resource<types::DirectoryEntryStream>> {
        self.room()?;
        let listing = soon(self.filesystem().read_directory(fd)).await?;
        self.files.open += 1;
        Ok(listing)
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        soon(self.filesystem().readlink_at(fd, path)).await
    }

    async fn stat(&mut self, fd: Fd) -> FsResult<types::DescriptorStat> {
        let about = soon(self.filesystem().stat(fd)).await?;
        Ok(self.rounded(about))
    }

    async fn stat_at(&mut self, fd: Fd, how: PathFlags, path: String) -> FsResult<types::DescriptorStat> {
        let about = soon(self.filesystem().stat_at(fd, how, path)).await?;
        Ok(self.rounded(about))
    }

    async fn set_times(
        &mut self,
        fd: Fd,
        accessed: types::NewTimestamp,
        changed: types::NewTimestamp,
    ) -> FsResult<()> {
        self.writable()?;
        soon(self.filesystem().set_times(fd, accessed, changed)).await
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        how: PathFlags,
        path: String,
        accessed: types::NewTimestamp,
        changed: types::NewTimestamp,
    ) -> FsResult<()> {
        self.writable()?;
        self.plain(&fd, how, &path).await?;
        soon(self.filesystem().set_times_at(fd, how, path, accessed, changed)).await
    }

    async fn advise(&mut self, fd: Fd, offset: u64, length: u64, advice: types::Advice) -> FsResult<()> {
        soon(self.filesystem().advise(fd, offset, length, advice)).await
    }

    async fn sync(&mut self, fd: Fd) -> FsResult<()> {
        soon(self.filesystem().sync(fd)).await
    }

    async fn sync_data(&mut self, fd: Fd) -> FsResult<()> {
        soon(self.filesystem().sync_data(fd)).await
    }

    async fn get_flags(&mut self, fd: Fd) -> FsResult<DescriptorFlags> {
        soon(self.filesystem().get_flags(fd)).await
    }

    async fn get_type(&mut self, fd: Fd) -> FsResult<DescriptorType> {
        soon(self.filesystem().get_type(fd)).await
    }

    async fn is_same_object(&mut self, one: Fd, other: Fd) -> wasmtime::Result<bool> {
        self.filesystem().is_same_object(one, other).await
    }

    async fn metadata_hash(&mut self, fd: Fd) -> FsResult<types::MetadataHashValue> {
        soon(self.filesystem().metadata_hash(fd)).await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Fd,
        how: PathFlags,
        path: String,
    ) -> FsResult<types::MetadataHashValue> {
        soon(self.filesystem().metadata_hash_at(fd, how, path)).await
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
        soon(self.filesystem().read_directory_entry(stream)).await
    }

    fn drop(&mut self, stream: Resource<types::DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.files.open = self.files.open.saturating_sub(1);
        HostDirectoryEntryStream::drop(&mut self.filesystem(), stream)
    }
}
