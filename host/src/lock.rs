//! `parlour.lock`: which plugins were agreed to, by digest, and what they asked for then.
//!
//! What is seen for the first time is written down; grants are the operator's, by name, in the settings. From then on
//! a file that asks for the same or less takes over, and one that asks for more, or is older, waits until somebody
//! agrees with `parlour plugin add`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::{
    grant::KV,
    id::PluginName,
    manifest::{Asks, Permission},
    mistake, tool,
};

/// What stands above the entries.
const HEAD: &str =
    "# Which plugins were agreed to. `parlour plugin` and the host write it; keep it with parlour.toml.\n";

/// Another process changes it in less.
const PATIENCE: Duration = Duration::from_secs(2);

/// The entries of `parlour.lock`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// By name.
    #[serde(default)]
    pub plugins: BTreeMap<PluginName, Locked>,
}

/// What was agreed to of one plugin.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// SHA-256 of the file that runs, in hexadecimal.
    pub digest: String,
    /// The plugin's own version, where it says one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Where it came from, where `parlour plugin add` brought it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What it heard of: `commands`, `messages`, `members`, `tools`.
    #[serde(default)]
    pub handles: BTreeSet<String>,
    /// What it asked for.
    #[serde(default)]
    pub asks: Asks,
}

/// Why a file waits for somebody to agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beyond {
    /// It asks for what it did not ask for before.
    Asks(Permission),
    /// It hears of what it did not hear of before.
    Hears(&'static str),
    /// It asks to remember more than it did before.
    Remembers,
    /// It asks for tools that it did not ask for before.
    Calls,
    /// It is older than what was agreed to.
    Older {
        /// Its version.
        offered: Version,
        /// The version that was agreed to.
        agreed: Version,
    },
    /// It says no version any more.
    Unversioned {
        /// The version that was agreed to.
        agreed: Version,
    },
}

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asks(permission) => write!(f, "it now asks to {} (`{permission}`)", permission.meaning()),
            Self::Hears("tools") => f.write_str("it now has tools, which hear what other plugins give them"),
            Self::Hears(what) => write!(f, "it now hears of {what}"),
            Self::Remembers => f.write_str("it now asks to remember more (`kv`)"),
            Self::Calls => f.write_str("it now asks to call other tools (`tools`)"),
            Self::Older { offered, agreed } => {
                write!(f, "it is version {offered}, and {agreed} was agreed to")
            }
            Self::Unversioned { agreed } => write!(f, "it says no version, and {agreed} was agreed to"),
        }
    }
}

impl Locked {
    /// What of a file goes beyond this: nothing where it may take over.
    #[must_use]
    pub fn beyond(&self, offered: &Locked) -> Vec<Beyond> {
        if self.digest == offered.digest {
            return vec![];
        }
        let asked = offered.asks.iter().map(|(permission, _)| permission);
        let asks = asked.filter(|permission| !self.asks.has(*permission)).map(Beyond::Asks);
        let hears = ["messages", "members", "tools"].into_iter();
        let new = |what: &&str| offered.handles.contains(*what) && !self.handles.contains(*what);
        let hears = hears.filter(new).map(Beyond::Hears);
        let kv = |of: &Self| of.asks.kv.clone().unwrap_or_default();
        let (now, before) = (kv(offered), kv(self));
        // Nothing said is the usual.
        let more =
            |now: Option<u64>, before: Option<u64>, usual| now.unwrap_or(usual) > before.unwrap_or(usual);
        let remembers = more(now.bytes, before.bytes, KV.bytes) || more(now.keys, before.keys, KV.keys);
        let remembers = remembers.then_some(Beyond::Remembers);
        let calls = match (&self.asks.tools, &offered.asks.tools) {
            // Where none is named, all are meant.
            (Some(before), Some(now)) if !before.names.is_empty() => {
                let new = |name: &String| !tool::is_among(name, &before.names);
                (now.names.is_empty() || now.names.iter().any(new)).then_some(Beyond::Calls)
            }
            _ => None,
        };
        let older = match (&offered.version, &self.version) {
            (Some(offered), Some(agreed)) if offered < agreed => {
                Some(Beyond::Older { offered: offered.clone(), agreed: agreed.clone() })
            }
            (None, Some(agreed)) => Some(Beyond::Unversioned { agreed: agreed.clone() }),
            _ => None,
        };
        asks.chain(hears).chain(remembers).chain(calls).chain(older).collect()
    }
}

/// The file.
#[derive(Debug, Clone)]
pub struct LockFile {
    path: PathBuf,
}

impl LockFile {
    /// `parlour.lock` at this place. It need not be there.
    ///
    /// # Errors
    /// One line that names the place of what is wrong.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, String> {
        let file = Self { path: path.into() };
        file.read().map(|_| file)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says now.
    ///
    /// # Errors
    /// One line that names the place of what is wrong.
    pub fn read(&self) -> Result<Lock, String> {
        let name = self.path.display().to_string();
        match fs::read_to_string(&self.path) {
            Ok(text) => toml::from_str(&text).map_err(|error| {
                let (place, reason) = mistake::of(&name, &text, &error);
                format!("{place}: {reason}")
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Lock::default()),
            Err(error) => Err(format!("{name}: {error}")),
        }
    }

    /// Changes it, in one step, and one process at a time; answers what it says now.
    ///
    /// # Errors
    /// One line: it cannot be read or written.
    pub fn change(&self, how: impl FnOnce(&mut Lock)) -> Result<Lock, String> {
        let place = |error: std::io::Error| format!("{}: {error}", self.path.display());
        let folder = self.path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let guard = fs::File::open(folder).map_err(place)?;
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = guard.try_lock() {
            if matches!(error, fs::TryLockError::Error(_)) || Instant::now() > deadline {
                return Err(format!("{}: another process holds its folder: {error}", self.path.display()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let before = self.read()?;
        let mut lock = before.clone();
        how(&mut lock);
        if lock == before && self.path.exists() {
            return Ok(lock);
        }
        let text = toml::to_string(&lock).map_err(|error| format!("{}: {error}", self.path.display()))?;
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(place)?;
        file.write_all(format!("{HEAD}{text}").as_bytes()).map_err(place)?;
        file.as_file().sync_all().map_err(place)?;
        file.persist(&self.path).map_err(|error| place(error.error))?;
        Ok(lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Ask, AskKv, AskTools};

    fn locked(digest: &str, version: Option<&str>, llm: bool) -> Locked {
        let ask = Some(Ask { reason: "because".into() });
        let asks = Asks { outbox: ask.clone(), llm: ask.filter(|_| llm), ..Asks::default() };
        let version = version.map(|text| text.parse().unwrap());
        let handles = ["commands".to_owned()].into();
        Locked { digest: digest.into(), version, source: None, handles, asks }
    }

    #[test]
    fn the_same_or_less_takes_over_and_more_or_older_waits() {
        let agreed = locked("a", Some("1.2.0"), false);
        let beyond = |offered: &Locked| {
            agreed.beyond(offered).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(beyond(&locked("b", Some("1.2.0"), false)), "");
        assert_eq!(
            beyond(&locked("b", Some("1.3.0"), true)),
            "it now asks to ask the language model (`llm`)"
        );
        assert_eq!(
            beyond(&locked("b", Some("1.1.9"), false)),
            "it is version 1.1.9, and 1.2.0 was agreed to"
        );
        assert_eq!(beyond(&locked("b", None, false)), "it says no version, and 1.2.0 was agreed to");
        assert_eq!(beyond(&locked("a", None, true)), "", "what was agreed to is agreed to");
        let mut hears = locked("b", Some("1.2.0"), false);
        hears.handles.insert("messages".into());
        assert_eq!(beyond(&hears), "it now hears of messages");
        let mut hoards = locked("b", Some("1.2.0"), false);
        hoards.asks.kv = Some(AskKv { bytes: Some(KV.bytes + 1), ..AskKv::default() });
        assert!(beyond(&hoards).ends_with("it now asks to remember more (`kv`)"));
        let tools = |digest: &str, names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let asks = Asks { tools: Some(AskTools { names, ..AskTools::default() }), ..Asks::default() };
            Locked { asks, ..locked(digest, None, false) }
        };
        for (before, now, more) in [
            (&["weather.forecast"][..], &["weather.*"][..], true),
            (&["weather.*"], &["weather.forecast", "weather.*"], false),
            (&["weather.*"], &[], true),
            (&[], &["weather.*"], false),
        ] {
            let beyond = tools("a", before).beyond(&tools("b", now));
            assert_eq!(!beyond.is_empty(), more, "{before:?} {now:?}: {beyond:?}");
        }
        assert!(locked("a", None, true).beyond(&locked("b", None, false)).is_empty());
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = LockFile::open(folder.path().join("parlour.lock")).unwrap();
        assert_eq!(file.read(), Ok(Lock::default()));
        let entry = locked("a", Some("1.2.0"), true);
        file.change(|lock| drop(lock.plugins.insert("weather".parse().unwrap(), entry.clone()))).unwrap();
        assert_eq!(file.read().unwrap().plugins.into_values().collect::<Vec<_>>(), [entry]);
        let text = fs::read_to_string(file.path()).unwrap();
        assert!(text.contains("[plugins.weather.asks.llm]\nreason = \"because\"\n"), "{text}");

        fs::write(file.path(), "[plugins.weather]\ndigets = \"a\"\n").unwrap();
        let error = LockFile::open(file.path()).unwrap_err();
        assert!(
            error.ends_with("parlour.lock:2:1: unknown setting `digets`; did you mean `digest`?"),
            "{error}"
        );
    }
}
