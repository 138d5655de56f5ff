//! Dice as people write them: `2d6+1`, `d20`, `3d8-2`. Text in, text out; where the numbers come from is the
//! caller's business.

use std::fmt::{self, Display, Formatter};

/// More would not fit a line that anybody reads.
const MOST_DICE: u32 = 100;
const MOST_SIDES: u32 = 1_000;
const MOST_ADDED: i32 = 10_000;

/// Some equal dice and a number that is added to their sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dice {
    count: u32,
    sides: u32,
    added: i32,
}

impl Dice {
    /// What is rolled when nothing is said.
    pub(crate) const ONE: Self = Self { count: 1, sides: 6, added: 0 };

    /// Reads dice; the error is a line for the person who wrote them.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let squeezed = text.replace(|c: char| c.is_ascii_whitespace(), "").to_ascii_lowercase();
        let not_dice = || format!("{text:?} is not dice: write them like 2d6+1, d20 or 3d8-2");

        let (count, rest) = squeezed.split_once('d').ok_or_else(not_dice)?;
        let (sides, added) = match rest.find(['+', '-']) {
            Some(sign) => rest.split_at(sign),
            None => (rest, ""),
        };
        let count = if count.is_empty() { 1 } else { digits(count).ok_or_else(not_dice)? };
        let sides = digits(sides).ok_or_else(not_dice)?;
        let added = match added.split_at_checked(1) {
            None => 0,
            Some(("-", number)) => -digits(number).ok_or_else(not_dice)?,
            Some((_, number)) => digits(number).ok_or_else(not_dice)?,
        };

        within("the number of dice", count, 1..=MOST_DICE.into())?;
        within("the number of sides", sides, 2..=MOST_SIDES.into())?;
        within("what is added", added, (-MOST_ADDED).into()..=MOST_ADDED.into())?;
        Ok(Self { count: count as u32, sides: sides as u32, added: added as i32 })
    }

    /// Rolls them with `die`, which is told how many sides it has, and says what came up, in CommonMark.
    pub(crate) fn roll(self, mut die: impl FnMut(u32) -> u32) -> String {
        let rolled: Vec<u32> = (0..self.count).map(|_| die(self.sides)).collect();
        let sum = rolled.iter().sum::<u32>() as i32 + self.added;
        if rolled.len() == 1 && self.added == 0 {
            return format!("{self}: **{sum}**");
        }
        let dice: Vec<String> = rolled.iter().map(u32::to_string).collect();
        format!("{self}: {}{} = **{sum}**", dice.join(" + "), Added { number: self.added, space: " " })
    }
}

impl Display for Dice {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.count > 1 {
            write!(f, "{}", self.count)?;
        }
        write!(f, "d{}{}", self.sides, Added { number: self.added, space: "" })
    }
}

/// `+1`, `-2` or nothing, with `space` around the sign.
struct Added {
    number: i32,
    space: &'static str,
}

impl Display for Added {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sign = match self.number {
            0 => return Ok(()),
            1.. => '+',
            _ => '-',
        };
        write!(f, "{0}{sign}{0}{1}", self.space, self.number.unsigned_abs())
    }
}

/// A number without a sign. One that is beyond all bounds becomes the greatest there is, so that it is
/// refused for its size and not for its form.
fn digits(text: &str) -> Option<i64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().unwrap_or(i64::MAX))
}

fn within(what: &str, number: i64, bounds: std::ops::RangeInclusive<i64>) -> Result<(), String> {
    if bounds.contains(&number) {
        return Ok(());
    }
    Err(format!("{what} must be from {} to {}", bounds.start(), bounds.end()))
}

#[cfg(test)]
mod tests {
    use super::Dice;

    /// Rolls with dice that show 1, 2, 3 and so on.
    fn check(text: &str, expected: &str) {
        let mut shown = 0;
        let said = Dice::parse(text).map(|dice| {
            dice.roll(|sides| {
                shown = shown % sides + 1;
                shown
            })
        });
        assert_eq!(said.unwrap_or_else(|refusal| refusal), expected, "{text}");
    }

    #[test]
    fn dice_are_rolled_and_summed() {
        check("d20", "d20: **1**");
        check("1d6", "d6: **1**");
        check("2d6", "2d6: 1 + 2 = **3**");
        check("2d6+1", "2d6+1: 1 + 2 + 1 = **4**");
        check("3d8-2", "3d8-2: 1 + 2 + 3 - 2 = **4**");
        check("d6-10", "d6-10: 1 - 10 = **-9**");
        check("2d6+0", "2d6: 1 + 2 = **3**");
        check(" 2 D 6 + 1 ", "2d6+1: 1 + 2 + 1 = **4**");
        check("4d2", "4d2: 1 + 2 + 1 + 2 = **6**");
        assert_eq!(Dice::parse("d6"), Ok(Dice::ONE));
    }

    #[test]
    fn what_is_not_dice_is_explained() {
        for text in
            ["", "six", "20", "d", "2d", "2d6+", "2d6+1+1", "2d6--1", "-2d6", "2d+6", "2dd6", "d٣", "2d6×2"]
        {
            check(text, &format!("{text:?} is not dice: write them like 2d6+1, d20 or 3d8-2"));
        }
    }

    #[test]
    fn bounds_are_told() {
        assert!(Dice::parse("100d1000+10000").is_ok());
        check("0d6", "the number of dice must be from 1 to 100");
        check("101d6", "the number of dice must be from 1 to 100");
        check("99999999999999999999d6", "the number of dice must be from 1 to 100");
        check("d1", "the number of sides must be from 2 to 1000");
        check("d1001", "the number of sides must be from 2 to 1000");
        check("d6+10001", "what is added must be from -10000 to 10000");
        check("d6-99999999999999999999", "what is added must be from -10000 to 10000");
    }
}
