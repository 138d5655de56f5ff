//! A mistake in a TOML text: where it is, and what was probably meant.

/// `NAME:LINE:COLUMN` of an error, and its reason in one line.
pub fn of(name: &str, text: &str, error: &toml::de::Error) -> (String, String) {
    let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or(text));
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (format!("{name}:{line}:{column}"), reason(error.message()))
}

/// serde's "unknown field `x`, expected one of …", with the nearest one in place of the list.
pub fn reason(message: &str) -> String {
    let message = message.lines().collect::<Vec<_>>().join(" ");
    // serde's words for what TOML calls otherwise.
    let (wrong, expected) = message.split_once(", expected ").unwrap_or((&message, ""));
    let expected = match expected {
        "a sequence" => "a list such as [\"…\"]",
        "a map" => "a table",
        _ if expected.starts_with("struct ") => "a table with a name of its own, such as [agents.helper]",
        _ => "",
    };
    if !expected.is_empty() {
        return format!("{wrong}, expected {expected}");
    }
    let Some(rest) = message.strip_prefix("unknown field `") else { return message };
    let mut names = rest.split('`').step_by(2);
    let Some(unknown) = names.next() else { return message };
    let known: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(unknown, name), name))
        .min()
        .filter(|(distance, name)| *distance <= name.len().div_ceil(2));
    match nearest {
        Some((_, name)) => format!("unknown setting `{unknown}`; did you mean `{name}`?"),
        None => format!("unknown setting `{unknown}`; known here: {}", known.join(", ")),
    }
}
