//! The program itself, `parlour run`, in a process of its own against a homeserver.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

/// Longer than a start takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with `parlour.toml`, plugins and data, that outlives its processes.
pub struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub fn new(settings: &str, plugins: &[(&str, &[u8])]) -> Self {
        let folder = crate::synapse::temporary("parlour-home-").unwrap();
        fs::write(folder.path().join("parlour.toml"), settings).unwrap();
        fs::create_dir(folder.path().join("plugins")).unwrap();
        let home = Self { folder };
        for (name, component) in plugins {
            home.plugin(name, component);
        }
        // Compiled code is shared between tests: a Python component takes some ten seconds.
        for private in [home.data(), crate::guests::cache()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(private).unwrap();
        }
        std::os::unix::fs::symlink(crate::guests::cache(), home.data().join("compiled")).unwrap();
        home
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// Puts a plugin's file in place, whole.
    pub fn plugin(&self, name: &str, component: &[u8]) {
        let file = self.path().join("plugins").join(format!("{name}.wasm"));
        let new = self.path().join(format!("{name}.new"));
        fs::write(&new, component).unwrap();
        fs::rename(new, file).unwrap();
    }

    pub fn settings(&self, settings: &str) {
        fs::write(self.path().join("parlour.toml"), settings).unwrap();
    }

    /// Starts `parlour run`.
    pub fn run(&self) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_parlour"));
        command
            .arg("run")
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log: Arc<(Mutex<Log>, Condvar)> = Arc::default();
        let written = log.clone();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                written.0.lock().unwrap().lines.push(line);
                written.1.notify_all();
            }
            written.0.lock().unwrap().ended = true;
            written.1.notify_all();
        });
        Running { child, log }
    }
}

#[derive(Default)]
struct Log {
    lines: Vec<String>,
    ended: bool,
}

/// A process that runs; it is killed when it is dropped.
pub struct Running {
    child: Child,
    log: Arc<(Mutex<Log>, Condvar)>,
}

impl Running {
    /// Everything that it has said so far.
    pub fn log(&self) -> String {
        self.log.0.lock().unwrap().lines.join("\n")
    }

    /// Waits for a line.
    pub async fn said(&self, what: &str) -> String {
        let (log, what) = (self.log.clone(), what.to_owned());
        tokio::task::spawn_blocking(move || {
            let deadline = Instant::now() + PATIENCE;
            let mut state = log.0.lock().unwrap();
            loop {
                if let Some(line) = state.lines.iter().find(|line| line.contains(&what)) {
                    return line.clone();
                }
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() || state.ended {
                    let lines = state.lines.join("\n");
                    drop(state);
                    panic!("parlour never said {what:?}:\n{lines}");
                }
                state = log.1.wait_timeout(state, left).unwrap().0;
            }
        })
        .await
        .unwrap()
    }

    /// As `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As an operator ends it; answers the exit code.
    pub async fn stop(mut self) -> i32 {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.wait().await
    }

    /// Waits for its end; answers the exit code.
    pub async fn ended(mut self) -> (i32, String) {
        let code = self.wait().await;
        (code, self.log())
    }

    async fn wait(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "parlour does not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            eprintln!("parlour said:\n{}", self.log());
        }
    }
}
