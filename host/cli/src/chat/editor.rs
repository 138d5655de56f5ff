//! The line editor of the terminal: history, Tab for commands, and answers that appear above what is typed.

use parlour::Commands;
use rustyline::{
    Completer, Config, Context, Editor, ExternalPrinter, Helper, Highlighter, Hinter, Validator,
    completion::{Completer as Completes, Pair},
    config::CompletionType,
    error::ReadlineError,
    history::MemHistory,
};
use tokio::sync::mpsc;

use super::{Above, Screen};

const PROMPT: &str = "> ";

/// A screen whose lines appear above the editor's, once it reads.
pub fn screen() -> Screen {
    let above: Above = Box::new(|text| print!("{text}"));
    Screen::above(above)
}

/// Reads until the person leaves.
pub fn read(screen: &Screen, say: &mpsc::Sender<String>, commands: &Commands) {
    let config = Config::builder().completion_type(CompletionType::List).auto_add_history(true).build();
    let Ok(mut editor) = Editor::<Line, MemHistory>::with_history(config, MemHistory::new()) else { return };
    editor.set_helper(Some(Line { completes: Names(commands.clone()) }));
    if let Ok(mut printer) = editor.create_external_printer() {
        screen.replace(Box::new(move |text| drop(printer.print(text))));
    }
    screen.note("Talk to the plugins: /help lists what they can do. Ctrl-D leaves.");
    let mut leaving = false;
    loop {
        match editor.readline(PROMPT) {
            Ok(line) => {
                leaving = false;
                if say.blocking_send(line).is_err() {
                    return;
                }
            }
            // Once ends what runs; twice leaves.
            Err(ReadlineError::Interrupted) if !leaving => {
                leaving = true;
                if say.blocking_send("/stop".into()).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

#[derive(Helper, Completer, Hinter, Highlighter, Validator)]
struct Line {
    #[rustyline(Completer)]
    completes: Names,
}

/// Completes the names of commands.
struct Names(Commands);

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
        let found = self.0.names().into_iter().filter(|known| known.starts_with(name));
        let pairs =
            found.map(|known| Pair { display: format!("/{known}"), replacement: format!("{known} ") });
        Ok((1, pairs.collect()))
    }
}
