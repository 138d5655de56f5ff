//! The files of one plugin: a component, and a `plugin.toml` beside it where its folder has one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    path::{Path, PathBuf},
};

use cap_std::{
    ambient_authority,
    fs::{Dir, File, MetadataExt},
};

use crate::{id::PluginName, package};

/// The files of one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The component.
    pub component: PathBuf,
    /// A `plugin.toml` beside it.
    manifest: Option<PathBuf>,
}

/// Files as they were when they were read: when they differ, they are read again.
pub(crate) type Whole = (Seen, Option<Seen>);

/// A file as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    path: PathBuf,
    size: u64,
    inode: u64,
    /// In seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Files that are not the ones before: the plugin as one file, or what is wrong with them.
pub(crate) struct New {
    pub seen: Whole,
    pub plugin: Result<Vec<u8>, String>,
}

impl Source {
    /// Bytes of the component, as it is now; none where it cannot be seen.
    pub fn size(&self) -> u64 {
        std::fs::metadata(&self.component).map_or(0, |about| about.len())
    }

    /// A component that has its manifest in it, or none.
    #[must_use]
    pub fn file(component: impl Into<PathBuf>) -> Self {
        Self { component: component.into(), manifest: None }
    }

    /// All that is read.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.component).chain(&self.manifest).map(PathBuf::as_path)
    }

    /// The plugin in a folder: a `plugin.toml`, and a component that has the folder's name or is the only one. None
    /// where it is no such folder, or nothing was built yet. Of several with other names none is taken, which is said
    /// when it is read.
    #[must_use]
    pub fn folder(folder: &Path) -> Option<Self> {
        let manifest = folder.join("plugin.toml");
        if !manifest.is_file() {
            return None;
        }
        let mut components: Vec<PathBuf> = std::fs::read_dir(folder)
            .ok()?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
            .collect();
        if components.len() > 1 {
            let folder = folder.canonicalize().ok()?;
            let name = folder.file_name()?.to_os_string();
            components.retain(|path| path.file_stem() == Some(&name));
            if components.is_empty() {
                components.push(manifest.with_file_name(name).with_added_extension("wasm"));
            }
        }
        let component = components.pop()?;
        Some(Self { component, manifest: Some(manifest) })
    }

    /// The plugin as one file of at most so many bytes, and one more where it is too large.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn load(&self, largest: usize) -> Result<Vec<u8>, String> {
        let name = self.component.display();
        let new = self.read(None, largest).map_err(|error| format!("{name}: {error}"))?;
        let missing = || format!("{name}: it cannot be read");
        new.ok_or_else(missing)?.plugin.map_err(|reason| format!("{name}: {reason}"))
    }

    /// Reads the files if they are others than before. Each is opened once, and what was read is what counts.
    pub(crate) fn read(&self, before: Option<&Whole>, largest: usize) -> std::io::Result<Option<New>> {
        let (seen, component) = open(&self.component).map_err(|error| match (error.kind(), &self.manifest) {
            (std::io::ErrorKind::NotFound, Some(_)) => std::io::Error::other(
                "there is no such component, and several others: the one that is meant has the name of its folder",
            ),
            _ => error,
        })?;
        let manifest = self.manifest.as_deref().map(open).transpose()?;
        let (seen_manifest, manifest) =
            manifest.map_or((None, None), |(seen, file)| (Some(seen), Some(file)));
        let seen = (seen, seen_manifest);
        if before == Some(&seen) {
            return Ok(None);
        }
        let component = bytes(component, seen.0.size, largest)?;
        // Who writes to it meanwhile wakes us again.
        if open(&self.component)?.0 != seen.0 {
            return Ok(None);
        }
        let plugin = match manifest {
            Some(manifest) => package::with(component, &bytes(manifest, 0, package::LARGEST)?),
            None => Ok(component),
        };
        Ok(Some(New { seen, plugin }))
    }
}

/// Plugins' files by name, and those whose name is none: every `NAME.wasm` in `folder`, every folder `NAME` in it, and
/// `files`, which win. Among the others a file wins over a folder.
///
/// # Errors
/// The folder is there and cannot be read.
pub fn find(
    folder: Option<&Path>,
    files: &BTreeMap<PluginName, PathBuf>,
) -> std::io::Result<(BTreeMap<PluginName, Source>, BTreeSet<PathBuf>)> {
    let mut found = BTreeMap::new();
    let mut misnamed = BTreeSet::new();
    let entries = match folder.map(std::fs::read_dir) {
        // It may be made later.
        Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
        entries => entries.transpose()?,
    };
    for entry in entries.into_iter().flatten() {
        let path = entry?.path();
        let (name, source) = if path.extension().is_some_and(|extension| extension == "wasm") {
            (path.file_stem(), Source::file(&path))
        } else if let Some(source) = Source::folder(&path) {
            (path.file_name(), source)
        } else {
            continue;
        };
        match name.map(|name| PluginName::parse(name.to_string_lossy())) {
            Some(Ok(name)) if path.is_dir() => drop(found.entry(name).or_insert(source)),
            Some(Ok(name)) => drop(found.insert(name, source)),
            _ => drop(misnamed.insert(path)),
        }
    }
    for (name, path) in files {
        found.insert(name.clone(), Source::folder(path).unwrap_or_else(|| Source::file(path)));
    }
    Ok((found, misnamed))
}

/// Some `size` bytes, and no more than one byte over `largest`, which is enough to see that it is too large.
fn bytes(file: File, size: u64, largest: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).map_or(0, |size| size.min(largest) + 1));
    // The standard one reads into memory that nobody has cleared.
    let file = file.into_std();
    file.take(u64::try_from(largest).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a file. Links that lead out of its folder are not followed.
fn open(path: &Path) -> std::io::Result<(Seen, File)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::Error::other("it is no file"));
    };
    let folder = if folder == Path::new("") { Path::new(".") } else { folder };
    let folder = Dir::open_ambient_dir(folder, ambient_authority())?;
    // A pipe with that name would be waited for.
    let about = folder.metadata(name).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied if path.is_symlink() => {
            std::io::Error::other("it is a link that leads out of its folder, and is not followed")
        }
        _ => error,
    })?;
    if !about.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let file = folder.open(name)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let seen = Seen {
        path: path.into(),
        size: about.len(),
        inode: about.ino(),
        modified: (about.mtime(), about.mtime_nsec()),
        changed: (about.ctime(), about.ctime_nsec()),
    };
    Ok((seen, file))
}
