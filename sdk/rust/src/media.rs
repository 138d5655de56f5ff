//! Files of the message that is being handled. Needs the grant `media`.
//!
//! ```no_run
//! # use parlour_plugin::prelude::*;
//! # fn on_message(message: Message) -> Result<Outcome, Error> {
//! for attachment in &message.attachments {
//!     let file = media::fetch(&attachment.handle)?;
//!     if file.mime.as_deref() == Some("image/png") {
//!         let bytes = media::whole(&attachment.handle)?;
//!         outbox::say(format!("{} has {} bytes", attachment.name, bytes.len()))?;
//!     }
//! }
//! # Ok(Outcome::Handled)
//! # }
//! ```

use crate::Error;

pub use crate::bindings::imports::parlour::plugin::media::{File, fetch, read};

/// Bytes that are read at once.
const PIECE: u32 = 1024 * 1024;

/// All of a file.
pub fn whole(handle: &str) -> Result<Vec<u8>, Error> {
    let size = fetch(handle)?.size;
    let mut bytes = Vec::with_capacity(size as usize);
    while let Ok(offset) = u32::try_from(bytes.len())
        && offset < size
    {
        bytes.extend(read(handle, offset, PIECE)?);
    }
    Ok(bytes)
}
