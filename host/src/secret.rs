//! Secrets that the host puts on requests: to which origin, in which header. A plugin learns only that one is there.

use http::{HeaderName, HeaderValue, header};

use crate::{
    grant::Permissions,
    origin::Target,
    scrub::{SHORTEST, Scrub},
    settings,
};

/// Headers that say how a message is sent, and to whom: no secret's.
const NOT_THESE: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Methods that requests usually have.
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"];

/// A secret and where it goes.
pub(crate) struct Bound {
    /// What the plugin calls it.
    pub name: String,
    /// The one origin to which it goes.
    pub audience: Target,
    /// The header that carries it.
    pub header: HeaderName,
    /// What that header says.
    pub value: HeaderValue,
    /// Finds it in what comes back.
    pub scrub: Scrub,
}

impl Bound {
    fn new(name: &str, said: &settings::Secret) -> Result<Self, String> {
        let place = |reason: String| format!("secrets.{name}: {reason}");
        let secret = said.value.reveal().map_err(place)?;
        if secret.len() < SHORTEST {
            return Err(place(format!("it has at least {SHORTEST} bytes")));
        }
        if !secret.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(place("it has characters other than those of ASCII that can be seen".into()));
        }
        let audience = said.audience.origin().ok_or_else(|| place("its audience is one origin".into()))?;
        let (header, value) = header(&said.header, &secret).map_err(place)?;
        Ok(Self { name: name.into(), audience, header, value, scrub: Scrub::new(secret.as_bytes()) })
    }
}

/// The secrets of one plugin.
#[derive(Default)]
pub struct Secrets(Vec<Bound>);

impl Secrets {
    /// Those that it asks for and that are bound.
    ///
    /// # Errors
    /// One line: one cannot be had, or used. It never has the secret in it.
    pub(crate) fn bind(permissions: &Permissions, settings: &settings::Plugin) -> Result<Self, String> {
        let asked = settings.secrets.iter().filter(|(name, _)| permissions.has_secret(name));
        asked.map(|(name, said)| Bound::new(name, said)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether one of this name is bound.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|bound| bound.name == name)
    }

    /// Those that go to where a request goes.
    pub(crate) fn to<'a>(&'a self, target: &'a Target) -> impl Iterator<Item = &'a Bound> {
        self.0.iter().filter(|bound| bound.audience.same_origin(target))
    }
}

/// Whether a secret that a plugin asks for would arrive, as far as that can be told without sending anything: what the
/// host would put on a request, without the secret itself.
///
/// # Errors
/// Why it would not, in one line.
pub fn arrival(
    name: &str,
    permissions: &Permissions,
    settings: &settings::Plugin,
    homeservers: &[Target],
) -> Result<String, String> {
    let said = settings.secrets.get(name).ok_or("nobody has bound it")?;
    let Bound { audience, header, .. } = Bound::new(name, said)?;
    // On a request that is only spared no secret is put.
    let denied =
        |method| permissions.http(&audience, method, homeservers).map_or_else(Some, |(_, spared)| spared);
    let denied = METHODS.map(denied);
    if let [Some(first), ..] = denied
        && denied.iter().all(Option::is_some)
    {
        return Err(format!("no request goes to {audience}: {first}"));
    }
    let template = said.header.split_once(':').map_or("", |(_, value)| value.trim());
    Ok(format!("{audience} gets {header}: {}", template.replace("{}", "…")))
}

/// The header of a template such as `Authorization: Bearer {}`.
///
/// # Errors
/// One line, without the secret.
pub fn header(template: &str, secret: &str) -> Result<(HeaderName, HeaderValue), String> {
    let expected = "write a header such as \"Authorization: Bearer {}\"";
    let (name, value) = template.split_once(':').ok_or(expected)?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| expected)?;
    if NOT_THESE.contains(&name) {
        return Err(format!("the header {name} is the host's own"));
    }
    let (before, after) = value.trim().split_once("{}").ok_or(expected)?;
    if after.contains("{}") {
        return Err(expected.into());
    }
    let value = HeaderValue::try_from(format!("{before}{secret}{after}"));
    let mut value = value.map_err(|_| "the secret has a character that no header can carry")?;
    value.set_sensitive(true);
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_made_of_its_template() {
        let (name, value) = header("X-Api-Key: {}", "hidden123").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-api-key", "hidden123"));
        assert!(!format!("{value:?}").contains("hidden"));
        for (template, secret, why) in [
            ("Authorization", "x", "write a header"),
            ("Authorization: Bearer", "x", "write a header"),
            ("Authorization: {} {}", "x", "write a header"),
            ("Host: {}", "x", "the host's own"),
            ("Authorization: {}", "hidden\r\nX-Evil: 1", "a character that no header can carry"),
        ] {
            let error = header(template, secret).unwrap_err();
            assert!(error.contains(why) && !error.contains("hidden"), "{error}");
        }
    }
}
