//! `parlour chat`: a chat in the terminal, or on a pipe.

mod editor;

use std::{
    io::{BufRead, IsTerminal, Write},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use clap::Args;
use parlour::{
    Agent, Host,
    chat::console::{Console, Printed},
    id::{PluginName, UserId},
    notice::{Level, Notice, Notices, hidden},
    settings::{Access, Grants, Plugin},
};
use tokio::sync::mpsc;

mod examples {
    include!(concat!(env!("OUT_DIR"), "/examples.rs"));
}

/// The account of the agent, and the server of everybody at the terminal.
const AGENT: &str = "@parlour:terminal";

#[derive(Args, Default)]
pub struct Options {
    /// Speak as somebody else, who is no admin
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Load the plugins in this folder too, and follow what is dropped in, replaced and removed
    #[arg(long, value_name = "FOLDER")]
    plugins: Option<PathBuf>,
}

/// Chats until the input ends.
pub fn chat(options: Options) -> anyhow::Result<()> {
    crate::runtime()?.block_on(serve(options))
}

async fn serve(options: Options) -> anyhow::Result<()> {
    let agent: UserId = AGENT.parse()?;
    let admin: UserId = "@you:terminal".parse()?;
    let person = match &options.name {
        Some(name) => format!("@{}:terminal", name.trim_start_matches('@')).parse().context("--as")?,
        None => admin.clone(),
    };
    let access = Access { users: [person.clone()].into(), admins: [admin].into(), ..Access::default() };
    let (say, lines) = mpsc::channel(16);
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let screen: Screen = if interactive { editor::screen() } else { Screen::plain() };
    let printer = screen.clone();
    let console = Console::new(&agent, &person, lines, move |printed| printer.print(&printed));
    let noticed = screen.clone();
    // What is loaded at the start is no news.
    let serves = AtomicBool::new(false);
    let notices = Notices::new(move |notice| match notice {
        Notice::AgentReady { .. } => serves.store(true, Ordering::Relaxed),
        notice
            if notice.level() >= if serves.load(Ordering::Relaxed) { Level::Info } else { Level::Warn } =>
        {
            noticed.note(&notice.to_string());
        }
        _ => {}
    });
    let mut builder =
        Host::builder().agent(Agent::new("parlour".parse()?, console).access(access)).notices(notices);
    if let Some(cache) = cache() {
        builder = builder.cache_if_possible(cache);
    }
    for (name, bytes) in examples::EXAMPLES {
        builder = builder.plugin(name.parse()?, *bytes);
    }
    let grants = Grants { home: true, ..Grants::default() };
    builder = builder.plugin_settings(PluginName::parse("sethome")?, Plugin { grants, ..Plugin::default() });
    if let Some(folder) = options.plugins {
        anyhow::ensure!(folder.is_dir(), "--plugins: there is no folder {}", folder.display());
        builder = builder.plugin_folder(folder);
    }
    let host = builder.build().await?;
    let commands = host.commands();
    std::thread::spawn(move || if interactive { editor::read(&screen, &say, &commands) } else { pipe(&say) });
    host.run(crate::run::asked_to_end()).await?;
    Ok(())
}

/// Compiled code of the examples is kept where caches are.
fn cache() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    cache.map(|cache| cache.join("parlour").join("compiled"))
}

/// Lines from a pipe or a file.
fn pipe(say: &mpsc::Sender<String>) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        if say.blocking_send(line).is_err() {
            return;
        }
    }
}

/// What prints a line above the one that is being typed.
type Above = Box<dyn FnMut(String) + Send>;

/// Where words for the person go.
#[derive(Clone)]
pub struct Screen {
    above: Arc<Mutex<Option<Above>>>,
    colours: bool,
}

impl Screen {
    /// Answers to standard output, notices to standard error.
    fn plain() -> Self {
        Self { above: Arc::default(), colours: false }
    }

    /// Answers and notices above a line editor.
    fn above(above: Above) -> Self {
        Self { above: Arc::new(Mutex::new(Some(above))), colours: std::env::var_os("NO_COLOR").is_none() }
    }

    /// From now on, lines are printed by this.
    fn replace(&self, above: Above) {
        *self.above.lock().unwrap_or_else(PoisonError::into_inner) = Some(above);
    }

    fn print(&self, printed: &Printed) {
        let text = match printed {
            Printed::Message(text) | Printed::Edit(text) => text.clone(),
            Printed::Reaction(key) => format!("({key})"),
            Printed::Redaction => "(removed a message)".into(),
        };
        self.write(&text, false);
    }

    fn note(&self, text: &str) {
        self.write(text, true);
    }

    /// What plugins say steers no terminal.
    fn write(&self, text: &str, note: bool) {
        let text: String = text.chars().filter(|c| matches!(c, '\n' | '\t') || !hidden(*c)).collect();
        let mut above = self.above.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *above {
            Some(above) if note && self.colours => above(format!("\u{1b}[2m{text}\u{1b}[0m\n")),
            Some(above) => above(format!("{text}\n")),
            None if note => eprintln!("{text}"),
            None => {
                let mut out = std::io::stdout().lock();
                // Nobody reads any more: there is nobody to tell.
                drop(writeln!(out, "{text}").and_then(|()| out.flush()));
            }
        }
    }
}
