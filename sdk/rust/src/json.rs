//! Reads a JSON string, and a member of an object: what nearly every command and tool meets. Whoever needs more of
//! JSON takes a crate for it; this keeps the others small.

/// The text that a JSON string stands for; none if `value` is anything else.
pub(crate) fn text(value: &str) -> Option<String> {
    let mut rest = value.trim().strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut text = String::with_capacity(value.len());
    while let Some(next) = rest.next() {
        text.push(match next {
            '\\' => match rest.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'u' => escaped(&mut rest)?,
                plain @ ('"' | '\\' | '/') => plain,
                _ => return None,
            },
            '"' => return None,
            plain => plain,
        });
    }
    Some(text)
}

/// The JSON value of a member of an object; none if there is none of that name.
pub(crate) fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = object.trim().strip_prefix('{')?.trim_start();
    while rest.starts_with('"') {
        let key = first(rest)?;
        rest = rest[key.len()..].trim_start().strip_prefix(':')?.trim_start();
        let value = first(rest)?;
        if text(key)? == name {
            return Some(value);
        }
        rest = rest[value.len()..].trim_start().strip_prefix(',')?.trim_start();
    }
    None
}

/// The value at the beginning of a text.
fn first(text: &str) -> Option<&str> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        let ends = match c {
            _ if escaped => {
                escaped = false;
                false
            }
            '\\' if quoted => {
                escaped = true;
                false
            }
            '"' => {
                quoted = !quoted;
                !quoted && depth == 0
            }
            _ if quoted => false,
            '{' | '[' => {
                depth += 1;
                false
            }
            '}' | ']' if depth > 0 => {
                depth -= 1;
                depth == 0
            }
            ',' | '}' | ']' if depth == 0 => return Some(text[..at].trim_end()),
            _ => false,
        };
        if ends {
            return Some(&text[..=at]);
        }
    }
    None
}

/// What `\u` introduces: four digits, or twice four where the character lies beyond U+FFFF.
fn escaped(rest: &mut std::str::Chars) -> Option<char> {
    let first = four_digits(rest)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first);
    }
    let second = (rest.next()? == '\\' && rest.next()? == 'u').then(|| four_digits(rest))??;
    let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    char::from_u32(0x10000 + ((first - 0xd800) << 10) + low)
}

fn four_digits(rest: &mut std::str::Chars) -> Option<u32> {
    (0..4).try_fold(0, |number, _| Some(number * 16 + rest.next()?.to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::{member, text};

    #[test]
    fn a_member_is_found() {
        let object = r#" { "a\"}" : [1, {"b": "]"}], "b":"x,\\", "n" : -1.5 , "o":{}, "last":true } "#;
        let check = |name, expected| assert_eq!(member(object, name), expected, "{name}");
        check("a\"}", Some(r#"[1, {"b": "]"}]"#));
        check("b", Some(r#""x,\\""#));
        check("n", Some("-1.5"));
        check("o", Some("{}"));
        check("last", Some("true"));
        check("x", None);
        for nothing in ["{}", "", "[]", "{\"x\"", "{\"x\":", "{\"x\":\"a"] {
            assert_eq!(member(nothing, "x"), None, "{nothing}");
        }
    }

    #[test]
    fn a_string_is_unescaped() {
        let check = |json, expected: &str| assert_eq!(text(json).as_deref(), Some(expected), "{json}");
        check(r#""""#, "");
        check(r#""tea at five""#, "tea at five");
        check(r#""a \"b\" \\ \/ \n\t""#, "a \"b\" \\ / \n\t");
        check(r#""\u00fc and \ud83c\udfb2""#, "ü and 🎲");
        check("\"ü 🎲\"", "ü 🎲");
    }

    #[test]
    fn anything_else_is_none() {
        for json in
            ["", "\"", "1", "null", "[\"a\"]", r#""a"b""#, r#""\""#, r#""\x""#, r#""\u12""#, r#""\ud83c""#]
        {
            assert_eq!(text(json), None, "{json}");
        }
    }
}
