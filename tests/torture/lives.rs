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
    child::Life,
    death::{ACCEPTED, Plan, STEPS},
    dice::Dice,
    guests,
    world::Ambush,
};

/// The version that the plugin's source names.
const FIRST: &str = "version-1";

/// What kills are like.
pub struct Kills {
    pub dice: Dice,
    /// Where somebody else kills, at the step that no host sees.
    pub ambush: Option<Ambush>,
    /// At the latest after so long.
    pub limit: Duration,
    /// At a random instant within so long.
    pub random: Duration,
}

/// At which steps hosts have died, and how often.
#[derive(Default)]
pub struct Died(BTreeMap<String, u64>);

impl Kills {
    /// Begins a host, kills it, and notes at which step it died.
    pub async fn one(&self, life: &Life, died: &mut Died) -> Result<(), String> {
        let dice = &self.dice;
        // Two of them: at a random instant.
        let step = usize::try_from(dice.below(STEPS.len() as u64 + 2)).unwrap_or(0);
        let plan = STEPS.get(step).map(|step| Plan { step: (*step).into(), nth: dice.up_to(8) });
        let plan = plan.filter(|plan| plan.step != ACCEPTED || self.ambush.is_some());
        let (own, ambushed): (Option<&Plan>, Option<&Plan>) = match &plan {
            Some(plan) if plan.step == ACCEPTED => (None, Some(plan)),
            plan => (plan.as_ref(), None),
        };
        let child = begin(&Life { death: own.cloned(), ..life.clone() })?;
        if let Some(ambush) = &self.ambush {
            ambush.set(ambushed.map(|plan| (child.id(), plan.nth)));
        }
        let random = u64::try_from(self.random.as_micros()).unwrap_or(u64::MAX);
        let limit = if plan.is_some() { self.limit } else { Duration::from_micros(dice.below(random)) };
        let by_itself = died_by_itself(child, limit).await?;
        if let Some(ambush) = &self.ambush {
            ambush.set(None);
        }
        let step = plan.filter(|_| by_itself).map_or_else(|| "at random".into(), |plan| plan.step);
        *died.0.entry(step).or_default() += 1;
        Ok(())
    }
}

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        STEPS.iter().copied().chain(["at random"]).try_for_each(|step| {
            let times = self.0.get(step).copied().unwrap_or_default();
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

/// Versions of the plugin that counts, one to be put in the place of the other.
pub struct Versions {
    components: [Vec<u8>; 2],
    file: PathBuf,
    beside: PathBuf,
    swaps: Arc<AtomicU64>,
}

impl Versions {
    /// Puts the first one into `plugins`.
    pub fn new(plugins: &Path) -> Result<Self, String> {
        let first = guests::guest("steady").to_vec();
        let second = guests::patched(&first, FIRST, "version-2");
        let (file, beside) = (plugins.join("steady.wasm"), plugins.with_extension("new"));
        let versions = Self { components: [first, second], file, beside, swaps: Arc::default() };
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
        unreachable!("there are two of them")
    }

    fn put(&self, version: usize) -> std::io::Result<()> {
        fs::write(&self.beside, &self.components[version])?;
        fs::rename(&self.beside, &self.file)
    }
}
