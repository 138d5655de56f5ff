//! Whether it is too late for an answer: pure. What the gate lets through may have come while the agent was away, or
//! be so old that nobody waits for it.
//!
//! Whether the agent was away is known from what was handed over before, not from a clock. A clock is asked for how old
//! an event is, and two of them at that, the server's and ours, so that a window is a matter of hours and not of seconds.

use std::time::Duration;

use crate::{
    addressing::Addressed,
    event::Event,
    gate::Denial,
    settings::{Backlog, Behaviour},
};

/// How an event came.
#[derive(Debug, Clone, Copy)]
pub struct Came {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// It happened while the agent was away.
    pub missed: bool,
}

/// Why an event that the gate lets through is not answered all the same. `known` says whether it is a command that the
/// agent has.
#[must_use]
pub fn late(
    behaviour: &Behaviour,
    event: &Event,
    addressed: &Addressed,
    known: bool,
    came: Came,
) -> Option<Denial> {
    let age = came.at.saturating_sub(event.sent);
    let horizon = millis(behaviour.horizon.get());
    // From as far in the future it would outlive its id, and be new again.
    if age > horizon || event.sent.saturating_sub(came.at) > horizon {
        return Some(Denial::TooOld);
    }
    if !came.missed {
        return None;
    }
    let answered = match behaviour.backlog_in(&event.room.id) {
        Backlog::All => true,
        Backlog::Skip => false,
        Backlog::Within(window) => age <= millis(window),
        // Whom it addresses is known when it can be read.
        Backlog::Mentions if matches!(event.reading, crate::event::Reading::Locked(_)) => true,
        Backlog::Mentions => {
            let direct = event.room.direct && matches!(event.kind, crate::event::Kind::Message(_));
            direct || addressed.mentioned || (addressed.command.is_some() && known)
        }
    };
    (!answered).then_some(Denial::Missed)
}

/// Before this moment nothing is answered, and no id need be known.
#[must_use]
pub fn horizon(behaviour: &Behaviour, now: u64) -> u64 {
    now.saturating_sub(millis(behaviour.horizon.get()))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addressing,
        chat::memory::message,
        event::{DeviceTrust, Kind, Member, Membership, Reading, Room, Sender},
        id::{EventId, RoomId, UserId},
    };

    const HOUR: u64 = 60 * 60 * 1000;
    const NOW: u64 = 1_700_000_000_000;

    fn event(text: &str, sent: u64, direct: bool) -> Event {
        Event {
            id: EventId::parse("$e").unwrap(),
            room: Room { id: RoomId::parse("!r").unwrap(), direct, encrypted: false },
            sender: Sender {
                id: UserId::parse("@alice:memory").unwrap(),
                display_name: None,
                device: DeviceTrust::Cleartext,
            },
            sent,
            mark: None,
            kind: Kind::Message(message(text)),
            reading: Reading::AtOnce,
        }
    }

    fn judged(behaviour: &Behaviour, event: &Event, missed: bool) -> Option<Denial> {
        let own = UserId::parse("@agent:memory").unwrap();
        let addressed = match &event.kind {
            Kind::Message(message) => addressing::read(message, &own, None),
            Kind::Member(_) | Kind::Timer(_) => {
                Addressed { mentioned: false, text: String::new(), command: None }
            }
        };
        let known = addressed.command.as_ref().is_some_and(|typed| typed.name == "echo");
        late(behaviour, event, &addressed, known, Came { at: NOW, missed })
    }

    fn with(backlog: Backlog) -> Behaviour {
        Behaviour { backlog, ..Behaviour::default() }
    }

    #[test]
    fn each_setting_lets_through_what_it_says() {
        let day = Backlog::Within(Duration::from_secs(24 * 3600));
        let fresh = event("hello", NOW - HOUR, false);
        let stale = event("hello", NOW - 25 * HOUR, false);
        let command = event("!echo x", NOW - 25 * HOUR, false);
        let others = event("!other x", NOW - HOUR, false);
        let mention = event("@agent:memory hello", NOW - 25 * HOUR, false);
        let direct = event("hello", NOW - 25 * HOUR, true);
        for (backlog, answered) in [
            (Backlog::All, [true; 6]),
            (Backlog::Skip, [false; 6]),
            (day, [true, false, false, true, false, false]),
            (Backlog::Mentions, [false, false, true, false, true, true]),
        ] {
            let events = [&fresh, &stale, &command, &others, &mention, &direct];
            let found = events.map(|event| judged(&with(backlog), event, true).is_none());
            assert_eq!(found, answered, "{backlog:?}");
            assert!(events.iter().all(|event| judged(&with(backlog), event, false).is_none()), "{backlog:?}");
        }
    }

    #[test]
    fn who_came_and_went_is_no_mention() {
        let user = UserId::parse("@alice:memory").unwrap();
        let member = Member { user, display_name: None, membership: Membership::Joined };
        let event = Event { kind: Kind::Member(member), ..event("", NOW, true) };
        assert_eq!(judged(&with(Backlog::Mentions), &event, true), Some(Denial::Missed));
    }

    #[test]
    fn a_room_may_have_a_setting_of_its_own() {
        let mut behaviour = with(Backlog::Skip);
        behaviour.backlog_rooms.insert(RoomId::parse("!r").unwrap(), Backlog::All);
        assert_eq!(judged(&behaviour, &event("hello", NOW - HOUR, false), true), None);
        let mut elsewhere = event("hello", NOW - HOUR, false);
        elsewhere.room.id = RoomId::parse("!other").unwrap();
        assert_eq!(judged(&behaviour, &elsewhere, true), Some(Denial::Missed));
    }

    #[test]
    fn nothing_beyond_the_horizon_is_answered_however_it_came() {
        let horizon = 30 * 24 * HOUR;
        for (sent, expected) in [
            (NOW - horizon, None),
            (NOW - horizon - 1, Some(Denial::TooOld)),
            (0, Some(Denial::TooOld)),
            // Clocks differ; but not by more than an id is kept.
            (NOW + horizon, None),
            (NOW + horizon + 1, Some(Denial::TooOld)),
            (u64::MAX, Some(Denial::TooOld)),
        ] {
            for missed in [true, false] {
                assert_eq!(
                    judged(&with(Backlog::All), &event("!echo x", sent, true), missed),
                    expected,
                    "{sent}"
                );
            }
        }
    }
}
