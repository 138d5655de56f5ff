//! What nearly every plugin names.

pub use crate::types::Attachment;
pub use crate::{
    Body, Command, Commands, Conversation, Error, ErrorKind, Invocation, Lifecycle, MemberChange, Members,
    Membership, Memory, Message, Messages, Migration, Outcome, Parameter, Role, Sender, Tool, ToolCall, ToolResult, Tools, config,
    directory, kv, llm, log, media, outbox, progress, random, toolbox,
};
