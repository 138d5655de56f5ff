//! Reads a JSON string: the one piece of JSON that nearly every command meets. Whoever needs more of JSON
//! takes a crate for it; this keeps the others small.

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
    use super::text;

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
