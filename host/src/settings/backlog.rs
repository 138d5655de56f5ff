//! `behaviour.backlog` and `behaviour.horizon`: what of the time while an agent was away is answered, and until when
//! anything is.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// The shortest horizon: an event's id must be kept for longer than servers repeat themselves.
const SHORTEST: Duration = Duration::from_secs(60 * 60);

/// What is answered of that which came while the agent was away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backlog {
    /// Everything.
    All,
    /// What addresses the agent: by mention, as a command, or in a direct chat.
    Mentions,
    /// Nothing.
    Skip,
    /// What is not older than this when the agent is back.
    Within(Duration),
}

/// A day: whoever asked yesterday may still wait, and whoever asked last week has found another way. An agent that comes
/// back after a week and answers all of it fills rooms with what nobody wants to know any more.
impl Default for Backlog {
    fn default() -> Self {
        Self::Within(Duration::from_secs(24 * 60 * 60))
    }
}

/// Until when an event may be answered, and how long its id is kept for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon(Duration);

impl Horizon {
    /// None where it is shorter than an hour.
    #[must_use]
    pub fn new(horizon: Duration) -> Option<Self> {
        (horizon >= SHORTEST).then_some(Self(horizon))
    }

    /// How long.
    #[must_use]
    pub fn get(self) -> Duration {
        self.0
    }
}

/// Thirty days: longer than servers are away, and some megabytes of ids for a busy agent.
impl Default for Horizon {
    fn default() -> Self {
        Self(Duration::from_secs(30 * 24 * 60 * 60))
    }
}

impl fmt::Display for Horizon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words(self.0))
    }
}

/// As it may be written in the settings.
pub(super) fn words(span: Duration) -> String {
    let seconds = span.as_secs();
    let unit =
        [(86_400, 'd'), (3600, 'h'), (60, 'm')].into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit));
    let (unit, letter) = unit.filter(|_| seconds > 0).unwrap_or((1, 's'));
    format!("{}{letter}", seconds / unit)
}

/// `24h`, `90m`, `7d`, `30s`: a whole number and a unit.
fn span(text: &str) -> Option<Duration> {
    let (at, unit) = text.char_indices().next_back()?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let number =
        text[..at].bytes().all(|byte| byte.is_ascii_digit()).then(|| text[..at].parse::<u64>().ok())??;
    number.checked_mul(seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

impl<'de> Deserialize<'de> for Backlog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "all" => Ok(Self::All),
            "mentions" => Ok(Self::Mentions),
            "skip" => Ok(Self::Skip),
            other => span(other).map(Self::Within).ok_or_else(|| {
                de::Error::custom(format!(
                    "{other:?} is neither \"all\", \"mentions\", \"skip\", nor a time such as \"24h\", \"90m\" or \"7d\""
                ))
            }),
        }
    }
}

impl<'de> Deserialize<'de> for Horizon {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        span(&text).and_then(Self::new).ok_or_else(|| {
            de::Error::custom(format!("{text:?} is no time of an hour or more, such as \"30d\" or \"12h\""))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_number_and_a_unit() {
        for (text, seconds) in [("24h", 86_400), ("90m", 5400), ("7d", 604_800), ("1s", 1)] {
            assert_eq!(span(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in
            ["", "h", "0h", "24", "-1h", "+1h", "1.5h", "24 h", "24H", "1w", "99999999999999999999d", "ü"]
        {
            assert_eq!(span(wrong), None, "{wrong}");
        }
        for text in ["24s", "90m", "7d", "5h"] {
            assert_eq!(words(span(text).unwrap()), text);
        }
    }
}
