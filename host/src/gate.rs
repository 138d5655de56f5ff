//! Who may do what: pure functions of the settings and of what came. Whatever a person could notice (a read
//! receipt, typing, an answer) waits for their verdict.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    addressing::Addressed,
    event::{Class, Event, Invite, Kind},
    id::UserId,
    settings::{Access, Behaviour, Invites, RoomPolicy},
};

/// What the gate says of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It may pass.
    Allow,
    /// It may not, and why; nothing of it is seen by a person.
    Deny(Denial),
}

/// Why an event may not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Denial {
    /// The agent's own.
    Own,
    /// The sender, or the person it is about, is on no list.
    NotListed,
    /// Not addressed to the agent, where it has to be.
    NotAddressed,
    /// An edit.
    Edit,
    /// A notice.
    Notice,
    /// The room is not one that the agent serves.
    Room,
    /// A command that no plugin has, and nothing else that addresses the agent.
    UnknownCommand,
    /// It came while the agent was away, and the settings say that this is not answered.
    Missed,
    /// Its time is beyond the horizon.
    TooOld,
    /// It could not be read: its key never came.
    Undecryptable,
    /// Its key came late, and what it says is nothing for an agent.
    Unheard,
    /// The agent has left the room in which a timer was set.
    Left,
    /// Whoever set a timer has a lesser role than they had then.
    Role,
    /// The plugin that set a timer may not have any.
    Grant,
}

impl Denial {
    /// Why a timer is not handled, for the operator.
    #[must_use]
    pub fn of_a_timer(self) -> &'static str {
        match self {
            Self::Room | Self::Left | Self::Role | Self::Grant => self.words(),
            _ => "whoever set it is on no list",
        }
    }

    /// For an operator, in a few words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Own => "it is the agent's own",
            Self::NotListed => "its sender, or whom it is about, is not listed in `access`",
            Self::NotAddressed => "it does not mention the agent, as it has to there",
            Self::Edit => "it is an edit of an earlier message",
            Self::Notice => "it is a notice, and those are not answered",
            Self::Room => "the agent does not serve this room: `access.room_policy`",
            Self::UnknownCommand => "no plugin has such a command, and it does not mention the agent",
            Self::Missed => "it came while the agent was away: `behaviour.backlog`",
            Self::TooOld => "its time is further away than `behaviour.horizon`",
            Self::Undecryptable => "it could not be decrypted: its key never came",
            Self::Unheard => "it could be decrypted later, and is nothing that an agent hears of",
            Self::Left => "the agent has left the room",
            Self::Role => "whoever set it has a lesser role than they had then",
            Self::Grant => "the plugin does not have the grant `timers`",
        }
    }
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.words())
    }
}

/// Whose gate it is.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// The agent's account.
    pub own: &'a UserId,
    /// The account is a person's own.
    pub own_account: bool,
    /// Who may talk.
    pub access: &'a Access,
    /// How the agent behaves.
    pub behaviour: &'a Behaviour,
    /// The other agents of this host.
    pub agents: &'a BTreeSet<UserId>,
}

/// Judges an event. `addressed` says how the message names the agent, and `known` whether it is a command that
/// the agent has.
#[must_use]
pub fn authorize(policy: Policy<'_>, event: &Event, addressed: &Addressed, known: bool) -> Verdict {
    match deny(policy, event, addressed, known) {
        Some(denial) => Verdict::Deny(denial),
        None => Verdict::Allow,
    }
}

fn deny(policy: Policy<'_>, event: &Event, addressed: &Addressed, known: bool) -> Option<Denial> {
    let own = event.sender.id == *policy.own;
    // A person's own account as the agent: what carries our mark is ours, the rest is theirs.
    if own && (!policy.own_account || event.mark.is_some()) {
        return Some(Denial::Own);
    }
    let served = policy.access.room_policy == RoomPolicy::Invited
        || event.room.direct
        || policy.access.rooms.contains(&event.room.id);
    if !served {
        return Some(Denial::Room);
    }
    match &event.kind {
        Kind::Message(message) => {
            match message.class {
                Class::Edit => return Some(Denial::Edit),
                Class::Notice => return Some(Denial::Notice),
                Class::Text | Class::Emote => {}
            }
            if policy.access.role(&event.sender.id).is_none() {
                return Some(Denial::NotListed);
            }
            // Agents hear each other only when they mean each other: two of them would talk for ever.
            if policy.agents.contains(&event.sender.id) && !own {
                return (!addressed.mentioned).then_some(Denial::NotAddressed);
            }
            let free = event.room.direct
                || !policy.behaviour.require_mention
                || policy.behaviour.free_response_rooms.contains(&event.room.id);
            if free || addressed.mentioned {
                return None;
            }
            match &addressed.command {
                Some(_) if known => None,
                Some(typed) if typed.sigil.is_some() => Some(Denial::UnknownCommand),
                _ => Some(Denial::NotAddressed),
            }
        }
        Kind::Member(member) => {
            if member.user == *policy.own {
                return Some(Denial::Own);
            }
            policy.access.role(&member.user).is_none().then_some(Denial::NotListed)
        }
        Kind::Timer(fired) => match policy.access.role(&event.sender.id) {
            None => Some(Denial::NotListed),
            Some(role) => (role < fired.timer.role).then_some(Denial::Role),
        },
    }
}

/// Judges an event that cannot be read yet: whether it is waited for. Strangers' never are, and what it says is judged when it
/// is known.
#[must_use]
pub fn waits(policy: Policy<'_>, event: &Event) -> Verdict {
    let own = event.sender.id == *policy.own && !policy.own_account;
    let served = policy.access.room_policy == RoomPolicy::Invited
        || event.room.direct
        || policy.access.rooms.contains(&event.room.id);
    match policy.access.role(&event.sender.id) {
        _ if own => Verdict::Deny(Denial::Own),
        _ if !served => Verdict::Deny(Denial::Room),
        None => Verdict::Deny(Denial::NotListed),
        Some(_) => Verdict::Allow,
    }
}

/// Whether an invitation is accepted.
#[must_use]
pub fn accepts(policy: Policy<'_>, invite: &Invite) -> bool {
    match policy.access.invites {
        Invites::Nobody => false,
        Invites::Listed => {
            let room = policy.access.room_policy == RoomPolicy::Invited
                || policy.access.rooms.contains(&invite.room);
            // An account's own other device brings it only where the account is a person's.
            let inviter = invite.inviter.as_ref().is_some_and(|user| {
                policy.access.role(user).is_some() && (policy.own_account || user != policy.own)
            });
            room && inviter
        }
    }
}
