//! A plugin as one file: a component with its manifest in it.
//!
//! The manifest's text stands in a custom section of the component itself, not of a module within, and once.

use std::borrow::Cow;

use wasm_encoder::{ComponentSection as _, CustomSection};
use wasmparser::{Parser, Payload};

use crate::{manifest::Manifest, signature};

/// The custom section's name.
pub const SECTION: &str = "parlour:plugin";
/// Bytes of a manifest's text.
pub const LARGEST: usize = 64 * 1024;

/// The component with this `plugin.toml` in it.
///
/// # Errors
/// One line: the manifest is wrong, or the component has another one, or is none, or was signed without it.
pub fn embed(component: Vec<u8>, manifest: &str) -> Result<Vec<u8>, String> {
    with(component, manifest.as_bytes())
}

/// The same with the bytes of a file.
pub(crate) fn with(mut component: Vec<u8>, manifest: &[u8]) -> Result<Vec<u8>, String> {
    let said = read(manifest)?;
    match find(&component)? {
        (Some(manifest), _) if manifest == said => {}
        (Some(_), _) => {
            return Err(
                "its plugin.toml is another one than the manifest in the component; build it again".into()
            );
        }
        (None, true) => {
            return Err("it was signed without its plugin.toml; sign its folder".into());
        }
        (None, false) => {
            let section = CustomSection { name: Cow::Borrowed(SECTION), data: Cow::Borrowed(manifest) };
            section.append_to_component(&mut component);
        }
    }
    Ok(component)
}

/// The manifest in a component, if it has one, and whether it has a signature. Nothing else of it is looked at.
fn find(component: &[u8]) -> Result<(Option<Manifest>, bool), String> {
    let mut signed = false;
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(|error| error.message().to_owned())? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 0 && section.name() == SECTION => {
                return read(section.data()).map(|manifest| (Some(manifest), signed));
            }
            Payload::CustomSection(section) if depth == 0 => signed |= section.name() == signature::SECTION,
            _ => {}
        }
    }
    Ok((None, signed))
}

/// The manifest in a section's bytes.
///
/// # Errors
/// One line: it is too large, no text, or wrong.
pub fn read(section: &[u8]) -> Result<Manifest, String> {
    if section.len() > LARGEST {
        return Err(format!("plugin.toml: it has at most {} KiB", LARGEST / 1024));
    }
    let text = std::str::from_utf8(section).map_err(|error| format!("plugin.toml: {error}"))?;
    Manifest::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::admission;

    const MANIFEST: &str = "name = \"a\"\nversion = \"1.0.0\"\ndescription = \"\"\n[asks.outbox]\n";
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn what_was_embedded_is_found_and_is_there_once() {
        let whole = embed(COMPONENT.to_vec(), MANIFEST).unwrap();
        let found = admission::surface(&whole).unwrap().manifest.unwrap();
        assert_eq!(found, Manifest::parse(MANIFEST).unwrap());
        assert_eq!(embed(whole.clone(), MANIFEST), Ok(whole.clone()));

        let mut twice = whole;
        let other = MANIFEST.replace("outbox", "kv");
        let refused = embed(twice.clone(), &other).unwrap_err();
        assert!(refused.starts_with("its plugin.toml is another one than the manifest"), "{refused}");
        let section = CustomSection { name: SECTION.into(), data: other.as_bytes().into() };
        section.append_to_component(&mut twice);
        let refused = admission::surface(&twice).unwrap_err().to_string();
        assert_eq!(refused, "it has two manifests");
    }

    #[test]
    fn nothing_is_put_behind_a_signature() {
        let key = signature::Key::new(&[1; 32]);
        let bare = signature::sign(COMPONENT.to_vec(), &key);
        assert_eq!(
            embed(bare, MANIFEST),
            Err("it was signed without its plugin.toml; sign its folder".to_owned())
        );
        let whole = signature::sign(embed(COMPONENT.to_vec(), MANIFEST).unwrap(), &key);
        assert_eq!(embed(whole.clone(), MANIFEST), Ok(whole));
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for (text, expected) in [
            ("name = 1", "plugin.toml:1:8: invalid type"),
            (&"#".repeat(LARGEST + 1), "64 KiB"),
            ("\"\\u001b]52;c;x\\u0007\" = 1", "unknown setting `\\u{1b}]52;c;x\\u{7}`"),
        ] {
            let mut component = COMPONENT.to_vec();
            let section = CustomSection { name: SECTION.into(), data: text.as_bytes().into() };
            section.append_to_component(&mut component);
            let refused = admission::surface(&component).unwrap_err().to_string();
            assert!(refused.contains(expected) && refused.lines().count() == 1, "{refused}");
        }
    }
}
