//! The disk fails under the journal: the power goes at any moment, or a write, a sync, a deletion is refused. Whatever comes
//! of that, the ledger opens, is whole, has all that was promised, and each call in it is there wholly or not at all.
//!
//! A file system of SQLite's that belongs to these tests ([`vfs`]) sees all that is done to the journal's files. The power goes
//! at each of these operations: the disk then holds what was synced, and of the rest ([`disk`]) nothing, all up to there with the
//! last one torn, or any sectors. Each operation fails once, and with all that come after it.
//! `PARLOUR_TEST_SEED` draws other sectors.

mod disk;
mod vfs;
mod way;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use self::{
    disk::{Disk, Draw, Files, Operation},
    vfs::{Fault, Vfs},
    way::{Folder, Host, Ledger, Step, WAY, WAY_ON, of_an_older_version},
};

/// No call takes as long, not even beside all other tests.
const LONG: Duration = Duration::from_secs(60);

/// A way that was gone without a fault.
struct Gone {
    start: Files,
    way: &'static [Step],
    /// What was done to the disk.
    operations: Vec<Operation>,
    /// How much of that had been done by the end of each step.
    ends: Vec<usize>,
    /// What the ledger said then.
    ledgers: Vec<Ledger>,
    /// What it says when the first of two things that a step does is on disk, by the step.
    halfway: BTreeMap<usize, Ledger>,
}

impl Gone {
    fn from(start: Files, way: &'static [Step]) -> Self {
        let (folder, vfs) = (Folder::with(&start), Vfs::new(&start));
        let (file, mut ends, mut ledgers) = (folder.file(), vec![], vec![]);
        let mut host = Host::new(&file, Some(&vfs));
        for step in way {
            runtime().block_on(host.make(*step)).unwrap();
            ledgers.push(host.ledger());
            ends.push(vfs.done());
            let before = ledgers.len().checked_sub(2).map(|before| &ledgers[before]);
            assert_eq!(before != ledgers.last(), step.changes() || before.is_none(), "{step:?}");
        }
        let mut gone =
            Self { start, way, operations: vfs.operations(), ends, ledgers, halfway: BTreeMap::new() };
        gone.halfway =
            (0..way.len()).filter_map(|at| Some((at, gone.with_first(at, way[at].first()?)))).collect();
        gone
    }

    fn with_first(&self, step: usize, first: Step) -> Ledger {
        let folder = Folder::with(&self.files(step));
        let file = folder.file();
        let mut host = Host::new(&file, None);
        for step in [Step::Open, first] {
            runtime().block_on(host.make(step)).unwrap();
        }
        host.ledger()
    }

    /// What somebody may find before a step is done.
    fn is_before(&self, step: usize, found: &Ledger) -> bool {
        found == self.before(step) || self.halfway.get(&step) == Some(found)
    }

    /// What the ledger says before a step. Who opens it brings it up to date, and nobody reads it before.
    fn before(&self, step: usize) -> &Ledger {
        &self.ledgers[step.saturating_sub(1)]
    }

    fn after(&self, step: usize) -> &Ledger {
        &self.ledgers[step.min(self.way.len() - 1)]
    }

    /// What the disk may hold when the power goes, each with the step that was under way.
    fn cuts(&self, seed: u64) -> impl Iterator<Item = Cut> {
        let mut disk = Disk::with(&self.start);
        (0..=self.operations.len()).flat_map(move |at| {
            let mut draw = Draw(seed ^ (at as u64) << 32);
            let step = self.ends.partition_point(|end| *end <= at);
            let mut cuts = Vec::new();
            let mut cut = |what, files| cuts.push(Cut { at, step, what, files });
            let last = at.checked_sub(1).map(|last| &self.operations[last]);
            if matches!(last, None | Some(Operation::Sync(_) | Operation::SyncFolder)) {
                cut("nothing", disk.left(|| false));
            }
            let mut torn = disk.clone();
            if let Some(part) = self.operations.get(at).and_then(|now| now.torn(&mut draw)) {
                torn.take(&part);
            }
            cut("all", torn.left(|| true));
            // Of twelve sectors so many, about.
            for many in [1, 6, 11] {
                cut("some", torn.left(|| draw.below(12) < many));
            }
            if let Some(now) = self.operations.get(at) {
                disk.take(now);
            }
            cuts
        })
    }

    /// A disk after the power went: what it says, and that the host goes on there.
    fn starts_again(&self, cut: &Cut, seed: u64) -> bool {
        let Cut { at, step, what, files } = cut;
        let place = || {
            let (step, now) = (self.way.get(*step), self.operations.get(*at));
            format!(
                "seed {seed}, {what} of what was not synced, at operation {at} ({}), {step:?}",
                brief(now)
            )
        };
        let folder = Folder::with(files);
        let file = folder.file();
        let mut host = Host::new(&file, None);
        let make = |host: &mut Host<'_>, step| {
            runtime().block_on(host.make(step)).unwrap_or_else(|error| panic!("{error}: {}", place()));
        };
        make(&mut host, Step::Open);
        assert!(host.is_whole(), "{}", place());
        let found = host.ledger();
        let new = found == *self.after(*step);
        assert!(new || self.is_before(*step, &found), "half of it, or less than was promised: {}", place());
        if let Some(step) = self.way.get(*step) {
            make(&mut host, *step);
        }
        assert!(host.ledger() == *self.after(*step), "lost, or there twice: {}", place());
        new
    }

    /// What was asked of the disk in each step: whether it was to write something.
    fn asked(&self, step: usize) -> Vec<bool> {
        let files = self.files(step);
        let (folder, vfs) = (Folder::with(&files), Vfs::new(&files));
        let file = folder.file();
        let mut host = Host::new(&file, Some(&vfs));
        if step > 0 {
            runtime().block_on(host.make(Step::Open)).unwrap();
        }
        vfs.fail(None);
        runtime().block_on(host.make(self.way[step])).unwrap();
        assert!(host.ledger() == *self.after(step));
        vfs.asked()
    }

    /// The files as they are before a step.
    fn files(&self, step: usize) -> Files {
        let end = step.checked_sub(1).map_or(0, |before| self.ends[before]);
        Disk::after(&self.start, &self.operations[..end]).left(|| true)
    }

    /// A step in which something fails, and the one after it. Answers whether it was told so.
    fn bears(&self, failing: &Failing) -> bool {
        let Failing { step, fault, restart } = *failing;
        let place = || format!("{failing:?}, {:?}", self.way[step]);
        let files = self.files(step);
        let (folder, vfs) = (Folder::with(&files), Vfs::new(&files));
        let file = folder.file();
        let mut host = Host::new(&file, Some(&vfs));
        let runtime = runtime();
        let make = |host: &mut Host<'_>, step| {
            let made = runtime.block_on(async { tokio::time::timeout(LONG, host.make(step)).await });
            made.unwrap_or_else(|_| panic!("it hangs: {}", place()))
        };
        // What is on the disk whatever happens.
        let kept = || {
            let kept = Disk::after(&files, &vfs.operations()).left(|| false);
            let folder = Folder::with(&kept);
            let file = folder.file();
            let mut host = Host::new(&file, None);
            make(&mut host, Step::Open).unwrap_or_else(|error| panic!("{error}: {}", place()));
            assert!(host.is_whole(), "{}", place());
            host.ledger()
        };
        if step > 0 {
            make(&mut host, Step::Open).unwrap();
        }
        vfs.fail(Some(fault));
        let told = match make(&mut host, self.way[step]) {
            Ok(()) => {
                assert!(kept() == *self.after(step), "promised, and not there: {}", place());
                false
            }
            Err(error) => {
                let error = error.to_string();
                assert!(!error.is_empty() && !error.contains('\n'), "{error}: {}", place());
                let seen = !host.is_open() || self.is_before(step, &host.ledger());
                assert!(seen, "it failed, and there is something of it: {}", place());
                true
            }
        };
        // Fewer things are asked of the disk where this machine is quick.
        let met = vfs.failed() > 0 || self.way[step].first().is_some();
        assert!(met, "it was not met: {}", place());
        if fault.lasts {
            let _ = make(&mut host, self.way[step]);
        }
        if restart {
            host.close();
        }
        vfs.fail(None);
        for (number, step) in (step..self.way.len().min(step + 2)).enumerate() {
            make(&mut host, self.way[step]).unwrap_or_else(|error| panic!("{error}: {}", place()));
            assert!(host.ledger() == *self.after(step), "lost, or there twice: {}", place());
            let kept = number > 0 || kept() == *self.after(step);
            assert!(kept, "promised at last, and not there: {}", place());
        }
        told
    }
}

/// Where the power went.
struct Cut {
    at: usize,
    step: usize,
    what: &'static str,
    files: Files,
}

/// What fails, and where.
#[derive(Debug, Clone, Copy)]
struct Failing {
    step: usize,
    fault: Fault,
    /// The host is started again before the disk works again.
    restart: bool,
}

impl Failing {
    /// All that may fail in a step. What fails by turns is not worth the time that all of it takes.
    fn in_step(number: usize, step: Step, asked: &[bool]) -> Vec<Self> {
        // Whoever opens the file again has what was written and not synced from the system's memory. Where that was lost there,
        // too, nobody can tell.
        let loses = !matches!(step, Step::Open | Step::Reopen);
        let mut all = Vec::new();
        for (at, write) in asked.iter().enumerate() {
            let full = |turn| *write && at % 2 == turn;
            let once = Fault { at, lasts: false, full: full(0), loses };
            all.push(Self { step: number, fault: once, restart: false });
            if !write || at % 4 < 2 {
                let lasts = Fault { at, lasts: true, full: full(1), loses };
                all.push(Self { step: number, fault: lasts, restart: false });
            }
            if !write || at % 4 >= 2 {
                let lasts = Fault { at, lasts: true, full: full(1), loses: false };
                all.push(Self { step: number, fault: lasts, restart: true });
            }
        }
        all
    }
}

fn brief(operation: Option<&Operation>) -> String {
    match operation {
        Some(Operation::Write(name, at, bytes)) => format!("{} bytes of {name} from {at} on", bytes.len()),
        other => format!("{other:?}"),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Does each, on all processors, and says of each what fails, up to a few.
fn side_by_side<T: Send>(all: impl Iterator<Item = T> + Send, each: impl Fn(T) + Sync) {
    let (all, failed) = (Mutex::new(all), AtomicUsize::new(0));
    let next = || all.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while failed.load(Ordering::Relaxed) < 10
                    && let Some(one) = next()
                {
                    if catch_unwind(AssertUnwindSafe(|| each(one))).is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(failed.into_inner(), 0, "see above");
}

fn seed() -> u64 {
    std::env::var("PARLOUR_TEST_SEED").map_or(7, |text| text.parse().unwrap())
}

/// How often a step was found not made, and made.
type Seen = Mutex<BTreeMap<usize, [usize; 2]>>;

fn count(seen: &Seen, step: usize, made: bool) {
    seen.lock().unwrap().entry(step).or_default()[usize::from(made)] += 1;
}

fn the_power_goes(start: Files, way: &'static [Step]) {
    let (gone, seed, seen) = (Gone::from(start, way), seed(), Seen::default());
    side_by_side(gone.cuts(seed), |cut| count(&seen, cut.step, gone.starts_again(&cut, seed)));
    let seen = seen.into_inner().unwrap();
    println!("{} operations; cuts that left a step not made, and made:", gone.operations.len());
    seen.iter().for_each(|(step, [not, made])| println!("  {:?}: {not}, {made}", way.get(*step)));
    for (step, seen) in seen.iter().filter(|(step, _)| way.get(**step).is_some_and(|step| step.changes())) {
        assert!(
            seen[0] > 5 && seen[1] > 0,
            "the cuts come where something is decided: {:?} {seen:?}",
            way[*step]
        );
    }
}

#[test]
fn when_the_power_goes_all_that_was_promised_is_there() {
    the_power_goes(Files::new(), WAY);
}

#[test]
fn when_the_power_goes_while_an_older_file_is_brought_up_to_date_nothing_is_lost() {
    the_power_goes(of_an_older_version(), WAY_ON);
}

fn the_disk_fails(start: Files, way: &'static [Step]) {
    let (gone, seen) = (Gone::from(start, way), Seen::default());
    let all = (0..way.len()).flat_map(|step| Failing::in_step(step, way[step], &gone.asked(step)));
    side_by_side(all, |failing| count(&seen, failing.step, gone.bears(&failing)));
    let seen = seen.into_inner().unwrap();
    println!("faults of which nobody was told, and somebody was:");
    seen.iter().for_each(|(step, [not, told])| println!("  {:?}: {not}, {told}", way[*step]));
    for (step, seen) in seen.iter().filter(|(step, _)| way[**step].changes()) {
        // What is done ahead and fails then is done again, and told by whoever waits for it.
        let silent = way[*step].receives();
        assert!(
            seen[1] > 5 && (silent || seen[0] == 0),
            "whoever is not told thinks that it was done: {:?} {seen:?}",
            way[*step]
        );
    }
}

#[test]
fn when_the_disk_fails_the_call_says_so_and_succeeds_later() {
    the_disk_fails(Files::new(), WAY);
}

#[test]
fn when_the_disk_fails_while_an_older_file_is_brought_up_to_date_it_is_later() {
    the_disk_fails(of_an_older_version(), WAY_ON);
}
