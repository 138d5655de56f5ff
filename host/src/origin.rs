//! Where HTTP requests may go: what a plugin asks for, what an operator grants, and where a request really goes.
//!
//! A [`Pattern`] names origins (RFC 6454: scheme, host and port); a [`Target`] is one. Both have their host as the URL
//! standard writes it, so that `0x7f.1` is `127.0.0.1` before anybody looks.

pub mod address;

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

use reqwest::Url;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::text;

/// What a method may be called; these two are never sent: the one opens a tunnel, the other echoes what the host put
/// on the request.
const NEVER: [&str; 2] = ["CONNECT", "TRACE"];
/// Bytes of a method's name.
const METHOD: usize = 20;

/// Origins: `https://api.example.org`, `https://*.example.org:8443`, `https://*`, `http://127.0.0.1:*`.
///
/// `*.example.org` is every name below `example.org`, and not that one itself. Without a port it is the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    https: bool,
    host: Host,
    /// None is any.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    Any,
    Below(String),
    Is(String),
}

/// `"https://api.example.org"`, or `{ url = "http://nas.lan", methods = ["GET"], private = true }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGrant {
    /// Where requests may go.
    pub url: Pattern,
    /// With which methods; none is every one.
    pub methods: BTreeSet<Method>,
    /// Also where the name leads into a private network, or to this machine.
    pub private: bool,
}

/// The name of a method, such as `GET`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Method(String);

/// Where one request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    url: Url,
    host: String,
    port: u16,
}

impl Target {
    /// Where a request to this URL goes.
    ///
    /// # Errors
    /// It is neither `http` nor `https`, names no host, or has a user in it.
    pub fn of(url: &str) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| error.to_string())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("it is neither http nor https".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it has a user in it".into());
        }
        let host = host(&url).ok_or("it names no host")?;
        let port = url.port_or_known_default().ok_or("it names no port")?;
        Ok(Self { url, host, port })
    }

    /// The whole URL.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Its host, as the URL standard writes it; an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port, said or the scheme's own.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, where the host is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether it is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Whether both are the same place: scheme, host and port (RFC 6454, section 5).
    #[must_use]
    pub fn same_origin(&self, other: &Self) -> bool {
        (self.is_https(), &self.host, self.port) == (other.is_https(), &other.host, other.port)
    }
}

/// The origin, without path and query: what may be shown and recorded.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url.origin().ascii_serialization())
    }
}

/// Without the dot at its end, which names the same host.
fn host(url: &Url) -> Option<String> {
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty() && !host.ends_with('.')).then(|| host.to_owned())
}

impl Pattern {
    /// Whether it names where this goes.
    #[must_use]
    pub fn matches(&self, target: &Target) -> bool {
        self.https == target.is_https()
            && self.port.is_none_or(|port| port == target.port)
            && match &self.host {
                Host::Any => true,
                // An address has no names below it.
                Host::Below(name) => target.address().is_none() && is_below(&target.host, name),
                Host::Is(name) => *name == target.host,
            }
    }

    /// Whether it names everything that the other one does.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.https == other.https
            && (self.port.is_none() || self.port == other.port)
            && match (&self.host, &other.host) {
                (Host::Any, _) => true,
                (Host::Below(ours), Host::Below(theirs)) => ours == theirs || is_below(theirs, ours),
                (Host::Below(ours), Host::Is(theirs)) => {
                    theirs.parse::<IpAddr>().is_err() && is_below(theirs, ours)
                }
                (Host::Is(ours), Host::Is(theirs)) => ours == theirs,
                (Host::Below(_) | Host::Is(_), _) => false,
            }
    }

    /// The one origin that it names, if it is one.
    #[must_use]
    pub fn origin(&self) -> Option<Target> {
        let (Host::Is(_), Some(_)) = (&self.host, self.port) else { return None };
        Target::of(&self.to_string()).ok()
    }

    /// Whether it names this very host, and no others beside it.
    #[must_use]
    pub fn names(&self, host: &str) -> bool {
        matches!(&self.host, Host::Is(name) if name == host)
    }
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| {
            let text = text::beginning(text);
            format!(
                "{text:?} {why}: write an origin such as https://api.example.org or https://*.example.org:8443"
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refuse("has no scheme"))?;
        let https = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(refuse("is neither https nor http")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (rest, any_port) = rest.strip_suffix(":*").map_or((rest, false), |rest| (rest, true));
        let (name, below) = match rest.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (rest, false),
        };
        // An asterisk is read as a host of its own, so that its port is, too.
        let any = name == "*" || name.starts_with("*:");
        let name = if any { format!("any{}", &name[1..]) } else { name.to_owned() };
        let url = Url::parse(&format!("{scheme}://{name}")).map_err(|_| refuse("is not a URL"))?;
        let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !plain || url.username() != "" || url.password().is_some() || name.ends_with(['/', '?', '#', '@'])
        {
            return Err(refuse("has more in it than scheme, host and port"));
        }
        let host = host(&url).ok_or_else(|| refuse("names no host"))?;
        if host.contains('*') || (below && host.parse::<IpAddr>().is_ok()) {
            return Err(refuse("has its * at another place than the first"));
        }
        let host = match (any, below) {
            (true, _) => Host::Any,
            (_, true) => Host::Below(host),
            _ => Host::Is(host),
        };
        let port = if any_port { None } else { url.port_or_known_default() };
        Ok(Self { https, host, port })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.https { "https://" } else { "http://" })?;
        match &self.host {
            Host::Any => f.write_str("*"),
            Host::Below(name) => write!(f, "*.{name}"),
            Host::Is(name) if name.contains(':') => write!(f, "[{name}]"),
            Host::Is(name) => f.write_str(name),
        }?;
        match self.port {
            None => f.write_str(":*"),
            Some(port) if port == if self.https { 443 } else { 80 } => Ok(()),
            Some(port) => write!(f, ":{port}"),
        }
    }
}

impl Method {
    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = (1..=METHOD).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_uppercase());
        if !fits {
            return Err(format!("{:?} is no method such as \"GET\"", text::beginning(text)));
        }
        if NEVER.contains(&text) {
            return Err(format!("{text} is never sent"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl HttpGrant {
    /// Whether it has a request with this method to there.
    #[must_use]
    pub fn matches(&self, target: &Target, method: &str) -> bool {
        self.url.matches(target) && has_method(&self.methods, method)
    }
}

/// Whether a method is among these, or none is said and it is one that is sent.
#[must_use]
pub fn has_method(methods: &BTreeSet<Method>, method: &str) -> bool {
    match Method::from_str(method) {
        Ok(method) => methods.is_empty() || methods.contains(&method),
        Err(_) => false,
    }
}

impl From<Pattern> for HttpGrant {
    fn from(url: Pattern) -> Self {
        Self { url, methods: BTreeSet::new(), private: false }
    }
}

impl FromStr for HttpGrant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<Pattern>().map(Self::from)
    }
}

/// Text in, text out.
macro_rules! as_text {
    ($type:ty) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

as_text!(Pattern);
as_text!(Method);

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for HttpGrant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            url: Pattern,
            #[serde(default)]
            methods: BTreeSet<Method>,
            #[serde(default)]
            private: bool,
        }
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = HttpGrant;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "an origin such as \"https://api.example.org\", or { url = \"…\", methods = [\"GET\"] }",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<HttpGrant, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<HttpGrant, A::Error> {
                let Table { url, methods, private } =
                    Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(HttpGrant { url, methods, private })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, url: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(&Target::of(url).unwrap())
    }

    #[test]
    fn a_pattern_names_scheme_host_and_port() {
        for (pattern, url) in [
            ("https://a.example", "https://a.example/x?y"),
            ("https://a.example", "https://A.EXAMPLE:443/"),
            ("https://a.example", "https://a.example./"),
            ("https://a.example:8443", "https://a.example:8443/"),
            ("https://a.example:*", "https://a.example:1/"),
            ("https://*.a.example", "https://b.a.example"),
            ("https://*.a.example", "https://c.b.a.example"),
            ("https://*", "https://anything.example"),
            ("https://*:8443", "https://anything.example:8443"),
            ("http://127.0.0.1:8080", "http://0x7f.1:8080/"),
            ("http://127.0.0.1:8080", "http://2130706433:8080/"),
            ("http://127.0.0.1", "http://0177.0.0.1/"),
            ("http://[::1]:80", "http://[0:0:0:0:0:0:0:1]/"),
        ] {
            assert!(matches(pattern, url), "{pattern} {url}");
        }
        for (pattern, url) in [
            ("https://a.example", "http://a.example/"),
            ("https://a.example", "https://a.example:444/"),
            ("https://a.example", "https://b.a.example/"),
            ("https://a.example", "https://a.example.evil/"),
            ("https://*.a.example", "https://a.example/"),
            ("https://*.a.example", "https://evila.example/"),
            ("https://*.a.example", "https://xa.example/"),
            ("http://*.0.0.1", "http://127.0.0.1/"),
        ] {
            assert!(
                !pattern.parse::<Pattern>().is_ok_and(|it| it.matches(&Target::of(url).unwrap())),
                "{url}"
            );
        }
        for url in [
            "https://good.example@evil.example/",
            "https://:p@evil.example/",
            "ftp://a.example",
            "a",
            "https://",
        ] {
            assert!(Target::of(url).is_err(), "{url}");
        }
        // What is read is what is sent to: no second reading of a backslash or a white space.
        assert_eq!(Target::of("https://good.example\\@evil.example/").unwrap().host(), "good.example");
    }

    #[test]
    fn a_pattern_is_written_as_it_is_read() {
        for text in [
            "https://a.example",
            "https://*.a.example:8443",
            "http://*",
            "https://*:*",
            "http://[::1]:8080",
            "http://127.0.0.1:*",
        ] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        for (text, why) in [
            ("a.example", "has no scheme"),
            ("ftp://a.example", "is neither https nor http"),
            ("https://a.example/path", "has more in it"),
            ("https://u@a.example", "has more in it"),
            ("https://a.example?", "has more in it"),
            ("https://a.*.example", "has its * at another place"),
            ("https://*a.example", "has its * at another place"),
            ("https://..", "names no host"),
            ("https://a.example..", "names no host"),
            ("https://", "is not a URL"),
        ] {
            let error = text.parse::<Pattern>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn one_pattern_covers_another() {
        let covers = |one: &str, other: &str| {
            one.parse::<Pattern>().unwrap().covers(&other.parse::<Pattern>().unwrap())
        };
        assert!(covers("https://*", "https://*.a.example"));
        assert!(covers("https://*.example", "https://*.a.example"));
        assert!(covers("https://*.a.example", "https://b.a.example"));
        assert!(covers("https://a.example:*", "https://a.example"));
        assert!(!covers("https://*.a.example", "https://a.example"));
        assert!(!covers("https://b.a.example", "https://*.a.example"));
        assert!(!covers("https://*", "https://*:*"));
        assert!(!covers("https://*", "http://a.example"));
    }

    #[test]
    fn a_grant_is_a_text_or_a_table() {
        #[derive(Deserialize)]
        struct Grants {
            http: Vec<HttpGrant>,
        }
        let read = |text: &str| toml::from_str::<Grants>(text).map_err(|error| error.message().to_owned());
        let grants = read(
            "http = [\"https://a.example\", { url = \"http://nas.lan\", methods = [\"GET\"], private = true }]",
        );
        let [first, second] = &grants.unwrap().http[..] else { panic!() };
        let to = |url: &str| Target::of(url).unwrap();
        assert!(first.matches(&to("https://a.example"), "POST") && !first.private);
        assert!(second.matches(&to("http://nas.lan"), "GET") && second.private);
        assert!(!second.matches(&to("http://nas.lan"), "POST"));
        for method in ["CONNECT", "TRACE", "get", ""] {
            assert!(!first.matches(&to("https://a.example"), method), "{method}");
        }
        for (text, why) in [
            ("http = [1]", "expected an origin such as"),
            ("http = [\"a.example\"]", "has no scheme"),
            ("http = [{ url = \"https://a\", methods = [\"TRACE\"] }]", "TRACE is never sent"),
            ("http = [{ uri = \"https://a\" }]", "unknown field `uri`"),
        ] {
            let Err(error) = read(text) else { panic!("{text}") };
            assert!(error.contains(why), "{error}");
        }
    }
}
