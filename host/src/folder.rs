//! Plugin files: what is dropped into the plugin folder is loaded, what is replaced takes over, what is removed
//! goes. A file is read once, when it has stopped changing and nobody writes to it any more, and what was read is what
//! runs.

mod writers;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt as _, stream};
use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::mpsc;

use self::writers::Writers;

use crate::{
    control::Refusal,
    engine::admission::Refused,
    id::PluginName,
    kept,
    notice::{Notice, Notices},
    registry::{self, Registry},
    source::{self, New, Source, Whole},
};

/// A file that nobody has written to for so long is taken as whole.
const SETTLE: Duration = Duration::from_millis(300);
/// A folder in which something is always written is read all the same.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the system tells nothing of changes (network drives), the folder is looked at this often.
const LOOK: Duration = Duration::from_secs(5);

/// A file that is too slow is tried again so often: each time costs what it may take. Where the host is in trouble, it is
/// tried as long as that takes.
const TRIES: u32 = 3;

/// Where plugins are.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Every `NAME.wasm` in here, and every folder `NAME` with a `plugin.toml` and a component.
    pub folder: Option<PathBuf>,
    /// Single files or folders, by the plugin's name; they win over the folder's.
    pub files: BTreeMap<PluginName, PathBuf>,
}

/// What became of a file when it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    /// It is loaded, or was refused for what it is.
    Read(Whole),
    /// It could not be read or asked, which may be otherwise the next time. Said once; how often it was tried.
    Again(String, u32),
    /// It waits for somebody to agree, which is seen by the lock.
    Waits(String, Whole, Option<SystemTime>),
}

/// Keeps the registry as the files are.
pub struct Folder {
    sources: Sources,
    registry: Arc<Registry>,
    notices: Notices,
    writers: Arc<Writers>,
    seen: HashMap<PluginName, Look>,
    /// What serves, now or in an older version, from a file.
    loaded: BTreeSet<PluginName>,
    /// Why the folder cannot be read, if it was said.
    unreadable: Option<String>,
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
    /// SHA-256 of it, where it waits for somebody to agree.
    pub waits: Option<String>,
}

impl NotTaken {
    /// For the operator.
    pub fn notice(self, registry: &Registry) -> Notice {
        let Self { plugin, file, reason, waits } = self;
        let kept = plugin.as_ref().is_some_and(|name| registry.has(name));
        Notice::PluginRefused { plugin, file, reason: reason.to_string(), waits, kept }
    }
}

impl Folder {
    /// Nothing is read yet.
    pub fn new(sources: Sources, registry: Arc<Registry>, notices: Notices) -> Self {
        Self {
            sources,
            registry,
            notices,
            writers: Arc::default(),
            seen: HashMap::new(),
            loaded: BTreeSet::new(),
            unreadable: None,
            misnamed: BTreeSet::new(),
        }
    }

    /// Reads what is new or has changed, and forgets what is gone. Answers what was not taken.
    pub async fn read(&mut self) -> Vec<NotTaken> {
        let (found, misnamed) = match self.find() {
            Ok(found) => found,
            // What serves goes on: nobody has removed a plugin.
            Err(error) => return self.cannot_read(&error),
        };
        self.unreadable = None;
        self.registry.settle().await;
        for name in self.registry.again() {
            self.seen.remove(&name);
        }
        let mut refused = Vec::new();
        for path in misnamed.difference(&self.misnamed) {
            let reason = "a plugin's file is named in lower-case letters, digits and hyphens, a letter first";
            let (file, reason) = (path.display().to_string(), Refused::Declaration(reason.into()));
            refused.push(NotTaken { plugin: None, file, reason, waits: None });
        }
        self.misnamed = misnamed;
        let gone: Vec<_> = self.seen.keys().filter(|name| !found.contains_key(*name)).cloned().collect();
        for name in gone {
            self.seen.remove(&name);
            self.registry.looked_at(&name, None);
            // What an embedder brought itself stays, whatever files of that name were refused.
            if self.loaded.remove(&name) {
                self.registry.remove(&name).await;
            }
        }
        let mut found: Vec<_> = found.into_iter().collect();
        // What takes longest begins first.
        found.sort_by_cached_key(|(_, source)| Reverse(source.size()));
        let looks = stream::iter(found).map(|(name, source)| async {
            let look = self.look(&name, &source, self.seen.get(&name)).await;
            (name, source, look)
        });
        let mut looks: Vec<_> = looks.buffer_unordered(registry::side_by_side()).collect().await;
        looks.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        for (name, source, look) in looks {
            let Some((look, reason)) = look else { continue };
            let refusal = reason.as_ref().map(|reason| Refusal {
                file: source.component.display().to_string(),
                reason: reason.to_string(),
                waits: reason.waits(),
            });
            self.registry.looked_at(&name, refusal);
            let before = self.seen.get(&name).cloned();
            // While a file waits, what was agreed to before serves in its place.
            if reason.as_ref().is_none_or(Refused::waits) {
                self.loaded.insert(name.clone());
            }
            // What may be otherwise the next time is tried each time, and said once.
            let said = match (&before, &reason) {
                (Some(Look::Again(said, _) | Look::Waits(said, ..)), Some(reason)) => {
                    reason.to_string() == *said
                }
                _ => false,
            };
            self.seen.insert(name.clone(), look);
            if let Some(reason) = reason.filter(|_| !said) {
                let file = source.component.display().to_string();
                // Only to tell it apart from the next one that waits.
                let bytes = matches!(reason, Refused::Beyond(_))
                    .then(|| source.load(self.registry.largest()).ok())
                    .flatten();
                let waits = bytes.map(|bytes| kept::digest(&bytes));
                refused.push(NotTaken { plugin: Some(name), file, reason, waits });
            }
        }
        refused
    }

    /// Loads a file, if it is another one than before.
    async fn look(
        &self,
        name: &PluginName,
        source: &Source,
        before: Option<&Look>,
    ) -> Option<(Look, Option<Refused>)> {
        let lock = self.registry.lock().and_then(|lock| std::fs::metadata(lock).ok()?.modified().ok());
        let (before, tries) = match before {
            Some(Look::Read(seen)) => (Some(seen), 0),
            Some(Look::Waits(_, seen, agreed)) if *agreed == lock => (Some(seen), 0),
            Some(Look::Again(_, tries)) => (None, *tries),
            Some(Look::Waits(..)) | None => (None, 0),
        };
        // Whoever closes it tells.
        if source.files().any(|file| self.writers.has(file)) {
            return None;
        }
        let (source, before, largest) = (source.clone(), before.cloned(), self.registry.largest());
        let read = tokio::task::spawn_blocking(move || source.read(before.as_ref(), largest)).await;
        let (seen, loaded) = match read.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(None) => return None,
            Ok(Some(New { seen, plugin: Ok(bytes) })) => {
                (Some(seen), self.registry.load_agreed(name, bytes.into()).await)
            }
            Ok(Some(New { seen, plugin: Err(reason) })) => (Some(seen), Err(Refused::Declaration(reason))),
            Err(error) => (None, Err(Refused::Host(error.to_string()))),
        };
        Some(match (seen, loaded) {
            (Some(seen), Ok(())) => (Look::Read(seen), None),
            (Some(seen), Err(reason)) if reason.waits() => {
                (Look::Waits(reason.to_string(), seen, lock), Some(reason))
            }
            (Some(seen), Err(reason))
                if !reason.may_change() || (tries >= TRIES && !matches!(reason, Refused::Host(_))) =>
            {
                (Look::Read(seen), Some(reason))
            }
            (_, Err(reason)) => (Look::Again(reason.to_string(), tries.saturating_add(1)), Some(reason)),
            (None, Ok(())) => return None,
        })
    }

    fn cannot_read(&mut self, error: &std::io::Error) -> Vec<NotTaken> {
        let reason = error.to_string();
        if self.unreadable.as_ref() == Some(&reason) {
            return vec![];
        }
        self.unreadable = Some(reason.clone());
        let file = self.sources.folder.as_ref().map(|folder| folder.display().to_string());
        let (file, reason) = (file.unwrap_or_default(), Refused::Host(reason));
        vec![NotTaken { plugin: None, file, reason, waits: None }]
    }

    /// Follows the files until the future is dropped.
    pub async fn follow(mut self) {
        let (tell, mut told) = mpsc::channel(1);
        // Where no watcher can be made, nobody tells: the channel must not seem to have ended.
        let _open = tell.clone();
        // A full channel has told already.
        let writers = self.writers.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Ok(event) = &event {
                writers.heard(event);
            }
            if event.as_ref().map_or(true, concerns) {
                tell.try_send(()).ok();
            }
        });
        let mut watcher: Option<RecommendedWatcher> = watcher.ok();
        let mut watched = BTreeSet::new();
        loop {
            // One that is gone is watched again when it is back.
            watched.retain(|folder: &PathBuf| folder.exists());
            for folder in self.folders() {
                // A folder that cannot be watched, or is not there yet, is looked at.
                if !watched.contains(&folder)
                    && let Some(watcher) = &mut watcher
                    && watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok()
                {
                    watched.insert(folder);
                }
            }
            let woken = tokio::select! {
                told = tokio::time::timeout(LOOK, told.recv()) => matches!(told, Ok(Some(()))),
                () = self.registry.wants_a_look() => false,
            };
            if woken {
                let settled =
                    async { while let Ok(Some(())) = tokio::time::timeout(SETTLE, told.recv()).await {} };
                drop(tokio::time::timeout(PATIENCE, settled).await);
            }
            for refused in self.read().await {
                self.notices.say(refused.notice(&self.registry));
            }
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        let (found, _) = self.find().unwrap_or_default();
        let parents = found.values().filter_map(|source| source.component.parent());
        let files = self.sources.files.values();
        let parents =
            parents.chain(files.filter_map(|file| if file.is_dir() { Some(&**file) } else { file.parent() }));
        let parents = parents.chain(self.registry.lock().and_then(Path::parent));
        let parents = parents.map(|parent| if parent == Path::new("") { Path::new(".") } else { parent });
        self.sources.folder.iter().map(PathBuf::as_path).chain(parents).map(Path::to_owned).collect()
    }

    fn find(&self) -> std::io::Result<(BTreeMap<PluginName, Source>, BTreeSet<PathBuf>)> {
        source::find(self.sources.folder.as_deref(), &self.sources.files)
    }
}

/// Whether a plugin may have changed. Reading is no change, and our own reading would wake us for ever.
fn concerns(event: &notify::Event) -> bool {
    let changes = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    };
    let ours = |path: &PathBuf| {
        path.extension()
            .is_none_or(|extension| ["wasm", "toml", "lock"].iter().any(|ours| extension == *ours))
    };
    changes && (event.paths.is_empty() || event.need_rescan() || event.paths.iter().any(ours))
}
