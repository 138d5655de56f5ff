//! Takes a secret out of what comes back from where it was sent: servers echo what they are sent, in error pages, in
//! redirects, in logs that they offer.
//!
//! Found are the secret itself, in any mixture of percent-encoding (RFC 3986), JSON and HTML escapes, and its hexadecimal
//! and base64 forms (RFC 4648) wherever it stands in a longer text, with line breaks too. The server to which a secret is
//! bound knows it and could hide it in other ways: whoever binds a secret trusts that server with it.
//!
//! A part of a secret is taken for all of it where so little is missing that the rest could be tried out: [`SHORTEST`]
//! bytes at either end. What is shorter stays, the `sk-ab…yz` of an error page too: were it taken out, a plugin that
//! has a text reflected would see by that whether it had guessed the part, and whoever knows the beginning, as everybody
//! does of many keys and of all signed tokens, would find one byte after the other. So each guess must be right in nearly
//! all bytes at once, and what such a part leaves open is as long as a secret of its own.

use std::sync::{Arc, LazyLock};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// What stands in the place of a secret.
pub const MASK: &[u8] = b"[secret]";
/// A secret is at least so long, in bytes: what is shorter stands everywhere by chance.
pub const SHORTEST: usize = 8;
/// From so many bytes on the middle of a secret, without [`SHORTEST`] at either end, is looked for by itself: it is at
/// least half of it.
const LONG: usize = 4 * SHORTEST;
/// A byte is written in so many at the most, a line break before it included.
const WIDEST: usize = 9;

/// The ways in which each byte may be escaped, whatever the case of their letters: percent-encoded, in JSON and in HTML,
/// and some of these twice.
static ESCAPES: LazyLock<Vec<Vec<Vec<u8>>>> = LazyLock::new(|| (0..=255).map(escapes).collect());

/// What is looked for.
#[derive(Clone)]
pub struct Scrub {
    needles: Arc<[Needle]>,
}

struct Needle {
    bytes: Vec<u8>,
    kind: Kind,
    /// Where a text ends, so many of the bytes are taken for all of them.
    nearly: usize,
    /// Whether a byte may begin it.
    begins: [bool; 256],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Upper and lower case are the same.
    Hex,
    /// There may be line breaks in it.
    Base64,
}

/// How a needle stands at a place.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It ends before this place.
    Found(usize),
    /// What is there is all that there is, and nearly all of it.
    Nearly,
    No,
}

impl Scrub {
    /// Looks for a secret in each of these forms; none of them is empty.
    #[must_use]
    pub fn of(forms: &[Vec<u8>]) -> Self {
        let mut needles = vec![];
        for form in forms {
            needles.extend(Needle::all(form, SHORTEST));
            if form.len() >= LONG {
                needles.extend(Needle::all(&form[SHORTEST..form.len() - SHORTEST], 0));
            }
        }
        Self { needles: needles.into() }
    }

    /// A whole text without the secret; none where it is not in it.
    #[must_use]
    pub fn text(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut scrubbing = Scrubbing::new(vec![self.clone()]);
        let mut clean = scrubbing.next(text);
        clean.extend(scrubbing.end());
        (clean != text).then_some(clean)
    }

    fn at(&self, text: &[u8]) -> Look {
        self.needles.iter().map(|needle| needle.at(text)).fold(Look::No, Look::or)
    }
}

impl Look {
    /// Of two that are found, both are taken out.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Found(one), Self::Found(other)) => Self::Found(one.max(other)),
            (Self::Found(end), _) | (_, Self::Found(end)) => Self::Found(end),
            (Self::Nearly, _) | (_, Self::Nearly) => Self::Nearly,
            (Self::No, Self::No) => Self::No,
        }
    }
}

impl Needle {
    /// What to look for where this is looked for, and where a text ends, also if so many bytes of it are missing.
    fn all(secret: &[u8], missing: usize) -> Vec<Self> {
        let size = secret.len();
        let new = |bytes: &[u8], kind| {
            let missing = (bytes.len() * missing / size.max(1)).min(bytes.len() / 2);
            Self::new(bytes, kind, bytes.len() - missing)
        };
        let hex: Vec<u8> = secret.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect();
        let mut needles = vec![new(secret, Kind::Plain), new(&hex, Kind::Hex)];
        for before in 0..3 {
            let mut text = vec![0; before];
            text.extend(secret);
            // A base64 digit has six bits: those that tell something of other bytes are left out.
            let (first, end) = ((before * 8).div_ceil(6), text.len() * 8 / 6);
            for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                needles.push(new(&engine.encode(&text).as_bytes()[first..end], Kind::Base64));
            }
        }
        needles
    }

    fn new(bytes: &[u8], kind: Kind, nearly: usize) -> Self {
        let mut needle = Self { bytes: bytes.to_vec(), kind, nearly, begins: [false; 256] };
        for first in 0..=255 {
            let written = needle.written(0, &[first]).next().is_some();
            let escaped = ESCAPES[usize::from(bytes[0])].iter().any(|escape| escape[0] == first);
            needle.begins[usize::from(first)] = written || escaped;
        }
        needle
    }

    /// Whether the text begins with it. Each byte may be written in several ways, so that several places are
    /// followed at once.
    fn at(&self, text: &[u8]) -> Look {
        if !text.first().is_some_and(|byte| self.begins[usize::from(*byte)]) {
            return Look::No;
        }
        let mut places = vec![0];
        for number in 0..self.bytes.len() {
            let mut next = Vec::with_capacity(places.len());
            for place in &places {
                let ends = self.written(number, &text[*place..]).map(|length| place + length);
                ends.for_each(|end| {
                    if !next.contains(&end) {
                        next.push(end);
                    }
                });
            }
            if next.is_empty() {
                let ends = places.iter().any(|place| self.may_go_on(number, &text[*place..]));
                return if ends && number >= self.nearly { Look::Nearly } else { Look::No };
            }
            places = next;
        }
        Look::Found(places.into_iter().max().unwrap_or_default())
    }

    /// Whether a text ends before one of its bytes is written, or within that.
    fn may_go_on(&self, number: usize, rest: &[u8]) -> bool {
        let begins =
            |escape: &Vec<u8>| escape.get(..rest.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(rest));
        ESCAPES[usize::from(self.bytes[number])].iter().any(begins) || b"\r\n".starts_with(rest)
    }

    /// In how many bytes one of its own stands at the beginning of a text, in each way.
    fn written(&self, number: usize, text: &[u8]) -> impl Iterator<Item = usize> {
        let (byte, kind) = (self.bytes[number], self.kind);
        let breaks: &[&[u8]] =
            if kind == Kind::Base64 && number > 0 { &[b"", b"\n", b"\r\n"] } else { &[b""] };
        breaks.iter().flat_map(move |line| {
            let rest = text.strip_prefix(*line);
            let plain = rest.and_then(|rest| rest.first()).is_some_and(|there| {
                *there == byte || (kind == Kind::Hex && there.eq_ignore_ascii_case(&byte))
            });
            let escapes = ESCAPES[usize::from(byte)].iter().filter(move |escape| {
                let there = rest.and_then(|rest| rest.get(..escape.len()));
                there.is_some_and(|there| there.eq_ignore_ascii_case(escape))
            });
            plain.then_some(1).into_iter().chain(escapes.map(Vec::len)).map(|length| line.len() + length)
        })
    }
}

fn escapes(byte: u8) -> Vec<Vec<u8>> {
    let named = match byte {
        b' ' => Some("+"),
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'"' => Some("&quot;"),
        b'\'' => Some("&apos;"),
        _ => None,
    };
    let numbered = [
        format!("%{byte:02x}"),
        format!("%25{byte:02x}"),
        format!("\\u00{byte:02x}"),
        format!("\\\\u00{byte:02x}"),
        format!("\\x{byte:02x}"),
        format!("&#{byte};"),
        format!("&#0{byte};"),
        format!("&#x{byte:02x};"),
    ];
    // In a JSON text within a JSON text, a quote has three.
    let backslashes = (1..4).map(|count| [vec![b'\\'; count], vec![byte]].concat());
    let written = numbered.into_iter().chain(named.map(str::to_owned)).map(String::into_bytes);
    written.chain(backslashes).collect()
}

/// Takes secrets out of a text that comes in pieces. So much is held back as one of them may take, whatever it is:
/// where a piece ends tells nothing.
pub struct Scrubbing {
    scrubs: Vec<Scrub>,
    window: usize,
    held: Vec<u8>,
}

impl Scrubbing {
    /// Takes these out.
    #[must_use]
    pub fn new(scrubs: Vec<Scrub>) -> Self {
        let longest =
            scrubs.iter().flat_map(|scrub| scrub.needles.iter()).map(|needle| needle.bytes.len()).max();
        Self { scrubs, window: longest.unwrap_or(0) * WIDEST, held: vec![] }
    }

    /// The next piece: what of the text so far is certain.
    pub fn next(&mut self, piece: &[u8]) -> Vec<u8> {
        self.held.extend(piece);
        let mut clean = Vec::with_capacity(piece.len());
        let mut at = 0;
        while self.held.len() - at > self.window {
            at += self.take(at, &mut clean).0;
        }
        self.held.drain(..at);
        clean
    }

    /// The text has ended. Where it ends with nearly all of a secret, that is taken out as well.
    pub fn end(&mut self) -> Vec<u8> {
        let mut clean = Vec::with_capacity(self.held.len());
        let mut at = 0;
        while at < self.held.len() {
            let (taken, cut) = self.take(at, &mut clean);
            if cut {
                break;
            }
            at += taken;
        }
        self.held.clear();
        clean
    }

    /// Takes what stands at a place: how much it was, and whether it was the beginning of a secret.
    fn take(&self, at: usize, clean: &mut Vec<u8>) -> (usize, bool) {
        let text = &self.held[at..];
        match self.scrubs.iter().map(|scrub| scrub.at(text)).fold(Look::No, Look::or) {
            Look::Found(length) => {
                clean.extend(MASK);
                (length, false)
            }
            Look::Nearly if text.len() <= self.window => {
                clean.extend(MASK);
                (text.len(), true)
            }
            Look::Nearly | Look::No => {
                clean.push(text[0]);
                (1, false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "s3cr\"t/+ %&key";

    fn scrubbed(text: &str) -> String {
        let clean = Scrub::of(&[SECRET.into()]).text(text.as_bytes());
        clean.map_or_else(|| text.to_owned(), |clean| String::from_utf8(clean).unwrap())
    }

    /// The ways in which a server may echo it.
    fn echoes() -> Vec<String> {
        let percent = |escaped: fn(u8) -> bool| -> String {
            let escape =
                |byte: u8| if escaped(byte) { format!("%{byte:02X}") } else { char::from(byte).into() };
            SECRET.bytes().map(escape).collect()
        };
        vec![
            SECRET.into(),
            percent(|byte| !byte.is_ascii_alphanumeric()),
            percent(|_| true).to_lowercase(),
            percent(|byte| byte == b'%').replace(' ', "+"),
            serde_json::to_string(SECRET).unwrap().trim_matches('"').into(),
            SECRET.replace('/', "\\/").replace('"', "\\u0022"),
            SECRET.replace('&', "&amp;").replace('"', "&quot;"),
            SECRET.replace('&', "&#x26;").replace('"', "&#34;"),
            SECRET.bytes().flat_map(|byte| format!("{byte:02X}").chars().collect::<Vec<_>>()).collect(),
            STANDARD.encode(SECRET),
        ]
    }

    #[test]
    fn a_secret_is_taken_out_however_it_is_written() {
        for echo in echoes() {
            let text = format!("you said: {echo}, and so on");
            let clean = scrubbed(&text);
            assert!(
                clean.starts_with("you said: [secret]") && clean.ends_with(", and so on"),
                "{text}: {clean}"
            );
        }
        for before in ["", "a", "ab", "Bearer ", "Basic user:"] {
            for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                let text = engine.encode(format!("{before}{SECRET} and after"));
                assert!(scrubbed(&text).contains("[secret]"), "{before}: {text}");
            }
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in ["", "s3cr", "nothing of it", "100% \\ & sure", "s3cr\"t/+ %&kez", "%7"] {
            let clean = scrubbed(&format!("{text}."));
            assert_eq!(clean, format!("{text}."));
        }
    }

    #[test]
    fn a_text_that_ends_within_a_secret_does_not_tell_it() {
        for length in 1..SECRET.len() {
            let clean = scrubbed(&SECRET[..length]);
            // Of less than half nothing is said: whoever can have texts reflected would find out by guessing.
            let expected = if length * 2 >= SECRET.len() { "[secret]" } else { &SECRET[..length] };
            assert_eq!(clean, expected, "{length}");
        }
    }

    /// 60 bytes, of which everybody knows the first 40.
    const SIGNED: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9.Xk2vQ9rTz7LmW4sYb8Nc1";

    #[test]
    fn nearly_all_of_a_long_secret_is_taken_for_it() {
        let scrub = Scrub::of(&[SIGNED.into()]);
        let clean = |text: String| {
            String::from_utf8(scrub.text(text.as_bytes()).unwrap_or(text.into_bytes())).unwrap()
        };
        let size = SIGNED.len();
        for part in [&SIGNED[8..], &SIGNED[..size - 8], &SIGNED[8..size - 8], &SIGNED[3..size - 4]] {
            for text in [
                format!("it was {part}."),
                format!("it was {}.", part.replace('.', "%2e")),
                format!("it was {}.", STANDARD.encode(format!("Bearer {part} and more"))),
            ] {
                assert!(clean(text.clone()).contains("[secret]"), "{text}");
            }
        }
    }

    /// What somebody knows already is no step to the next byte.
    #[test]
    fn a_guess_at_the_next_byte_looks_like_any_other() {
        let scrub = Scrub::of(&[SIGNED.into()]);
        for known in 1..SIGNED.len() - SHORTEST {
            let (right, wrong) = (&SIGNED[..known], format!("{}~", &SIGNED[..known - 1]));
            for (right, wrong) in
                [(right.to_owned(), wrong.clone()), (format!("{right}…yz"), format!("{wrong}…yz"))]
            {
                assert_eq!(scrub.text(right.as_bytes()), None, "{right}");
                assert_eq!(scrub.text(wrong.as_bytes()), None, "{wrong}");
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_are_scrubbed_as_the_whole(
            echo in 0..10_usize,
            before in "[a-z%&\\\\s3]{0,20}",
            after in "[a-z%&\\\\s3]{0,20}",
            cuts in prop::collection::vec(0..100_usize, 0..8),
        ) {
            let text = format!("{before}{}{after}", echoes()[echo]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let scrub = Scrub::of(&[SECRET.into()]);
            let mut scrubbing = Scrubbing::new(vec![scrub.clone()]);
            let mut clean: Vec<u8> =
                cuts.windows(2).flat_map(|cut| scrubbing.next(&text.as_bytes()[cut[0]..cut[1]])).collect();
            clean.extend(scrubbing.end());
            let whole = scrub.text(text.as_bytes()).unwrap();
            prop_assert_eq!(String::from_utf8_lossy(&clean), String::from_utf8_lossy(&whole));
            prop_assert!(whole.windows(MASK.len()).any(|at| at == MASK));
        }
    }
}
