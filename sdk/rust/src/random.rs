//! Random numbers from the host, good enough for a secret.

use std::ops::RangeInclusive;

use crate::bindings::imports::wasi::random::random;

/// `count` random bytes.
pub fn bytes(count: u32) -> Vec<u8> {
    random::get_random_bytes(count.into())
}

/// A number from `range`, each as likely as the others.
///
/// ```no_run
/// # use parlour_plugin::random;
/// let die = random::within(1..=6);
/// ```
///
/// # Panics
///
/// If the range is empty.
pub fn within(range: RangeInclusive<u32>) -> u32 {
    assert!(!range.is_empty(), "no number lies within {range:?}");
    pick(range, random::get_random_u64)
}

/// Draws until the number does not lie in the incomplete last round, which would favour the lower ones.
fn pick(range: RangeInclusive<u32>, mut draw: impl FnMut() -> u64) -> u32 {
    let count = u64::from(range.end() - range.start()) + 1;
    let complete = u64::MAX - u64::MAX % count;
    loop {
        let drawn = draw();
        if drawn < complete {
            return range.start() + (drawn % count) as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::pick;

    #[test]
    fn every_number_of_the_range_can_come_up() {
        let mut drawn = 0;
        let mut draw = || {
            drawn += 1;
            drawn
        };
        let numbers: Vec<u32> = (0..6).map(|_| pick(1..=6, &mut draw)).collect();
        assert_eq!(numbers, [2, 3, 4, 5, 6, 1]);
        assert_eq!(pick(7..=7, &mut draw), 7);
        assert_eq!(pick(0..=u32::MAX, || u64::from(u32::MAX)), u32::MAX);
    }

    #[test]
    fn what_would_favour_the_lower_numbers_is_drawn_again() {
        let mut draws = [u64::MAX, u64::MAX - 1, 5].into_iter();
        assert_eq!(pick(1..=6, || draws.next().expect("a third draw is enough")), 6);
    }
}
