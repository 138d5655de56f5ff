//! Plugins are compiled in a process apart: what exhausts a compiler ends there, in one line, and leaves nothing.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parlour::{Compiler, Host, engine::limits::Limits};

use crate::{
    guests::{example, guest, host, target},
    stage::{PATIENCE, Stage},
};

/// A number in the pieces that modules are made of.
fn number(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &number(content.len()), content].concat()
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [number(items.len()), items.concat()].concat()
}

/// A module of functions that take nothing and return nothing.
fn module(functions: &[Vec<u8>]) -> Vec<u8> {
    let sized: Vec<_> = functions.iter().map(|body| [number(body.len()), body.clone()].concat()).collect();
    let types = section(1, &list(&[vec![0x60, 0, 0]]));
    let declared = section(3, &list(&vec![vec![0]; functions.len()]));
    [&b"\0asm\x01\0\0\0"[..], &types, &declared, &section(10, &list(&sized))].concat()
}

/// A function with loops in one another, each of which may change each of many variables: a few bytes for each loop and
/// each variable, and work for a compiler with each pair of them.
fn tangle(loops: usize, variables: usize) -> Vec<u8> {
    const GET: u8 = 0x20;
    const SET: u8 = 0x21;
    let mut body = [number(1), number(variables), vec![0x7e]].concat();
    body.extend([0x03, 0x40].repeat(loops));
    for variable in 0..variables {
        body.extend([&[GET][..], &number(variable), &[SET], &number((variable + 1) % variables)].concat());
    }
    // Perhaps once more, for each of them.
    body.extend([GET, 0, 0xa7, 0x0d, 0, 0x0b].repeat(loops));
    body.push(0x0b);
    body
}

/// `echo` with something more in it that it never uses.
fn echo_and(more: &[u8]) -> Arc<[u8]> {
    [&example("echo")[..], more].concat().into()
}

/// How many modules a component has itself.
fn modules(component: &[u8]) -> usize {
    let (mut at, mut modules) = (8, 0);
    while at < component.len() {
        modules += usize::from(component[at] == 1);
        let (mut size, mut shift) = (0, 0);
        loop {
            at += 1;
            size |= usize::from(component[at] & 0x7f) << shift;
            shift += 7;
            if component[at] & 0x80 == 0 {
                break;
            }
        }
        at += 1 + size;
    }
    modules
}

/// A folder of compiled code for one test.
struct Kept(tempfile::TempDir);

impl Kept {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Everything in it but the key.
    fn files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|file| file.extension().is_some_and(|extension| extension == "sealed")).collect()
    }
}

/// The compilers that were started with this memory limit, which stands for the test that started them.
fn compilers(memory: usize) -> Vec<Pid> {
    let memory = format!("\0{memory}\0");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let running = processes.filter(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.starts_with("parlour-compile\0") && line.contains(&memory)
    });
    running.filter_map(|process| Some(Pid::from_raw(process.file_name().to_str()?.parse().ok()?))).collect()
}

/// Waits until something is so.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Processes of this one that have ended, and that nobody has waited for.
fn dead() -> usize {
    let ours = std::process::id().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    let dead = stats.filter(|stat| {
        let mut after_name = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        after_name.next() == Some("Z") && after_name.next() == Some(&ours)
    });
    dead.count()
}

/// Loads a component as an embedder does, and says why not.
async fn load(component: &Arc<[u8]>, limits: Limits) -> Result<(), String> {
    let built = host().limits(limits).plugin("guest".parse().unwrap(), component.clone()).build().await;
    built.map(drop).map_err(|error| error.to_string())
}

const MIB: usize = 1024 * 1024;

/// 31: it would compile for long.
#[tokio::test]
async fn what_takes_long_to_compile_is_refused_within_its_limits_and_leaves_nothing() {
    let (kept, folder) = (Kept::new(), tempfile::tempdir().unwrap());
    let bomb = echo_and(&section(1, &module(&[tangle(1500, 1500)])));
    let memory = 2001 * MIB;
    let limits = Limits { compile_cpu: Duration::from_secs(1), compile_memory: memory, ..Limits::default() };
    let stage = Stage::start(&[("other", example("echo"))], |builder| {
        builder.limits(limits).cache(kept.path()).plugin_folder(folder.path())
    })
    .await;
    let before = kept.files();
    assert_eq!(before.len(), 1);
    fs::write(folder.path().join("bomb.wasm"), &bomb).unwrap();
    let notice = stage.noticed("bomb.wasm: refused").await.to_string();
    assert!(notice.ends_with("bomb.wasm: refused: compiling it took more than 1 s of CPU time"), "{notice}");
    assert_eq!(stage.ask("/echo still here").await, "still here");
    assert_eq!(kept.files(), before, "it leaves no file");
    assert_eq!(compilers(memory), [], "it leaves no process");
    until("somebody waits for every process that has ended", || dead() == 0).await;

    // Less of the same within the same limit, and the same within another one.
    let less = echo_and(&section(1, &module(&[tangle(100, 100)])));
    assert_eq!(load(&less, limits).await, Ok(()));
    assert_eq!(load(&bomb, Limits::default()).await, Ok(()));
}

/// 31: a few bytes that take much memory.
#[tokio::test]
async fn what_takes_much_memory_to_compile_is_refused() {
    let bomb = echo_and(&section(1, &module(&vec![vec![0, 0x0b]; 30_000])));
    let little = |mib: usize| Limits { compile_memory: mib * MIB, ..Limits::default() };
    // Wherever it runs short, and whoever is the first to notice.
    for mib in (32..=128).step_by(8) {
        let refused = load(&bomb, little(mib)).await;
        assert_eq!(refused, Err(format!("guest: compiling it took more than {mib} MiB of memory")));
    }
    // Nothing takes addresses for what it may need some day.
    for mib in (128..=192).step_by(8) {
        assert_eq!(load(&example("echo"), little(mib)).await, Ok(()), "{mib} MiB");
    }
    assert_eq!(load(&bomb, Limits::default()).await, Ok(()));
}

/// 31: a little code that becomes much.
#[tokio::test]
async fn what_is_too_large_when_it_is_compiled_is_refused() {
    // Data that is never used.
    let data = section(11, &[&[1, 1][..], &number(2 * MIB), &vec![7; 2 * MIB]].concat());
    let large = echo_and(&section(1, &[&b"\0asm\x01\0\0\0"[..], &data].concat()));
    let little = Limits { compiled: MIB, ..Limits::default() };
    let refused = load(&large, little).await;
    assert_eq!(refused, Err("guest: its compiled code has more than 1 MiB".into()));
    assert_eq!(load(&example("echo"), little).await, Ok(()));
    assert_eq!(load(&large, Limits::default()).await, Ok(()));
}

/// 7: a million functions.
#[tokio::test]
async fn a_million_functions_are_refused_within_their_limits() {
    let million = echo_and(&section(1, &module(&vec![vec![0, 0x0b]; 1_000_000])));
    let limits = Limits { compile_cpu: Duration::from_secs(2), ..Limits::default() };
    let refused = load(&million, limits).await;
    assert_eq!(refused, Err("guest: compiling it took more than 2 s of CPU time".into()));
    let more = echo_and(&section(1, &module(&vec![vec![0, 0x0b]; 1_000_001])));
    let refused = load(&more, Limits::default()).await.unwrap_err();
    assert!(refused.starts_with("guest: it is no valid component: functions count"), "{refused}");
    let fewer = echo_and(&section(1, &module(&vec![vec![0, 0x0b]; 10_000])));
    assert_eq!(load(&fewer, Limits::default()).await, Ok(()));
}

/// 7: giant tables.
#[tokio::test]
async fn a_giant_table_is_refused() {
    let with_table = |entries: usize| {
        let table = [&[1, 0x70, 0x00][..], &number(entries)].concat();
        let module = [&b"\0asm\x01\0\0\0"[..], &section(4, &table)].concat();
        let index = number(modules(&example("echo")));
        // An instance of that module, which needs nothing.
        let instance = [&[1, 0x00][..], &index, &[0]].concat();
        echo_and(&[section(1, &module), section(2, &instance)].concat())
    };
    let refused = load(&with_table(10_000_000), Limits::default()).await.unwrap_err();
    let expected = "has a minimum element size of 10000000 which exceeds the limit of";
    assert!(refused.contains(expected) && refused.lines().count() == 1, "{refused}");
    let refused = load(&with_table(1_000_000_000), Limits::default()).await.unwrap_err();
    assert!(refused.starts_with("guest: it is no valid component: "), "{refused}");
    assert_eq!(load(&with_table(10_000), Limits::default()).await, Ok(()));
}

/// 31: what is wrong inside of a module is found before anything of it is compiled.
#[tokio::test]
async fn malformed_giant_and_compiled_files_are_refused() {
    let kept = Kept::new();
    // It adds what is not there.
    let malformed = echo_and(&section(1, &module(&[vec![0, 0x6a, 0x0b]])));
    let giant = echo_and(&section(0, &[&[1, b'x'][..], &vec![0; MIB]].concat()));
    let limits = Limits { component: MIB, ..Limits::default() };
    let with = |bytes: Arc<[u8]>| {
        host().limits(limits).cache(kept.path()).plugin("guest".parse().unwrap(), bytes).build()
    };
    with(example("echo")).await.unwrap();
    let [native] = &kept.files()[..] else { panic!("{:?}", kept.files()) };
    let native: Arc<[u8]> = fs::read(native).unwrap().into();
    for (bytes, expected) in [
        (malformed, "guest: it is no valid component: type mismatch"),
        (giant, "guest: it has 2 MiB; a component has at most 1 MiB"),
        (native, "guest: it is compiled native code; only WebAssembly components are loaded"),
    ] {
        let refused = with(bytes).await.map(drop).unwrap_err().to_string();
        assert!(refused.starts_with(expected) && refused.lines().count() == 1, "{expected}: {refused}");
        assert_eq!(kept.files().len(), 1, "what is refused leaves no file");
    }
}

#[tokio::test]
async fn a_compiler_that_takes_too_long_or_is_ended_from_outside_costs_one_line() {
    let bomb = echo_and(&section(1, &module(&[tangle(3000, 5000)])));
    let memory = 2002 * MIB;
    let limits = Limits { compile_wall: Duration::from_secs(1), compile_memory: memory, ..Limits::default() };
    let refused = load(&bomb, limits).await;
    assert_eq!(refused, Err("guest: compiling it took longer than 1 s".into()));
    until("it ends", || compilers(memory).is_empty()).await;

    let memory = 2003 * MIB;
    let limits = Limits { compile_memory: memory, ..Limits::default() };
    let given = bomb.clone();
    let loading = tokio::spawn(async move { load(&given, limits).await });
    until("it begins", || compilers(memory).len() == 1).await;
    kill(compilers(memory)[0], Signal::SIGKILL).unwrap();
    let refused = loading.await.unwrap().unwrap_err();
    assert!(refused.ends_with("the compiler was ended from outside (signal 9)"), "{refused}");
    assert_eq!(load(&example("echo"), limits).await, Ok(()));

    // Nobody waits for it any more.
    let loading = tokio::spawn(async move { load(&bomb, limits).await });
    until("it begins", || compilers(memory).len() == 1).await;
    loading.abort();
    until("it ends", || compilers(memory).is_empty()).await;
    until("somebody waits for every process that has ended", || dead() == 0).await;
}

#[tokio::test]
async fn compiled_code_that_was_changed_is_not_run() {
    let kept = Kept::new();
    drop(Stage::start(&[("echo", example("echo"))], |builder| builder.cache(kept.path())).await);
    let [file] = &kept.files()[..] else { panic!("{:?}", kept.files()) };
    let whole = fs::read(file).unwrap();
    let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(kept.path()), mode(file), mode(&kept.path().join("key"))], [0o700, 0o600, 0o600]);

    let again = "plugin echo: its compiled code is not as it was kept; it is compiled again";
    let middle = whole.len() / 2;
    for (at, byte) in
        [(middle, whole[middle] ^ 1), (0, whole[0] ^ 1), (whole.len() - 1, whole[whole.len() - 1] ^ 1)]
    {
        let mut changed = fs::OpenOptions::new().write(true).open(file).unwrap();
        changed.seek(SeekFrom::Start(at as u64)).unwrap();
        changed.write_all(&[byte]).unwrap();
        drop(changed);
        let stage = Stage::start(&[("echo", example("echo"))], |builder| builder.cache(kept.path())).await;
        stage.noticed(again).await;
        assert_eq!(stage.ask("/echo hello").await, "hello");
        assert_eq!(fs::read(file).unwrap().len(), whole.len(), "it is kept again");
    }
    let stage = Stage::start(&[("echo", example("echo"))], |builder| builder.cache(kept.path())).await;
    assert!(
        stage.notices().iter().all(|notice| notice.to_string() != again),
        "what is as it was kept is used"
    );
}

#[tokio::test]
async fn a_program_that_cannot_compile_is_told_what_to_add() {
    let built = Host::builder().plugin("echo".parse().unwrap(), example("echo")).build().await;
    assert_eq!(
        built.map(drop).unwrap_err().to_string(),
        "this program does not compile plugins yet: call parlour::compile_if_asked() first thing in its main, or name \
         one that does with HostBuilder::compiler"
    );
    let with = async |program: &Path| {
        let host = Host::builder().compiler(Compiler::Program(program.into()));
        let built = host.plugin("echo".parse().unwrap(), example("echo")).build().await;
        built.map(drop).unwrap_err().to_string()
    };
    assert_eq!(
        with(Path::new("/bin/true")).await,
        "echo: /bin/true: it answered with something else than compiled code"
    );
    let missing = with(Path::new("/bin/there-is-no-such-program")).await;
    assert!(missing.contains("/bin/there-is-no-such-program: compiling failed: No such file"), "{missing}");
    // It is given nothing but the component, and nothing is believed of it.
    let folder = tempfile::tempdir().unwrap();
    let nosy = folder.path().join("nosy");
    let look = "echo \"in $(pwd), with $(tr '\\0' ' ' < /proc/$$/environ)\u{1b}[2J\" >&2; exit 44";
    fs::write(&nosy, format!("#!/bin/sh\n{look}\n")).unwrap();
    fs::set_permissions(&nosy, fs::Permissions::from_mode(0o700)).unwrap();
    let said = with(&nosy).await;
    assert!(said.ends_with("in /, with MALLOC_ARENA_MAX=1 MIMALLOC_ARENA_RESERVE=0 \\u{1b}[2J"), "{said}");
    let mut trusting = Host::builder().compiler(Compiler::InProcess);
    trusting = trusting.plugin("echo".parse().unwrap(), example("echo"));
    trusting.build().await.unwrap();
}

#[test]
fn a_program_that_was_replaced_still_compiles() {
    let folder = tempfile::tempdir_in(target()).unwrap();
    let (program, plugins) = (folder.path().join("parlour"), folder.path().join("plugins"));
    let ours = env!("CARGO_BIN_EXE_parlour");
    fs::hard_link(ours, &program).or_else(|_| fs::copy(ours, &program).map(drop)).unwrap();
    fs::create_dir(&plugins).unwrap();
    let mut chat = Command::new(&program);
    chat.arg("chat").arg("--plugins").arg(&plugins).env("XDG_CACHE_HOME", folder.path().join("cache"));
    let mut chat = chat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (say, lines) = mpsc::channel();
    let out: [Box<dyn Read + Send>; 2] =
        [Box::new(chat.stdout.take().unwrap()), Box::new(chat.stderr.take().unwrap())];
    for out in out {
        let say = say.clone();
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| say.send(line))
        });
    }
    let until = |what: &str| {
        while !lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what}")).contains(what) {}
    };
    writeln!(chat.stdin.as_mut().unwrap(), "/echo it serves").unwrap();
    until("it serves");
    fs::write(folder.path().join("new"), "another program").unwrap();
    fs::rename(folder.path().join("new"), &program).unwrap();
    fs::write(plugins.join("deeds.wasm"), guest("deeds")).unwrap();
    until("plugin deeds: loaded");
    drop(chat.stdin.take());
    assert!(chat.wait().unwrap().success());
}
