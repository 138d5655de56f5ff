//! Whether anything is lost or repeated when a host is killed: a real process with a real journal gets SIGKILL again and
//! again, at steps that are chosen and at random instants, while people write, plugins are replaced and the connection
//! fails. What counts is what somebody in the room sees.
//!
//! `cargo test` makes a short run. A long one:
//!
//! ```sh
//! PARLOUR_TEST_KILLS=1000 PARLOUR_TEST_EVENTS=20000 cargo test --release --test torture -- --nocapture scripted
//! PARLOUR_TEST_MATRIX_KILLS=50 PARLOUR_TEST_MATRIX_EVENTS=1000 cargo test --release --test torture -- --nocapture encrypted
//! PARLOUR_TEST_SOAK=1000000 cargo test --release --test torture -- --nocapture soak
//! ```

#[path = "../it/guests.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "of the other tests, which use the rest")]
mod guests;
#[path = "../it/installed.rs"]
mod installed;

#[path = "../it/person.rs"]
#[expect(dead_code, clippy::pedantic, reason = "of the other tests, which use the rest")]
mod person;
#[path = "../it/synapse.rs"]
#[expect(dead_code, clippy::pedantic, reason = "of the other tests, which use the rest")]
mod synapse;
#[path = "../it/watched.rs"]
mod watched;

#[path = "../bench/dispatch_chat.rs"]
mod dispatch_chat;

mod ambush;
mod child;
mod count;
mod death;
mod dice;
mod encrypted;
mod lives;
mod mortal;
mod proxy;
mod remote;
mod scripted;
mod soak;
mod wire;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    if let Some(life) = child::Life::of_this_process() {
        return child::live(life);
    }
    if let Some(soak) = soak::Soak::of_this_process() {
        return soak::soak(&soak);
    }
    let trial =
        |name: &str, run: fn() -> Result<(), String>| Trial::test(name, move || run().map_err(Failed::from));
    let trials = vec![
        trial("scripted::nothing_is_lost_and_nothing_repeated", scripted::run),
        trial("encrypted::nothing_is_lost_and_nothing_repeated", encrypted::run),
        trial("soak::memory_and_time_stay_as_they_were", soak::run),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A number that somebody may want otherwise.
fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name)
        .map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number: {text}")))
}
