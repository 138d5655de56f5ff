//! Opens files and folders, and nothing else: what was opened is looked at, so that nobody can put something else into
//! its place in between.

use std::{fs, io};

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use rustix::fs::OFlags;
use wasmtime_wasi::{
    FsPerms, OpenMode,
    filesystem::{Descriptor, Dir as Folder, File},
    p2::bindings::filesystem::types::{DescriptorFlags, ErrorCode, OpenFlags, PathFlags},
};

/// How something is opened.
pub struct Opening {
    options: OpenOptions,
    mode: OpenMode,
    perms: FsPerms,
    folder_only: bool,
    truncates: bool,
}

impl Opening {
    /// As a guest says, in a folder of which it may do so much.
    ///
    /// # Errors
    /// It may not, or contradicts itself.
    pub fn new(
        how: PathFlags,
        open: OpenFlags,
        flags: DescriptorFlags,
        perms: FsPerms,
    ) -> Result<Self, ErrorCode> {
        let folder_only = open.contains(OpenFlags::DIRECTORY);
        if folder_only && open.intersects(OpenFlags::CREATE | OpenFlags::EXCLUSIVE | OpenFlags::TRUNCATE) {
            return Err(ErrorCode::Invalid);
        }
        let synchronous = DescriptorFlags::FILE_INTEGRITY_SYNC
            | DescriptorFlags::DATA_INTEGRITY_SYNC
            | DescriptorFlags::REQUESTED_WRITE_SYNC;
        if flags.intersects(synchronous) {
            return Err(ErrorCode::Unsupported);
        }
        let (creates, truncates) = (open.contains(OpenFlags::CREATE), open.contains(OpenFlags::TRUNCATE));
        let writes = creates || truncates || flags.contains(DescriptorFlags::WRITE);
        if writes && perms.write_not_permitted() {
            return Err(ErrorCode::NotPermitted);
        }
        let reads = flags.contains(DescriptorFlags::READ) || !flags.contains(DescriptorFlags::WRITE);
        let mut options = OpenOptions::new();
        options.read(reads).write(writes);
        let exclusive = open.contains(OpenFlags::EXCLUSIVE);
        options.create(creates && !exclusive).create_new(creates && exclusive);
        // Nobody waits for the other end of a pipe, or for a device.
        let mut more = OFlags::NONBLOCK | OFlags::NOCTTY;
        more.set(OFlags::NOFOLLOW, !how.contains(PathFlags::SYMLINK_FOLLOW));
        options.custom_flags(more.bits().cast_signed());
        let mut mode = OpenMode::empty();
        mode.set(OpenMode::READ, reads);
        mode.set(OpenMode::WRITE, writes);
        Ok(Self { options, mode, perms, folder_only, truncates })
    }

    /// Opens it below a folder, and nowhere else; blocks.
    ///
    /// # Errors
    /// It cannot be opened, or is neither a file nor a folder.
    pub fn open(&self, below: &fs::File, path: &str) -> io::Result<Descriptor> {
        let below = Dir::from_std_file(below.try_clone()?);
        let opened = below.open_with(path, &self.options)?.into_std();
        let kind = opened.metadata()?.file_type();
        if kind.is_dir() {
            return Ok(Descriptor::Dir(Folder::new(opened, self.perms, self.mode, false)));
        }
        if !kind.is_file() {
            return Err(rustix::io::Errno::PERM.into());
        }
        if self.folder_only {
            return Err(rustix::io::Errno::NOTDIR.into());
        }
        if self.truncates {
            opened.set_len(0)?;
        }
        Ok(Descriptor::File(File::new(opened, self.perms, self.mode, false)))
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::*;

    /// What a look at the path before would not see: here nobody looks before.
    #[tokio::test]
    async fn what_is_neither_file_nor_folder_is_not_opened_and_nobody_waits_for_it() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let made = Command::new("mkfifo").arg(place.path().join("pipe")).status().expect("mkfifo runs");
        assert!(made.success());
        let _socket = std::os::unix::net::UnixListener::bind(place.path().join("socket")).expect("a socket");
        fs::write(place.path().join("file"), "its text").expect("it is written");
        std::os::unix::fs::symlink("file", place.path().join("link")).expect("a link");
        let below = fs::File::open(place.path()).expect("it is there");
        let writing = DescriptorFlags::READ | DescriptorFlags::WRITE;
        for flags in [DescriptorFlags::READ, DescriptorFlags::WRITE, writing] {
            for open in [OpenFlags::empty(), OpenFlags::TRUNCATE, OpenFlags::CREATE] {
                for path in ["pipe", "socket", "link"] {
                    let below = below.try_clone().expect("it is open");
                    let opening = Opening::new(PathFlags::empty(), open, flags, FsPerms::ReadWrite)
                        .expect("it says what it wants");
                    let opened = tokio::task::spawn_blocking(move || opening.open(&below, path).is_err());
                    let refused = tokio::time::timeout(Duration::from_secs(10), opened).await;
                    assert!(refused.expect("nobody waits").expect("nothing panics"), "{path} {flags:?}");
                }
            }
        }
        let follow =
            Opening::new(PathFlags::SYMLINK_FOLLOW, OpenFlags::TRUNCATE, writing, FsPerms::ReadWrite);
        assert!(matches!(follow.expect("it is one").open(&below, "link"), Ok(Descriptor::File(_))));
        assert_eq!(fs::read(place.path().join("file")).expect("it is there"), b"");
    }
}
