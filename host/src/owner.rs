//! Whose files are: what root writes for somebody else belongs to whoever the folder belongs to, who could not read it
//! otherwise.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, fchown},
    path::Path,
};

use rustix::process::geteuid;

/// Gives a file that root has written, or a folder that it has made, to whom another file or folder belongs; of
/// anybody else's nothing is changed.
///
/// # Errors
/// The other one cannot be looked at, or the system refuses.
pub fn inherit(file: &File, from: &Path) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let (from, own) = (fs::metadata(from)?, file.metadata()?);
    if (from.uid(), from.gid()) == (own.uid(), own.gid()) || from.uid() == 0 {
        return Ok(());
    }
    fchown(file, Some(from.uid()), Some(from.gid()))
}
