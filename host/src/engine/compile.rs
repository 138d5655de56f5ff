//! Compiles components apart: in a process of its own, with limits, so that what exhausts or breaks a compiler ends
//! there, in one line.
//!
//! The process has no environment, writes no file, and waits while others compute. It reads the component, and answers
//! with native code, of which the host takes so much and no more. It ends at its limits, and with whoever waits for it.

mod child;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{Read as _, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use tokio::sync::Semaphore;

pub use self::child::compile_if_asked;
use super::{admission::Refused, call::seconds, limits::Limits};
use crate::text::escaped;

/// Processes at once, where there are cores: each may take all memory that one may take.
const MOST: usize = 4;
/// Bytes of what is said of a component, and of what is read of it.
const LINE: usize = 300;
const SAID: u64 = 4096;

/// Which program compiles plugins, in a process of its own.
#[derive(Debug, Clone, Default)]
pub enum Compiler {
    /// This one: it calls [`compile_if_asked`] first thing in its `main`.
    #[default]
    ThisProgram,
    /// Another one that calls [`compile_if_asked`] first thing in its `main`, and is made with the same version of this
    /// library, such as `parlour`.
    Program(PathBuf),
    /// None: the host compiles in its own process, without any limit. Only for components that one trusts, and for
    /// tests of one's own.
    InProcess,
}

/// What compiling a component took too much of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Exceeded {
    /// It computed too long.
    #[error("compiling it took more than {} of CPU time", seconds(*.0))]
    Cpu(Duration),
    /// It took too long, which may be the machine's fault.
    #[error("compiling it took longer than {}", seconds(*.0))]
    Wall(Duration),
    /// It wanted too much memory, in bytes.
    #[error("compiling it took more than {} MiB of memory", .0 / (1024 * 1024))]
    Memory(usize),
    /// The native code is too large, in bytes.
    #[error("its compiled code has more than {} MiB", .0 / (1024 * 1024))]
    Code(usize),
}

/// Compiles, as long as the engine lives.
pub(super) struct Apart {
    engine: wasmtime::Engine,
    /// None: here.
    program: Option<PathBuf>,
    slots: Semaphore,
}

impl Apart {
    /// For this engine.
    ///
    /// # Errors
    /// One line: this program cannot be started as the compiler.
    pub(super) fn new(compiler: Compiler, engine: wasmtime::Engine) -> Result<Self, String> {
        let program = match compiler {
            Compiler::InProcess => None,
            Compiler::Program(program) => Some(program),
            // Another one than ours would do whatever it does when it is started.
            Compiler::ThisProgram if !child::READY.load(Relaxed) => {
                return Err(
                    "this program does not compile plugins yet: call parlour::compile_if_asked() first \
                            thing in its main, or name one that does with HostBuilder::compiler"
                        .into(),
                );
            }
            Compiler::ThisProgram => Some(this_program()?),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { engine, program, slots: Semaphore::new(cores.min(MOST)) })
    }

    /// Native code of a component. The process ends when the future is dropped.
    ///
    /// # Errors
    /// [`Refused`]: it is not valid, takes more than it may, or the process ended otherwise.
    pub(super) async fn compile(&self, component: Bytes, limits: &Limits) -> Result<Vec<u8>, Refused> {
        // Nobody closes it.
        let _slot = self.slots.acquire().await.ok();
        let failed = |error| Refused::Host(format!("compiling it failed: {error}"));
        let Some(program) = &self.program else {
            let engine = self.engine.clone();
            let compiled = tokio::task::spawn_blocking(move || child::native(&engine, &component)).await;
            return compiled.map_err(failed)?.map_err(|reason| Refused::Invalid(reason.line));
        };
        let mut command = Command::new(program);
        command
            .arg0("parlour-compile")
            .arg(child::ASKED)
            .arg(limits.compile_memory.to_string())
            .arg(limits.compile_cpu.as_secs().max(1).to_string())
            .arg(fingerprint(&self.engine))
            .env_clear()
            // Allocators that many programs have would take a gigabyte before there is a limit, or reserve 64 MiB
            // of the limit for each thread, when the addresses they happen to get allow it.
            .env("MIMALLOC_ARENA_RESERVE", "0")
            .env("MALLOC_ARENA_MAX", "1")
            .current_dir("/")
            // What a terminal tells the host is not for it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let process = Arc::new(Process::default());
        let _ended = EndOnDrop(process.clone());
        let limits = *limits;
        let run = tokio::task::spawn_blocking(move || run(&process, command, &component, &limits));
        match tokio::time::timeout(limits.compile_wall, run).await {
            Ok(compiled) => compiled.map_err(failed)?,
            Err(_) => Err(Exceeded::Wall(limits.compile_wall).into()),
        }
    }
}

/// What code must have been compiled with to run in an engine, as 16 hexadecimal digits.
pub(super) fn fingerprint(engine: &wasmtime::Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// The file that this process runs, though another one may have its name by now.
fn this_program() -> Result<PathBuf, String> {
    let running = Path::new("/proc/self/exe");
    if running.exists() {
        return Ok(running.into());
    }
    std::env::current_exe().map_err(|error| format!("this program's own file is not known: {error}"))
}

/// Sends the component, takes the answer, and waits for the end. Blocks.
fn run(
    process: &Process,
    mut command: Command,
    component: &[u8],
    limits: &Limits,
) -> Result<Vec<u8>, Refused> {
    let program = command.get_program().display().to_string();
    let failed = |error: std::io::Error| Refused::Host(format!("{program}: compiling failed: {error}"));
    let Some((pid, Pipes { mut stdin, stdout, stderr })) = process.start(&mut command).map_err(failed)?
    else {
        return Err(Refused::Host("nobody waits for it any more".into()));
    };
    let mut code = Vec::new();
    let most = limits.compiled;
    let taken = std::thread::scope(|scope| {
        // It may end before it has read everything, and says why.
        let sending = move || drop(stdin.write_all(component));
        std::thread::Builder::new().name("parlour-compile".into()).spawn_scoped(scope, sending)?;
        let taken =
            stdout.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut code);
        // Whoever still writes, or waits to be read, has said too much.
        if taken.is_err() || code.len() > most {
            process.end();
        }
        taken
    });
    if taken.is_err() {
        process.end();
    }
    let mut said = Vec::new();
    let heard = stderr.take(SAID).read_to_end(&mut said);
    if heard.is_err() || said.len() as u64 >= SAID {
        process.end();
    }
    let status = process.wait(pid).map_err(failed)?;
    taken.map_err(failed)?;
    if code.len() > most {
        return Err(Exceeded::Code(most).into());
    }
    ended(status, &String::from_utf8_lossy(&said), limits).map_err(|reason| match reason {
        Refused::Host(reason) => Refused::Host(format!("{program}: {reason}")),
        reason => reason,
    })?;
    // Nothing else is looked at: whatever this program is, it is none of ours.
    match wasmtime::Engine::detect_precompiled(&code) {
        Some(wasmtime::Precompiled::Component) => Ok(code),
        _ => Err(Refused::Host(format!("{program}: it answered with something else than compiled code"))),
    }
}

/// What its end says.
fn ended(status: ExitStatus, said: &str, limits: &Limits) -> Result<(), Refused> {
    let signal = status.signal();
    let was = |expected: Signal| signal == Some(expected.as_raw());
    // Rust's own words, and those of Cranelift's allocator, on whichever thread came first.
    let starved = || ["memory allocation of", "out of memory"].iter().any(|words| said.contains(words));
    // Rust begins what it says of a panic with an empty one.
    let line = || escaped(said.lines().find(|line| !line.is_empty()).unwrap_or_default(), LINE);
    match status.code() {
        Some(0) => Ok(()),
        Some(child::INVALID) => Err(Refused::Invalid(line())),
        Some(child::MEMORY) => Err(Exceeded::Memory(limits.compile_memory).into()),
        _ if was(Signal::XCPU) => Err(Exceeded::Cpu(limits.compile_cpu).into()),
        _ if was(Signal::KILL) => Err(Refused::Host("the compiler was ended from outside (signal 9)".into())),
        Some(child::OTHER) => Err(Refused::Host(line())),
        // Where nobody could do anything about it any more.
        _ if starved() => Err(Exceeded::Memory(limits.compile_memory).into()),
        _ if line().is_empty() => Err(Refused::Host(format!("the compiler failed: {status}"))),
        _ => Err(Refused::Host(format!("the compiler failed: {status}: {}", line()))),
    }
}

/// The process, which whoever waits for it and whoever gives it up share.
#[derive(Default)]
struct Process(Mutex<Step>);

#[derive(Default)]
enum Step {
    #[default]
    Before,
    Runs(Child),
    /// Nobody waits for it.
    GivenUp,
}

struct Pipes {
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

impl Process {
    /// Starts it, unless it was given up.
    fn start(&self, command: &mut Command) -> std::io::Result<Option<(Pid, Pipes)>> {
        let mut step = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*step, Step::GivenUp) {
            return Ok(None);
        }
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        *step = Step::Runs(child);
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else { return Ok(None) };
        Ok(Some((pid, Pipes { stdin, stdout, stderr })))
    }

    /// Ends it at once; whoever waits for it takes note.
    fn end(&self) {
        let mut step = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *step {
            // It may have ended.
            Step::Runs(child) => drop(child.kill()),
            Step::Before | Step::GivenUp => *step = Step::GivenUp,
        }
    }

    /// Waits for its end, during which it can be ended.
    fn wait(&self, pid: Pid) -> std::io::Result<ExitStatus> {
        while let Err(error) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            if error != rustix::io::Errno::INTR {
                break;
            }
        }
        let mut step = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *step {
            Step::Runs(child) => child.wait(),
            Step::Before | Step::GivenUp => Err(std::io::Error::other("it was not started")),
        }
    }
}

struct EndOnDrop(Arc<Process>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}
