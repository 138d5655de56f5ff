//! A host that is going to be killed.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use parlour::{
    Agent, Compiler, Host,
    chat::{
        Chat,
        matrix::{Account, Matrix, Secret},
    },
    journal::sqlite::Sqlite,
    notice::Notices,
    settings::{Access, Encryption, Grants, Plugin, Timers},
};
use serde::{Deserialize, Serialize};

use crate::{
    death::{Death, Plan},
    mortal::MortalChat,
    remote::Remote,
    watched::Watched,
};

/// Says to a process of this program that it is one.
const LIFE: &str = "PARLOUR_TORTURE_LIFE";

/// Lines of what hosts have said that are shown of a failure.
const TOLD: usize = 100;

/// What such a process is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Life {
    pub place: Place,
    /// Of this host's.
    pub journal: PathBuf,
    pub plugins: PathBuf,
    pub cache: PathBuf,
    /// The program that compiles.
    pub compiler: PathBuf,
    /// Whom it hears.
    pub people: Vec<String>,
    pub death: Option<Plan>,
}

/// Where the rooms are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Place {
    /// In another process, at this socket.
    Elsewhere(PathBuf),
    /// On a homeserver.
    Matrix { homeserver: String, user: String, password: String, store: PathBuf },
}

impl Life {
    pub fn of_this_process() -> Option<Self> {
        let told = std::env::var(LIFE).ok()?;
        Some(serde_json::from_str(&told).expect("what a life is told"))
    }

    /// Begins it, in a process of its own, which ends when its standard input does.
    pub fn begin(&self) -> std::io::Result<std::process::Child> {
        use std::process::{Command, Stdio};
        let mut child = Command::new(std::env::current_exe()?);
        child
            .env(LIFE, serde_json::to_string(self).expect("JSON"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        // Whoever wants to read along has it in the terminal.
        if std::env::var_os("PARLOUR_TEST_LOG").is_none() {
            let log = std::fs::OpenOptions::new().append(true).create(true).open(self.log())?;
            child.stderr(log);
        }
        child.spawn()
    }

    /// The last of what all lives have said, for somebody who wonders.
    pub fn said(&self) -> String {
        let said = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> =
            said.lines().filter(|line| !line.contains(": new version took over")).collect();
        lines[lines.len().saturating_sub(TOLD)..].join("\n")
    }

    fn log(&self) -> PathBuf {
        self.journal.with_extension("log")
    }
}

pub fn live(life: Life) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.expect("a runtime").block_on(serve(life)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the host ended: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(life: Life) -> Result<(), Box<dyn std::error::Error>> {
    let death = Arc::new(Death::new(life.death.clone()));
    match life.place.clone() {
        Place::Elsewhere(socket) => host(life, Remote::connect(&socket).await?, death).await,
        Place::Matrix { homeserver, user, password, store } => {
            let account = Account {
                agent: "agent".parse()?,
                homeserver,
                user: Some(user.parse()?),
                secret: Secret::Password(password),
                device_id: None,
                device_name: "Parlour".into(),
                encryption: Encryption::AsRoom,
                recovery_key: None,
                store,
            };
            host(life, Matrix::new(account, notices()), death).await
        }
    }
}

async fn host(life: Life, chat: impl Chat, death: Arc<Death>) -> Result<(), Box<dyn std::error::Error>> {
    let chat = MortalChat { chat, death: death.clone() };
    let journal = Watched { journal: Sqlite::open(&life.journal)?, watch: death };
    let users = life.people.iter().map(|user| user.parse()).collect::<Result<_, _>>()?;
    let agent = Agent::new("agent".parse()?, chat).access(Access { users, ..Access::default() });
    let grants = Grants { timers: Some(Timers::default()), ..Grants::default() };
    let host = Host::builder()
        .agent(agent)
        .journal(journal)
        .plugin_folder(&life.plugins)
        .plugin_settings("tally".parse()?, Plugin { grants, ..Plugin::default() })
        .lock(life.plugins.with_extension("lock"), life.plugins.with_extension("kept"))
        .compiler(Compiler::Program(life.compiler))
        .cache(&life.cache)
        .notices(notices())
        .build()
        .await?;
    host.run(asked_to_end()).await?;
    Ok(())
}

fn notices() -> Notices {
    Notices::new(|notice| eprintln!("[{}] {notice}", std::process::id()))
}

/// When whoever began this process wants no more of it.
async fn asked_to_end() {
    let end = || drop(std::io::read_to_string(std::io::stdin()));
    drop(tokio::task::spawn_blocking(end).await);
}
