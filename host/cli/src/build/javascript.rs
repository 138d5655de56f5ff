//! JavaScript: `componentize-qjs` makes the component, with `QuickJS` in it.

use std::{fs, path::Path, process::Command};

use anyhow::Result;
use parlour::manifest::{Interface, Manifest};

use super::{
    contract::{Files, WIT, WORLD, embedded, world, write_all},
    tool::Tool,
};

const COMPONENTIZE_QJS: Tool = Tool {
    name: "componentize-qjs",
    variable: "COMPONENTIZE_QJS",
    install: "npm install componentize-qjs@0.4.5",
};

pub const LIBRARY: Files = embedded!("../../../../sdk/javascript/":
    "config.js", "error.js", "handlers.js", "index.js", "kv.js", "llm.js", "log.js", "media.js", "outbox.js",
    "package.json", "random.js", "schedule.js", "toolbox.js",
);

/// Builds the sources that were copied to `workshop`.
pub fn build(
    folder: &Path,
    manifest: &Manifest,
    main: &str,
    workshop: &Path,
    component: &Path,
) -> Result<()> {
    // The host's random numbers, which `Math.random` draws from (see sdk/javascript/random.js).
    write_all(WIT, &workshop.join("wit"))?;
    fs::write(workshop.join("wit/world.wit"), world(&manifest.handles, &["wasi:random/random@0.2.0"]))?;
    let library = workshop.join("sources/node_modules/parlour-plugin");
    write_all(LIBRARY, &library)?;
    let entry = library.join("entry.js");
    fs::write(&entry, entry_of(&manifest.handles, main))?;

    let mut tool = Command::new(COMPONENTIZE_QJS.executable(folder));
    tool.current_dir(workshop).args(["--sync", "--wit", "wit", "--world", WORLD, "--module-root", "sources"]);
    tool.arg("--js").arg(entry).arg("--output").arg(component);
    COMPONENTIZE_QJS.run(&mut tool)
}

/// The module that the component is made of: the plugin's handlers, wrapped.
fn entry_of(handles: &[Interface], main: &str) -> String {
    let mut entry = String::from("import { handlers } from \"./handlers.js\";\n");
    for interface in handles.iter().map(|interface| interface.name()) {
        entry.push_str(&format!(
            "import {{ {interface} as their_{interface} }} from \"../../{main}\";\n\
             export const {interface} = handlers(their_{interface});\n"
        ));
    }
    entry
}
