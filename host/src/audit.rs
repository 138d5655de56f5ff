//! The audit record as values: what an operator can look up about plugins, and the chain of hashes that shows
//! whether it is still as it was written.
//!
//! Each entry carries SHA-256 of the hash before it and its own fields, so that a removed or changed one is found.
//! Who can write the file can also write all of it anew: only a hash that was noted elsewhere shows that.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    id::{AgentName, PluginName},
    manifest::Permission,
    text::escaped,
};

/// A detail is a line, and no more than somebody reads.
const DETAIL: usize = 300;
/// What every hash begins with: the format of an entry.
const FORMAT: &[u8] = b"parlour audit 1\n";

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the words say it")]
pub enum What {
    /// What a plugin may do from now on.
    Granted,
    Denied,
    /// It would have been denied, had the operator not said `audit_only`.
    WouldBeDenied,
    Used,
    Loaded,
    /// Another version took over.
    Swapped,
    /// A new version stood its trial.
    Accepted,
    /// It did not, and the one before it serves again.
    RolledBack,
    Refused,
    /// Its file waits for somebody to agree.
    Waits,
    Removed,
    Suspended,
    Resumed,
    /// A secret was used.
    Secret,
}

impl What {
    /// As it is written down.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Denied => "denied",
            Self::WouldBeDenied => "would be denied",
            Self::Used => "used",
            Self::Loaded => "loaded",
            Self::Swapped => "swapped",
            Self::Accepted => "accepted",
            Self::RolledBack => "rolled back",
            Self::Refused => "refused",
            Self::Waits => "waits",
            Self::Removed => "removed",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::Secret => "secret",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// An entry. All of it is text and numbers, so that one that somebody has changed can still be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// When, in milliseconds since 1970; of what was counted, the last time.
    pub at: i64,
    /// For which agent, where it is one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Which plugin; none where a file can be none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// A word of [`What`].
    pub what: String,
    /// Which permission, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permission: Option<String>,
    /// One line.
    pub detail: String,
    /// How often.
    pub count: i64,
}

impl Entry {
    /// Something that happened once, now. The detail becomes one bounded line.
    #[must_use]
    pub fn new(what: What, plugin: Option<&PluginName>, detail: &str) -> Self {
        Self {
            at: now(),
            agent: None,
            plugin: plugin.map(ToString::to_string),
            what: what.word().into(),
            permission: None,
            detail: escaped(detail, DETAIL),
            count: 1,
        }
    }

    /// For this agent.
    #[must_use]
    pub fn agent(self, agent: &AgentName) -> Self {
        Self { agent: Some(agent.to_string()), ..self }
    }

    /// About this permission, so often, the last time then.
    #[must_use]
    pub fn counted(self, permission: Permission, count: u64, at: i64) -> Self {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        Self { permission: Some(permission.to_string()), count, at, ..self }
    }

    /// Whether it is one of these.
    #[must_use]
    pub fn is(&self, what: What) -> bool {
        self.what == what.word()
    }

    /// The hash of this entry after another one's: over each field with its length, so that no two entries have the
    /// same bytes.
    #[must_use]
    pub fn after(&self, before: Hash) -> Hash {
        let mut digest = Sha256::new();
        digest.update(FORMAT);
        digest.update(before.0);
        digest.update(self.at.to_be_bytes());
        for field in [
            self.agent.as_deref(),
            self.plugin.as_deref(),
            Some(&*self.what),
            self.permission.as_deref(),
            Some(&*self.detail),
        ] {
            match field {
                None => digest.update([0]),
                Some(text) => {
                    digest.update([1]);
                    digest.update((text.len() as u64).to_be_bytes());
                    digest.update(text);
                }
            }
        }
        digest.update(self.count.to_be_bytes());
        Hash(digest.finalize().into())
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// SHA-256; of nothing yet, zeros.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Hash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a hash has 64 hexadecimal digits, as `parlour audit` prints it".to_owned();
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut hash = Self::default();
        for (byte, at) in hash.0.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(hash)
    }
}

/// An entry as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The first is 1.
    pub number: u64,
    /// What it says.
    pub entry: Entry,
    /// As it was written.
    pub hash: Hash,
}

/// Where the record ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// How many entries there are.
    pub count: u64,
    /// The last one's hash.
    pub hash: Hash,
}

impl Head {
    /// The next entry, and with it where the record ends then.
    pub fn push(&mut self, entry: Entry) -> Recorded {
        *self = Self { count: self.count + 1, hash: entry.after(self.hash) };
        Recorded { number: self.count, entry, hash: self.hash }
    }

    /// Whether this is the entry that follows; if so, the record goes on behind it.
    ///
    /// # Errors
    /// [`Broken`], with its number.
    pub fn follow(&mut self, next: &Recorded) -> Result<(), Broken> {
        let number = self.count + 1;
        if next.number != number {
            return Err(Broken::Missing(number));
        }
        let hash = next.entry.after(self.hash);
        if hash != next.hash {
            return Err(Broken::Changed(number));
        }
        *self = Self { count: number, hash };
        Ok(())
    }
}

/// Where the record is not as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A number is not there.
    #[error("the record is broken: entry {0} was removed")]
    Missing(u64),
    /// The hash does not fit.
    #[error("the record is broken: entry {0} was changed, or is not the one that stood there")]
    Changed(u64),
    /// It ends earlier, or later, than was noted with the last entry.
    #[error("the record is broken: it ends with entry {found}, and {noted} were written")]
    End {
        /// The last entry that is there.
        found: u64,
        /// The last one that was noted.
        noted: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(detail: &str) -> Entry {
        Entry { at: 1, ..Entry::new(What::Loaded, Some(&"echo".parse().unwrap()), detail) }
    }

    #[test]
    fn a_changed_a_removed_and_a_moved_entry_are_found() {
        let mut head = Head::default();
        let chain: Vec<_> = ["a", "b", "c"].map(|detail| head.push(entry(detail))).into();
        let follow = |chain: &[Recorded]| {
            let mut head = Head::default();
            chain.iter().try_for_each(|next| head.follow(next)).map(|()| head)
        };
        assert_eq!(follow(&chain), Ok(head));
        let change = |how: &dyn Fn(&mut Vec<Recorded>)| {
            let mut chain = chain.clone();
            how(&mut chain);
            follow(&chain)
        };
        assert_eq!(change(&|chain| chain[1].entry.count += 1), Err(Broken::Changed(2)));
        assert_eq!(change(&|chain| chain[1].entry.agent = Some("x".into())), Err(Broken::Changed(2)));
        assert_eq!(change(&|chain| drop(chain.remove(0))), Err(Broken::Missing(1)));
        let renumbered = change(&|chain| {
            chain.remove(0);
            (1..).zip(chain).for_each(|(number, next)| next.number = number);
        });
        assert_eq!(renumbered, Err(Broken::Changed(1)));
        let rehashed = change(&|chain| {
            chain[1].entry.count += 1;
            chain[1].hash = chain[1].entry.after(chain[0].hash);
        });
        assert_eq!(rehashed, Err(Broken::Changed(3)), "the next one tells");
    }

    #[test]
    fn no_two_entries_have_the_same_bytes() {
        let moved = Entry { permission: Some("kv".into()), detail: "b".into(), ..entry("") };
        let other = Entry { permission: None, detail: "kvb".into(), ..entry("") };
        assert_ne!(moved.after(Hash::default()), other.after(Hash::default()));
        let empty = Entry { agent: Some(String::new()), ..entry("a") };
        assert_ne!(empty.after(Hash::default()), entry("a").after(Hash::default()));
    }

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        let hash = entry("a").after(Hash::default());
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for bad in ["", "12", &"x".repeat(64), &"é".repeat(32)] {
            assert!(bad.parse::<Hash>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_detail_is_one_bounded_line() {
        let entry = entry(&format!("a\n\u{1b}[2J{}", "x".repeat(1000)));
        assert!(entry.detail.len() < DETAIL + 10 && entry.detail.starts_with("a\\n\\u{1b}[2J"));
    }
}
