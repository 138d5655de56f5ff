//! Calls imports below the level of types: pointers, lengths and cases that the canonical ABI does not have, and memory
//! that lies elsewhere than it should.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use parlour_plugin::{prelude::*, random};

struct Raw;

#[link(wasm_import_module = "parlour:plugin/outbox@0.1.0")]
unsafe extern "C" {
    #[link_name = "edit"]
    fn edit(of: i32, a: i32, b: i32, body: i32, text: i32, length: i32, answer: i32);
    #[link_name = "react"]
    fn react(of: i32, a: i32, b: i32, key: i32, length: i32, answer: i32);
    #[link_name = "redact"]
    fn redact(of: i32, a: i32, b: i32, some: i32, reason: i32, length: i32, answer: i32);
    #[link_name = "set-home"]
    fn set_home(to: i32, text: i32, length: i32, answer: i32);
}

#[link(wasm_import_module = "parlour:plugin/kv@0.1.0")]
unsafe extern "C" {
    #[link_name = "get"]
    fn get(scope: i32, key: i32, length: i32, answer: i32);
    #[link_name = "set"]
    fn set(scope: i32, key: i32, length: i32, value: i32, size: i32, answer: i32);
    #[link_name = "keys"]
    fn keys(scope: i32, prefix: i32, length: i32, some: i32, after: i32, size: i32, limit: i32, answer: i32);
}

#[link(wasm_import_module = "parlour:plugin/progress@0.1.0")]
unsafe extern "C" {
    #[link_name = "draft"]
    fn draft(of: i32, text: i32, length: i32, answer: i32);
}

#[link(wasm_import_module = "parlour:plugin/llm@0.1.0")]
unsafe extern "C" {
    #[link_name = "ask"]
    fn ask(
        turns: i32,
        count: i32,
        has_model: i32,
        model: i32,
        model_length: i32,
        has_most: i32,
        most: i32,
        has_temperature: i32,
        temperature: f32,
        has_extra: i32,
        extra: i32,
        extra_length: i32,
        answer: i32,
    );
    #[link_name = "[method]answer.next"]
    fn next(of: i32, answer: i32);
}

#[link(wasm_import_module = "wasi:logging/logging@0.1.0-draft")]
unsafe extern "C" {
    #[link_name = "log"]
    fn log_line(level: i32, context: i32, context_length: i32, text: i32, length: i32);
}

/// A place in memory that is there, with room behind it.
static mut ROOM: [u64; 1024] = [0; 1024];
/// No UTF-8: cut off, overlong, a surrogate, beyond Unicode.
static WRONG: [&[u8]; 5] = [b"\xff", b"\xe2\x82", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"];

/// Gives memory that is not there, once, where it was told to.
struct Lying;

static LIES: AtomicBool = AtomicBool::new(false);
static WHERE: AtomicU32 = AtomicU32::new(0);

// SAFETY: it lies only to the host, which must not trust it.
unsafe impl GlobalAlloc for Lying {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if LIES.swap(false, Relaxed) {
            return WHERE.load(Relaxed) as *mut u8;
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static MEMORY: Lying = Lying;

fn lie(at: u32) {
    WHERE.store(at, Relaxed);
    LIES.store(true, Relaxed);
}

impl Commands for Raw {
    fn list_commands() -> Vec<Command> {
        let rest = |name, description| {
            Command::new(name, description).parameter(Parameter::text("text", "Which").optional())
        };
        vec![rest("raw", "NUMBER: makes one wrong call"), rest("fine", "Makes none")]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        if call.name == "raw" {
            // SAFETY: none; that is what is tried.
            unsafe { wrong(call.rest.parse().unwrap_or_default()) }
        }
        outbox::say("went on")?;
        Ok(())
    }
}

#[allow(static_mut_refs)]
unsafe fn wrong(number: u32) {
    let answer = unsafe { ROOM.as_mut_ptr() } as i32;
    let end = (core::arch::wasm32::memory_size(0) * 65_536) as i32;
    let key = b"key".as_ptr() as i32;
    let invalid = WRONG[number as usize % WRONG.len()];
    let (text, length) = (invalid.as_ptr() as i32, invalid.len() as i32);
    unsafe {
        match number {
            // Text that is none.
            0..5 => get(0, text, length, answer),
            5..10 => draft(0, text, length, answer),
            10..15 => log_line(2, key, 3, text, length),
            15..20 => react(2, text, length, text, length, answer),
            // Cases that there are not.
            20 => get(4, key, 3, answer),
            21 => get(-1, key, 3, answer),
            22 => draft(3, key, 3, answer),
            23 => edit(3, 0, 0, 0, key, 3, answer),
            24 => edit(1, 0, 0, i32::MAX, key, 3, answer),
            25 => set_home(i32::MIN, key, 3, answer),
            26 => redact(1, 0, 0, 2, key, 3, answer),
            27 => log_line(6, key, 3, key, 3),
            28 => ask(0, 0, 7, 0, 0, 0, 0, 0, 0.0, 0, 0, 0, answer),
            // Memory that is not there, or not where it should be.
            29 => get(0, end, 1, answer),
            30 => get(0, end - 1, 2, answer),
            31 => get(0, -1, -1, answer),
            32 => get(0, 1, -1, answer),
            33 => get(0, key, i32::MIN, answer),
            34 => get(0, key, 3, end),
            35 => get(0, key, 3, end - 4),
            36 => get(0, key, 3, answer + 1),
            37 => get(0, key, 3, -4),
            38 => set(0, key, 3, end - 8, 16, answer),
            39 => set(0, key, 3, 0, -1, answer),
            40 => keys(0, key, 0, 1, -1, 3, 10, answer),
            41 => keys(0, end, 0, 1, end, 0, -1, answer),
            42 => draft(0, answer, 8192, answer),
            43 => ask(answer, i32::MAX, 0, 0, 0, 0, 0, 0, 0.0, 0, 0, 0, answer),
            44 => ask(answer + 1, 1, 0, 0, 0, 0, 0, 0, 0.0, 0, 0, 0, answer),
            45 => ask(end, 1, 0, 0, 0, 0, 0, 0, f32::from_bits(0x7fc0_dead), 0, 0, 0, answer),
            46 => ask(0, 0x0800_0000, 0, 0, 0, 0, 0, 0, 0.0, 0, 0, 0, answer),
            // The answer's place overlaps what is asked.
            47 => get(0, answer, 16, answer),
            48 => set(0, answer, 8, answer, 64, answer),
            // Handles of nothing.
            49 => next(0, answer),
            50 => next(7, answer),
            51 => next(-1, answer),
            // Room for an answer that is none.
            52 => fetched(0xffff_fff0),
            53 => fetched(end as u32),
            54 => fetched(end as u32 - 1),
            55 => fetched(0),
            56 => fetched(answer as u32 + 1),
            57 => denied(0xffff_ffff),
            58 => denied(end as u32 - 2),
            59 => listed(3),
            60 => listed(end as u32 - 4),
            61 => listed(0x8000_0000),
            // In the middle of what it was asked with.
            _ => get(0, answer, 8, answer + 4),
        }
    }
}

/// Random bytes, which are put where the guest says.
fn fetched(at: u32) {
    lie(at);
    let bytes = random::bytes(1000);
    std::hint::black_box(bytes.first());
    std::mem::forget(bytes);
}

/// An error, whose message is.
fn denied(at: u32) {
    lie(at);
    let refused = kv::increment(kv::Scope::Plugin, "", 1);
    std::mem::forget(std::hint::black_box(refused));
}

/// A list of records with texts in them.
fn listed(at: u32) {
    lie(at);
    let commands = directory::commands();
    std::mem::forget(std::hint::black_box(commands));
}

parlour_plugin::export!(Raw: commands);
