//! `parlour.lock`: which plugins were agreed to, by digest, and what they asked for then.
//!
//! What is seen for the first time is written down; grants are the operator's, by name, in the settings. From then on
//! a file that asks for the same or less takes over, and one that asks for more, is older, or is signed by somebody else,
//! waits until somebody agrees with `parlour plugin add`.

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
    grant::{FILES, KV, MEDIA, TIMERS},
    id::PluginName,
    manifest::{Asks, Permission},
    mistake,
    origin::Pattern,
    owner,
    signature::Publisher,
    tool,
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
    /// Who signed it, where somebody did: seen for the first time, and held to from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publisher: Option<Publisher>,
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
    /// Its requests go where they did not go before.
    Reaches(Pattern),
    /// They have other methods.
    Methods,
    /// It asks to write files, or more of them.
    Writes,
    /// It asks to read larger files of messages.
    Reads,
    /// It asks for more timers.
    Times,
    /// It asks for another secret, or for one to go elsewhere.
    Secret(String),
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
    /// Somebody else signed it.
    Publisher {
        /// Who.
        offered: Publisher,
        /// Who signed what was agreed to.
        agreed: Publisher,
    },
    /// It is not signed any more.
    Unsigned {
        /// Who signed what was agreed to.
        agreed: Publisher,
    },
}

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asks(permission) => write!(f, "it now asks to {} (`{permission}`)", permission.meaning()),
            Self::Hears("tools") => f.write_str("it now has tools, which hear what other plugins give them"),
            Self::Hears(what) => write!(f, "it now hears of {what}"),
            Self::Remembers => f.write_str("it now asks to remember more (`kv`)"),
            Self::Reaches(host) => write!(f, "it now asks for {host} (`http`)"),
            Self::Methods => f.write_str("it now asks for other methods (`http`)"),
            Self::Writes => f.write_str("it now asks to write more files (`files`)"),
            Self::Reads => f.write_str("it now asks to read larger files of messages (`media`)"),
            Self::Times => f.write_str("it now asks for more timers (`timers`)"),
            Self::Secret(name) => write!(f, "it now asks for the secret {name} (`secrets`)"),
            Self::Calls => f.write_str("it now asks to call other tools (`tools`)"),
            Self::Older { offered, agreed } => {
                write!(f, "it is version {offered}, and {agreed} was agreed to")
            }
            Self::Unversioned { agreed } => write!(f, "it says no version, and {agreed} was agreed to"),
            Self::Publisher { offered, agreed } => {
                write!(f, "it is now signed by {offered}, and was by {agreed}")
            }
            Self::Unsigned { agreed } => write!(f, "it is not signed any more, and was by {agreed}"),
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
        let none = (vec![], BTreeSet::new());
        let http = |of: &Self| {
            of.asks.http.as_ref().map_or(none.clone(), |http| (http.hosts.clone(), http.methods.clone()))
        };
        let ((hosts, methods), (agreed_hosts, agreed_methods)) = (http(offered), http(self));
        let new_to = |host: &Pattern| !agreed_hosts.iter().any(|agreed| agreed.covers(host));
        // Where it did not ask for any, that is said already.
        let known = self.asks.http.is_some();
        let reaches: Vec<_> =
            hosts.into_iter().filter(|host| known && new_to(host)).map(Beyond::Reaches).collect();
        let more_methods =
            !agreed_methods.is_empty() && (methods.is_empty() || !methods.is_subset(&agreed_methods));
        let methods = (known && more_methods).then_some(Beyond::Methods);
        let writes = |of: &Self| {
            let files = of.asks.files.clone().unwrap_or_default();
            (files.write, if files.write { files.bytes.unwrap_or(FILES) } else { 0 })
        };
        let ((write, bytes), (wrote, agreed_bytes)) = (writes(offered), writes(self));
        let more_files = self.asks.files.is_some() && ((write && !wrote) || bytes > agreed_bytes);
        let writes = more_files.then_some(Beyond::Writes);
        let media = |of: &Self| of.asks.media.as_ref().map(|media| media.bytes.unwrap_or(MEDIA));
        let reads = media(self).is_some_and(|agreed| media(offered).is_some_and(|bytes| bytes > agreed));
        let reads = reads.then_some(Beyond::Reads);
        let timers = |of: &Self| of.asks.timers.as_ref().map(|timers| timers.count.unwrap_or(TIMERS));
        let times = timers(self).is_some_and(|agreed| timers(offered).is_some_and(|count| count > agreed));
        let times = times.then_some(Beyond::Times);
        let secrets = offered.asks.secrets.iter().filter(|(name, asked)| {
            self.asks.secrets.get(*name).is_none_or(|agreed| agreed.audience != asked.audience)
        });
        let secrets = secrets.map(|(name, _)| Beyond::Secret(name.clone()));
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
        // What nobody signed before may be signed by anybody, and is held to that.
        let publisher = match (offered.publisher, self.publisher) {
            (Some(offered), Some(agreed)) if offered != agreed => Some(Beyond::Publisher { offered, agreed }),
            (None, Some(agreed)) => Some(Beyond::Unsigned { agreed }),
            _ => None,
        };
        asks.chain(hears)
            .chain(remembers)
            .chain(reaches)
            .chain(methods)
            .chain(writes)
            .chain(reads)
            .chain(times)
            .chain(secrets)
            .chain(calls)
            .chain(older)
            .chain(publisher)
            .collect()
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
        owner::inherit(file.as_file(), folder).map_err(place)?;
        file.as_file().sync_all().map_err(place)?;
        file.persist(&self.path).map_err(|error| place(error.error))?;
        Ok(lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        manifest::{Ask, AskKv, AskMedia, AskTimers, AskTools},
        signature::Key,
    };

    fn locked(digest: &str, version: Option<&str>, llm: bool) -> Locked {
        let ask = Some(Ask { reason: "because".into() });
        let asks = Asks { outbox: ask.clone(), llm: ask.filter(|_| llm), ..Asks::default() };
        let version = version.map(|text| text.parse().unwrap());
        let handles = ["commands".to_owned()].into();
        Locked { digest: digest.into(), version, source: None, publisher: None, handles, asks }
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
        let media = |bytes| AskMedia { bytes, ..AskMedia::default() };
        let reads = |before: Option<u64>, now: Option<u64>| {
            let [before, now] = [("a", before), ("b", now)].map(|(digest, bytes)| {
                let mut reads = locked(digest, None, false);
                reads.asks.media = Some(media(bytes));
                reads
            });
            !before.beyond(&now).is_empty()
        };
        assert!(reads(Some(10), Some(11)) && reads(Some(10), None));
        assert!(!reads(None, Some(10)) && !reads(None, Some(MEDIA)) && !reads(Some(11), Some(10)));
        let times = |digest: &str, count| {
            let timers = AskTimers { count, ..AskTimers::default() };
            Locked { asks: Asks { timers: Some(timers), ..Asks::default() }, ..locked(digest, None, false) }
        };
        let more = times("a", None).beyond(&times("b", Some(TIMERS + 1)));
        assert_eq!(more, [Beyond::Times]);
        assert!(times("a", Some(10)).beyond(&times("b", Some(9))).is_empty());
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
    fn whoever_signed_it_first_goes_on_signing_it() {
        let [one, other] = [1, 2].map(|seed| Key::new(&[seed; 32]).publisher());
        let by = |digest: &str, publisher| Locked { publisher, ..locked(digest, None, false) };
        let beyond = |agreed, offered| {
            let beyond = by("a", agreed).beyond(&by("b", offered));
            beyond.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(beyond(Some(one), Some(one)), "");
        assert_eq!(beyond(None, Some(one)), "");
        assert_eq!(beyond(Some(one), Some(other)), format!("it is now signed by {other}, and was by {one}"));
        assert_eq!(beyond(Some(one), None), format!("it is not signed any more, and was by {one}"));
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
