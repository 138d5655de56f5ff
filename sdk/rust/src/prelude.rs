//! What nearly every plugin names.

pub use crate::types::Attachment;
pub use crate::{
    Body, Command, Commands, Conversation, Error, ErrorKind, Firing, Invocation, MemberChange, Members,
    Membership, Message, Messages, Outcome, Parameter, Role, Sender, Timers, Tool, ToolCall, ToolResult,
    Tools, config, directory, kv, llm, log, media, outbox, progress, random, schedule, toolbox,
};
