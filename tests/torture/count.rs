//! What people in the rooms have seen.

use std::fmt;

/// Of so many numbers, one has a timer.
const EVERY: usize = 5;

/// How it stands with all rooms.
#[derive(Default)]
pub struct Count {
    asked: u64,
    answered: usize,
    timers: usize,
    wrong: Vec<String>,
}

/// How many timers are set by so many numbers.
pub fn timers(asked: u64) -> u64 {
    asked.div_ceil(EVERY as u64)
}

/// Nobody has asked for it: a timer was due.
pub fn of_a_timer(text: &str) -> bool {
    text.contains(" timer ")
}

impl Count {
    /// A room: what was asked, as numbers, and what the agent has said, each ending in `number:count`. Each number is
    /// answered once, in order, and counted once in what the plugin remembers; and so are the timers, each by itself.
    pub fn add<'a>(&mut self, asked: u64, said: impl IntoIterator<Item = &'a str>) {
        let (timers, answers): (Vec<_>, Vec<_>) = said.into_iter().partition(|text| of_a_timer(text));
        self.asked += asked;
        self.answered += answers.len();
        self.timers += timers.len();
        self.in_order((0..asked).collect(), &answers);
        self.in_order((0..asked).step_by(EVERY).collect(), &timers);
    }

    fn in_order(&mut self, numbers: Vec<u64>, said: &[&str]) {
        let mut said = said.iter();
        for (before, number) in numbers.into_iter().enumerate() {
            let (right, said) = (format!("{number}:{}", before + 1), said.next());
            if said.and_then(|said| said.split(' ').next_back()) != Some(&right) {
                // All behind it is in a wrong place, too.
                return self.wrong.push(format!("{said:?} in the place of {right:?}"));
            }
        }
        if let Some(more) = said.next() {
            self.wrong.push(format!("{more:?} is too much"));
        }
    }

    /// # Errors
    /// The first thing that is wrong.
    pub fn verdict(&self) -> Result<(), String> {
        match self.wrong.first() {
            None => Ok(()),
            Some(wrong) => Err(format!("{self}; the first: {wrong}")),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, answered, timers, wrong } = self;
        write!(f, "{asked} asked, {answered} answered, {timers} timers, {} wrong", wrong.len())
    }
}
