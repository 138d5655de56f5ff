//! A real homeserver for the tests: Synapse, with a folder, a port and a life of its own.
//!
//! Most tests use the one [`Synapse::shared`] of their process, each with users of its own ([`unique`]). A test that
//! stops its server or limits its rates starts one for itself. Whichever way a test ends, its server ends with it and
//! leaves nothing behind: see `people/homeserver.py`.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::installed;

// By their places: another test has this file by its own.
#[path = "synapse/api.rs"]
pub mod api;
#[path = "synapse/config.rs"]
mod config;

pub use api::{Api, NewRoom};

/// The server name, which is not its address: nothing may look it up.
pub const SERVER_NAME: &str = "hs.test";

/// How long a start may take: 2 to 4 seconds are usual, a machine that also compiles needs more.
const START: Duration = Duration::from_secs(90);
/// How long a clean shutdown may take before it is ended.
const STOP: Duration = Duration::from_secs(10);
/// Between two looks at something that cannot wake us.
const LOOK: Duration = Duration::from_millis(20);

/// What a test may want otherwise.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Messages per second and the burst that one user may send; unlimited if absent.
    pub message_rate: Option<(f64, u32)>,
    /// Most events of a room in one answer to a sync; Synapse's own 100 if absent.
    pub timeline: Option<u32>,
    /// How long an access token lives that comes with a refresh token; Synapse's own 5 minutes if absent.
    pub token_life: Option<&'static str>,
}

pub struct Synapse {
    folder: TempDir,
    port: u16,
    python: PathBuf,
    api: Api,
    /// Absent while the server is stopped.
    process: Mutex<Option<Child>>,
}

/// A name that no other test of this process uses: `alice-7`.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Synapse {
    /// The server that the tests of this process share. It is never stopped.
    pub async fn shared() -> Result<&'static Synapse> {
        static SHARED: OnceCell<Result<Synapse, String>> = OnceCell::const_new();
        let start = async || Synapse::start(Options::default()).await.map_err(|error| format!("{error:#}"));
        SHARED.get_or_init(start).await.as_ref().map_err(|error| anyhow!("{error}"))
    }

    /// A server of this test's own.
    pub async fn start(options: Options) -> Result<Synapse> {
        let python = tokio::task::spawn_blocking(installed::synapse).await??;
        let folder = temporary("parlour-synapse-")?;
        let port = free_port()?;
        config::write(folder.path(), port, &options).context("writing Synapse's settings")?;

        let api = Api::new(format!("http://127.0.0.1:{port}"));
        let synapse = Synapse { folder, port, python, api, process: Mutex::new(None) };
        synapse.launch().await?;
        Ok(synapse)
    }

    /// Where clients connect, without a slash at the end.
    pub fn base_url(&self) -> &str {
        self.api.base_url()
    }

    pub fn server_name(&self) -> &'static str {
        SERVER_NAME
    }

    /// The client-server API, for what a test does or looks at without a client. Also reached by `Deref`.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The server's log, which stays the same over restarts.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("homeserver.log")
    }

    /// Shuts the server down and keeps its data: an outage.
    pub async fn stop(&self) -> Result<()> {
        let Some(mut child) = self.process().take() else { return Ok(()) };
        let asked = child.stdin.as_mut().context("Synapse has a standard input")?.write_all(b"stop\n");
        let deadline = Instant::now() + STOP;
        while asked.is_ok() && Instant::now() < deadline {
            if child.try_wait()?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        end(&mut child);
        Ok(())
    }

    /// Ends the server without a word, as a crash would.
    pub fn kill(&self) {
        if let Some(mut child) = self.process().take() {
            end(&mut child);
        }
    }

    /// Starts the server again after [`stop`](Self::stop) or [`kill`](Self::kill): same port, same data.
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.launch().await
    }

    /// Where `text` occurs in what the server has written, for people to read: in its database (as rows and as bytes
    /// on the disk, freed pages and the write-ahead log included), its media or its log. Empty if it is nowhere.
    ///
    /// Take letters and digits for `text`, so that no escaping can hide it, and have a test find a text that *is*
    /// there as well.
    pub fn places_of(&self, text: &str) -> Result<Vec<String>> {
        let mut places = Vec::new();
        self.search(self.folder.path(), text, &mut places)?;
        if self.rows_contain(text)? {
            places.push("a row of the database".to_owned());
        }
        Ok(places)
    }

    pub fn database_contains(&self, text: &str) -> Result<bool> {
        Ok(self
            .places_of(text)?
            .iter()
            .any(|place| place.starts_with("homeserver.db") || place.starts_with("a row")))
    }

    pub fn media_contains(&self, text: &str) -> Result<bool> {
        Ok(self.places_of(text)?.iter().any(|place| place.starts_with("media")))
    }

    pub fn log_contains(&self, text: &str) -> Result<bool> {
        Ok(self.places_of(text)?.iter().any(|place| place.ends_with(".log")))
    }

    /// Starts the process and waits until it serves.
    async fn launch(&self) -> Result<()> {
        let listening = format!("now listening on TCP port {}", self.port);
        let earlier = occurrences(&self.log(), &listening);
        let mut child = self.spawn().context("starting Synapse")?;

        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("Synapse ended as it started: {status}\n{}", tail(&self.log(), 30));
            }
            // Its own log first: on a port that was taken in between, somebody else would answer.
            if occurrences(&self.log(), &listening) > earlier && self.api.versions().await.is_ok() {
                break;
            }
            if Instant::now() > deadline {
                end(&mut child);
                bail!("Synapse does not serve after {START:?}\n{}", tail(&self.log(), 30));
            }
            tokio::time::sleep(LOOK).await;
        }
        *self.process() = Some(child);
        Ok(())
    }

    fn spawn(&self) -> Result<Child> {
        let folder = self.folder.path();
        let program = folder.join("homeserver.py");
        fs::write(&program, include_str!("../people/homeserver.py"))?;
        // Prints and the reasons of a failed start belong to the log.
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&self.python);
        command
            .arg("-I")
            .arg(program)
            .arg(folder)
            .arg("-c")
            .arg(folder.join("homeserver.yaml"))
            .current_dir(folder);
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        Ok(command.spawn()?)
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().expect("no one panics while holding the process")
    }

    fn search(&self, folder: &Path, text: &str, places: &mut Vec<String>) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                self.search(&path, text, places)?;
                continue;
            }
            match fs::read(&path) {
                Ok(bytes) if String::from_utf8_lossy(&bytes).contains(text) => {
                    places.push(path.strip_prefix(self.folder.path())?.display().to_string());
                }
                Ok(_) => {}
                // A journal of the database, gone with its transaction.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
            }
        }
        Ok(())
    }

    /// A long value is cut over pages of the file, so its bytes alone would not do.
    fn rows_contain(&self, text: &str) -> Result<bool> {
        const DUMP: &str = "import sqlite3, sys\n\
            rows = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True).iterdump()\n\
            print(any(sys.argv[2] in row for row in rows))";
        let database = self.folder.path().join("homeserver.db");
        let output = Command::new(&self.python).args(["-I", "-c", DUMP]).arg(database).arg(text).output()?;
        ensure!(output.status.success(), "dumping the database: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout.starts_with(b"True"))
    }
}

impl std::ops::Deref for Synapse {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A folder for what lives no longer than its test, in memory where that is possible: on a disk, SQLite's syncs double
/// the time of every answer.
pub fn temporary(prefix: &str) -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in(&parent)
        .with_context(|| format!("in {}", parent.display()))
}

/// The last `lines` of a file, or why there are none.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<_> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}

fn occurrences(path: &Path, text: &str) -> usize {
    fs::read(path).map_or(0, |bytes| String::from_utf8_lossy(&bytes).matches(text).count())
}

fn end(child: &mut Child) {
    // Fails only if the child has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

/// A free port below the ones that systems give to outgoing connections, so that it is still free after an outage.
fn free_port() -> Result<u16> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    static TRIED: AtomicU16 = AtomicU16::new(0);
    // Test processes start at places of their own.
    let start = std::process::id().wrapping_mul(97) % u32::from(COUNT);
    for _ in 0..COUNT {
        let step = u32::from(TRIED.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + ((start + step) % u32::from(COUNT)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT);
}
