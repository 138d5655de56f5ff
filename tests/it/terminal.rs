//! The program at a terminal, as somebody types.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    pty::openpty,
    sys::termios::{LocalFlags, tcgetattr},
};

use crate::guests::guest;

const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";
const PATIENCE: Duration = Duration::from_secs(60);

struct Terminal {
    program: Child,
    keys: File,
    line: OwnedFd,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts `parlour chat`, and waits until it reads.
    fn start(arguments: &[&str]) -> Self {
        let pty = openpty(None, None).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_parlour"));
        command.arg("chat").args(arguments).env("TERM", "xterm").env_remove("NO_COLOR");
        command.env("XDG_CACHE_HOME", crate::guests::target().join("test-tools"));
        let line = || pty.slave.try_clone().unwrap();
        let program = command.stdin(line()).stdout(line()).stderr(line()).spawn().unwrap();
        let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (mut screen, filled) = (File::from(pty.master.try_clone().unwrap()), seen.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                filled.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        let terminal = Self { program, keys: File::from(pty.master), line: pty.slave, seen };
        terminal.shows("Talk to the plugins: /help lists what they can do. Ctrl-D leaves.");
        terminal
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// The lines on the screen, without what moves and colours them.
    fn lines(&self) -> Vec<String> {
        let bytes = self.seen.lock().unwrap().clone();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut plain = String::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            if c == '\u{1b}' {
                // ESC [ parameters, and a letter.
                rest.by_ref().find(|c| c.is_ascii_alphabetic());
            } else {
                plain.push(if c == '\r' { '\n' } else { c });
            }
        }
        plain.lines().map(str::to_owned).collect()
    }

    /// Waits for a line.
    fn shows(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.lines().iter().any(|seen| seen == line) {
            assert!(Instant::now() < deadline, "nobody said {line:?}:\n{}", self.lines().join("\n"));
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the program has ended.
    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.program.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.lines().join("\n"));
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.program.kill());
        drop(self.program.wait());
    }
}

#[test]
fn what_is_typed_ahead_is_answered_line_by_line() {
    let mut terminal = Terminal::start(&[]);
    terminal.types("/echo one\r/echo two\r@parlour echo three\r");
    for answer in ["one", "two", "three"] {
        terminal.shows(answer);
    }
    terminal.types("/ec\tfour\r");
    terminal.shows("four");
    terminal.types(CTRL_D);
    assert!(terminal.ended().success());
}

#[test]
fn ctrl_c_discards_a_line_and_leaves_when_it_is_typed_again() {
    let mut terminal = Terminal::start(&[]);
    terminal.types("/echo never");
    terminal.types(CTRL_C);
    terminal.types("/echo instead\r");
    terminal.shows("instead");
    assert!(!terminal.lines().iter().any(|line| line == "never" || line.contains("Nothing is running")));
    terminal.types(CTRL_C);
    terminal.shows("Ctrl-C again leaves.");
    terminal.shows("Nothing is running.");
    terminal.types(CTRL_C);
    assert!(terminal.ended().success());
}

#[test]
fn who_leaves_does_not_wait_for_what_runs() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("naughty.wasm"), guest("naughty")).unwrap();
    let mut terminal = Terminal::start(&["--plugins", folder.path().to_str().unwrap()]);
    terminal.types("/wait\r/echo queued behind it\r");
    terminal.types(CTRL_D);
    assert!(terminal.ended().success());
}

#[test]
fn a_terminal_is_left_as_it_was() {
    let mut terminal = Terminal::start(&[]);
    let cooked = LocalFlags::ICANON | LocalFlags::ECHO;
    terminal.types("half a li");
    let deadline = Instant::now() + PATIENCE;
    while tcgetattr(&terminal.line).unwrap().local_flags.contains(cooked) {
        assert!(Instant::now() < deadline, "the line editor reads");
        thread::sleep(Duration::from_millis(10));
    }
    let id = terminal.program.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(terminal.ended().success());
    assert!(tcgetattr(&terminal.line).unwrap().local_flags.contains(cooked));
}
