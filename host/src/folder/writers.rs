//! Files that somebody has open and writes to: such a file may be half of what it will be, and look whole.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind,
    event::{AccessKind, AccessMode, ModifyKind},
};

/// What was changed without being opened is never closed: after so long without a change it is taken as it is.
const OPEN: Duration = Duration::from_secs(60);

/// Who writes where, as far as the system tells: elsewhere than on Linux nobody hears that a file was closed.
#[derive(Debug, Default)]
pub struct Writers(Mutex<HashMap<PathBuf, Instant>>);

impl Writers {
    /// What the system has told.
    pub fn heard(&self, event: &Event) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if event.need_rescan() {
            // What was missed may be the end of all of them.
            open.clear();
        }
        for path in &event.paths {
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) if cfg!(target_os = "linux") => {
                    open.insert(path.clone(), Instant::now());
                }
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(_))
                | EventKind::Remove(_) => drop(open.remove(path)),
                _ => {}
            }
        }
    }

    /// Whether somebody still writes to this file.
    pub fn has(&self, path: &Path) -> bool {
        // The system tells whole paths.
        let Ok(path) = std::path::absolute(path) else { return false };
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&path).is_some_and(|changed| changed.elapsed() < OPEN)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use notify::event::{DataChange, RenameMode};

    use super::*;

    #[test]
    fn a_file_is_being_written_from_its_first_change_until_it_is_closed_or_gone() {
        let writers = Writers::default();
        let hears = |kind| writers.heard(&Event::new(kind).add_path("/plugins/./a.wasm".into()));
        let changed = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        for end in [
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
            EventKind::Modify(ModifyKind::Name(RenameMode::From)),
            EventKind::Remove(notify::event::RemoveKind::File),
        ] {
            hears(changed);
            assert!(writers.has(Path::new("/plugins/a.wasm")) && !writers.has(Path::new("/plugins/b.wasm")));
            hears(end);
            assert!(!writers.has(Path::new("/plugins/a.wasm")), "{end:?}");
        }
        hears(EventKind::Access(AccessKind::Close(AccessMode::Read)));
        assert!(!writers.has(Path::new("/plugins/a.wasm")), "reading is no change");
    }
}
