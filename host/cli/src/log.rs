//! What the operator reads: the host's notices, one line each, on standard error. `PARLOUR_LOG` chooses what
//! else is shown, as `RUST_LOG` does elsewhere.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt::time::ChronoLocal};

/// Starts logging.
pub fn start() {
    let filter =
        EnvFilter::try_from_env("PARLOUR_LOG").unwrap_or_else(|_| EnvFilter::new("off,parlour=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_timer(ChronoLocal::new("%H:%M:%S".into()))
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr)
        .init();
}
