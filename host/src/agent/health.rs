//! A plugin that faults again and again rests, and whoever reads the log knows it.

use std::time::Instant;

use crate::{
    engine::{End, GuestError, GuestErrorKind, Plugin},
    id::{AgentName, UserId},
    notice::{Notice, Notices},
};

/// Suspends a plugin that faults again and again at what somebody does, and says so once.
pub(super) fn judge(notices: &Notices, plugin: &Plugin, whom: &UserId, end: &End) {
    let now = Instant::now();
    let name = plugin.listing.plugin.clone();
    let news = match end {
        End::Fault(_) | End::Error(GuestError { kind: GuestErrorKind::Failed, .. }) => {
            let rest = plugin.suspension(whom, |of| of.faulted(now));
            rest.map(|rest| Notice::PluginSuspended { plugin: name, whom: whom.clone(), rest })
        }
        _ => {
            let resumed = plugin.suspension(whom, |of| of.ended_well(now));
            resumed.then(|| Notice::PluginResumed { plugin: name, whom: whom.clone() })
        }
    };
    if let Some(news) = news {
        notices.say(news);
    }
}

/// Says that a call was a plugin's fault, if it was.
pub(super) fn report(notices: &Notices, plugin: &Plugin, agent: &AgentName, end: &End) {
    let fault = match end {
        End::Error(GuestError { kind: GuestErrorKind::Failed, message, .. }) => {
            format!("its own error: {message}")
        }
        End::Fault(fault) => fault.to_string(),
        _ => return,
    };
    let plugin = plugin.listing.plugin.clone();
    notices.say(Notice::PluginFaulted { plugin, agent: agent.clone(), fault });
}
