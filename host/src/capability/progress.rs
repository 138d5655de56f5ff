//! `progress`: a draft that a person sees while the handler still works.

use super::{
    State,
    bindings::parlour::plugin::progress::Host,
    error,
    outbox::{checked, is_blank},
    types::{Body, Error, ErrorKind},
};
use crate::{effect, manifest::Permission};

/// Where drafts go. It returns at once and sends at its own pace.
pub trait Sink: Send + Sync {
    /// Shows this in place of what was shown before.
    fn show(&self, body: effect::Body);
}

impl Host for State {
    fn draft(&mut self, body: Body) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.show(body))
    }
}

impl State {
    fn show(&mut self, body: Body) -> Result<(), Error> {
        self.holds(Permission::Progress, "progress.draft")?;
        // The first words of a model are often white space: there is nothing to show yet.
        let drafts = self.handling()?.drafts.clone();
        let drafts = drafts.ok_or_else(|| error(ErrorKind::Unsupported, "a tool has no draft of its own"))?;
        if !is_blank(&body) {
            drafts.show(checked(body)?);
        }
        Ok(())
    }
}
