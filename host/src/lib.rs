//! Parlour.
pub mod chat;
pub mod effect;
pub mod event;
pub mod id;
pub mod notice;
pub mod gate;
pub mod journal;
pub mod render;
