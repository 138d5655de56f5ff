//! The contract, as this program carries it, and the worlds that plugins are built for.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use parlour::manifest::Interface;

/// Names of files, and their texts.
pub type Files = &'static [(&'static str, &'static str)];

macro_rules! embedded {
    ($folder:literal: $($file:literal),+ $(,)?) => {
        &[$(($file, include_str!(concat!($folder, $file)))),+]
    };
}

pub(super) use embedded;

pub const WIT: Files = embedded!("../../../../wit/":
    "commands.wit", "directory.wit", "kv.wit", "llm.wit", "media.wit", "members.wit", "messages.wit", "outbox.wit",
    "progress.wit", "schedule.wit", "secrets.wit", "timers.wit", "toolbox.wit", "tools.wit", "types.wit", "worlds.wit", "deps/wasi-clocks/clocks.wit", "deps/wasi-http/http.wit", "deps/wasi-io/io.wit",
    "deps/wasi-config/store.wit", "deps/wasi-config/world.wit",
    "deps/wasi-logging/logging.wit", "deps/wasi-random/random.wit",
);

/// The world that a plugin is built for; no module of a plugin may have this name.
pub const WORLD: &str = "parlour-built-plugin";

/// A world that imports all there is and exports what the plugin handles, and nothing else.
pub fn world(handles: &[Interface], further_imports: &[&str]) -> String {
    let mut world = format!("package parlour:plugin@0.1.0;\n\nworld {WORLD} {{\n  include imports;\n");
    for import in further_imports {
        world.push_str(&format!("  import {import};\n"));
    }
    for interface in handles {
        world.push_str(&format!("  export {};\n", interface.name()));
    }
    world + "}\n"
}

/// Writes files below a folder.
pub fn write_all(files: &[(&str, &str)], folder: &Path) -> Result<()> {
    for (name, text) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_exports_what_is_handled() {
        assert_eq!(
            world(&[Interface::Messages, Interface::Members], &["wasi:random/random@0.2.0"]),
            "package parlour:plugin@0.1.0;\n\nworld parlour-built-plugin {\n  include imports;\n  \
             import wasi:random/random@0.2.0;\n  export messages;\n  export members;\n}\n"
        );
    }
}
