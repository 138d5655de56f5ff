//! Names of things. Each is text that was checked once, where it came in.
//!
//! Nothing here looks into a room id: from room version 12 on it has no server part
//! ([MSC4291](https://github.com/matrix-org/matrix-spec-proposals/pull/4291)).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text;

/// A text that is not the id it was given as; of a long one its beginning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct InvalidId {
    text: String,
    expected: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident: $expected:literal, $valid:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            #[doc = concat!("Checks that `text` is ", $expected, ".")]
            ///
            /// # Errors
            /// [`InvalidId`] where it is not.
            pub fn parse(text: impl AsRef<str>) -> Result<Self, InvalidId> {
                let text = text.as_ref();
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId { text: text::beginning(text), expected: $expected })
                }
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

ids! {
    /// A Matrix user id, `@alice:example.org`.
    UserId: "a user id such as @alice:example.org", |text| {
        text.len() <= 255 && !text.contains(char::is_control)
            && text.strip_prefix('@').and_then(|rest| rest.split_once(':')).is_some_and(|(_, server)| !server.is_empty())
    };
    /// A Matrix room id, `!abc:example.org`, or without a server part.
    RoomId: "a room id such as !abc:example.org", |text| {
        text.len() <= 255 && text.len() > 1 && text.starts_with('!') && !text.contains(char::is_control)
    };
    /// A Matrix event id, `$abc`.
    EventId: "an event id such as $abc", |text| {
        text.len() <= 255 && text.len() > 1 && text.starts_with('$') && !text.contains(char::is_control)
    };
    /// An agent's name in the settings.
    AgentName: "a name of lower-case letters, digits and hyphens, a letter first, at most 64", is_slug;
    /// A plugin's name: that of its file, or the one it has in the settings.
    PluginName: "a name of lower-case letters, digits and hyphens, a letter first, at most 64", is_slug;
    /// Names what one agent has to do about one event: the base of every transaction id.
    DeliveryId: "a delivery's id", |text| !text.is_empty();
    /// Makes a request that is sent twice count once (spec, client-server API, "Transaction identifiers").
    TransactionId: "a transaction id", |text| !text.is_empty() && text.len() <= 255;
    /// Opaque and stable: equal for two events whose history belongs together.
    SessionId: "a session's id", |text| !text.is_empty();
}

fn is_slug(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

impl UserId {
    /// `alice` of `@alice:example.org`.
    #[must_use]
    pub fn localpart(&self) -> &str {
        self.0[1..].split_once(':').map_or("", |(localpart, _)| localpart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_where_they_come_in() {
        assert_eq!(UserId::parse("@alice:example.org").unwrap().localpart(), "alice");
        assert!(RoomId::parse("!qU60QpFaVNwE").is_ok(), "room version 12 has no server part");
        for bad in ["alice", "@alice", "@alice:", "alice:example.org", "@a\n:b"] {
            assert!(UserId::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "Echo", "1st", "a b", "../echo", "écho"] {
            assert!(PluginName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
