//! What eats strangers' bytes, tried with arbitrary ones: a function for each, which panics where something else comes of
//! them than was promised. `cargo test` runs each over real examples and changes to them that are the same every time
//! ([`tests`]), cargo-fuzz for as long as somebody likes (`tests/fuzz`). Built for these two only.

#![expect(clippy::missing_panics_doc, reason = "panics are what they are for")]

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::{
    addressing,
    command::{Command, Parameter},
    engine::admission::{self, Candidate, Refused},
    event::{Class, Message},
    id::{EventId, PluginName, RoomId, UserId},
    lock::{Lock, Locked},
    manifest::{Asks, Manifest},
    origin::{HttpGrant, Method, Pattern, Target},
    package, render,
    scrub::{MASK, SHORTEST, Scrub, Scrubbing},
    settings::{self, Role},
    signature::{Key, Publisher, sign},
    text::{escaped, hidden, unseen},
};

/// Bytes of an error's line, whatever caused it.
const LINE: usize = 2200;

/// An error is a line that can be shown: whatever a stranger put into it, it steers nothing and fills no screen.
#[track_caller]
fn line(error: &str) {
    assert!(!error.is_empty() && error.len() <= LINE, "an error of {} bytes", error.len());
    assert!(!error.contains(hidden), "{error:?}");
}

/// Two halves: what stands before the first of these bytes, and what follows it.
fn halves(data: &[u8], at: u8) -> (&[u8], &[u8]) {
    let middle = data.iter().position(|byte| *byte == at).unwrap_or(data.len());
    (&data[..middle], data.get(middle + 1..).unwrap_or_default())
}

/// `plugin.toml`, as it stands in a component.
pub fn manifest(data: &[u8]) {
    let read = package::read(data);
    assert_eq!(read, package::read(data));
    let manifest = match read {
        Ok(manifest) => manifest,
        Err(reason) => return line(&reason),
    };
    assert!(data.len() <= package::LARGEST);
    let Manifest { description, license, homepage, .. } = &manifest;
    for said in [Some(description), license.as_ref(), homepage.as_ref()].into_iter().flatten() {
        assert!(!said.contains(unseen), "{said:?}");
    }
    for (permission, reason) in manifest.asks.iter() {
        assert!(!reason.contains(unseen), "{permission}: {reason:?}");
    }
    // What is agreed to is written down and found again.
    let written = toml::to_string(&manifest.asks).expect("asks can be written");
    assert_eq!(toml::from_str::<Asks>(&written).expect("and read"), manifest.asks);
    // Its schema takes settings or refuses them.
    if let Err(reason) = crate::config::resolve(Some(&manifest), &settings::Plugin::default()) {
        line(&escaped(&reason, LINE));
    }
}

/// `parlour.toml`, and after a zero byte what the environment says: `KEY=VALUE` in each line.
pub fn settings(data: &[u8]) {
    let (text, environment) = halves(data, 0);
    let (text, environment) = (String::from_utf8_lossy(text), String::from_utf8_lossy(environment));
    let pairs = || environment.lines().filter_map(|line| line.split_once('='));
    let env = || pairs().map(|(key, value)| (key.to_owned(), value.to_owned()));
    let parse = || settings::parse("parlour.toml", &text, env()).map_err(|error| error.to_string());
    match (parse(), parse()) {
        (Err(reason), again) => {
            line(&reason);
            assert_eq!(again.map(drop), Err(reason));
        }
        (Ok(settings), again) => {
            assert_eq!(format!("{settings:?}"), format!("{:?}", again.expect("it was taken before")));
            for doubt in settings.doubts() {
                line(&doubt);
            }
            // Nobody whom it does not name may talk.
            let nobody = UserId::parse("@nobody-at-all:nowhere.invalid").expect("an id");
            assert!(text.contains("nobody-at-all") || settings.access.role(&nobody).is_none());
        }
    }
}

/// A component, as far as it is read before it is compiled.
pub fn admission(data: &[u8]) {
    const LIMIT: usize = 1024 * 1024;
    let read = || Candidate::read(Bytes::copy_from_slice(data), LIMIT);
    let refused = |refused: &Refused| {
        line(&refused.to_string());
        assert!(!refused.may_change(), "bytes are what they are");
    };
    let candidate = match (read(), read()) {
        (Ok(candidate), Ok(_)) => candidate,
        (Err(reason), Err(again)) => {
            assert_eq!(reason, again);
            refused(&reason);
            if let Ok(surface) = admission::surface(data) {
                assert!(data.len() > LIMIT || surface.admit() == Err(reason));
            }
            return;
        }
        (_, again) => panic!("judged in two ways: {:?}", again.map(drop)),
    };
    let surface = &candidate.surface;
    for name in surface.imports.iter().chain(&surface.exports) {
        assert!(name.len() <= 203 && !name.contains(hidden), "{name:?}");
    }
    refused(&Refused::Imports(surface.strangers().cloned().collect()));
    let offered = candidate.offered();
    assert!(!offered.handles.is_empty() && offered.digest.len() == 64);
    let lock = Lock { plugins: [(PluginName::parse("it").expect("a name"), offered)].into() };
    let written = toml::to_string(&lock).expect("a lock can be written");
    assert_eq!(toml::from_str::<Lock>(&written).expect("and read"), lock);
    let agreed: &Locked = lock.plugins.values().next().expect("it is there");
    assert_eq!(agreed.beyond(agreed), vec![]);

    if surface.publisher.is_some() {
        return;
    }
    // Signed it is the same, by somebody, and no byte of it changes unnoticed.
    let key = Key::new(&[7; 32]);
    let signed = sign(data.to_vec(), &key);
    let of_signed = admission::surface(&signed).expect("a signature changes nothing else");
    assert_eq!(of_signed.publisher, Some(key.publisher()));
    assert_eq!((&of_signed.imports, &of_signed.manifest), (&surface.imports, &surface.manifest));
    let at = data.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31) + usize::from(*byte)) % signed.len();
    let mut changed = signed;
    changed[at] ^= 1;
    if let Ok(surface) = admission::surface(&changed) {
        assert_ne!(surface.publisher, Some(key.publisher()), "byte {at} was changed");
    }
}

/// Where a request may go: an origin as it is asked for or granted, and in the next lines URLs.
pub fn origin(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines();
    let pattern = lines.next().unwrap_or_default().parse::<Pattern>();
    match &pattern {
        Err(reason) => line(reason),
        Ok(pattern) => {
            let written = pattern.to_string();
            assert_eq!(written.parse().as_ref(), Ok(pattern), "{written}");
            assert_eq!(written.parse::<HttpGrant>(), Ok(HttpGrant::from(pattern.clone())));
            assert!(pattern.covers(pattern), "{written}");
            if let Some(origin) = pattern.origin() {
                assert!(pattern.matches(&origin) && pattern.names(origin.host()), "{written}");
            }
        }
    }
    for url in lines {
        let target = match Target::of(url) {
            Ok(target) => target,
            Err(reason) => {
                line(&reason);
                continue;
            }
        };
        let again = Target::of(target.url().as_str()).expect("a URL is read as it is written");
        assert_eq!(again, target);
        assert!(again.same_origin(&target) && !target.host().is_empty());
        // What is shown of it is an origin, and its own.
        let shown = target.to_string();
        assert!(!shown.contains(hidden) && !shown.contains('@'), "{shown:?}");
        let own = shown.parse::<Pattern>();
        if let Ok(own) = &own {
            assert!(own.matches(&target), "{shown}");
        }
        if let (Ok(pattern), Ok(own)) = (&pattern, &own)
            && pattern.covers(own)
        {
            assert!(pattern.matches(&target), "{pattern} covers {own}");
        }
    }
}

/// What people type: the first line says what the agent is called, the rest is the message.
pub fn typed(data: &[u8]) {
    let (called, text) = halves(data, b'\n');
    let (called, text) = (String::from_utf8_lossy(called), String::from_utf8_lossy(text).into_owned());
    let own = UserId::parse("@bot:good.org").expect("an id");
    for mentioned in [false, true] {
        let mentions = if mentioned { vec![own.clone()] } else { vec![] };
        let message = Message {
            class: Class::Text,
            text: text.clone(),
            html: None,
            thread: None,
            reply_to: None,
            mentions,
            attachments: vec![],
        };
        let addressed = addressing::read(&message, &own, Some(&called));
        assert_eq!(addressed, addressing::read(&message, &own, Some(&called)));
        assert!(addressed.mentioned || !mentioned);
        assert!(text.contains(&addressed.text) && addressed.text.trim() == addressed.text);
        let Some(typed) = addressed.command else { continue };
        assert!(PluginName::parse(&typed.name).is_ok() && typed.name.len() <= 32, "{:?}", typed.name);
        assert!(typed.sigil.is_some() || addressed.mentioned, "prose is no command");
        // Typed in the plainest way it is the same.
        let again = Message { text: format!("/{} {}", typed.name, typed.rest), mentions: vec![], ..message };
        let again = addressing::read(&again, &own, None).command.map(|it| (it.name, it.rest));
        if !addressing::read(&message_of(&typed.rest), &own, None).mentioned {
            assert_eq!(again, Some((typed.name, typed.rest.clone())));
        }
        for command in commands() {
            match command.arguments(&typed.rest) {
                Err(reason) => line(&reason),
                Ok(arguments) => {
                    assert!(arguments.len() <= command.parameters.len());
                    for argument in arguments {
                        serde_json::from_str::<serde_json::Value>(&argument.value).expect("a JSON value");
                    }
                }
            }
        }
    }
}

fn message_of(text: &str) -> Message {
    Message {
        class: Class::Text,
        text: text.into(),
        html: None,
        thread: None,
        reply_to: None,
        mentions: vec![],
        attachments: vec![],
    }
}

/// Commands with a parameter of each kind.
fn commands() -> Vec<Command> {
    let parameter = |name: &str, schema: &str, required| {
        Parameter::new(name.into(), String::new(), schema.into(), required).expect("a parameter")
    };
    let command =
        |parameters| Command::new("remind".into(), String::new(), parameters, Role::User).expect("a command");
    vec![
        command(vec![parameter("text", r#"{"type":"string","pattern":"^[a-z ]*$"}"#, true)]),
        command(vec![
            parameter("minutes", r#"{"type":"integer","minimum":1}"#, true),
            parameter("who", r#"{"type":"string","format":"matrix-user-id"}"#, true),
            parameter("rest", r#"{"enum":[1,"two",[3]]}"#, false),
        ]),
        command(vec![]),
    ]
}

/// What a parameter of a command says of itself: its name, and after a line's end its schema.
pub fn schema(data: &[u8]) {
    let (name, schema) = halves(data, b'\n');
    let [name, schema] = [name, schema].map(|part| String::from_utf8_lossy(part).into_owned());
    match Parameter::new(name, String::new(), schema, true) {
        Err(reason) => line(&reason),
        Ok(parameter) => {
            let command = Command::new("it".into(), String::new(), vec![parameter], Role::User);
            let command = command.expect("a parameter fits a command");
            for typed in ["", "7", "x", "@a:b", "[1]", "{\"a\":null}", &"y".repeat(5000)] {
                if let Err(reason) = command.arguments(typed) {
                    line(&reason);
                }
            }
        }
    }
}

/// A message in CommonMark, and the same as somebody else's HTML.
pub fn render(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let rendered = render::markdown(&text);
    assert_eq!(rendered.body, text);
    for html in [rendered.html, render::sanitize(&text)].into_iter().flatten() {
        harmless(&html);
        // What is clean stays as it is.
        if let Some(again) = render::sanitize(&html) {
            harmless(&again);
        }
    }
    let links = render::links(&text);
    assert!(links.iter().map(String::len).sum::<usize>() <= text.len() * 2);
}

/// Whether HTML has nothing in it but the tags and attributes of the specification, and no address that is a program.
fn harmless(html: &str) {
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let end = rest.find('>').unwrap_or_else(|| panic!("a tag without an end: {html}"));
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        let closing = tag.strip_prefix('/');
        let (name, mut attributes) =
            closing.unwrap_or(tag).split_once(' ').unwrap_or((closing.unwrap_or(tag), ""));
        assert!(render::TAGS.contains(&name), "<{tag}> in {html}");
        let known = render::ATTRIBUTES.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, names)| names);
        while !attributes.is_empty() {
            let (attribute, value) = attributes.split_once("=\"").expect("an attribute has a value");
            let (value, more) = value.split_once('"').expect("which ends");
            attributes = more.trim_start();
            assert!(closing.is_none() && known.contains(&attribute), "{attribute} in <{tag}> in {html}");
            let leads = ["http:", "https:", "mailto:", "matrix:"].iter().any(|scheme| {
                value.trim_start().get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme))
            });
            assert!(attribute != "href" || leads, "{value} in {html}");
            assert!(attribute != "src" || value.starts_with("mxc://"), "{value} in {html}");
        }
    }
}

/// Text of others in a line; the first byte says how long it may be.
pub fn shown(data: &[u8]) {
    let (limit, text) = data.split_first().unwrap_or((&0, &[]));
    let (limit, text) = (usize::from(*limit), String::from_utf8_lossy(text));
    let shown = escaped(&text, limit);
    assert!(!shown.contains(hidden), "{shown:?}");
    assert!(shown.len() <= limit + '…'.len_utf8(), "{} bytes of {limit}", shown.len());
    let plain = !text.contains(hidden) && text.len() <= limit;
    assert!(!plain || shown == text, "{text:?}: {shown:?}");
    assert_eq!(escaped(&shown, limit + '…'.len_utf8()), shown);
}

/// Names, where they come in: each is taken as it is written, or refused in a line.
pub fn names(data: &[u8]) {
    fn taken<T: std::str::FromStr + ToString>(text: &str)
    where
        T::Err: ToString,
    {
        match text.parse::<T>() {
            Ok(it) => assert_eq!(it.to_string(), text),
            Err(reason) => line(&reason.to_string()),
        }
    }
    let text = String::from_utf8_lossy(data);
    for name in text.lines() {
        taken::<UserId>(name);
        taken::<RoomId>(name);
        taken::<EventId>(name);
        taken::<PluginName>(name);
        taken::<Publisher>(name);
        match name.parse::<Method>() {
            Ok(method) => assert_eq!(method.as_str(), name),
            Err(reason) => line(&reason),
        }
    }
    match Key::parse(&text) {
        Ok(key) => assert_eq!(Key::parse(&key.file()).map(|key| key.publisher()), Ok(key.publisher())),
        Err(reason) => line(reason),
    }
}

/// A secret, and after a zero byte what comes back; the bytes of the secret say where it is cut.
pub fn scrub(data: &[u8]) {
    let (secret, text) = halves(data, 0);
    // What is shorter is refused, and longer ones are no passwords.
    if !(SHORTEST..=200).contains(&secret.len()) {
        return;
    }
    let scrub = Scrub::of(&[secret.to_vec()]);
    let whole = scrub.text(text);
    let clean = whole.as_deref().unwrap_or(text);
    let mut scrubbing = Scrubbing::new(vec![scrub]);
    let mut cuts: BTreeSet<usize> = secret.iter().map(|byte| usize::from(*byte) % (text.len() + 1)).collect();
    cuts.extend([0, text.len()]);
    let cuts: Vec<usize> = cuts.into_iter().collect();
    let mut pieces: Vec<u8> = cuts.windows(2).flat_map(|cut| scrubbing.next(&text[cut[0]..cut[1]])).collect();
    pieces.extend(scrubbing.end());
    // How many of the backslashes before or behind it belong to one of its own, nobody can tell.
    if !secret.contains(&b'\\') {
        assert_eq!(String::from_utf8_lossy(&pieces), String::from_utf8_lossy(clean));
    }
    for clean in [clean, &pieces] {
        // The mask may be the very part of it that was missing.
        if !secret.iter().any(|byte| MASK.contains(byte)) {
            let hex: Vec<u8> = secret.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect();
            for told in [secret, &hex] {
                assert!(
                    !clean.windows(told.len()).any(|at| at == told),
                    "{}",
                    String::from_utf8_lossy(clean)
                );
            }
        }
        assert!(clean.len() <= text.len() + MASK.len() * (text.len() / SHORTEST + 1));
    }
}
