//! Files of the message that is being handled, and files to be sent. Needs the grant `media`.
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
//!
//! What [`make`] makes is sent by [`outbox::send_file`](crate::outbox::send_file), and so is a file that came:
//!
//! ```no_run
//! # use parlour_plugin::prelude::*;
//! # fn run(call: Invocation) -> Result<(), Error> {
//! let table = media::make("table.csv", Some("text/csv"), "name,count\nAlice,3\n")?;
//! outbox::file(&table)?;
//! outbox::send_file(&outbox::Target::Home, &table, Some(&Body::Plain("as of today".into())))?;
//! # Ok(())
//! # }
//! ```

use crate::Error;

pub use crate::bindings::imports::parlour::plugin::media::{File, append, create, fetch, read};

/// Bytes that are read or appended at once.
const PIECE: u32 = 1024 * 1024;

/// Makes a file of these bytes, or of this text, and answers its handle. `mime` says what it is, where its first bytes
/// don't show that.
pub fn make(name: &str, mime: Option<&str>, content: impl AsRef<[u8]>) -> Result<String, Error> {
    let file = create(name, mime)?;
    for piece in content.as_ref().chunks(PIECE as usize) {
        append(&file, piece)?;
    }
    Ok(file)
}

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
