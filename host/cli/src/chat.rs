//! `parlour chat`: a chat in the terminal, or on a pipe.

mod editor;

use std::{
    io::{BufRead, ErrorKind, IsTerminal, Read, Write},
    num::NonZeroU32,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use nix::sys::termios;
use parlour::{
    Agent, Host,
    chat::console::{Console, Printed},
    engine::limits::Limits,
    id::{PluginName, UserId},
    notice::{Level, Notice, Notices},
    package,
    settings::{Access, Grants, Plugin, Role, Timers},
    text::{escaped, hidden},
};
use tokio::sync::{SetOnce, mpsc, oneshot};

mod examples {
    include!(concat!(env!("OUT_DIR"), "/examples.rs"));
}

/// How long what was said last may take to appear, once the line editor has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The longest line from a pipe, in bytes: all that an event of Matrix holds.
const LINE: usize = 64 * 1024;

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
        Some(name) => guest(name)?,
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
            // Nobody else reads this terminal.
            noticed.note(&notice.to_string());
        }
        _ => {}
    });
    let mut builder = Host::builder()
        .agent(Agent::new("parlour".parse()?, console).access(access.clone()))
        // A file on its standard input is read faster than anybody types.
        .limits(Limits { messages: NonZeroU32::MAX, ..Limits::default() })
        .notices(notices);
    if let Some(cache) = cache() {
        builder = builder.cache_if_possible(cache);
    }
    for (name, component, manifest) in examples::EXAMPLES {
        let component = package::embed(component.to_vec(), manifest).map_err(anyhow::Error::msg)?;
        builder = builder.plugin(name.parse()?, component);
    }
    let grants = Grants { home: true, ..Grants::default() };
    builder = builder.plugin_settings(PluginName::parse("sethome")?, Plugin { grants, ..Plugin::default() });
    let grants = Grants { timers: Some(Timers::default()), ..Grants::default() };
    builder = builder.plugin_settings(PluginName::parse("remind")?, Plugin { grants, ..Plugin::default() });
    if let Some(folder) = options.plugins {
        anyhow::ensure!(folder.is_dir(), "--plugins: there is no folder {}", folder.display());
        builder = builder.plugin_folder(folder);
    }
    let host = builder.build().await?;
    let role = access.role(&person).unwrap_or(Role::Guest);
    let (left, leaves) = oneshot::channel();
    let terminal = Terminal::remember();
    if interactive {
        let (commands, screen) = (host.commands(), screen.clone());
        std::thread::spawn(move || {
            editor::read(&screen, &say, commands, role);
            // Whoever leaves does not wait for what still runs.
            left.send(()).ok();
        });
    } else {
        // The end of a pipe is no hurry: what was asked is answered.
        let screen = screen.clone();
        std::thread::spawn(move || pipe(&screen, &say));
    }
    let shutdown = async {
        tokio::select! {
            () = crate::run::asked_to_end() => {}
            Ok(()) = leaves => {}
            // Nobody would see what is still to be answered.
            _ = screen.failed.wait() => {}
        }
    };
    host.run(shutdown).await?;
    screen.finish();
    terminal.restore();
    match screen.failed.get() {
        // Whoever reads only the beginning has seen enough.
        Some(kind) if *kind != ErrorKind::BrokenPipe => {
            Err(std::io::Error::from(*kind)).context("standard output")
        }
        _ => Ok(()),
    }
}

/// Somebody who is no admin.
fn guest(name: &str) -> anyhow::Result<UserId> {
    let name = name.strip_prefix('@').unwrap_or(name);
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._=-/+".contains(c);
    let taken = ["you", "parlour"].contains(&name);
    if name.is_empty() || taken || !name.chars().all(plain) {
        bail!(
            "--as: {name:?} is not a name such as bob: lower-case letters, digits and ._=-/+, and not you or parlour"
        );
    }
    Ok(format!("@{name}:terminal").parse()?)
}

/// The terminal as it was: a line editor that is ended from outside leaves it raw.
struct Terminal(Option<termios::Termios>);

impl Terminal {
    fn remember() -> Self {
        Self(termios::tcgetattr(std::io::stdin()).ok())
    }

    fn restore(self) {
        if let Some(before) = self.0 {
            termios::tcsetattr(std::io::stdin(), termios::SetArg::TCSANOW, &before).ok();
        }
    }
}

/// Compiled code of the examples is kept where caches are.
fn cache() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    cache.map(|cache| cache.join("parlour").join("compiled"))
}

/// Lines from a pipe or a file, each when there is room for it. Bytes that are no text are shown as such.
fn pipe(screen: &Screen, say: &mpsc::Sender<String>) {
    let mut input = std::io::stdin().lock();
    let mut line = Vec::new();
    let most = LINE as u64 + 1;
    while input.by_ref().take(most).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        // Nobody reads any more: there is nobody to ask for.
        if screen.failed.initialized() {
            return;
        }
        if line.len() > LINE && line.last() != Some(&b'\n') {
            screen.note(&format!("a line of more than {} KiB is left out", LINE / 1024));
            if input.skip_until(b'\n').is_err() {
                return;
            }
        } else if say.blocking_send(String::from_utf8_lossy(&line).into_owned()).is_err() {
            return;
        }
        line.clear();
    }
}

/// What prints a line above the one that is being typed.
type Above = Box<dyn FnMut(String) + Send>;

/// Where words for the person go.
#[derive(Clone)]
pub struct Screen {
    above: Arc<Mutex<Option<Above>>>,
    printing: Arc<Mutex<Option<JoinHandle<()>>>>,
    /// Why nothing can be written any more.
    failed: Arc<SetOnce<ErrorKind>>,
    colours: bool,
}

impl Screen {
    /// Answers to standard output, notices to standard error.
    fn plain() -> Self {
        Self { above: Arc::default(), printing: Arc::default(), failed: Arc::default(), colours: false }
    }

    /// Answers and notices above a line editor.
    fn above(above: Above) -> Self {
        let screen = Self::plain();
        *lock(&screen.above) = Some(above);
        Self { colours: crate::log::colours(std::io::stdout().is_terminal()), ..screen }
    }

    /// From now on, lines are printed by this, which has a thread.
    fn replace(&self, above: Above, printing: JoinHandle<()>) {
        *lock(&self.above) = Some(above);
        *lock(&self.printing) = Some(printing);
    }

    /// The line editor is gone; what it has not printed yet has a moment.
    fn finish(&self) {
        drop(lock(&self.above).take());
        let printing = lock(&self.printing).take();
        let deadline = Instant::now() + LAST_WORDS;
        while printing.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn print(&self, printed: &Printed) {
        let text = match printed {
            Printed::Message(text) | Printed::Edit(text) => text.clone(),
            Printed::File { name, size, caption } => {
                let caption = caption.as_ref().map_or_else(String::new, |caption| format!("{caption}\n"));
                format!("{caption}({}, {size} bytes)", escaped(name, 300))
            }
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
        match &mut *lock(&self.above) {
            Some(above) if note && self.colours => above(format!("\u{1b}[2m{text}\u{1b}[0m\n")),
            Some(above) => above(format!("{text}\n")),
            None if note => eprintln!("{text}"),
            None => {
                let mut out = std::io::stdout().lock();
                if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
                    // The first one counts.
                    drop(self.failed.set(error.kind()));
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
