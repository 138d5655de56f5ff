//! Secrets that the operator has bound: the host puts them on requests, and nobody here sees one.

/// Whether a secret of this name, as `plugin.toml` asks for it, is bound.
#[must_use]
pub fn has(name: &str) -> bool {
    crate::bindings::imports::parlour::plugin::secrets::has(name)
}
