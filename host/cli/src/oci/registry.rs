//! One repository of a registry, by HTTP (the OCI distribution specification 1.1).
//!
//! It is spoken to by https, and by http only where it is this machine. What it sends is read up to what was expected
//! and one byte more.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
    redirect,
};
use serde::Deserialize;

use super::{Digest, Reference, credentials, manifest};

/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// How long one answer may take: 64 MiB on a slow line.
const ANSWER: Duration = Duration::from_secs(600);
/// Storage is often elsewhere, one or two steps away.
const REDIRECTS: usize = 5;
/// Bytes of a token, and of what a registry says when it refuses.
const WORDS: usize = 64 * 1024;

/// One repository.
pub struct Registry {
    client: Client,
    /// `https://REGISTRY/v2/REPOSITORY/`
    base: Url,
    local: bool,
    /// What `docker login` wrote down.
    basic: Option<String>,
    /// What is said as `Authorization`, once it was asked for.
    authorization: Option<HeaderValue>,
}

/// What a token server answers.
#[derive(Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: String,
}

impl Registry {
    pub fn new(reference: &Reference) -> Result<Self> {
        let Reference { registry, repository, .. } = reference;
        let mut base = Url::parse(&format!("https://{registry}/v2/{repository}/"))
            .with_context(|| format!("{registry:?} is no registry's host"))?;
        let local = is_local(&base);
        if local {
            base = Url::parse(&format!("http://{registry}/v2/{repository}/"))?;
        }
        let steps = redirect::Policy::custom(move |step| {
            if step.previous().len() > REDIRECTS {
                step.error("it is redirected again and again")
            } else if is_safe(step.url(), local) {
                step.follow()
            } else {
                step.error("it is redirected to plain http")
            }
        });
        let client = Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE).timeout(ANSWER);
        let client = client.redirect(steps);
        // What is on this machine is not reached by another one.
        let client = if local { client.no_proxy() } else { client };
        let client = client.build().context("there is no HTTP client")?;
        Ok(Self { client, base, local, basic: credentials::of(registry), authorization: None })
    }

    /// The manifest of a tag or a digest, as the registry has it.
    pub async fn manifest(&mut self, of: &str, limit: usize) -> Result<Vec<u8>> {
        let url = self.base.join(&format!("manifests/{of}"))?;
        let accept = (header::ACCEPT, HeaderValue::from_static(manifest::MANIFEST));
        let response = self.send(Method::GET, url, HeaderMap::from_iter([accept]), vec![]).await?;
        read(ok(response).await?, limit).await
    }

    /// A blob of that size, or what the registry sends in its place: one byte more at the most.
    pub async fn blob(&mut self, digest: &Digest, size: usize) -> Result<Vec<u8>> {
        let url = self.base.join(&format!("blobs/{digest}"))?;
        let response = self.send(Method::GET, url, HeaderMap::new(), vec![]).await?;
        read(ok(response).await?, size).await
    }

    /// Puts a blob there, unless it is.
    pub async fn put_blob(&mut self, bytes: Vec<u8>) -> Result<()> {
        let digest = Digest::of(&bytes);
        let there = self.base.join(&format!("blobs/{digest}"))?;
        if self.send(Method::HEAD, there, HeaderMap::new(), vec![]).await?.status().is_success() {
            return Ok(());
        }
        let begin = self.base.join("blobs/uploads/")?;
        let begun = ok(self.send(Method::POST, begin, HeaderMap::new(), vec![]).await?).await?;
        let location = begun.headers().get(header::LOCATION).and_then(|place| place.to_str().ok());
        let mut place = begun.url().join(location.context("the registry names no place for an upload")?)?;
        ensure!(is_safe(&place, self.local), "the registry wants the upload by plain http");
        place.query_pairs_mut().append_pair("digest", &digest.to_string());
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        ok(self.send(Method::PUT, place, HeaderMap::from_iter([kind]), bytes).await?).await.map(drop)
    }

    /// Puts a manifest there, under a tag or its digest.
    pub async fn put_manifest(&mut self, of: &str, bytes: Vec<u8>) -> Result<()> {
        let url = self.base.join(&format!("manifests/{of}"))?;
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static(manifest::MANIFEST));
        ok(self.send(Method::PUT, url, HeaderMap::from_iter([kind]), bytes).await?).await.map(drop)
    }

    /// Asks, and asks again with a token where one is wanted.
    async fn send(
        &mut self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<Response> {
        let ours = url.origin() == self.base.origin();
        let mut again = true;
        loop {
            let mut request = self.client.request(method.clone(), url.clone()).headers(headers.clone());
            if !body.is_empty() || method == Method::POST {
                request = request.body(body.clone());
            }
            if let Some(authorization) = self.authorization.clone().filter(|_| ours) {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let response = request.send().await.map_err(|error| unreachable(&error))?;
            if response.status() != StatusCode::UNAUTHORIZED || !ours || !again {
                return Ok(response);
            }
            again = false;
            let challenge = response.headers().get(header::WWW_AUTHENTICATE);
            let challenge = challenge.and_then(|text| text.to_str().ok()).unwrap_or_default().to_owned();
            self.authorization = Some(self.authorize(&challenge).await?);
        }
    }

    /// What a registry's `WWW-Authenticate` wants to hear.
    async fn authorize(&self, challenge: &str) -> Result<HeaderValue> {
        let basic = |basic: &String| secret(format!("Basic {basic}"));
        let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            let known =
                self.basic.as_ref().context("the registry wants to know who asks: `docker login` there")?;
            return basic(known);
        }
        ensure!(
            scheme.eq_ignore_ascii_case("bearer"),
            "the registry refuses, and does not say what it wants"
        );
        let parameter = |name: &str| parameters(rest).find(|(key, _)| *key == name).map(|(_, value)| value);
        let realm = parameter("realm").context("the registry wants a token, and does not say from where")?;
        let mut realm = Url::parse(realm).context("the registry wants a token from nowhere")?;
        ensure!(is_safe(&realm, self.local), "the registry wants a token by plain http");
        for name in ["service", "scope"] {
            if let Some(value) = parameter(name) {
                realm.query_pairs_mut().append_pair(name, value);
            }
        }
        let mut request = self.client.get(realm);
        if let Some(known) = &self.basic {
            request = request.header(header::AUTHORIZATION, basic(known)?);
        }
        let response = request.send().await.map_err(|error| unreachable(&error))?;
        let token = read(ok(response).await.context("no token")?, WORDS).await?;
        let token: Token = serde_json::from_slice(&token).ok().context("the registry's token is none")?;
        secret(format!("Bearer {}", token.token))
    }
}

/// A header that is in no log.
fn secret(text: String) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok().context("the registry's token is none")?;
    value.set_sensitive(true);
    Ok(value)
}

/// `realm="https://…",service="…"`: names with their values.
fn parameters(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = after.split_once('"')?;
        rest = after;
        Some((name.trim_matches([',', ' ']), value))
    })
}

/// Whether it is by https, or does not leave this machine, where the registry is on it.
fn is_safe(url: &Url, local: bool) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && local && is_local(url))
}

fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// An answer that is none of refusal; what a registry says to explain one is said in a line.
async fn ok(response: Response) -> Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let said = read(response, WORDS).await.unwrap_or_default();
    let said: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
    let said = said["errors"][0]["message"].as_str().unwrap_or_default();
    let said = parlour::text::escaped(said, 200);
    match (status, said.as_str()) {
        (StatusCode::NOT_FOUND, _) => bail!("the registry does not have it"),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            bail!("the registry does not let us ({status}); `docker login` there, if it may")
        }
        (_, "") => bail!("the registry answered {status}"),
        (_, said) => bail!("the registry answered {status}: {said}"),
    }
}

/// No more than one byte over `limit`, which is enough to see that it is too much.
async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| unreachable(&error))? {
        let room = limit.saturating_add(1) - bytes.len();
        bytes.extend_from_slice(piece.get(..room).unwrap_or(&piece));
        if bytes.len() > limit {
            break;
        }
    }
    Ok(bytes)
}

/// Why nothing came, without the address, which may hold a token of the storage behind a registry.
fn unreachable(error: &reqwest::Error) -> anyhow::Error {
    let mut reason = "the registry cannot be reached".to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        reason = format!("the registry cannot be reached: {error}");
        source = error.source();
    }
    anyhow::Error::msg(parlour::text::escaped(&reason, 400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_in_clear() {
        let base = |registry: &str| {
            let reference = format!("oci://{registry}/me/weather:1").parse().expect("a reference");
            Registry::new(&reference).map(|registry| registry.base.to_string()).expect("a registry")
        };
        assert_eq!(base("127.0.0.1:5000"), "http://127.0.0.1:5000/v2/me/weather/");
        assert_eq!(base("localhost:5000"), "http://localhost:5000/v2/me/weather/");
        assert_eq!(base("[::1]:5000"), "http://[::1]:5000/v2/me/weather/");
        for elsewhere in ["ghcr.io", "localhost.example.org", "10.0.0.1:5000"] {
            assert_eq!(base(elsewhere), format!("https://{elsewhere}/v2/me/weather/"));
        }
        let safe = |url: &str, local| is_safe(&Url::parse(url).expect("a URL"), local);
        assert!(safe("https://cdn.example.org/x", false) && safe("http://localhost/x", true));
        assert!(!safe("http://localhost/x", false), "a registry elsewhere does not send us to this machine");
        assert!(!safe("http://cdn.example.org/x", true) && !safe("file:///etc/passwd", true));
    }

    #[test]
    fn a_challenge_is_read() {
        let read: Vec<_> = parameters("realm=\"https://a/b?c=d\", service=\"x,y\",scope=\"\"").collect();
        assert_eq!(read, [("realm", "https://a/b?c=d"), ("service", "x,y"), ("scope", "")]);
        assert_eq!(parameters("realm=\"https://").count(), 0);
    }
}
