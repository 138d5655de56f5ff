//! Plugins in OCI registries: a component as the CNCF's "Wasm OCI Artifact" has it, pulled and pushed.
//!
//! An artefact is a manifest with one layer, the component. What names it for good is the manifest's SHA-256, since the
//! manifest names the layer's; a tag is a name that may mean something else tomorrow. Whatever a registry sends is
//! measured while it comes, and checked against those digests before anybody looks into it.
//!
//! Own code on the HTTP client that is there already: the crates for it would have brought nearly thirty others, and
//! other features of that client.

mod credentials;
mod manifest;
mod reference;
mod registry;

use anyhow::{Context, Result, anyhow, bail, ensure};
use parlour::engine::admission::Surface;

pub use self::reference::{Digest, Reference};
use self::{
    manifest::{Config, Manifest},
    registry::Registry,
};

/// Bytes of a manifest: many times what one layer needs.
const LARGEST_MANIFEST: usize = 256 * 1024;

/// Pulls the component that a reference names, of at most so many bytes, and says for good which it is.
///
/// # Errors
/// One line that names the reference.
pub async fn pull(reference: &Reference, limit: usize) -> Result<(Vec<u8>, Reference)> {
    let pulled = async {
        let mut registry = Registry::new(reference)?;
        let bytes = registry.manifest(&reference.wanted(), LARGEST_MANIFEST).await?;
        let digest = Digest::of(&bytes);
        if let Some(wanted) = reference.digest.as_ref().filter(|wanted| **wanted != digest) {
            bail!("the registry sent another manifest, {digest}, for {wanted}");
        }
        let layer = Manifest::parse(&bytes).and_then(|manifest| manifest.component(limit));
        let layer = layer.map_err(|reason| anyhow!(reason))?;
        let component = registry.blob(&layer.digest, layer.size).await?;
        let sent = Digest::of(&component);
        ensure!(
            sent == layer.digest && component.len() == layer.size,
            "the registry sent another layer, {sent}, for {}",
            layer.digest
        );
        anyhow::Ok((component, reference.at(digest)))
    };
    pulled.await.with_context(|| reference.to_string())
}

/// Pushes a component, and says for good which it is. The same component is the same artefact whenever it is pushed.
///
/// # Errors
/// One line that names the reference.
pub async fn push(reference: &Reference, component: Vec<u8>, surface: &Surface) -> Result<Reference> {
    let pushed = async {
        let mut registry = Registry::new(reference)?;
        let config = Config::of(&component, surface).json()?;
        let manifest = Manifest::of(&config, &component).json()?;
        registry.put_blob(config).await?;
        registry.put_blob(component).await?;
        let digest = Digest::of(&manifest);
        registry.put_manifest(&reference.wanted(), manifest).await?;
        anyhow::Ok(reference.at(digest))
    };
    pushed.await.with_context(|| reference.to_string())
}
