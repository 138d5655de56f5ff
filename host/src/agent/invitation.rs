//! Invitations are answered, however long it takes.

use super::{Running, lock};
use crate::{backoff::Backoff, chat::SendError, event::Invite, gate, id::UserId, notice::Notice};

impl Running {
    /// Accepts or declines, as the settings say.
    pub(super) async fn answer(&self, invite: Invite) {
        let accept = gate::accepts(self.policy(&lock(&self.shared.accounts)), &invite);
        let mut backoff = Backoff::default();
        loop {
            let answer = tokio::select! {
                answer = self.agent.chat.answer(&invite.room, accept) => answer,
                () = self.draining.cancelled() => return,
            };
            match answer {
                Ok(()) => break,
                Err(SendError::Final { reason, .. }) => {
                    self.say(format!("the invitation to {} came to nothing: {reason}", invite.room));
                    return;
                }
                Err(SendError::Later { after, .. }) => tokio::select! {
                    () = tokio::time::sleep(backoff.next(after)) => {}
                    () = self.draining.cancelled() => return,
                },
            }
        }
        let by = invite.inviter.as_ref().map_or("somebody", UserId::as_str);
        let done = if accept { "joined" } else { "declined the invitation to" };
        let (agent, text) = (self.agent.name.clone(), format!("{done} {} (invited by {by})", invite.room));
        self.shared.notices.say(Notice::Invitation { agent, text });
    }
}
