//! Text of others that is shown to people: as it is, in one line, without what steers a terminal.

/// A text as one line, at most so many bytes and a mark long, without control characters: nobody else's words
/// forge a line of a log, or steer a terminal.
#[must_use]
pub fn escaped(text: &str, limit: usize) -> String {
    let mut line = String::with_capacity(text.len().min(limit));
    for c in text.chars() {
        let before = line.len();
        if hidden(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
        if line.len() > limit {
            line.truncate(before);
            line.push('…');
            break;
        }
    }
    line
}

/// What of a text stands in an error that names it.
const NAMED: usize = 80;

/// The beginning of a text that an error names: whoever wrote it may have written megabytes.
#[must_use]
pub fn beginning(text: &str) -> String {
    let mut beginning: String = text.chars().take(NAMED).collect();
    if beginning.len() < text.len() {
        beginning.push('…');
    }
    beginning
}

/// Control characters, and those that turn a line into another one on a terminal: bidirectional controls and
/// line separators.
#[must_use]
pub fn hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Those, and what takes no room or reorders what is beside it: nobody can agree to what they cannot see.
#[must_use]
pub fn unseen(c: char) -> bool {
    hidden(c)
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
        || ('\u{e0000}'..='\u{e007f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_bounded() {
        assert_eq!(escaped("x y", 8), "x y");
        assert_eq!(escaped(&"x".repeat(100), 8), "xxxxxxxx…");
        assert_eq!(escaped(&"x".repeat(8), 8), "xxxxxxxx");
        // What takes several bytes is there as a whole or not at all.
        assert_eq!(escaped("xxxxxxx\u{1b}", 8), "xxxxxxx…");
        assert_eq!(escaped("xxxxxxxé", 8), "xxxxxxx…");
    }
}
