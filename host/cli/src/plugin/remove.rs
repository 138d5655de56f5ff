//! `parlour plugin remove`: the file, the grants and what was agreed to; what the plugin remembers stays.

use std::{fs, io::Write as _};

use anyhow::{Context, bail};
use clap::Args;
use parlour::id::PluginName;

use super::{Config, edit};

#[derive(Args)]
pub struct Options {
    /// Which
    name: PluginName,
    #[command(flatten)]
    config: Config,
}

/// Removes it.
pub fn remove(options: &Options) -> anyhow::Result<()> {
    let (settings, lock) = options.config.load()?;
    let name = &options.name;
    let component = settings.plugin_folder.join(format!("{name}.wasm"));
    let folder = settings.plugin_folder.join(name.as_str());
    let known = lock.read().map_err(anyhow::Error::msg)?.plugins.contains_key(name);
    let granted = settings.plugins.contains_key(name);
    if !component.exists() && !folder.join("plugin.toml").exists() && !known && !granted {
        bail!("there is no plugin {name}");
    }
    if folder.join("plugin.toml").exists() {
        bail!("plugin {name} is a folder of yours, {}: remove it, and say this again", folder.display());
    }
    if let Some(source) = settings.plugins.get(name).and_then(|plugin| plugin.source.as_ref()) {
        bail!(
            "plugin {name} is a file of yours, {}: take its `source` out of the settings, and say this again",
            source.display()
        );
    }
    if component.exists() {
        fs::remove_file(&component).with_context(|| component.display().to_string())?;
    }
    if granted {
        edit::grants(&options.config.config, name, |table| {
            let keys: Vec<String> = table.iter().map(|(key, _)| key.to_owned()).collect();
            for key in keys {
                table.remove(&key);
            }
        })?;
    }
    // Whoever has this name next shall not have it.
    if settings.plugins.get(name).is_some_and(|plugin| plugin.audit_only) {
        edit::key(&options.config.config, name, "audit_only", None)?;
    }
    for agent in settings.agents.iter().filter(|(_, agent)| agent.grants.contains_key(name)) {
        edit::agent_grants(&options.config.config, agent.0, name)?;
    }
    lock.change(|lock| drop(lock.plugins.remove(name))).map_err(anyhow::Error::msg)?;
    drop(writeln!(
        std::io::stdout(),
        "plugin {name}: removed, with what was granted to it.\nA host that runs now holds to the old grants until it starts again."
    ));
    Ok(())
}
