//! `wasi:logging`, and what a guest prints: lines for the operator, stamped with the plugin's name, escaped and
//! counted, so that no guest can forge a line or flood the log.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use super::{
    State,
    bindings::wasi::logging::logging::{Host, Level as GuestLevel},
};
use crate::{
    id::PluginName,
    notice::{Level, Notice, Notices, Words},
    text::escaped,
};

/// Lines of one call, and bytes of one line.
const LINES: u32 = 100;
const LINE: usize = 1024;

/// One instance's log.
#[derive(Clone)]
pub struct Log {
    plugin: PluginName,
    notices: Notices,
    /// It is about an encrypted room.
    sealed: bool,
    left: Arc<Mutex<Left>>,
}

struct Left {
    lines: u32,
    /// What was printed and not ended by a newline yet.
    partial: Vec<u8>,
}

impl Log {
    /// A plugin's log for one call.
    pub fn new(plugin: PluginName, notices: Notices, sealed: bool) -> Self {
        Self {
            plugin,
            notices,
            sealed,
            left: Arc::new(Mutex::new(Left { lines: LINES, partial: Vec::new() })),
        }
    }

    /// One line more.
    pub fn say(&self, level: Level, text: &str) {
        {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(lines) = left.lines.checked_sub(1) else { return };
            left.lines = lines;
        }
        let text = Words { text: escaped(text, LINE), sealed: self.sealed };
        self.notices.say(Notice::PluginLog { plugin: self.plugin.clone(), level, text });
    }

    /// Says what was printed last and not ended by a newline.
    pub fn finish(&self) {
        let rest = std::mem::take(&mut self.left.lock().unwrap_or_else(PoisonError::into_inner).partial);
        if !rest.is_empty() {
            self.say(Level::Info, &String::from_utf8_lossy(&rest));
        }
    }

    fn print(&self, bytes: &[u8]) {
        let lines: Vec<Vec<u8>> = {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            let room = (LINE * 4).saturating_sub(left.partial.len());
            left.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
            let newline = left.partial.iter().rposition(|byte| *byte == b'\n');
            // A line that never ends is cut where the buffer is full.
            let full = (left.partial.len() >= LINE * 4).then(|| left.partial.len() - 1);
            let Some(end) = newline.or(full) else { return };
            let whole: Vec<u8> = left.partial.drain(..=end).collect();
            whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
        };
        for line in lines {
            self.say(Level::Info, &String::from_utf8_lossy(&line));
        }
    }
}

impl Host for State {
    fn log(&mut self, level: GuestLevel, context: String, message: String) -> wasmtime::Result<()> {
        let level = match level {
            GuestLevel::Trace | GuestLevel::Debug => Level::Debug,
            GuestLevel::Info => Level::Info,
            GuestLevel::Warn => Level::Warn,
            GuestLevel::Error | GuestLevel::Critical => Level::Error,
        };
        if context.is_empty() {
            self.log.say(level, &message);
        } else {
            self.log.say(level, &format!("{context}: {message}"));
        }
        Ok(())
    }
}

impl IsTerminal for Log {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Log {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Log {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.print(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 * 1024)
    }
}

#[async_trait]
impl Pollable for Log {
    async fn ready(&mut self) {}
}
