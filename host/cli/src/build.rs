//! `parlour build [FOLDER]`: makes a component of a plugin's sources, whatever language they are in.
//!
//! A folder with a `Cargo.toml` is Rust and goes to cargo. Any other has a `plugin.toml` that names its main
//! file and the interfaces that it handles, and goes to the tool that makes components of its language,
//! together with the contract and the guest library that this program carries: no checkout is needed. The
//! sources are copied to a temporary folder first, because these tools want everything under one root and
//! leave files behind.
//!
//! The component appears in one step, so that a host that watches the folder never sees half of it.

mod contract;
mod javascript;
mod python;
mod rust;
mod tool;

use std::{
    ffi::OsStr,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use parlour::{engine::admission, id::PluginName, manifest::Manifest, package};
use wasm_metadata::{AddMetadata, AddMetadataField};

/// Builds the plugin in `folder` and returns where its component is: `out`, or `NAME.wasm` in the folder.
pub fn build(folder: &Path, out: Option<&Path>) -> Result<PathBuf> {
    let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
    ensure!(folder.is_dir(), "{} is no folder", folder.display());
    if let Some(into) = out.and_then(Path::parent).filter(|into| !into.as_os_str().is_empty()) {
        fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    }
    let text = plugin_toml(&folder)?;
    let at = |reason: String| anyhow!("{}/{reason}", folder.display());
    let manifest = text.as_deref().map(Manifest::parse).transpose().map_err(at)?;
    let workshop = tempfile::tempdir().context("cannot make a temporary folder")?;

    let (name, component) = match &manifest {
        _ if folder.join("Cargo.toml").is_file() => {
            let (crate_name, component) = rust::build(&folder)?;
            let name = PluginName::parse(&crate_name);
            let name = manifest.as_ref().map_or(name, |manifest| Ok(manifest.name.clone()));
            (name.map_err(|error| anyhow!("{}: {error}", folder.display()))?, component)
        }
        Some(manifest) => (manifest.name.clone(), build_script(&folder, manifest, workshop.path())?),
        None => {
            bail!("{} holds no plugin: there is neither a Cargo.toml nor a plugin.toml", folder.display())
        }
    };

    let out = place(out, &folder, &name)?;
    let mut bytes = fs::read(&component).with_context(|| format!("cannot read {}", component.display()))?;
    if let (Some(text), Some(manifest)) = (&text, &manifest) {
        let described = described(&bytes, manifest).with_context(|| folder.display().to_string())?;
        bytes = package::embed(described, text).map_err(at)?;
    }
    let surface = admission::surface(&bytes).and_then(|surface| surface.admit());
    surface.map_err(|refused| anyhow!("{} makes no plugin: {refused}", folder.display()))?;
    let partial = out.with_added_extension("partial");
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, &out));
    if written.is_err() {
        drop(fs::remove_file(&partial));
    }
    written.with_context(|| format!("cannot write {}", out.display()))?;
    Ok(out)
}

/// The `plugin.toml` of a folder, if it has one.
fn plugin_toml(folder: &Path) -> Result<Option<String>> {
    let path = folder.join("plugin.toml");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The component with what the manifest says in the standard metadata sections, for other tools.
fn described(component: &[u8], manifest: &Manifest) -> Result<Vec<u8>> {
    let mut metadata = AddMetadata::default();
    metadata.name = AddMetadataField::Set(manifest.name.to_string());
    metadata.version = AddMetadataField::Set(wasm_metadata::Version::new(manifest.version.to_string()));
    metadata.description =
        AddMetadataField::Set(wasm_metadata::Description::new(manifest.description.clone()));
    if let Some(license) = &manifest.license {
        metadata.licenses = AddMetadataField::Set(license.parse().context("license is no SPDX expression")?);
    }
    if let Some(homepage) = &manifest.homepage {
        metadata.homepage = AddMetadataField::Set(homepage.parse().context("homepage is no URL")?);
    }
    metadata.to_wasm(component)
}

/// Where the component goes: a file, or `NAME.wasm` in a folder.
fn place(out: Option<&Path>, folder: &Path, name: &PluginName) -> Result<PathBuf> {
    let named = format!("{name}.wasm");
    Ok(match out {
        None => folder.join(named),
        Some(out) if out.as_os_str().as_encoded_bytes().ends_with(b"/") => {
            fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
            out.join(named)
        }
        Some(out) if out.is_dir() => out.join(named),
        Some(out) => out.to_path_buf(),
    })
}

/// Has the tool for the main file's language build it, and returns where the component is.
fn build_script(folder: &Path, manifest: &Manifest, workshop: &Path) -> Result<PathBuf> {
    let plugin_toml = folder.join("plugin.toml");
    let Some(main) = &manifest.main else {
        bail!("{} names no main file, such as main = \"{}.py\"", plugin_toml.display(), manifest.name);
    };
    ensure!(
        !manifest.handles.is_empty(),
        "{} names nothing that the plugin handles, such as handles = [\"messages\"]",
        plugin_toml.display()
    );
    ensure!(folder.join(main).is_file(), "{} names {main:?}, which is not there", plugin_toml.display());

    let component = workshop.join("component.wasm");
    let sources = workshop.join("sources");
    copy_sources(folder, &sources).with_context(|| format!("cannot copy {}", folder.display()))?;
    match Path::new(main).extension().and_then(OsStr::to_str) {
        Some("py") => python::build(folder, manifest, main, workshop, &component)?,
        Some("js" | "mjs") => javascript::build(folder, manifest, main, workshop, &component)?,
        _ => bail!("{} names {main:?}; a main file ends in .py or .js", plugin_toml.display()),
    }
    Ok(component)
}

/// Copies what may be a source. Hidden files, caches and binaries are none, and a link that leads back up
/// would never end.
fn copy_sources(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (source, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let hidden = name.as_encoded_bytes().starts_with(b".");
        let binary = matches!(source.extension().and_then(OsStr::to_str), Some("node" | "so" | "wasm"));
        if hidden || binary || name == "__pycache__" {
            continue;
        }
        if !source.is_dir() {
            fs::copy(&source, to.join(name))?;
        } else if !from.starts_with(source.canonicalize()?) {
            copy_sources(&source, &to.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_the_contract_and_the_libraries_is_embedded() {
        let check = |folder: &str, ending: &str, embedded: &[(&str, &str)]| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
            let mut there = files(&root, &root);
            there.retain(|file| file.ends_with(ending));
            let mut listed: Vec<_> = embedded.iter().map(|(file, _)| (*file).to_owned()).collect();
            listed.retain(|file| file.ends_with(ending));
            listed.sort();
            assert_eq!(there, listed, "{folder}");
        };
        check("wit", ".wit", contract::WIT);
        check("sdk/python/parlour_plugin", ".py", python::LIBRARY);
        check("sdk/javascript", ".js", javascript::LIBRARY);
    }

    fn files(folder: &Path, root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).expect("the folder is in the checkout") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                found.extend(files(&path, root));
            } else if let Ok(file) = path.strip_prefix(root) {
                found.push(file.display().to_string());
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_folder_without_a_plugin_is_refused_in_one_line() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let check = |expected: &str| {
            let line = format!("{:#}", build(folder.path(), None).expect_err(expected));
            assert!(line.contains(expected) && !line.contains('\n'), "{line}");
        };
        check("neither a Cargo.toml nor a plugin.toml");
        let head = "name = \"a\"\nversion = \"1.0.0\"\ndescription = \"\"\n";
        let manifest = |rest: &str| {
            fs::write(folder.path().join("plugin.toml"), format!("{head}{rest}"))
                .expect("the folder can be written");
        };
        manifest("");
        check("names no main file, such as main = \"a.py\"");
        manifest("main = \"a.py\"");
        check("names nothing that the plugin handles");
        manifest("main = \"a.py\"\nhandles = [\"messages\"]");
        check("names \"a.py\", which is not there");
    }
}
