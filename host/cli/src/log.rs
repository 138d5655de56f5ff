//! What the operator reads: the host's notices, one line each, on standard error. `PARLOUR_LOG` chooses what
//! else is shown, as `RUST_LOG` does elsewhere.

use std::{ffi::OsStr, io::IsTerminal as _};

use tracing_subscriber::{EnvFilter, fmt::time::ChronoLocal};

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
        .with_ansi(colours(std::io::stderr().is_terminal()))
        .with_writer(std::io::stderr)
        .init();
}
