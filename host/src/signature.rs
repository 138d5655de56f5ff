//! Who made a plugin: an ed25519 signature over the bytes that run, in the component itself.
//!
//! It is the component's last section, at its top level: a custom section `parlour:signature` that holds a version byte,
//! 1, the public key (32 bytes) and the signature (64 bytes), as RFC 8032 has them. What is signed is the text
//! `parlour:signature`, a zero byte, the version byte, and the SHA-256 of all bytes before that section, with the
//! manifest among them.
//!
//! Nothing here says whom to trust: that is for the settings, and for `parlour.lock`.

use std::{collections::BTreeSet, fmt, ops::Range, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The custom section's name.
pub const SECTION: &str = "parlour:signature";
/// How it is made; another way would have another number.
const VERSION: u8 = 1;
/// Bytes in it: the version, the public key, the signature.
const CONTENT: usize = 1 + 32 + 64;
/// What stands before that: a custom section's id, its size (1 + 17 + 97), the size of its name, its name.
const HEAD: &[u8; 20] = b"\x00\x73\x11parlour:signature";
/// Bytes of the section.
const WHOLE: usize = HEAD.len() + CONTENT;
/// What stands before the secret in a key file.
const SECRET: &str = "ed25519-secret:";
/// What stands before a public key.
const PUBLIC: &str = "ed25519:";

/// Who signs plugins: a public key, shown as `ed25519:BASE64` without padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Publisher([u8; 32]);

/// A text that is no publisher's public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a publisher is a public key such as ed25519:uVhN…, as `parlour plugin keygen` shows it")]
pub struct NoPublisher;

impl Publisher {
    fn new(bytes: [u8; 32]) -> Result<Self, NoPublisher> {
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| NoPublisher)?;
        // Anybody can sign with a weak one.
        if key.is_weak() { Err(NoPublisher) } else { Ok(Self(bytes)) }
    }
}

impl FromStr for Publisher {
    type Err = NoPublisher;

    fn from_str(text: &str) -> Result<Self, NoPublisher> {
        let bytes = text.strip_prefix(PUBLIC).and_then(|text| STANDARD_NO_PAD.decode(text).ok());
        Self::new(bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(NoPublisher)?)
    }
}

impl TryFrom<String> for Publisher {
    type Error = NoPublisher;

    fn try_from(text: String) -> Result<Self, NoPublisher> {
        text.parse()
    }
}

impl From<Publisher> for String {
    fn from(publisher: Publisher) -> String {
        publisher.to_string()
    }
}

impl fmt::Display for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", STANDARD_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a publisher signs with. It is wiped from memory when it is dropped, and never shown but by [`Key::file`].
pub struct Key(SigningKey);

impl Key {
    /// The key that these 32 random bytes make.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The key in the text of a key file.
    ///
    /// # Errors
    /// What is wrong with it, in one line that says nothing of the secret.
    pub fn parse(file: &str) -> Result<Self, &'static str> {
        let mut lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return Err("it is no key file: `parlour plugin keygen` makes one");
        };
        if line.starts_with(PUBLIC) {
            return Err("it holds a public key; who signs needs the secret one");
        }
        let secret = line.strip_prefix(SECRET).and_then(|text| STANDARD_NO_PAD.decode(text).ok());
        let secret = secret.and_then(|bytes| bytes.try_into().ok());
        Ok(Self::new(&secret.ok_or("it is no key file: `parlour plugin keygen` makes one")?))
    }

    /// The text of its key file, for its owner alone.
    #[must_use]
    pub fn file(&self) -> String {
        format!(
            "# The secret key of a publisher of Parlour plugins: whoever has it signs as\n# {}\n{SECRET}{}\n",
            self.publisher(),
            STANDARD_NO_PAD.encode(self.0.to_bytes())
        )
    }

    /// Who signs with it.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher(self.0.verifying_key().to_bytes())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, …)", self.publisher())
    }
}

/// Why a component's signature is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Wrong {
    /// There are two.
    #[error("it has two signatures")]
    Twice,
    /// Something follows it, which it does not cover.
    #[error("its signature is not its last section")]
    NotLast,
    /// It is not built as it should be.
    #[error("its signature is malformed")]
    Malformed,
    /// It is made in a way that this host does not know.
    #[error("its signature is of version {0}; this host knows {VERSION}")]
    Version(u8),
    /// It is one over other bytes, or by another key.
    #[error("its signature is wrong: these are not the bytes that were signed")]
    Forged,
}

/// The component with a signature at its end. What is there must be unsigned: a second one is refused when it is read.
#[must_use]
pub fn sign(mut component: Vec<u8>, key: &Key) -> Vec<u8> {
    let signature = key.0.sign(&message(&component));
    component.extend(HEAD);
    component.push(VERSION);
    component.extend(key.publisher().0);
    component.extend(signature.to_bytes());
    component
}

/// A signed component without its signature: as [`crate::engine::admission::surface`] found it signed.
#[must_use]
pub fn strip(mut component: Vec<u8>) -> Vec<u8> {
    component.truncate(component.len().saturating_sub(WHOLE));
    component
}

/// Who signed a component, given where its top level has sections of our name, each as the range of what it holds.
///
/// # Errors
/// [`Wrong`].
pub(crate) fn check(component: &[u8], found: &[Range<usize>]) -> Result<Option<Publisher>, Wrong> {
    let content = match found {
        [] => return Ok(None),
        [one] => one,
        _ => return Err(Wrong::Twice),
    };
    if content.end != component.len() {
        return Err(Wrong::NotLast);
    }
    let (signed, section) =
        component.split_at_checked(component.len().saturating_sub(WHOLE)).ok_or(Wrong::Malformed)?;
    let held = component.get(content.clone()).unwrap_or_default();
    let (version, held) = held.split_first().ok_or(Wrong::Malformed)?;
    if *version != VERSION {
        return Err(Wrong::Version(*version));
    }
    // The one way to write it: nothing can be hidden in a longer number.
    if held.len() + 1 != CONTENT || !section.starts_with(HEAD) {
        return Err(Wrong::Malformed);
    }
    let (key, signature) = held.split_first_chunk::<32>().ok_or(Wrong::Malformed)?;
    let signature = signature.try_into().map_err(|_| Wrong::Malformed)?;
    let publisher = Publisher::new(*key).map_err(|_| Wrong::Forged)?;
    let key = VerifyingKey::from_bytes(key).map_err(|_| Wrong::Forged)?;
    key.verify_strict(&message(signed), &signature).map_err(|_| Wrong::Forged)?;
    Ok(Some(publisher))
}

/// What is signed of these bytes.
fn message(component: &[u8]) -> Vec<u8> {
    let mut message = SECTION.as_bytes().to_vec();
    message.extend([0, VERSION]);
    message.extend(Sha256::digest(component));
    message
}

/// A plugin is not signed by anybody who may have signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotBy {
    /// Who may have.
    pub wanted: BTreeSet<Publisher>,
    /// Who has.
    pub by: Option<Publisher>,
}

impl fmt::Display for NotBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted: Vec<_> = self.wanted.iter().map(ToString::to_string).collect();
        match wanted[..] {
            [] => f.write_str("it must be signed by one of `publishers`, which lists nobody")?,
            _ => write!(f, "it must be signed by {}", wanted.join(" or "))?,
        }
        match self.by {
            Some(by) => write!(f, ", and is signed by {by}"),
            None => f.write_str(", and nobody has signed it"),
        }
    }
}

/// Who may have signed a plugin: its own publisher in the settings, or else one of all of them. None where nobody need
/// have signed it.
#[must_use]
pub fn wanted(own: Option<Publisher>, all: Option<&BTreeSet<Publisher>>) -> Option<BTreeSet<Publisher>> {
    own.map(|own| [own].into()).or_else(|| all.cloned())
}

/// Whether one of those who may have signed a plugin has.
///
/// # Errors
/// [`NotBy`].
pub fn required(by: Option<Publisher>, wanted: Option<BTreeSet<Publisher>>) -> Result<(), NotBy> {
    match wanted {
        Some(wanted) if by.is_none_or(|by| !wanted.contains(&by)) => Err(NotBy { wanted, by }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::admission::{Refused, surface},
        package,
    };

    const MANIFEST: &str = "name = \"a\"\nversion = \"1.0.0\"\ndescription = \"\"\n[asks.outbox]\n";

    /// A small component with a manifest in it, unsigned.
    fn component() -> Vec<u8> {
        package::embed(b"\0asm\x0d\0\x01\0".to_vec(), MANIFEST).unwrap()
    }

    fn key(seed: u8) -> Key {
        Key::new(&[seed; 32])
    }

    fn wrong(component: &[u8]) -> Wrong {
        match surface(component) {
            Err(Refused::Signature(wrong)) => wrong,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_signed_is_found_and_who_did() {
        let signed = sign(component(), &key(1));
        let found = surface(&signed).unwrap();
        assert_eq!(found.publisher, Some(key(1).publisher()));
        assert!(found.manifest.is_some());
        assert_eq!(signed.len(), component().len() + WHOLE);
        assert_eq!(strip(signed), component());
        assert_eq!(surface(&component()).unwrap().publisher, None);
    }

    /// As it is written down, so that a signature made today is one tomorrow.
    #[test]
    fn the_bytes_are_those_of_the_description() {
        let signed = sign(component(), &key(1));
        let section = &signed[component().len()..];
        assert_eq!(section[..20], *b"\x00\x73\x11parlour:signature");
        assert_eq!(section[20], 1);
        assert_eq!(section[21..53], key(1).publisher().0);
        let mut message = b"parlour:signature\x00\x01".to_vec();
        message.extend(Sha256::digest(component()));
        let signature = ed25519_dalek::Signature::from_slice(&section[53..]).unwrap();
        VerifyingKey::from_bytes(&key(1).publisher().0).unwrap().verify_strict(&message, &signature).unwrap();
    }

    #[test]
    fn no_byte_can_be_changed() {
        let signed = sign(component(), &key(1));
        for at in 0..signed.len() {
            for bits in [1 << (at % 8), 0xff] {
                let mut changed = signed.clone();
                changed[at] ^= bits;
                let publisher = surface(&changed).ok().and_then(|surface| surface.publisher);
                assert_eq!(publisher, None, "byte {at}, bits {bits}");
            }
        }
    }

    #[test]
    fn none_can_be_cut_off_put_in_or_put_behind() {
        let signed = sign(component(), &key(1));
        for length in 0..signed.len() {
            let publisher = surface(&signed[..length]).ok().and_then(|surface| surface.publisher);
            assert_eq!(publisher, None, "{length} bytes");
        }
        for at in 0..=signed.len() {
            // An empty custom section of no name, and bytes that are nothing.
            for put in [&[0, 1, 0][..], &[0], &[0xff; 3]] {
                let mut longer = signed.clone();
                longer.splice(at..at, put.iter().copied());
                let publisher = surface(&longer).ok().and_then(|surface| surface.publisher);
                assert_eq!(publisher, None, "at {at}");
            }
        }
        let mut trailed = signed;
        trailed.extend([0, 1, 0]);
        assert_eq!(wrong(&trailed), Wrong::NotLast);
    }

    #[test]
    fn it_is_there_once_and_last_and_over_everything() {
        let (bare, signed) = (component(), sign(component(), &key(1)));
        let section = signed[bare.len()..].to_vec();
        // Signed by somebody else on top of it.
        assert_eq!(wrong(&sign(signed.clone(), &key(2))), Wrong::Twice);
        assert_eq!(wrong(&[&signed[..], &section].concat()), Wrong::Twice);
        // Moved to the front.
        assert_eq!(wrong(&[&bare[..8], &section, &bare[8..]].concat()), Wrong::NotLast);
        // Another component's, one of the manifest alone, and one with another key's name on it.
        let other = package::embed(b"\0asm\x0d\0\x01\0".to_vec(), &MANIFEST.replace("1.0", "2.0")).unwrap();
        assert_eq!(wrong(&[&other[..], &section].concat()), Wrong::Forged);
        let alone = sign(MANIFEST.as_bytes().to_vec(), &key(1))[MANIFEST.len()..].to_vec();
        assert_eq!(wrong(&[&bare[..], &alone].concat()), Wrong::Forged);
        let mut renamed = signed.clone();
        let at = signed.len() - 96;
        renamed[at..at + 32].copy_from_slice(&key(2).publisher().0);
        assert_eq!(wrong(&renamed), Wrong::Forged);
        // The same content in a section whose size is written in two bytes.
        let mut longer = bare.clone();
        longer.extend([0, 0xf3, 0]);
        longer.extend(&section[2..]);
        assert_eq!(wrong(&longer), Wrong::Malformed);
        let mut newer = signed;
        newer[at - 1] = 2;
        assert_eq!(wrong(&newer), Wrong::Version(2));
        // One of a component within says nothing of the whole.
        let inner = sign(b"\0asm\x0d\0\x01\0".to_vec(), &key(1));
        let mut outer = bare;
        outer.extend([4, inner.len().try_into().unwrap()]);
        outer.extend(inner);
        assert_eq!(surface(&outer).unwrap().publisher, None);
    }

    #[test]
    fn a_key_that_fits_every_message_is_none() {
        let mut weak = [0; 32];
        weak[0] = 1;
        assert_eq!(Publisher::new(weak), Err(NoPublisher));
        let mut signed = sign(component(), &key(1));
        let at = signed.len() - 96;
        signed[at..at + 32].copy_from_slice(&weak);
        signed[at + 32..at + 64].copy_from_slice(&weak);
        signed[at + 64..].fill(0);
        assert_eq!(wrong(&signed), Wrong::Forged);
    }

    #[test]
    fn keys_are_texts() {
        let publisher = key(1).publisher();
        let text = publisher.to_string();
        assert!(text.len() == 51 && text.starts_with("ed25519:") && !text.contains('='), "{text}");
        assert_eq!(text.parse(), Ok(publisher));
        for bad in ["", "ed25519:", &text[8..], &text[..50], &format!("{text}="), &text.to_uppercase()] {
            assert_eq!(bad.parse::<Publisher>(), Err(NoPublisher), "{bad}");
        }
        let file = key(1).file();
        assert_eq!(Key::parse(&file).unwrap().publisher(), publisher);
        assert!(Key::parse(&text).unwrap_err().contains("public key"));
        for bad in ["", "ed25519-secret:", &file.repeat(2), &file.replace(SECRET, "")] {
            let refused = Key::parse(bad).unwrap_err();
            assert!(refused.contains("no key file"), "{refused}");
        }
        assert_eq!(format!("{:?}", key(1)), format!("Key({publisher}, …)"));
    }

    #[test]
    fn who_must_have_signed_it_has() {
        let [one, other] = [key(1).publisher(), key(2).publisher()];
        let all: BTreeSet<_> = [one, other].into();
        assert_eq!(required(None, wanted(None, None)), Ok(()));
        assert_eq!(required(Some(one), wanted(None, Some(&all))), Ok(()));
        assert_eq!(required(Some(other), wanted(Some(other), Some(&[one].into()))), Ok(()));
        let refused = |by, wanted| required(by, wanted).unwrap_err().to_string();
        assert_eq!(
            refused(Some(other), wanted(Some(one), Some(&all))),
            format!("it must be signed by {one}, and is signed by {other}")
        );
        let nobody = refused(None, wanted(None, Some(&all)));
        assert!(nobody.ends_with(", and nobody has signed it") && nobody.contains(" or "), "{nobody}");
        assert!(refused(Some(one), wanted(None, Some(&BTreeSet::new()))).contains("lists nobody"));
    }
}
