//! The two texts of an artefact, as the "Wasm OCI Artifact" layout has them
//! (<https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>): its manifest, and what that calls config.

use anyhow::{Context, Result};
use parlour::engine::admission::Surface;
use serde::{Deserialize, Serialize};

use super::Digest;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const COMPONENT: &str = "application/wasm";

/// The manifest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// What a manifest says of bytes that are elsewhere.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: usize,
}

/// The layer that is the component.
pub struct Layer {
    pub digest: Digest,
    /// Bytes.
    pub size: usize,
}

impl Descriptor {
    fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self { media_type: media_type.into(), digest: Digest::of(bytes).to_string(), size: bytes.len() }
    }
}

impl Manifest {
    /// A manifest's bytes.
    ///
    /// # Errors
    /// One line.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|_| "its manifest is none of a plugin".to_owned())
    }

    /// The component's layer, of at most so many bytes.
    ///
    /// # Errors
    /// One line: it is something else than one WebAssembly component.
    pub fn component(self, limit: usize) -> Result<Layer, String> {
        let image = self.media_type.is_none_or(|kind| kind == MANIFEST);
        if self.schema_version != 2 || !image || self.config.media_type != CONFIG {
            return Err(format!("it is no WebAssembly artefact: its config is none of {CONFIG}"));
        }
        let [layer] = &self.layers[..] else {
            return Err(format!("it has {} layers; a plugin is one", self.layers.len()));
        };
        if layer.media_type != COMPONENT {
            return Err(format!("its layer is none of {COMPONENT}"));
        }
        if layer.size > limit {
            let size = layer.size.div_ceil(1024 * 1024);
            return Err(format!("it has {size} MiB; a component has at most {} MiB", limit / (1024 * 1024)));
        }
        let digest = layer.digest.parse().map_err(|error| format!("its layer: {error}"))?;
        Ok(Layer { digest, size: layer.size })
    }

    /// The manifest of a config and a component.
    pub fn of(config: &[u8], component: &[u8]) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MANIFEST.into()),
            config: Descriptor::of(CONFIG, config),
            layers: vec![Descriptor::of(COMPONENT, component)],
        }
    }

    pub fn json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).context("the manifest")
    }
}

/// What other tools read of a component.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config<'a> {
    /// Always the same, so that the same component is the same artefact.
    created: &'static str,
    architecture: &'static str,
    os: &'static str,
    layer_digests: [String; 1],
    component: Interfaces<'a>,
}

#[derive(Debug, Serialize)]
struct Interfaces<'a> {
    exports: &'a [String],
    imports: &'a [String],
}

impl<'a> Config<'a> {
    pub fn of(component: &[u8], surface: &'a Surface) -> Self {
        Self {
            created: "1970-01-01T00:00:00Z",
            architecture: "wasm",
            os: "wasip2",
            layer_digests: [Digest::of(component).to_string()],
            component: Interfaces { exports: &surface.exports, imports: &surface.imports },
        }
    }

    pub fn json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).context("the config")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_component_is_a_plugin() {
        let whole = String::from_utf8(Manifest::of(b"{}", b"\0asm").json().expect("JSON")).expect("text");
        let refused = |text: &str| {
            let layer = Manifest::parse(text.as_bytes()).and_then(|manifest| manifest.component(1024));
            layer.map(|layer| layer.size).expect_err(text)
        };
        let layer = Manifest::parse(whole.as_bytes()).and_then(|manifest| manifest.component(1024));
        assert_eq!(layer.map(|layer| layer.size), Ok(4));
        for (old, new, expected) in [
            (CONFIG, "application/vnd.oci.image.config.v1+json", "it is no WebAssembly artefact"),
            ("\"schemaVersion\":2", "\"schemaVersion\":1", "it is no WebAssembly artefact"),
            (MANIFEST, "application/vnd.oci.image.index.v1+json", "it is no WebAssembly artefact"),
            ("\"application/wasm\"", "\"application/x-tar\"", "its layer is none of application/wasm"),
            ("\"size\":4", "\"size\":4096", "it has 1 MiB; a component has at most 0 MiB"),
            ("\"size\":4", "\"size\":-4", "its manifest is none"),
            ("[{", "[{},{", "its manifest is none"),
            ("}]}", "}", "its manifest is none"),
        ] {
            let line = refused(&whole.replacen(old, new, 1));
            assert!(line.starts_with(expected), "{line}");
        }
        let digest = Digest::of(b"\0asm").to_string();
        assert!(refused(&whole.replace(&digest, "sha256:../../x")).starts_with("its layer: a digest is"));
        let twice = whole.replace(
            "\"size\":4}",
            &format!("\"size\":4}},{{\"mediaType\":\"{COMPONENT}\",\"digest\":\"{digest}\",\"size\":4}}"),
        );
        assert_eq!(refused(&twice), "it has 2 layers; a plugin is one");
    }
}
