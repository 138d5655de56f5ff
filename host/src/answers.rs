//! What a handler learnt from outside while it ran, so that whoever runs again is told the same: values, and the
//! decisions about them. No I/O; who writes it down is [`crate::capability::answers`].
//!
//! An answer is found again by what was asked ([`Key`]): the call, the tool in whose name it was made, a digest of all that
//! the request says, and how many requests of this kind came before it.

mod fact;

use std::collections::{BTreeMap, BTreeSet};

pub use self::fact::{Ended, Extent, Fact, Failure, Kind, Told};
use crate::id::{AgentName, DeliveryId, EventId, PluginName};

/// Bytes that are recorded for one delivery. All of them are held in memory while its handler runs and read at once after a
/// crash, and most answers have some KiB; a handler that reads more is one that had better begin anew.
pub const MOST: usize = 8 * 1024 * 1024;
/// What an entry costs beside its bytes.
const ENTRY: usize = 128;

/// What was asked, and for the how-manieth time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

/// A digest of parts that cannot run into each other.
#[must_use]
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Something that was learnt, as the journal has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was asked.
    pub key: Key,
    /// Its place among all that the delivery has learnt.
    pub order: u32,
    /// When it came, in milliseconds since 1970.
    pub at: i64,
    /// What it is.
    pub fact: Fact,
    /// Its bytes, where it has some.
    pub body: Vec<u8>,
}

impl Entry {
    /// Bytes that it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        ENTRY + self.body.len() + self.fact.size()
    }

    /// An answer that came and of which nothing was read: who does so in another run asks anew, where that changes nothing.
    fn is_unread(&self) -> bool {
        match &self.fact {
            Fact::Http { extent, changes, broke, .. } => {
                *extent != Extent::Whole && !changes && broke.is_none() && self.body.is_empty()
            }
            Fact::Llm { pieces, ended, broke, .. } => pieces.is_empty() && ended.is_none() && broke.is_none(),
            _ => false,
        }
    }
}

/// Why a handler runs once more in the same process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// What it read has changed: it reads anew, and asks nobody else anew.
    Conflict,
    /// It has said so itself: what was not to be had then is asked for anew.
    Later,
}

/// What is to be written down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writing {
    /// In place of what was there under the same key.
    pub entries: Vec<Entry>,
    /// There was no room for something: after a crash nobody can go on.
    pub full: bool,
}

impl Writing {
    /// Nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && !self.full
    }
}

/// How often each thing was asked, and how many requests were made, at one moment.
#[derive(Debug, Clone)]
pub struct Counts(BTreeMap<[u8; 32], u32>, u32);

/// What one delivery has learnt, while its handler runs.
#[derive(Debug)]
pub struct Book {
    entries: BTreeMap<Key, Entry>,
    /// How often the same was asked, in this run.
    counts: BTreeMap<[u8; 32], u32>,
    /// How many requests its handler has made, in this run.
    requests: u32,
    /// What is in `entries` and not in the journal.
    unwritten: BTreeSet<Key>,
    /// What nobody is told any more, though the journal has it.
    aside: BTreeSet<Key>,
    bytes: usize,
    /// Bytes of answers that have not come to their end.
    coming: usize,
    order: u32,
    full: bool,
    /// The journal knows that.
    full_written: bool,
    /// When the handler began, or came again.
    begun: i64,
}

impl Book {
    /// Nothing is learnt yet.
    #[must_use]
    pub fn new(now: i64) -> Self {
        let (entries, counts) = (BTreeMap::new(), BTreeMap::new());
        let (unwritten, aside) = (BTreeSet::new(), BTreeSet::new());
        let (full, full_written) = (false, false);
        Self {
            entries,
            counts,
            requests: 0,
            unwritten,
            aside,
            bytes: 0,
            coming: 0,
            order: 0,
            full,
            full_written,
            begun: now,
        }
    }

    /// What was learnt before a crash.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let mut book = Self::new(record.opening.begun);
        for entry in &record.entries {
            if matches!(entry.fact, Fact::Time) {
                book.begun = book.begun.max(entry.at);
            }
            book.order = book.order.max(entry.order + 1);
            book.bytes += entry.size();
            book.entries.insert(entry.key, entry.clone());
        }
        (book.full, book.full_written) = (record.full, record.full);
        book
    }

    /// When the handler began, in milliseconds since 1970.
    #[must_use]
    pub fn begun(&self) -> i64 {
        self.begun
    }

    /// The handler runs again.
    pub fn again(&mut self, why: Again, now: i64) {
        self.counts.clear();
        self.requests = 0;
        self.wait_anew();
        match why {
            Again::Conflict => self.forget(|it| it.fact.is_read() || it.is_unread()),
            Again::Later => {
                self.forget(|it| it.fact.is_read() || it.is_unread() || it.fact.is_not_now());
                self.begun = self.begun.max(now);
                let key = Key(digest([b"time".as_slice()]));
                let (at, order) = (self.begun, self.place());
                let _written_later = self.learn(Entry { key, order, at, fact: Fact::Time, body: vec![] });
            }
        }
    }

    /// What was waited for is of one run: who waits for it in another may wait for what never comes. The journal forgets it
    /// with what is written next.
    fn wait_anew(&mut self) {
        for (key, entry) in &mut self.entries {
            if let Fact::Waited { ready } = &mut entry.fact {
                self.bytes -= 4 * std::mem::take(ready).len();
                self.unwritten.insert(*key);
            }
        }
    }

    fn forget(&mut self, which: impl Fn(&Entry) -> bool) {
        for (key, entry) in &self.entries {
            if which(entry) {
                self.aside.insert(*key);
                if !matches!(entry.fact, Fact::Waited { .. }) {
                    self.unwritten.remove(key);
                }
            }
        }
    }

    /// The key of what is asked now.
    pub fn ask(&mut self, path: &str, call: &str, request: &[u8; 32]) -> Key {
        let same = digest([path.as_bytes(), call.as_bytes(), request]);
        let count = self.counts.entry(same).or_default();
        let key = Key(digest([same.as_slice(), &count.to_le_bytes()]));
        *count += 1;
        key
    }

    /// The handler makes a request outside, whatever comes of it.
    pub fn requests(&mut self) {
        self.requests += 1;
    }

    /// The key of a wait for so many things. Of how many pieces an answer is, and so how often somebody waits for the next, is
    /// another time otherwise: so waits are counted from one request to the next.
    pub fn wait(&mut self, path: &str, version: &str, count: usize) -> Key {
        let (count, requests) = ((count as u64).to_le_bytes(), self.requests.to_le_bytes());
        let what = digest([version.as_bytes(), &count, &requests]);
        self.ask(path, "wait", &what)
    }

    /// The key of what is always the same within a run.
    #[must_use]
    pub fn same(call: &str, request: &[u8; 32]) -> Key {
        Key(digest([call.as_bytes(), request]))
    }

    /// What is known of it.
    #[must_use]
    pub fn found(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key).filter(|_| !self.aside.contains(key))
    }

    /// How often each thing was asked in this run, to come back to.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts(self.counts.clone(), self.requests)
    }

    /// What was asked since is asked again.
    pub fn come_back(&mut self, to: Counts) {
        Counts(self.counts, self.requests) = to;
    }

    /// Something outside was changed, or may have been.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.entries.values().any(|entry| entry.fact.changes())
    }

    /// What another version would be told, too: not what this one read of what it remembers, and waited for.
    #[must_use]
    pub fn told(&self) -> Vec<Entry> {
        let told = self.entries.iter().filter(|(key, entry)| {
            let tells = !entry.fact.is_read() && !entry.fact.is_open() && !entry.is_unread();
            tells && !self.aside.contains(key)
        });
        told.map(|(_, entry)| entry.clone()).collect()
    }

    /// There was no room for something.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// How many answers of a kind are known, those that are put aside included.
    #[must_use]
    pub fn count(&self, of: impl Fn(&Fact) -> bool) -> u32 {
        u32::try_from(self.entries.values().filter(|entry| of(&entry.fact)).count()).unwrap_or(u32::MAX)
    }

    /// The place of the next one.
    pub fn place(&mut self) -> u32 {
        self.order += 1;
        self.order - 1
    }

    /// Notes it; answers whether something is to be written now.
    pub fn learn(&mut self, entry: Entry) -> bool {
        let free = entry.fact.is_free();
        let (key, size) = (entry.key, entry.size());
        let before = self.entries.get(&key).map_or(0, Entry::size);
        // A note that something is about to be changed is small, and always made.
        let noted = matches!(entry.fact, Fact::Begun { .. });
        if self.bytes - before + size > MOST && !noted {
            self.leave(&key);
            return self.overflow();
        }
        self.bytes = self.bytes - before + size;
        self.aside.remove(&key);
        self.entries.insert(key, entry);
        self.unwritten.insert(key);
        !free
    }

    /// The answer to what was only noted is not recorded: whoever runs again in this process asks anew, where that changes
    /// nothing.
    pub fn leave(&mut self, key: &Key) {
        if self.entries.get(key).is_some_and(|entry| matches!(entry.fact, Fact::Begun { changes: false, .. }))
        {
            self.aside.insert(*key);
        }
    }

    /// There is no room for something; answers whether that is to be written now.
    pub fn overflow(&mut self) -> bool {
        self.full = true;
        // Of what nobody has written of, nobody will go on.
        !self.full_written && !self.is_unwritten()
    }

    /// Whether there is room for more of an answer that is coming; if so, it is taken until [`Self::came`].
    pub fn comes(&mut self, more: usize) -> bool {
        let fits = self.bytes + self.coming + more <= MOST;
        if fits {
            self.coming += more;
        }
        fits
    }

    /// So much of an answer is no longer coming.
    pub fn came(&mut self, size: usize) {
        self.coming = self.coming.saturating_sub(size);
    }

    /// Nothing of it is in the journal.
    fn is_unwritten(&self) -> bool {
        self.unwritten.len() == self.entries.len()
    }

    /// What is not written yet: it will be.
    pub fn take(&mut self) -> Writing {
        let unwritten = std::mem::take(&mut self.unwritten).into_iter();
        let entries = unwritten.filter_map(|key| self.entries.get(&key).cloned()).collect();
        let full = self.full && !std::mem::replace(&mut self.full_written, self.full);
        Writing { entries, full }
    }
}

/// How a delivery began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Whose.
    pub agent: AgentName,
    /// Which.
    pub delivery: DeliveryId,
    /// Whose handler.
    pub plugin: PluginName,
    /// What it is about.
    pub event: EventId,
    /// SHA-256 of the component, in hexadecimal.
    pub component: String,
    /// When, in milliseconds since 1970.
    pub begun: i64,
    /// What else whoever runs it again has to know, as JSON.
    pub said: String,
}

/// A delivery that has learnt something, or that has ended and is kept for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// How it began.
    pub opening: Opening,
    /// When it ended, in milliseconds since 1970; none while it has not.
    pub ended: Option<i64>,
    /// There was no room for all that it learnt.
    pub full: bool,
    /// What it learnt, in order.
    pub entries: Vec<Entry>,
}

impl Record {
    /// Something outside was changed, or may have been.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.entries.iter().any(|entry| entry.fact.changes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(key: Key, status: u16, body: &[u8]) -> Entry {
        let (request, headers) = ("GET http://a/".into(), vec![]);
        let (extent, changes) = (Extent::Whole, false);
        let fact = Fact::Http { request, status, headers, extent, changes, broke: None };
        Entry { key, order: 0, at: 7, fact, body: body.to_vec() }
    }

    fn value(key: Key) -> Entry {
        Entry { key, order: 0, at: 7, fact: Fact::Value { version: Some(1) }, body: b"v".to_vec() }
    }

    #[test]
    fn an_answer_is_found_by_what_was_asked_and_its_count() {
        let mut book = Book::new(1);
        let (a, b) = (digest([b"a".as_slice()]), digest([b"b".as_slice()]));
        let first = book.ask("", "http", &a);
        assert!(book.learn(answer(first, 200, b"1")));
        let second = book.ask("", "http", &a);
        assert_ne!(first, second, "asked again");
        let others = [book.ask("", "http", &b), book.ask("", "llm", &a), book.ask("tool", "http", &a)];
        assert!(!others.contains(&first) && !others.contains(&second));
        book.again(Again::Conflict, 2);
        assert_eq!(book.ask("", "http", &a), first);
        assert_eq!(book.found(&first).unwrap().body, b"1");
        assert_eq!(book.ask("", "http", &a), second);
        assert_eq!(book.found(&second), None);
    }

    #[test]
    fn a_tool_that_runs_again_is_told_the_same_and_its_caller_goes_on() {
        let mut book = Book::new(1);
        let a = digest([b"a".as_slice()]);
        let callers = book.ask("", "http", &a);
        let before = book.counts();
        let tools = book.ask("tool", "http", &a);
        book.come_back(before);
        assert_eq!(book.ask("tool", "http", &a), tools);
        assert_ne!(book.ask("", "http", &a), callers);
    }

    #[test]
    fn another_version_is_told_what_came_from_outside_and_not_what_this_one_remembers() {
        let mut book = Book::new(1);
        let asked = book.ask("", "http", &digest([]));
        book.learn(value(Book::same("kv", &digest([b"k".as_slice()]))));
        book.learn(answer(asked, 503, b""));
        assert_eq!(book.told().into_iter().map(|it| it.key).collect::<Vec<_>>(), [asked]);
        assert!(!book.changed());
        book.again(Again::Later, 2);
        assert!(book.told().iter().all(|it| it.key != asked), "it is asked for anew");
    }

    #[test]
    fn what_costs_nothing_is_written_with_what_does() {
        let mut book = Book::new(1);
        let read = Book::same("kv", &digest([b"k".as_slice()]));
        assert!(!book.learn(value(read)));
        let asked = book.ask("", "http", &digest([]));
        assert!(book.learn(answer(asked, 200, b"")));
        assert_eq!(book.take().entries.len(), 2);
        assert!(book.take().is_empty());
    }

    #[test]
    fn who_runs_again_reads_anew_and_pays_for_nothing_twice() {
        let mut book = Book::new(1);
        let read = Book::same("kv", &digest([b"k".as_slice()]));
        assert!(!book.learn(value(read)));
        let (got, busy) = (book.ask("", "http", &digest([])), book.ask("", "http", &digest([])));
        assert!(book.learn(answer(got, 404, b"")) && book.learn(answer(busy, 503, b"")));
        book.again(Again::Conflict, 5);
        assert!(book.found(&read).is_none() && book.found(&busy).is_some() && book.begun() == 1);
        book.again(Again::Later, 5);
        assert!(book.found(&got).is_some(), "that it is not there was an answer");
        assert!(book.found(&busy).is_none() && book.begun() == 5, "it was busy then");
        assert!(book.learn(answer(busy, 200, b"")) && book.found(&busy).is_some());
    }

    fn waited(key: Key, ready: &[u32]) -> Entry {
        Entry { key, order: 0, at: 1, fact: Fact::Waited { ready: ready.to_vec() }, body: vec![] }
    }

    #[test]
    fn what_came_first_is_written_with_what_is_learnt_next_and_holds_for_one_run() {
        let mut book = Book::new(1);
        let (wait, later) = (book.wait("", "version", 2), book.wait("", "version", 2));
        assert!(!book.learn(waited(wait, &[1])) && !book.learn(waited(later, &[0, 1])));
        let asked = book.ask("", "http", &digest([]));
        assert!(book.learn(answer(asked, 200, b"")));
        assert_eq!(book.take().entries.len(), 3);
        assert_eq!(book.found(&wait).map(|it| &it.fact), Some(&Fact::Waited { ready: vec![1] }));
        assert_eq!(book.told().into_iter().map(|it| it.key).collect::<Vec<_>>(), [asked], "another version");
        for why in [Again::Conflict, Again::Later] {
            book.again(why, 2);
            assert!(book.found(&wait).is_none() && book.found(&later).is_none());
            assert!(!book.learn(waited(wait, &[0])), "this time it is the other one");
            let entries = book.take().entries;
            let of = |key| entries.iter().find(|it| it.key == key).map(|it| &it.fact);
            // A crash finds nothing of the run before.
            assert_eq!(of(wait), Some(&Fact::Waited { ready: vec![0] }));
            assert_eq!(of(later), Some(&Fact::Waited { ready: vec![] }));
        }
        let size: usize = book.entries.values().map(Entry::size).sum();
        assert_eq!(book.bytes, size);
    }

    #[test]
    fn waits_are_counted_from_one_request_to_the_next() {
        let mut book = Book::new(1);
        book.requests();
        let first = book.wait("", "v", 2);
        // An answer that came in pieces then, and comes at once now.
        let pieces = [book.wait("", "v", 2), book.wait("", "v", 2)];
        let before = book.counts();
        book.requests();
        let second = book.wait("", "v", 2);
        assert!(first != second && !pieces.contains(&second));
        book.come_back(before);
        book.requests();
        assert_eq!(book.wait("", "v", 2), second, "a tool that runs again");
        book.again(Again::Conflict, 2);
        book.requests();
        assert_eq!(book.wait("", "v", 2), first);
        book.requests();
        assert_eq!(book.wait("", "v", 2), second);
        assert!(book.wait("", "w", 2) != book.wait("", "v", 3), "of another version, and of other things");
    }

    #[test]
    fn of_what_nothing_was_read_is_asked_anew_in_another_run() {
        let left = |body: &[u8], changes| {
            let (request, headers) = ("r".to_owned(), vec![]);
            (
                Fact::Http { request, status: 200, headers, extent: Extent::Left, changes, broke: None },
                body.to_vec(),
            )
        };
        let words = |pieces: Vec<(String, String)>| {
            (Fact::Llm { request: "r".into(), pieces, ended: None, broke: None }, vec![])
        };
        for why in [Again::Conflict, Again::Later] {
            for ((fact, body), stays) in [
                (left(b"", false), false),
                (left(b"", true), true),
                (left(b"a", false), true),
                (words(vec![]), false),
                (words(vec![("a".into(), String::new())]), true),
            ] {
                let mut book = Book::new(1);
                let key = book.ask("", "any", &digest([]));
                assert!(book.learn(Entry { key, order: 0, at: 1, fact, body }));
                assert!(book.found(&key).is_some(), "after a crash it is known");
                assert_eq!(book.told().len(), usize::from(stays), "another version may read it");
                book.again(why, 2);
                assert_eq!(book.found(&key).is_some(), stays);
            }
        }
    }

    #[test]
    fn what_nobody_waited_for_is_asked_of_again() {
        let mut book = Book::new(1);
        let key = book.ask("", "http", &digest([]));
        let fact = Fact::Asked { request: "http: GET http://a/".into() };
        assert!(!book.learn(Entry { key, order: 0, at: 1, fact, body: vec![] }));
        assert!(book.told().is_empty() && !book.changed());
        assert!(book.learn(answer(key, 200, b"")));
        assert_eq!(book.told().len(), 1);
    }

    #[test]
    fn a_failure_is_an_answer_until_the_handler_says_later() {
        let mut book = Book::new(1);
        let told = |kind| Told { kind, code: None, message: Some("m".into()), retry_after: Some(7) };
        let failures = [
            Fact::Failed { request: "r".into(), error: Failure::ConnectionRefused, changes: false },
            Fact::Unanswered { request: "r".into(), error: told(Kind::RateLimited) },
            Fact::Unfetched { error: told(Kind::NotFound) },
            Fact::Http {
                request: "r".into(),
                status: 200,
                headers: vec![],
                extent: Extent::Left,
                changes: false,
                broke: Some(Failure::HttpResponseIncomplete),
            },
            Fact::Llm { request: "r".into(), pieces: vec![], ended: None, broke: Some(told(Kind::Timeout)) },
        ];
        let mut keys = Vec::new();
        for fact in failures {
            let key = book.ask("", "any", &digest([]));
            let free = matches!(fact, Fact::Unfetched { .. });
            let entry = Entry { key, order: 0, at: 1, fact: fact.clone(), body: vec![] };
            assert_eq!(book.learn(entry), !free, "asking for a file costs nothing");
            assert!(!book.changed());
            keys.push(key);
            let text = serde_json::to_string(&fact).unwrap();
            assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), fact, "{text}");
        }
        book.again(Again::Conflict, 2);
        assert!(keys.iter().all(|key| book.found(key).is_some()));
        book.again(Again::Later, 2);
        assert!(keys.iter().all(|key| book.found(key).is_none()));
        let error = Failure::HttpResponseTimeout;
        let fact = Fact::Failed { request: "r".into(), error, changes: true };
        assert!(fact.changes(), "nobody knows what came of it");
    }

    #[test]
    fn a_question_to_the_model_costs_and_changes_nothing() {
        let mut book = Book::new(1);
        let key = book.ask("", "llm", &digest([]));
        let fact = Fact::Begun { request: "llm: r".into(), changes: false };
        let noted = Entry { key, order: 0, at: 1, fact, body: vec![] };
        assert!(book.learn(noted.clone()), "it is written before the model is asked");
        assert!(!book.changed() && book.told().is_empty());
        assert_eq!(book.take().entries, [noted]);
        // What it answers is too much to be recorded.
        let pieces = vec![("a".repeat(MOST), String::new())];
        let fact = Fact::Llm { request: "llm: r".into(), pieces, ended: None, broke: None };
        assert!(book.learn(Entry { key, order: 1, at: 1, fact, body: vec![] }));
        book.again(Again::Conflict, 2);
        assert!(book.found(&key).is_none() && book.is_full(), "the host has not ended");
    }

    #[test]
    fn what_does_not_fit_is_not_recorded_and_said_once() {
        let mut book = Book::new(1);
        let key = book.ask("", "http", &digest([]));
        assert!(book.learn(answer(key, 200, b"")));
        assert_eq!(book.take().entries.len(), 1);
        let large = vec![0; MOST];
        let next = book.ask("", "http", &digest([]));
        assert!(book.learn(answer(next, 200, &large)) && book.found(&next).is_none());
        assert_eq!(book.take(), Writing { entries: vec![], full: true });
        assert!(!book.learn(answer(next, 200, &large)) && book.take().is_empty());
        let noted = Fact::Begun { request: "POST http://a/".into(), changes: true };
        let noted = Entry { key: next, order: 0, at: 1, fact: noted, body: vec![] };
        assert!(book.learn(noted));
        assert_eq!(book.take().entries.len(), 1);
    }

    #[test]
    fn answers_that_come_side_by_side_share_the_room() {
        let mut book = Book::new(1);
        assert!(book.comes(MOST / 2) && book.comes(MOST / 2) && !book.comes(1));
        book.came(MOST / 2);
        assert!(book.comes(1));
        let key = book.ask("", "http", &digest([]));
        assert!(book.learn(answer(key, 200, &vec![0; MOST / 2])) && !book.comes(MOST / 2));
    }

    #[test]
    fn what_is_too_much_at_once_leaves_nothing_to_write() {
        let mut book = Book::new(1);
        let key = book.ask("", "http", &digest([]));
        assert!(!book.learn(answer(key, 200, &vec![0; MOST])));
        assert_eq!(book.take(), Writing { entries: vec![], full: true }, "it is kept so when it has ended");
    }
}
