//! One host after the other, each killed.

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    ambush::Ambush,
    child::Life,
    death::{ACCEPTED, COMING, Plan, STEPS},
    dice::Dice,
    guests,
};

/// The version that the plugin's source names.
const FIRST: &str = "version-1";

/// Steps at which somebody else kills.
const AMBUSHED: [&str; 2] = [COMING, ACCEPTED];
/// And at no step that was chosen.
const AT_RANDOM: &str = "at random";

/// What kills are like.
pub struct Kills {
    pub dice: Dice,
    /// Who kills at the steps that no host sees.
    pub ambush: Ambush,
    /// At the latest after so long.
    pub limit: Duration,
    /// At a random instant within so long.
    pub random: Duration,
}

/// At which steps hosts have died, and how often.
#[derive(Default)]
pub struct Died {
    at: BTreeMap<&'static str, u64>,
    /// At which ones others are to die before any comes again; none is a random instant.
    left: Vec<Option<&'static str>>,
}

impl Died {
    /// The next one's step, by chance.
    fn draw(&mut self, dice: &Dice) -> Option<&'static str> {
        if self.left.is_empty() {
            self.left = STEPS.into_iter().map(Some).chain([None, None]).collect();
        }
        let at = usize::try_from(dice.below(self.left.len() as u64)).unwrap_or(0);
        self.left.swap_remove(at)
    }

    /// Whether at each step at least half of those died that were to.
    pub fn verdict(&self, kills: u64) -> Result<(), String> {
        let least = kills / (STEPS.len() as u64 + 2) / 2;
        let times = |step: &str| self.at.get(step).copied().unwrap_or_default();
        match STEPS.into_iter().find(|step| times(step) < least) {
            Some(step) => Err(format!("fewer than {least} hosts died at the step \"{step}\":{self}")),
            None => Ok(()),
        }
    }
}

impl Kills {
    /// Begins a host, kills it, and notes at which step it died.
    pub async fn one(&self, life: &Life, died: &mut Died) -> Result<(), String> {
        let dice = &self.dice;
        let (step, nth) = (died.draw(dice), dice.up_to(8));
        let ambushed = step.filter(|step| AMBUSHED.contains(step));
        let own = step.filter(|_| ambushed.is_none()).map(|step| Plan { step: step.into(), nth });
        let child = begin(&Life { death: own, ..life.clone() })?;
        if let Some(step) = ambushed {
            self.ambush.set(child.id(), step, nth);
        }
        let random = u64::try_from(self.random.as_micros()).unwrap_or(u64::MAX);
        let limit = if step.is_some() { self.limit } else { Duration::from_micros(dice.below(random)) };
        let by_itself = died_by_itself(child, limit).await?;
        self.ambush.take_away();
        *died.at.entry(step.filter(|_| by_itself).unwrap_or(AT_RANDOM)).or_default() += 1;
        Ok(())
    }
}

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        STEPS.into_iter().chain([AT_RANDOM]).try_for_each(|step| {
            let times = self.at.get(step).copied().unwrap_or_default();
            write!(f, "\n{times:8}  {step}")
        })
    }
}

pub fn begin(life: &Life) -> Result<Child, String> {
    life.begin().map_err(|error| format!("a host does not start: {error}"))
}

/// Asks it to end, and waits for that.
pub fn end(mut child: Child) -> Result<(), String> {
    drop(child.stdin.take());
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("a host did not end well: {status}")) }
}

/// Waits until it dies, or kills it. Answers whether it was itself.
async fn died_by_itself(mut child: Child, limit: Duration) -> Result<bool, String> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) if status.signal() == Some(9) => return Ok(true),
            Some(status) => return Err(format!("a host ended without being killed: {status}")),
            None if Instant::now() >= deadline => break,
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
    Ok(false)
}

/// Versions of the plugin that counts, one to be put in the place of the other; the last one traps at every event.
pub struct Versions {
    components: [Vec<u8>; 3],
    file: PathBuf,
    beside: PathBuf,
    swaps: Arc<AtomicU64>,
}

impl Versions {
    /// Puts the first one into `plugins`.
    pub fn new(plugins: &Path) -> Result<Self, String> {
        let first = guests::guest("tally").to_vec();
        let second = guests::patched(&first, FIRST, "version-2");
        let broken = guests::patched(&first, FIRST, "version-X");
        let (file, beside) = (plugins.join("tally.wasm"), plugins.with_extension("new"));
        let versions = Self { components: [first, second, broken], file, beside, swaps: Arc::default() };
        versions.put(0).map_err(|error| error.to_string())?;
        Ok(versions)
    }

    /// How often one took the place of another.
    pub fn swaps(&self) -> Arc<AtomicU64> {
        self.swaps.clone()
    }

    /// Puts one in the place of the other now and then, for ever.
    pub async fn swap(self, dice: Dice) -> std::io::Error {
        for version in (0..self.components.len()).cycle().skip(1) {
            tokio::time::sleep(Duration::from_millis(100 + dice.below(1000))).await;
            if let Err(error) = self.put(version) {
                return error;
            }
            self.swaps.fetch_add(1, Relaxed);
        }
        unreachable!("there are three of them")
    }

    fn put(&self, version: usize) -> std::io::Result<()> {
        fs::write(&self.beside, &self.components[version])?;
        fs::rename(&self.beside, &self.file)
    }
}
