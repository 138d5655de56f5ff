//! Python: `componentize-py` makes the component, with `CPython` in it.

use std::{fs, path::Path, process::Command};

use anyhow::Result;
use parlour::manifest::Manifest;

use super::{
    contract::{Files, WIT, WORLD, embedded, world, write_all},
    tool::Tool,
};

const COMPONENTIZE_PY: Tool = Tool {
    name: "componentize-py",
    variable: "COMPONENTIZE_PY",
    install: "pip install componentize-py==0.25.1",
};

pub const LIBRARY: Files = embedded!("../../../../sdk/python/parlour_plugin/":
    "__init__.py", "config.py", "directory.py", "http.py", "kv.py", "llm.py", "log.py", "media.py", "outbox.py", "progress.py",
    "schedule.py", "secrets.py", "toolbox.py", "types.py",
);

/// Builds the sources that were copied to `workshop`.
pub fn build(
    folder: &Path,
    manifest: &Manifest,
    main: &str,
    workshop: &Path,
    component: &Path,
) -> Result<()> {
    let module = main.trim_end_matches(".py").replace('/', ".");
    write_all(WIT, &workshop.join("wit"))?;
    let http = manifest.asks.http.is_some().then_some("wasi:http/outgoing-handler@0.2.12");
    fs::write(workshop.join("wit/world.wit"), world(&manifest.handles, http.as_slice()))?;
    write_all(LIBRARY, &workshop.join("sdk/parlour_plugin"))?;

    let mut tool = Command::new(COMPONENTIZE_PY.executable(folder));
    tool.current_dir(workshop).args(["--wit-path", "wit", "--world", WORLD, "componentize", &module]);
    tool.args(["--python-path", "sources", "--python-path", "sdk", "--output"]).arg(component);
    COMPONENTIZE_PY.run(&mut tool)
}
