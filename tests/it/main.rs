//! The integration test of the program: real components, a real Synapse, real people in other processes.
//!
//! What a machine lacks is a failed test that names it. The first run installs Synapse, matrix-nio and what
//! builds Python and JavaScript plugins into the target folder.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]
#![allow(missing_docs, reason = "tests are read, not called")]
#![allow(clippy::pedantic, reason = "what a test says counts, not how it counts")]
#![allow(dead_code, reason = "the harness has more than each test needs")]

// The harness.
mod guests;
mod host;
mod inside;
mod installed;
mod model;
mod person;
mod proxy;
mod registry;
mod stage;
mod synapse;
mod watched;
mod web;

// What an agent says and does, in rooms in memory.
mod transcripts;
// What each capability grants, denies and limits.
mod capabilities;
// What it asks for, and what of that is granted.
mod permissions;
// Where their requests may go, and what the host puts on them.
mod http;
// What is said in an encrypted room stays there.
mod labels;
// Which files they see.
mod files;
// Which files of messages they read, and how much of them.
mod media;
// Which files they send, and where to.
mod uploads;
// What they do by themselves, later.
mod timers;
// Who made it, and whether that matters.
mod publishers;
// Where it was pulled from.
mod oci;
// What one plugin has and another calls.
mod tools;
// What of it was used and denied, and that this is written down.
mod audit;
// How a host that runs is asked how it does, and what homes are told.
mod control;
// Why an event was answered, or was not.
mod why;
// Plugins that misbehave are contained.
mod attacks;
mod attacks_in_languages;
// Plugins are compiled in a process apart.
mod compiling;
mod faults;
mod fuzz;
// Files that are dropped in and replaced.
mod swap;
mod trials;
// Plugins in other languages than Rust.
mod languages;
// What is promised after a crash, and when the power goes.
mod power;
mod recovery;
// What came while the agent was away.
mod backlog;
// What cannot be read when it comes.
mod keys;
// What a handler learnt from outside is paid for once.
mod answers;
// A past event again.
mod replay;
// Every chat keeps the same promises.
mod conformance;
// What the README shows.
mod readme;
// The program at the terminal and on a pipe.
mod command_line;
mod terminal;
// Encrypted rooms on a real Synapse.
mod matrix;
// An agent with a language model.
mod assistant;
