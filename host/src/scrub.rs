//! Takes a secret out of what comes back from where it was sent: servers echo what they are sent, in error pages, in
//! redirects, in logs that they offer.
//!
//! Found are the secret itself, in any mixture of percent-encoding (RFC 3986), JSON and HTML escapes, and its hexadecimal
//! and base64 forms (RFC 4648) wherever it stands in a longer text. The server to which a secret is bound knows it and
//! could hide it in other ways: whoever binds a secret trusts that server with it.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// What stands in the place of a secret.
pub const MASK: &[u8] = b"[secret]";
/// A secret is at least so long, in bytes: what is shorter stands everywhere by chance.
pub const SHORTEST: usize = 8;
/// A text that ends within a secret shows so much of it at the most, in bytes.
const TOLD: usize = 3;

/// What is looked for.
#[derive(Clone)]
pub struct Scrub {
    needles: Vec<Needle>,
    /// Whether a byte may begin one.
    begins: [bool; 256],
}

#[derive(Clone)]
struct Needle {
    /// The ways in which each of its bytes may be written.
    bytes: Vec<Vec<Spelling>>,
}

/// One way in which a byte is written.
#[derive(Clone, PartialEq, Eq)]
struct Spelling {
    text: Vec<u8>,
    /// Upper and lower case are the same.
    caseless: bool,
}

/// How a needle stands at a place.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It ends before this place.
    Found(usize),
    /// What is there is its beginning, and all that there is.
    Open,
    No,
}

impl Scrub {
    /// Looks for this secret.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        let hex: Vec<u8> = secret.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect();
        let mut needles = vec![Needle::new(secret, false), Needle::new(&hex, true)];
        for before in 0..3 {
            let mut text = vec![0; before];
            text.extend(secret);
            // A base64 digit has six bits: those that tell something of other bytes are left out.
            let (first, end) = ((before * 8).div_ceil(6), text.len() * 8 / 6);
            for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                needles.push(Needle::new(&engine.encode(&text).as_bytes()[first..end], false));
            }
        }
        let mut begins = [false; 256];
        for spelling in needles.iter().filter_map(|needle| needle.bytes.first()).flatten() {
            for byte in 0..=255 {
                begins[usize::from(byte)] |= spelling.has(0, byte);
            }
        }
        Self { needles, begins }
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
        if !text.first().is_some_and(|byte| self.begins[usize::from(*byte)]) {
            return Look::No;
        }
        let mut open = false;
        let mut found = None;
        for needle in &self.needles {
            match needle.at(text) {
                Look::Found(end) => found = found.max(Some(end)),
                Look::Open => open = true,
                Look::No => {}
            }
        }
        // A longer one may still come to be: of "the secret" and its beginning, both are taken out.
        found.map_or(if open { Look::Open } else { Look::No }, Look::Found)
    }
}

impl Needle {
    fn new(bytes: &[u8], caseless: bool) -> Self {
        Self { bytes: bytes.iter().map(|byte| spellings(*byte, caseless)).collect() }
    }

    /// Whether the text begins with it. Each byte may be written in several ways, so that several places are
    /// followed at once.
    fn at(&self, text: &[u8]) -> Look {
        let mut places = vec![0];
        let mut open = false;
        for spellings in &self.bytes {
            let mut next = Vec::with_capacity(places.len());
            for place in places {
                for spelling in spellings {
                    match spelling.at(&text[place..]) {
                        Look::Found(end) if !next.contains(&(place + end)) => next.push(place + end),
                        Look::Open => open = true,
                        Look::Found(_) | Look::No => {}
                    }
                }
            }
            if next.is_empty() {
                return if open { Look::Open } else { Look::No };
            }
            places = next;
        }
        Look::Found(places.into_iter().max().unwrap_or_default())
    }
}

impl Spelling {
    fn has(&self, place: usize, byte: u8) -> bool {
        self.text[place] == byte || (self.caseless && self.text[place].eq_ignore_ascii_case(&byte))
    }

    fn at(&self, text: &[u8]) -> Look {
        if !text.iter().take(self.text.len()).enumerate().all(|(place, byte)| self.has(place, *byte)) {
            Look::No
        } else if text.len() < self.text.len() {
            Look::Open
        } else {
            Look::Found(self.text.len())
        }
    }
}

/// The ways in which a byte is written: itself, percent-encoded, escaped in JSON and in HTML, and some of these twice.
fn spellings(byte: u8, caseless: bool) -> Vec<Spelling> {
    let plus = (byte == b' ').then_some("+");
    let named = match byte {
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
        format!("\\x{byte:02x}"),
        format!("&#{byte};"),
        format!("&#0{byte};"),
        format!("&#x{byte:02x};"),
    ];
    let coded = numbered.into_iter().chain(plus.into_iter().chain(named).map(str::to_owned));
    // In a JSON text within a JSON text, a quote has three.
    let backslashes = (0..4).map(|count| [vec![b'\\'; count], vec![byte]].concat());
    let mut spellings: Vec<_> = backslashes.map(|text| Spelling { text, caseless }).collect();
    spellings.extend(coded.map(|text| Spelling { text: text.into_bytes(), caseless: true }));
    spellings
}

/// Takes secrets out of a text that comes in pieces.
pub struct Scrubbing {
    scrubs: Vec<Scrub>,
    /// What may be the beginning of a secret.
    held: Vec<u8>,
}

impl Scrubbing {
    /// Takes these out.
    #[must_use]
    pub fn new(scrubs: Vec<Scrub>) -> Self {
        Self { scrubs, held: vec![] }
    }

    /// The next piece: what of the text so far is certain.
    pub fn next(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut text = std::mem::take(&mut self.held);
        text.extend(piece);
        let mut clean = Vec::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            let mut open = false;
            let mut found = None;
            for scrub in &self.scrubs {
                match scrub.at(&text[at..]) {
                    Look::Found(length) => found = found.max(Some(length)),
                    Look::Open => open = true,
                    Look::No => {}
                }
            }
            if let Some(length) = found {
                clean.extend(MASK);
                at += length;
            } else if open {
                self.held = text.split_off(at);
                break;
            } else {
                clean.push(text[at]);
                at += 1;
            }
        }
        clean
    }

    /// The text has ended: what was held is no secret, but may be most of one.
    pub fn end(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let mut clean = held[..held.len().min(TOLD)].to_vec();
        if held.len() > TOLD {
            clean.extend(MASK);
        }
        clean
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "s3cr\"t/+ %&key";

    fn scrubbed(text: &str) -> String {
        let clean = Scrub::new(SECRET.as_bytes()).text(text.as_bytes());
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
            assert!(!clean.contains(&SECRET[..length.min(TOLD + 1)]) || length <= TOLD, "{length}: {clean}");
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
            let scrub = Scrub::new(SECRET.as_bytes());
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
