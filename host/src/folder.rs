//! Plugin files: what is dropped into the plugin folder is loaded, what is replaced takes over, what is removed
//! goes. A file is read once, when it has stopped changing, and what was read is what runs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use cap_std::{ambient_authority, fs::Dir};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::{
    engine::admission::Refused,
    id::PluginName,
    notice::{Notice, Notices},
    registry::Registry,
};

/// A file that nobody has written to for so long is taken as whole.
const SETTLE: Duration = Duration::from_millis(300);
/// Where the system tells nothing of changes (network drives), the folder is looked at this often.
const LOOK: Duration = Duration::from_secs(5);

/// Where plugins are.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Every `NAME.wasm` in here.
    pub folder: Option<PathBuf>,
    /// Single files, by the plugin's name; they win over the folder's.
    pub files: BTreeMap<PluginName, PathBuf>,
}

/// A file as it was when it was read: when it differs, it is read again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
}

/// Keeps the registry as the files are.
pub struct Folder {
    sources: Sources,
    registry: Arc<Registry>,
    notices: Notices,
    seen: HashMap<PluginName, Seen>,
    /// Files that no plugin can be named after; each is reported once.
    misnamed: BTreeSet<PathBuf>,
}

/// A file that was not taken.
pub struct NotTaken {
    /// The plugin that it would be, if its name is one.
    pub plugin: Option<PluginName>,
    /// The file.
    pub file: String,
    /// Why.
    pub reason: Refused,
}

impl Folder {
    /// Nothing is read yet.
    pub fn new(sources: Sources, registry: Arc<Registry>, notices: Notices) -> Self {
        Self { sources, registry, notices, seen: HashMap::new(), misnamed: BTreeSet::new() }
    }

    /// Reads what is new or has changed, and forgets what is gone. Answers what was not taken.
    pub async fn read(&mut self) -> Vec<NotTaken> {
        let mut refused = Vec::new();
        let (found, misnamed) = self.find();
        for path in misnamed.difference(&self.misnamed) {
            let reason = "a plugin's file is named in lower-case letters, digits and hyphens, a letter first";
            let (file, reason) = (path.display().to_string(), Refused::Declaration(reason.into()));
            refused.push(NotTaken { plugin: None, file, reason });
        }
        self.misnamed = misnamed;
        let gone: Vec<_> = self.seen.keys().filter(|name| !found.contains_key(*name)).cloned().collect();
        for name in gone {
            self.seen.remove(&name);
            self.registry.remove(&name);
        }
        for (name, path) in found {
            let before = self.seen.get(&name);
            let file = path.display().to_string();
            match open(&path, before) {
                Ok(None) => {}
                Ok(Some((seen, bytes))) => {
                    self.seen.insert(name.clone(), seen);
                    if let Err(reason) = self.registry.load(&name, bytes.into()).await {
                        refused.push(NotTaken { plugin: Some(name), file, reason });
                    }
                }
                Err(error) => {
                    let seen = Seen { path, size: 0, modified: None };
                    if self.seen.insert(name.clone(), seen.clone()) == Some(seen) {
                        continue;
                    }
                    refused.push(NotTaken {
                        plugin: Some(name),
                        file,
                        reason: Refused::Host(error.to_string()),
                    });
                }
            }
        }
        refused
    }

    /// Follows the files until the future is dropped.
    pub async fn follow(mut self) {
        let (tell, mut told) = mpsc::channel(1);
        // A full channel has told already.
        let watcher = notify::recommended_watcher(move |_| {
            tell.try_send(()).ok();
        });
        let mut watcher: Option<RecommendedWatcher> = watcher.ok();
        for folder in self.folders() {
            if let Some(watcher) = &mut watcher {
                // A folder that cannot be watched is looked at.
                drop(watcher.watch(&folder, RecursiveMode::NonRecursive));
            }
        }
        loop {
            if let Ok(Some(())) = tokio::time::timeout(LOOK, told.recv()).await {
                while let Ok(Some(())) = tokio::time::timeout(SETTLE, told.recv()).await {}
            }
            for NotTaken { plugin, file, reason } in self.read().await {
                let kept = plugin.is_some_and(|name| self.registry.has(&name));
                self.notices.say(Notice::PluginRefused { file, reason: reason.to_string(), kept });
            }
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        let parents = self.sources.files.values().filter_map(|file| file.parent());
        let parents = parents.map(|parent| if parent == Path::new("") { Path::new(".") } else { parent });
        self.sources.folder.iter().map(PathBuf::as_path).chain(parents).map(Path::to_owned).collect()
    }

    /// Files by plugin, and those whose name is none.
    fn find(&self) -> (BTreeMap<PluginName, PathBuf>, BTreeSet<PathBuf>) {
        let mut found = BTreeMap::new();
        let mut misnamed = BTreeSet::new();
        let entries =
            self.sources.folder.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.extension().is_none_or(|extension| extension != "wasm") {
                continue;
            }
            match path.file_stem().map(|stem| PluginName::parse(stem.to_string_lossy())) {
                Some(Ok(name)) => drop(found.insert(name, path)),
                _ => drop(misnamed.insert(path)),
            }
        }
        found.extend(self.sources.files.clone());
        (found, misnamed)
    }
}

/// Reads a file if it is another one than before. Links that lead out of its folder are not followed.
fn open(path: &Path, before: Option<&Seen>) -> std::io::Result<Option<(Seen, Vec<u8>)>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::Error::other("it is no file"));
    };
    let folder = if folder == Path::new("") { Path::new(".") } else { folder };
    let folder = Dir::open_ambient_dir(folder, ambient_authority())?;
    let mut file = folder.open(name)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let modified = about.modified().ok().map(cap_std::time::SystemTime::into_std);
    let seen = Seen { path: path.into(), size: about.len(), modified };
    if before == Some(&seen) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some((seen, bytes)))
}
