//! A plugin that faults again and again rests, and whoever reads the log knows it.

use std::time::Instant;

use crate::{
    engine::{End, GuestError, GuestErrorKind, Plugin},
    event::Event,
    id::{AgentName, UserId},
    notice::{Notice, Notices, Words},
    trial::Ended,
};

/// Suspends a plugin that faults again and again at what somebody does, and says so once.
pub(super) fn judge(notices: &Notices, plugin: &Plugin, agent: &AgentName, whom: &UserId, end: &End) {
    let now = Instant::now();
    let name = plugin.listing.plugin.clone();
    let news = match end {
        End::Fault(_) | End::Error(GuestError { kind: GuestErrorKind::Failed, .. }) => {
            let rest = plugin.suspension(whom, |of| of.faulted(now));
            let (agent, whom) = (agent.clone(), whom.clone());
            rest.map(|rest| Notice::PluginSuspended { plugin: name, agent, whom, rest })
        }
        _ => {
            let resumed = plugin.suspension(whom, |of| of.ended_well(now));
            let (agent, whom) = (Some(agent.clone()), whom.clone());
            resumed.then_some(Notice::PluginResumed { plugin: name, agent, whom })
        }
    };
    if let Some(news) = news {
        notices.say(news);
    }
}

/// Whose fault it was that a call ended so.
pub(super) fn ended(end: &End) -> Ended {
    match end {
        End::Fault(_) => Ended::Fault,
        End::Error(GuestError { kind: GuestErrorKind::Failed, .. }) => Ended::Error,
        _ => Ended::Well,
    }
}

/// Whether a call ended by the plugin's own fault.
pub(super) fn is_fault(end: &End) -> bool {
    ended(end) != Ended::Well
}

/// What its fault was, in a few words that are not the plugin's own.
pub(super) fn fault(end: &End) -> String {
    match end {
        End::Fault(fault) => fault.to_string(),
        _ => "its own error".into(),
    }
}

/// Says that a call was a plugin's fault, if it was.
pub(super) fn report(notices: &Notices, plugin: &Plugin, agent: &AgentName, event: &Event, end: &End) {
    let (fault, said) = match end {
        End::Error(GuestError { kind: GuestErrorKind::Failed, message, .. }) => {
            ("its own error".into(), Some(words(event, message.clone())))
        }
        End::Fault(fault) => (fault.to_string(), None),
        _ => return,
    };
    let plugin = plugin.listing.plugin.clone();
    notices.say(Notice::PluginFaulted { plugin, agent: agent.clone(), fault, said });
}

/// What a plugin says of an event.
pub(super) fn words(event: &Event, text: String) -> Words {
    Words { text, sealed: event.room.encrypted }
}
