//! What people in the rooms have seen.

use std::fmt;

/// How it stands with all rooms.
#[derive(Default)]
pub struct Count {
    asked: usize,
    answered: usize,
    wrong: Vec<String>,
}

impl Count {
    /// A room: what was asked, as numbers, and the agent's answers, each ending in `number:count`. Each is answered
    /// once, in order, and counted once in what the plugin remembers.
    pub fn add<'a>(&mut self, asked: u64, answers: impl IntoIterator<Item = &'a str>) {
        let last = |text: &'a str| text.split(' ').next_back().unwrap_or_default();
        let answers: Vec<_> = answers.into_iter().map(last).collect();
        self.asked += usize::try_from(asked).unwrap_or(usize::MAX);
        self.answered += answers.len();
        let right = (0..asked).map(|number| format!("{number}:{}", number + 1));
        let mut seen = answers.iter();
        for right in right {
            let answer = seen.next();
            if answer.is_none_or(|answer| **answer != right) {
                // All behind it is in a wrong place, too.
                return self.wrong.push(format!("{answer:?} in the place of {right:?}"));
            }
        }
        if let Some(more) = seen.next() {
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
        write!(f, "{} asked, {} answered, {} rooms wrong", self.asked, self.answered, self.wrong.len())
    }
}
