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

/// A text of many lines without what nobody sees, so that no words are hidden in it. A single joiner between what is
/// seen, and an emoji's variation, stay: some scripts need them, and 👩‍🚀.
#[must_use]
pub fn visible(text: &str) -> String {
    let varies = |c: char| matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}');
    let mut seen = String::with_capacity(text.len());
    let mut before = '\n';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let keep = match c {
            '\n' | '\t' => true,
            '\u{fe0f}' => !unseen(before) && !varies(before),
            '\u{200c}' | '\u{200d}' => {
                let joined = |c: char| !c.is_ascii() && !unseen(c);
                joined(before) && chars.peek().is_some_and(|next| joined(*next) && !varies(*next))
            }
            _ => !unseen(c) && !varies(c),
        };
        if keep {
            seen.push(c);
            before = c;
        }
    }
    seen
}

/// Bytes of a file's name: what file systems take.
const FILE_NAME: usize = 255;

/// A name under which somebody else's file can be shown and saved: without folders, without what nobody sees, not
/// hidden, and no longer than file systems take, its ending kept.
#[must_use]
pub fn file_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let (stem, ending) = match last.rsplit_once('.') {
        // An ending is short; of anything else the beginning is kept.
        Some((stem, ending)) if ending.len() <= 16 => (stem, format!(".{ending}")),
        _ => (last, String::new()),
    };
    let stem = &stem[..stem.floor_char_boundary(FILE_NAME - ending.len())];
    let seen = visible(&format!("{stem}{ending}"));
    let seen: String = seen.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    let seen = seen.trim_start_matches(['.', ' ']).trim_end_matches(['.', ' ']);
    if seen.is_empty() { "file".into() } else { seen.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_is_one() {
        for (name, expected) in [
            ("report.pdf", "report.pdf"),
            ("../../etc/passwd", "passwd"),
            ("C:\\Windows\\win.ini", "win.ini"),
            ("a\r\n\u{1b}[2J\u{0}b.txt", "a [2Jb.txt"),
            ("invoice\u{202e}fdp.exe", "invoicefdp.exe"),
            ("a\u{200b}\u{feff}b", "ab"),
            (".bashrc", "bashrc"),
            ("..", "file"),
            ("folder/", "file"),
            ("", "file"),
            (" a . ", "a"),
            ("an\u{e9}e 👩\u{200d}🚀.txt", "an\u{e9}e 👩\u{200d}🚀.txt"),
        ] {
            assert_eq!(file_name(name), expected, "{name:?}");
        }
        for (long, ending) in [
            (format!("{}.tar.gz", "\u{e9}".repeat(1000)), "\u{e9}.gz"),
            ("x".repeat(1000), "x"),
            (format!("a.{}", "y".repeat(1000)), "y"),
        ] {
            let short = file_name(&long);
            assert!(short.len() <= FILE_NAME && short.len() > 200 && short.ends_with(ending), "{short}");
        }
    }

    #[test]
    fn what_nobody_sees_is_taken_out() {
        let hidden: String = "ignore".chars().map(|c| char::from_u32(0xe0000 + c as u32).unwrap()).collect();
        for (text, expected) in [
            ("two\r\nlines\tand a tab", "two\nlines\tand a tab"),
            (&format!("a{hidden}b"), "ab"),
            ("a\u{200b}b\u{202e}c\u{feff}\u{1b}[2J", "abc[2J"),
            ("a\u{200d}b \u{200c}", "ab "),
            (
                "👩\u{200d}🚀 ❤\u{fe0f} ❤\u{fe0f}\u{200d}🔥 می\u{200c}خواهم",
                "👩\u{200d}🚀 ❤\u{fe0f} ❤\u{fe0f}\u{200d}🔥 می\u{200c}خواهم",
            ),
            ("é\u{200d}\u{200c}\u{200d}è", "é\u{200d}è"),
            ("é\u{fe0f}\u{fe0f}\u{fe01}\u{e0101}", "é\u{fe0f}"),
        ] {
            assert_eq!(visible(text), expected, "{text:?}");
        }
    }

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
