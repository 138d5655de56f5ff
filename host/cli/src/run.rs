//! `parlour run`: the agents of `parlour.toml`.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use parlour::{
    Agent, Host, HostBuilder,
    chat::matrix::{Account, Matrix, Secret},
    id::{AgentName, PluginName},
    journal::sqlite::Sqlite,
    llm::openai::OpenAi,
    notice::Notices,
    settings::{self, Settings},
};

#[derive(Args)]
pub struct Options {
    /// The settings
    #[arg(short, long, default_value = "parlour.toml")]
    config: PathBuf,
}

/// What a first `parlour.toml` says.
const FIRST: &str = r#"homeserver = "https://matrix.example.org"

[agents.helper]
user = "@helper:example.org"
password = { env = "HELPER_PASSWORD" }
plugins = ["*"]

[access]
admins = ["@you:example.org"]
"#;

/// Runs until it is asked to end.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let file = &options.config;
    if !file.try_exists().with_context(|| file.display().to_string())? {
        bail!("there is no {}; write one that says\n\n{FIRST}", file.display());
    }
    let settings = settings::load(file)?;
    if settings.agents.is_empty() {
        bail!("{}: it has no [agents.NAME]; one looks like this\n\n{FIRST}", file.display());
    }
    super::log::start();
    crate::runtime()?.block_on(serve(file, settings))
}

async fn serve(file: &Path, settings: Settings) -> anyhow::Result<()> {
    let data = Data::open(&settings.data).with_context(|| format!("{}: data", file.display()))?;
    let sealed = data.folder.join("sealed.log");
    let notices = crate::log::sealing(sealed.clone()).with_context(|| sealed.display().to_string())?;
    let mut builder = Host::builder()
        .notices(notices.clone())
        .journal(Sqlite::open(data.folder.join("journal.db")).map_err(|error| anyhow!("{error}"))?)
        .secret(data.folder.join("secret"))
        .keep(settings.record.keep)
        .cache(data.folder.join("compiled"))
        .lock(crate::plugin::lock_of(file), data.folder.join("plugins"))
        .strict(true)
        .control_if_possible(crate::status::socket(&data.folder));
    builder = plugins(builder, file, &settings)?;
    if let Some(llm) = &settings.llm {
        let key = llm.key.as_ref().map(settings::SecretText::reveal).transpose();
        let key = key.map_err(|reason| anyhow!("{}: llm.key: {reason}", file.display()))?;
        let backend = OpenAi::new(&llm.url, key, llm.model.clone(), llm.idle());
        builder = builder.llm(backend.map_err(|reason| anyhow!("{}: {reason}", file.display()))?);
    }
    builder = settings.homeservers().fold(builder, HostBuilder::homeserver);
    for (name, agent) in &settings.agents {
        let heard = builder.heard();
        builder = builder.agent(self::agent(file, &settings, &data.folder, name, agent, heard)?);
    }
    let host = builder.build().await?;
    for doubt in settings.doubts().into_iter().chain(missing(&settings)) {
        tracing::warn!(target: "parlour", "{}: {doubt}", file.display());
    }
    host.run(asked_to_end()).await?;
    Ok(())
}

/// Loads the folder, and what is named; what is named and not there is said now.
fn plugins(mut builder: HostBuilder, file: &Path, settings: &Settings) -> anyhow::Result<HostBuilder> {
    let folder = &settings.plugin_folder;
    if folder.exists() && !folder.is_dir() {
        bail!("{}: plugin_folder: {} is no folder", file.display(), folder.display());
    }
    builder = builder.plugin_folder(folder);
    if let Some(publishers) = &settings.publishers {
        builder = builder.publishers(publishers.clone());
    }
    for (name, plugin) in &settings.plugins {
        builder = builder.plugin_settings(name.clone(), plugin.clone());
        if let Some(source) = &plugin.source {
            if let Some((_, reference)) = source.to_string_lossy().split_once("oci://") {
                let place = format!("{}: plugins.{name}.source", file.display());
                bail!("{place}: oci://{reference} is no file; `parlour plugin add` brings it");
            }
            if !source.exists() {
                bail!("{}: plugins.{name}.source: there is no {}", file.display(), source.display());
            }
            builder = builder.plugin_file(name.clone(), source);
        }
    }
    for (agent, listed) in &settings.agents {
        for name in listed.plugins.iter().filter(|name| *name != "*") {
            let name = PluginName::parse(name)?;
            let sourced = settings.plugins.get(&name).is_some_and(|plugin| plugin.source.is_some());
            if !sourced && !is_there(folder, &name) {
                let expected = folder.join(format!("{name}.wasm"));
                bail!("{}: agents.{agent}.plugins: there is no {}", file.display(), expected.display());
            }
        }
    }
    Ok(builder)
}

/// What may be dropped in later, and is not there yet.
fn missing(settings: &Settings) -> Vec<String> {
    let folder = &settings.plugin_folder;
    if !folder.exists() {
        return vec![format!("plugin_folder: there is no {} yet", folder.display())];
    }
    let sourced = settings.plugins.iter().filter(|(_, plugin)| plugin.source.is_none());
    sourced
        .filter(|(name, _)| !is_there(folder, name))
        .map(|(name, _)| {
            format!("plugins.{name}: there is no {} yet", folder.join(format!("{name}.wasm")).display())
        })
        .collect()
}

/// Whether the plugin folder has a plugin of this name: a component, or a folder with a manifest and one.
fn is_there(folder: &Path, name: &PluginName) -> bool {
    folder.join(format!("{name}.wasm")).is_file() || folder.join(name.as_str()).join("plugin.toml").is_file()
}

fn agent(
    file: &Path,
    settings: &Settings,
    data: &Path,
    name: &AgentName,
    agent: &settings::Agent,
    heard: Notices,
) -> anyhow::Result<Agent> {
    let place = |field: &str| format!("{}: agents.{name}.{field}", file.display());
    let reveal = |secret: &settings::SecretText, field: &str| {
        secret.reveal().map_err(|reason| anyhow!("{}: {reason}", place(field)))
    };
    let secret = match (&agent.password, &agent.token) {
        (Some(password), _) => Secret::Password(reveal(password, "password")?),
        (None, Some(token)) => Secret::Token(reveal(token, "token")?),
        (None, None) => bail!("{} or token is needed", place("password")),
    };
    let recovery_key = agent.recovery_key.as_ref().map(|key| reveal(key, "recovery_key")).transpose()?;
    let homeserver = agent.homeserver.clone().or_else(|| settings.homeserver.clone());
    let account = Account {
        agent: name.clone(),
        homeserver: homeserver.with_context(|| place("homeserver"))?,
        user: agent.user.clone(),
        secret,
        device_id: agent.device_id.clone(),
        device_name: agent.device_name.clone(),
        encryption: agent.encryption,
        recovery_key,
        store: data.join("agents").join(name.as_str()),
    };
    Ok(Agent::new(name.clone(), Matrix::new(account, heard))
        .plugins(agent.plugins.clone())
        .access(agent.access.clone().unwrap_or_else(|| settings.access.clone()))
        .behaviour(agent.behaviour.clone().unwrap_or_else(|| settings.behaviour.clone()))
        .own_account(agent.own_account)
        .grants(agent.grants.clone()))
}

/// The folder of all state, for this process alone.
struct Data {
    folder: PathBuf,
    _lock: std::fs::File,
}

impl Data {
    fn open(folder: &Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
        let place = || folder.display().to_string();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(place)?;
        let mode = std::fs::metadata(folder).with_context(place)?.permissions().mode();
        if mode & 0o077 != 0 {
            // It was there before: what else is in it is not ours to hide.
            bail!("{}: others can look into it; chmod 700 it, or name another folder as `data`", place());
        }
        let lock = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(folder.join("lock"));
        let lock = lock.with_context(place)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder: folder.into(), _lock: lock }),
            Err(std::fs::TryLockError::WouldBlock) => bail!("{}: another parlour uses it", folder.display()),
            Err(std::fs::TryLockError::Error(error)) => Err(error).with_context(place),
        }
    }
}

/// Ctrl-C, or a service manager's SIGTERM.
pub async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
