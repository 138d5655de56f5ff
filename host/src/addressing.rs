//! How a message names the agent, and whether it is a command: pure, from the text.
//!
//! A mention is the agent's id in `m.mentions`, a pill, or its full id in the text. `@bot2` is no mention of
//! `@bot`, and neither is the word in prose. People type `/name`, `!name` and `@agent name` alike, because
//! clients swallow a `/name` that they do not know.

use crate::{event::Message, id::UserId};

/// How a message names the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressed {
    /// The agent is mentioned.
    pub mentioned: bool,
    /// The text without the mention at its beginning.
    pub text: String,
    /// The command that it is, with or without a sigil.
    pub command: Option<Typed>,
}

/// A command as somebody typed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed {
    /// The name, in lower case, not checked against anything.
    pub name: String,
    /// What follows it, without white space at its ends.
    pub rest: String,
    /// It began with `/` or `!`: it cannot be prose.
    pub sigil: Option<char>,
}

/// Reads a message. `display_name` is what the agent is called in the room.
#[must_use]
pub fn read(message: &Message, own: &UserId, display_name: Option<&str>) -> Addressed {
    let mentioned = message.mentions.contains(own) || names(&message.text, own);
    let text = if mentioned { strip(&message.text, own, display_name) } else { message.text.trim() };
    Addressed { mentioned, text: text.to_owned(), command: command(text, mentioned) }
}

/// Whether `text` has the full id, bounded: `@bot:hs` is not in `@bot:hs.evil.org`, nor in `x@bot:hs`.
fn names(text: &str, own: &UserId) -> bool {
    let id = own.as_str();
    let part = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '=' | '/' | '+' | '@');
    text.match_indices(id).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let mut after = text[at + id.len()..].chars();
        // A full stop or a colon ends a sentence or an address: "@bot:hs: hello".
        let bounded = match (after.next(), after.next()) {
            (None, _) => true,
            (Some('.' | ':'), following) => following.is_none_or(char::is_whitespace),
            (Some(following), _) => !part(following),
        };
        bounded && !before.is_some_and(part)
    })
}

/// `text` without the agent's name at its beginning or end, where it addresses it.
fn strip<'a>(text: &'a str, own: &UserId, display_name: Option<&str>) -> &'a str {
    let text = text.trim();
    let localpart = format!("@{}", own.localpart());
    let at_name = display_name.map(|name| format!("@{name}"));
    let names =
        [Some(own.as_str()), at_name.as_deref(), display_name, Some(&localpart), Some(own.localpart())];
    for name in names.into_iter().flatten().filter(|name| !name.is_empty()) {
        let head = text.get(..name.len()).filter(|head| head.eq_ignore_ascii_case(name));
        if let Some(rest) = head.map(|_| &text[name.len()..]) {
            let end = rest.trim_start_matches([':', ',']);
            if end.is_empty() || end.len() < rest.len() || rest.starts_with(char::is_whitespace) {
                return end.trim();
            }
        }
        if let Some(rest) = text.strip_suffix(name).filter(|_| name.starts_with('@')) {
            return rest.trim_end().trim_end_matches(',').trim_end();
        }
    }
    text
}

fn command(text: &str, mentioned: bool) -> Option<Typed> {
    let sigil = text.chars().next().filter(|first| matches!(first, '/' | '!'));
    let body = &text[sigil.map_or(0, char::len_utf8)..];
    let (name, rest) = body.split_once(char::is_whitespace).unwrap_or((body, ""));
    let shaped = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 32
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    (shaped && (sigil.is_some() || mentioned)).then(|| Typed {
        name: name.to_ascii_lowercase(),
        rest: rest.trim().to_owned(),
        sigil,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Class;

    fn addressed(text: &str, mentions: &[&str]) -> Addressed {
        let message = Message {
            class: Class::Text,
            text: text.into(),
            html: None,
            thread: None,
            reply_to: None,
            mentions: mentions.iter().map(|id| UserId::parse(id).unwrap()).collect(),
            attachments: vec![],
        };
        read(&message, &UserId::parse("@bot:good.org").unwrap(), Some("The Bot"))
    }

    #[test]
    fn a_mention_is_the_list_or_the_full_id_and_nothing_like_it() {
        for text in [
            "@bot:good.org hello",
            "hello @bot:good.org",
            "(@bot:good.org)",
            "@bot:good.org: hi",
            "ask @bot:good.org.",
        ] {
            assert!(addressed(text, &[]).mentioned, "{text}");
        }
        for text in [
            "@bot2 hello",
            "the bot agent",
            "@bot hello",
            "@bot:good.org.evil.com hi",
            "x@bot:good.org",
            "@bot:good.organic",
            "The Bot: hi",
        ] {
            assert!(!addressed(text, &[]).mentioned, "{text}");
        }
        assert!(addressed("hello", &["@bot:good.org"]).mentioned);
        assert!(!addressed("hello", &["@bot2:good.org"]).mentioned);
    }

    #[test]
    fn the_mention_is_taken_off() {
        for text in [
            "@bot:good.org hello",
            "The Bot: hello",
            "the bot, hello",
            "@bot hello",
            "@The Bot hello",
            "hello @bot:good.org",
            "bot: hello",
            "hello, @bot",
        ] {
            assert_eq!(addressed(text, &["@bot:good.org"]).text, "hello", "{text}");
        }
        assert_eq!(addressed("bottle it", &["@bot:good.org"]).text, "bottle it");
        assert_eq!(addressed("the botany", &["@bot:good.org"]).text, "the botany");
    }

    #[test]
    fn commands_are_typed_in_three_ways() {
        for text in ["/roll 2d6 +1", "!roll  2d6 +1 ", "!Roll 2d6 +1"] {
            let typed = addressed(text, &[]).command.unwrap();
            assert_eq!((typed.name.as_str(), typed.rest.as_str()), ("roll", "2d6 +1"), "{text}");
        }
        for text in ["@bot:good.org roll 2d6", "The Bot: !roll 2d6", "@bot /roll 2d6"] {
            let typed = addressed(text, &["@bot:good.org"]).command.unwrap();
            assert_eq!((typed.name.as_str(), typed.rest.as_str()), ("roll", "2d6"), "{text}");
        }
        for text in ["roll 2d6", "/", "!!", "/1", "/ roll", "/etc/passwd", "!écho"] {
            assert_eq!(addressed(text, &[]).command, None, "{text}");
        }
    }
}
