//! The other process: it sets its own limits, before it reads a byte, and compiles one component.

use std::{
    ffi::OsString,
    io::{Read as _, Write as _},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::process::{Resource, Rlimit, nice, setrlimit};
use wasmparser::{Validator, WasmFeatures};

use super::{
    super::{first_line, pool::features},
    fingerprint,
};

/// The argument that asks this program to compile; then come bytes of memory, seconds of CPU time, and the fingerprint of
/// the engine that it is for.
pub(super) const ASKED: &str = "--parlour-compile";
/// How it ended: the component is not valid, memory did not suffice, or something else was wrong. Other programs that are
/// started by mistake end otherwise.
pub(super) const INVALID: i32 = 42;
pub(super) const MEMORY: i32 = 43;
pub(super) const OTHER: i32 = 44;
/// It can wait: whoever is talked to goes first.
const NICE: i32 = 10;
/// Each thread compiles a function at a time, and has memory of its own for it.
const THREADS: usize = 8;

/// This program can be started as the compiler.
pub(super) static READY: AtomicBool = AtomicBool::new(false);

/// Lets a [`crate::Host`] start this program a second time, to compile plugins in a process apart with limits of its own.
/// Call it first thing in `main`: when this process was started as the compiler, it compiles and ends here.
///
/// ```no_run
/// parlour::compile_if_asked();
/// println!("then comes what the program does");
/// ```
pub fn compile_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != ASKED) {
        READY.store(true, Relaxed);
        return;
    }
    let code = match run(arguments) {
        Ok(()) => 0,
        Err(failed) => {
            // The code says most of it.
            drop(writeln!(std::io::stderr(), "{}", failed.line));
            failed.code
        }
    };
    std::process::exit(code)
}

/// Why there is no native code: one line, and the code with which the process ends.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) line: String,
    code: i32,
}

fn other(line: impl Into<String>) -> Failed {
    Failed { line: line.into(), code: OTHER }
}

fn run(mut arguments: impl Iterator<Item = OsString>) -> Result<(), Failed> {
    let mut next = || arguments.next().and_then(|text| text.into_string().ok());
    let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
    let (Some(memory), Some(cpu), Some(expected)) = (number(next()), number(next()), next()) else {
        return Err(other(format!("{ASKED} is for a host that has plugins compiled")));
    };
    limit(memory, cpu).map_err(|error| other(format!("its limits cannot be set: {error}")))?;
    let mut component = Vec::new();
    std::io::stdin().lock().read_to_end(&mut component).map_err(|error| Failed {
        code: if error.kind() == std::io::ErrorKind::OutOfMemory { MEMORY } else { OTHER },
        line: format!("the component cannot be read: {error}"),
    })?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|error| other(format!("its threads cannot be started: {error}")))?;
    let engine = wasmtime::Engine::new(&features()).map_err(|error| other(format!("wasmtime: {error:#}")))?;
    if fingerprint(&engine) != expected {
        return Err(other("it compiles for another version of the host"));
    }
    let code = native(&engine, &component)?;
    std::io::stdout().lock().write_all(&code).map_err(|error| other(error.to_string()))
}

/// What this process may take, for good.
fn limit(memory: u64, cpu: u64) -> std::io::Result<()> {
    // The program itself takes address space, some of it for nothing.
    let own = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
        size.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    let memory = memory.saturating_add(own.unwrap_or(0).saturating_mul(1024));
    let at_most = |limit: u64, more: u64| Rlimit { current: Some(limit), maximum: Some(limit + more) };
    setrlimit(Resource::As, at_most(memory, 0))?;
    // At the first one it is told, at the second one killed.
    setrlimit(Resource::Cpu, at_most(cpu, 1))?;
    setrlimit(Resource::Core, at_most(0, 0))?;
    setrlimit(Resource::Fsize, at_most(0, 0))?;
    nice(NICE)?;
    // Where the system can tell it, it ends with the host.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}

/// Checks a component as a whole, and compiles it.
pub(super) fn native(engine: &wasmtime::Engine, component: &[u8]) -> Result<Vec<u8>, Failed> {
    let invalid = |line: String| Failed { line: first_line(&line), code: INVALID };
    Validator::new_with_features(allowed())
        .validate_all(component)
        .map_err(|error| invalid(error.to_string()))?;
    engine.precompile_component(component).map_err(|error| {
        let line = format!("{error:#}");
        let memory = ["os error 12", "out of memory"].iter().any(|words| line.contains(words));
        Failed { code: if memory { MEMORY } else { INVALID }, line: first_line(&line) }
    })
}

/// What the engine's [`features`] allow a component to use.
fn allowed() -> WasmFeatures {
    let compiled_out = WasmFeatures::GC_TYPES | WasmFeatures::EXCEPTIONS | WasmFeatures::THREADS;
    let switched_off = WasmFeatures::MEMORY64 | WasmFeatures::RELAXED_SIMD;
    let components = WasmFeatures::COMPONENT_MODEL | WasmFeatures::CM_ASYNC;
    WasmFeatures::WASM3.difference(compiled_out | switched_off) | components
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Modules, each with something that a proposal to WebAssembly brought, and whether ours may use it.
    const PROPOSALS: [(&str, bool, &[u8]); 11] = [
        ("nothing", true, b""),
        ("many memories", true, b"\x05\x05\x02\x00\x01\x00\x01"),
        ("a memory of 64 bits", false, b"\x05\x03\x01\x04\x01"),
        ("a shared memory", false, b"\x05\x04\x01\x03\x01\x01"),
        ("small pages", false, b"\x05\x04\x01\x08\x01\x00"),
        ("references to functions", true, b"\x01\x04\x01\x60\x00\x00\x06\x07\x01\x63\x00\x00\xd0\x00\x0b"),
        ("a structure", false, b"\x01\x03\x01\x5f\x00"),
        ("an exception", false, b"\x01\x04\x01\x60\x00\x00\x0d\x03\x01\x00\x00"),
        ("vectors", true, b"\x06\x16\x01\x7b\x00\xfd\x0c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0b"),
        // A tail call, and relaxed_trunc_f32x4_s.
        ("a tail call", true, b"\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x0a\x06\x01\x04\x00\x12\x00\x0b"),
        (
            "vectors that may differ",
            false,
            b"\x01\x06\x01\x60\x01\x7b\x01\x7b\x03\x02\x01\x00\x0a\x09\x01\x07\x00\x20\x00\xfd\x81\x02\x0b",
        ),
    ];

    #[test]
    fn what_is_allowed_is_what_the_engine_has() {
        let engine = wasmtime::Engine::new(&features()).unwrap();
        for (what, may, sections) in PROPOSALS {
            let module = [&b"\0asm\x01\0\0\0"[..], sections].concat();
            let size = u8::try_from(module.len()).unwrap();
            let component = [&b"\0asm\x0d\0\x01\0\x01"[..], &[size], &module].concat();
            let valid = Validator::new_with_features(allowed()).validate_all(&component).map(drop);
            let compiled = engine.precompile_component(&component).map(drop);
            assert_eq!((valid.is_ok(), compiled.is_ok()), (may, may), "{what}: {valid:?} {compiled:?}");
        }
    }
}
