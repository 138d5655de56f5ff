//! Secrets that the host puts on requests: to which origin, in which header. A plugin learns only that one is there.

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
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
        let scrub = Scrub::of(&forms(&secret, &value).map_err(place)?);
        Ok(Self { name: name.into(), audience, header, value, scrub })
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

/// What a server may write in the place of a secret: itself, and where it is somebody's name and password, these as the
/// server decodes them (RFC 7617), together and each by itself.
///
/// # Errors
/// One line, without the secret: its password is too short to be found.
fn forms(secret: &str, header: &HeaderValue) -> Result<Vec<Vec<u8>>, String> {
    let mut forms = vec![secret.as_bytes().to_vec()];
    let text = header.to_str().unwrap_or_default();
    let credentials = match text.split_once(' ') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("basic") => Some(rest.trim()),
        _ => None,
    };
    let plain = |text: &Vec<u8>| text.iter().all(|byte| *byte == b' ' || byte.is_ascii_graphic());
    let decoded = match credentials {
        Some(credentials) => decoded(credentials),
        // Whoever writes it elsewhere in the same way.
        None => decoded(secret).filter(plain),
    };
    let Some(decoded) = decoded else { return Ok(forms) };
    let Some(colon) = decoded.iter().position(|byte| *byte == b':') else { return Ok(forms) };
    let (user, password) = (decoded[..colon].to_vec(), decoded[colon + 1..].to_vec());
    // Many servers take a key for the name, and want nothing, or some letter, for the password.
    if credentials.is_some() && password.len() < SHORTEST && (password.len() > 2 || user.len() < SHORTEST) {
        return Err(format!("its password has at least {SHORTEST} bytes"));
    }
    forms.extend([user, password].into_iter().filter(|part| part.len() >= SHORTEST));
    forms.push(decoded);
    Ok(forms)
}

/// Base64 of either alphabet, padded or not.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engines = [STANDARD, URL_SAFE].map(|alphabet| GeneralPurpose::new(&alphabet, config));
    engines.iter().find_map(|engine| engine.decode(text).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_decodes_of_credentials_is_looked_for() {
        let forms = |template, secret: &str| {
            let (_, value) = header(template, secret).unwrap();
            let forms = forms(secret, &value)?.into_iter().map(|form| String::from_utf8(form).unwrap());
            Ok::<Vec<String>, String>(forms.collect())
        };
        let basic = "Authorization: Basic {}";
        // "somebody:opensesame", with and without what fills it up.
        for secret in ["c29tZWJvZHk6b3BlbnNlc2FtZQ==", "c29tZWJvZHk6b3BlbnNlc2FtZQ"] {
            for template in [basic, "Authorization: basic {}", "X-Auth: {}"] {
                let expected = [secret, "somebody", "opensesame", "somebody:opensesame"];
                assert_eq!(forms(template, secret).unwrap(), expected, "{template}");
            }
        }
        // "longest-of-keys:" and "longest-of-keys:x"
        let expected = ["bG9uZ2VzdC1vZi1rZXlzOg==", "longest-of-keys", "longest-of-keys:"];
        assert_eq!(forms(basic, expected[0]).unwrap(), expected);
        assert!(forms(basic, "bG9uZ2VzdC1vZi1rZXlzOng=").is_ok());
        // "somebody:short" stands everywhere by chance, half of it.
        let error = forms(basic, "c29tZWJvZHk6c2hvcnQ=").unwrap_err();
        assert!(error.contains("password") && !error.contains("short"), "{error}");
        for (template, secret) in [("Authorization: Bearer {}", "abcdefgh"), (basic, "no base64 at all")] {
            assert_eq!(forms(template, secret).unwrap(), [secret]);
        }
    }

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
