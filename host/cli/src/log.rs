//! What the operator reads: the host's notices, one line each, on standard error. `PARLOUR_LOG` chooses what
//! else is shown, as `RUST_LOG` does elsewhere.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use parlour::notice::Notices;
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        format::Writer,
        time::{ChronoLocal, FormatTime as _},
    },
};

/// Bytes of the file of what is said in encrypted rooms; then it is begun anew, and the one before is kept.
const LARGEST: u64 = 10 * 1024 * 1024;

/// Whether a stream that is or is not a terminal gets colours (<https://no-color.org>).
pub fn colours(terminal: bool) -> bool {
    let set = |name, value: &dyn Fn(&OsStr) -> bool| std::env::var_os(name).is_some_and(|is| value(&is));
    terminal && !set("NO_COLOR", &|is| !is.is_empty()) && !set("TERM", &|is| is == "dumb")
}

/// Starts logging.
pub fn start() {
    let filter =
        EnvFilter::try_from_env("PARLOUR_LOG").unwrap_or_else(|_| EnvFilter::new("off,parlour=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_timer(ChronoLocal::new("%H:%M:%S".into()))
        .with_ansi(colours(io::stderr().is_terminal()))
        .with_writer(io::stderr)
        .init();
}

/// Notices as ever, and what plugins say of encrypted rooms in a file of its own, for this user alone.
///
/// # Errors
/// The file cannot be opened.
pub fn sealing(path: PathBuf) -> io::Result<Notices> {
    let file = Mutex::new(Sealed { file: open(&path)?, path });
    let log = Notices::default();
    Ok(Notices::new(move |notice| {
        if notice.is_sealed() {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = file.write(&notice.to_string()) {
                tracing::warn!(target: "parlour", "{}: {error}", file.path.display());
            }
        }
        log.say(notice);
    }))
}

/// The file of what plugins say of encrypted rooms.
struct Sealed {
    path: PathBuf,
    file: File,
}

impl Sealed {
    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.file.metadata()?.len() > LARGEST {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
            self.file = open(&self.path)?;
        }
        let mut stamped = String::new();
        let time = ChronoLocal::new("%F %T".into()).format_time(&mut Writer::new(&mut stamped));
        time.map_err(io::Error::other)?;
        self.file.write_all(format!("{stamped} {line}\n").as_bytes())
    }
}

fn open(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use parlour::{
        id::PluginName,
        notice::{Level, Notice, Words},
    };

    use super::*;

    #[test]
    fn what_is_said_in_encrypted_rooms_is_in_a_file_for_this_user_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("sealed.log");
        let notices = sealing(path.clone()).expect("it can be opened");
        let say = |text: &str, sealed| {
            let (plugin, text) =
                (PluginName::parse("a").expect("a name"), Words { text: text.into(), sealed });
            notices.say(Notice::PluginLog { plugin, level: Level::Info, text });
        };
        say("in clear", false);
        say("sealed\nwords", true);
        let text = fs::read_to_string(&path).expect("it is there");
        assert!(text.ends_with(" plugin a: sealed\\nwords\n") && text.lines().count() == 1, "{text}");
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
