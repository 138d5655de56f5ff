//! What a disk holds when the power goes: what was synced, and of the rest whatever has reached it.

use std::collections::BTreeMap;

/// What a disk writes at once, at the least, in bytes.
const SECTOR: usize = 512;

/// A file's name in its folder.
pub type Name = &'static str;

/// Files and what is in them.
pub type Files = BTreeMap<Name, Vec<u8>>;

/// What is done to a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A file is there from now on.
    Create(Name),
    /// It is not, from now on.
    Delete(Name),
    /// Bytes, from this place on.
    Write(Name, usize, Vec<u8>),
    /// A file is so long.
    Truncate(Name, usize),
    /// What was done to a file stays.
    Sync(Name),
    /// Which files there are stays.
    SyncFolder,
    /// A sync failed. As on Linux, the system takes what it could not write for written: a later sync does not write it.
    Lose(Name),
}

impl Operation {
    /// The first part of it.
    pub fn torn(&self, draw: &mut Draw) -> Option<Self> {
        match self {
            Self::Write(name, at, bytes) => {
                Some(Self::Write(name, *at, bytes[..draw.below(bytes.len())].to_vec()))
            }
            _ => None,
        }
    }
}

/// A disk, and what was done to it since things on it were synced.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// Every file that ever was.
    files: Vec<File>,
    /// Which of them have a name now.
    names: BTreeMap<Name, usize>,
    /// Which of them have one after the next start, whatever happens.
    kept: BTreeMap<Name, usize>,
    /// What became of names since.
    renamed: Vec<(Name, Option<usize>)>,
}

#[derive(Debug, Clone, Default)]
struct File {
    kept: Vec<u8>,
    since: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    /// Of one sector.
    Bytes(usize, Vec<u8>),
    Length(usize),
}

impl Disk {
    /// One on which these files have always been.
    pub fn with(files: &Files) -> Self {
        let mut disk = Self::default();
        for (name, bytes) in files {
            disk.names.insert(name, disk.files.len());
            disk.files.push(File { kept: bytes.clone(), since: vec![] });
        }
        disk.kept = disk.names.clone();
        disk
    }

    /// One to which all of this was done.
    pub fn after(files: &Files, operations: &[Operation]) -> Self {
        let mut disk = Self::with(files);
        operations.iter().for_each(|operation| disk.take(operation));
        disk
    }

    pub fn take(&mut self, operation: &Operation) {
        match operation {
            Operation::Create(name) => {
                self.names.insert(name, self.files.len());
                self.renamed.push((name, Some(self.files.len())));
                self.files.push(File::default());
            }
            Operation::Delete(name) => {
                self.names.remove(name);
                self.renamed.push((name, None));
            }
            Operation::Write(name, at, bytes) => {
                let (mut at, mut rest) = (*at, &bytes[..]);
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
                    self.file(name).since.push(Change::Bytes(at, now.to_vec()));
                    (at, rest) = (at + now.len(), later);
                }
            }
            Operation::Truncate(name, length) => self.file(name).since.push(Change::Length(*length)),
            Operation::Sync(name) => {
                let file = self.file(name);
                let since = std::mem::take(&mut file.since);
                since.iter().for_each(|change| change.make(&mut file.kept));
            }
            Operation::SyncFolder => {
                self.kept = self.names.clone();
                self.renamed.clear();
            }
            Operation::Lose(name) => self.file(name).since.clear(),
        }
    }

    fn file(&mut self, name: Name) -> &mut File {
        &mut self.files[self.names[name]]
    }

    /// What is on it after the next start, when of what was not synced only this has reached it.
    pub fn left(&self, mut reached: impl FnMut() -> bool) -> Files {
        let mut names = self.kept.clone();
        for (name, file) in self.renamed.iter().filter(|_| reached()) {
            match file {
                Some(file) => names.insert(name, *file),
                None => names.remove(name),
            };
        }
        let content = |file: &File, reached: &mut dyn FnMut() -> bool| {
            let mut bytes = file.kept.clone();
            file.since.iter().filter(|_| reached()).for_each(|change| change.make(&mut bytes));
            bytes
        };
        names.into_iter().map(|(name, file)| (name, content(&self.files[file], &mut reached))).collect()
    }
}

impl Change {
    fn make(&self, file: &mut Vec<u8>) {
        match self {
            Self::Bytes(at, bytes) => {
                let end = at + bytes.len();
                file.resize(file.len().max(end), 0);
                file[*at..end].copy_from_slice(bytes);
            }
            Self::Length(length) => file.resize(*length, 0),
        }
    }
}

/// Numbers that are drawn, the same ones for the same seed (SplitMix64).
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    }
}
