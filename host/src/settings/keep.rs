//! A time as people write it.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// Longest time for which something is kept: a century, so that no sum of times is too large.
const LONGEST: u64 = 100 * 365 * 24 * 60 * 60;

/// `"90s"`, `"30m"`, `"24h"`, `"7d"`, or `"0"`.
pub fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).ok_or_else(|| {
        D::Error::custom(format!("{text:?} is no time such as \"30m\", \"24h\", \"7d\" or \"0\""))
    })
}

fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    let number: u64 = number.bytes().all(|digit| digit.is_ascii_digit()).then(|| number.parse().ok())??;
    number.checked_mul(seconds).filter(|seconds| *seconds <= LONGEST).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_is_written() {
        for (text, seconds) in
            [("0", 0), ("0h", 0), ("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800)]
        {
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in
            ["", "h", "24", "24 h", "-1h", "+1h", "1.5h", "1w", "é", "99999999999999999999d", "40000d"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
