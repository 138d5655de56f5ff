//! The line editor of the terminal: history, Tab for commands, and answers that appear above what is typed.

use std::{
    sync::mpsc as lines,
    time::{Duration, Instant},
};

use parlour::{Commands, settings::Role};
use rustyline::{
    Cmd, Completer, ConditionalEventHandler, Config, Context, Editor, Event, EventContext, EventHandler,
    ExternalPrinter, Helper, Highlighter, Hinter, KeyEvent, Movement, RepeatCount, Validator,
    completion::{Completer as Completes, Pair},
    config::CompletionType,
    error::ReadlineError,
    history::MemHistory,
};
use tokio::sync::mpsc;

use super::{Above, Screen};

const PROMPT: &str = "> ";
/// Ctrl-C ends what runs; a second one within this time leaves.
const AGAIN: Duration = Duration::from_secs(2);

/// A screen whose lines appear above the editor's, once it reads.
pub fn screen() -> Screen {
    let above: Above = Box::new(|text| print!("{text}"));
    Screen::above(above)
}

/// Reads until the person leaves. Tab completes the commands that their role may use.
pub fn read(screen: &Screen, say: &mpsc::Sender<String>, commands: Commands, role: Role) {
    let config = Config::builder().completion_type(CompletionType::List).auto_add_history(true).build();
    let Ok(mut editor) = Editor::<Line, MemHistory>::with_history(config, MemHistory::new()) else { return };
    editor.set_helper(Some(Line { completes: Names(commands, role) }));
    editor.bind_sequence(KeyEvent::ctrl('C'), EventHandler::Conditional(Box::new(ClearLine)));
    if let Ok(mut printer) = editor.create_external_printer() {
        let (write, written) = lines::channel::<String>();
        // A thread of its own: printing waits while somebody searches the history.
        let printing = std::thread::spawn(move || written.iter().for_each(|text| drop(printer.print(text))));
        screen.replace(Box::new(move |text| drop(write.send(text))), printing);
    }
    screen.note("Talk to the plugins: /help lists what they can do. Ctrl-D leaves.");
    let mut interrupted: Option<Instant> = None;
    loop {
        let line = match editor.readline(PROMPT) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) if interrupted.is_none_or(|at| at.elapsed() > AGAIN) => {
                interrupted = Some(Instant::now());
                screen.note("Ctrl-C again leaves.");
                "/stop".into()
            }
            Err(_) => return,
        };
        if say.blocking_send(line).is_err() {
            return;
        }
    }
}

/// Ctrl-C discards what was typed, if there is something.
struct ClearLine;

impl ConditionalEventHandler for ClearLine {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        (!context.line().is_empty()).then_some(Cmd::Kill(Movement::WholeBuffer))
    }
}

#[derive(Helper, Completer, Hinter, Highlighter, Validator)]
struct Line {
    #[rustyline(Completer)]
    completes: Names,
}

/// Completes the names of commands.
struct Names(Commands, Role);

impl Completes for Names {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..position];
        let Some(name) = typed.strip_prefix(['/', '!']).filter(|name| !name.contains(' ')) else {
            return Ok((position, vec![]));
        };
        let found = self.0.names(self.1).into_iter().filter(|known| known.starts_with(name));
        let pairs =
            found.map(|known| Pair { display: format!("/{known}"), replacement: format!("{known} ") });
        Ok((1, pairs.collect()))
    }
}
