//! The other side of the benchmark: wasmtime, and SQLite, with nothing around them.

use std::path::Path;

use anyhow::Result;
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, UpdateDeadline,
    component::{Component, HasSelf, InstancePre, Linker, Resource, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "plugin",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

use bindings::{
    exports::parlour::plugin::commands,
    parlour::plugin::{directory, kv, llm, outbox, progress, types},
    wasi::{config::store, logging::logging},
};

/// A prepared component.
pub struct Bare {
    engine: Engine,
    instance: InstancePre<State>,
    commands: commands::GuestIndices,
}

/// What a call leaves behind.
struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    said: String,
}

impl Bare {
    /// The engine's settings are the host's: see `host/src/engine.rs`.
    pub fn new(component: &[u8]) -> wasmtime::Result<Self> {
        let mut config = Config::new();
        config.wasm_component_model(true).wasm_component_model_async(true);
        config.epoch_interruption(true).max_wasm_stack(512 * 1024).async_stack_size(4 * 512 * 1024);
        config.wasm_memory64(false).wasm_relaxed_simd(false);
        let mut pool = PoolingAllocationConfig::default();
        pool.total_component_instances(256).total_stacks(256).total_core_instances(256 * 24);
        pool.total_memories(512).total_tables(1024).max_memory_size(256 * 1024 * 1024);
        pool.max_core_instances_per_component(24).max_memories_per_component(2).max_tables_per_component(4);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        let mut linker = Linker::<State>::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        types::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
        outbox::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
        kv::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
        progress::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
        llm::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
        directory::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
        store::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
        logging::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
        let instance = linker.instantiate_pre(&Component::from_binary(&engine, component)?)?;
        let commands = commands::GuestIndices::new(&instance)?;
        Ok(Self { engine, instance, commands })
    }

    /// A fresh instance, and one call of `/echo text`.
    pub async fn call(&self, text: &str) -> wasmtime::Result<String> {
        let state =
            State { wasi: WasiCtx::builder().build(), table: ResourceTable::new(), said: String::new() };
        let mut store = Store::new(&self.engine, state);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        let instance = self.instance.instantiate_async(&mut store).await?;
        let guest = self.commands.load(&mut store, &instance)?;
        let invocation = invocation(text);
        guest
            .call_run(&mut store, &invocation)
            .await?
            .map_err(|error| wasmtime::Error::msg(format!("{error:?}")))?;
        Ok(std::mem::take(&mut store.data_mut().said))
    }
}

fn invocation(text: &str) -> commands::Invocation {
    let conversation = types::Conversation {
        agent: "agent".into(),
        agent_id: "@agent:bench".into(),
        room: "!room".into(),
        thread: None,
        session: "!room".into(),
        direct: true,
        encrypted: false,
        home: false,
        extra: None,
    };
    let sender = types::Sender {
        id: "@alice:bench".into(),
        display_name: None,
        role: types::Role::User,
        device: types::DeviceTrust::Cleartext,
        agent: false,
        extra: None,
    };
    let message = types::Message {
        id: "$event".into(),
        conversation,
        sender,
        text: format!("/echo {text}"),
        html: None,
        reply_to: None,
        mentions: vec![],
        attachments: vec![],
        addressed: true,
        sent: 0.0,
        extra: None,
    };
    let argument = commands::Argument { name: "text".into(), value: format!("{text:?}") };
    commands::Invocation {
        name: "echo".into(),
        rest: text.into(),
        arguments: vec![argument],
        message,
        extra: None,
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

type Answer<T> = wasmtime::Result<Result<T, types::Error>>;

/// What the plugin is not called to do.
fn unused<T>() -> wasmtime::Result<T> {
    Err(wasmtime::Error::msg("the benchmark's plugin only echoes"))
}

impl types::Host for State {}

impl outbox::Host for State {
    async fn send_file(&mut self, _: outbox::Target, _: String, _: Option<types::Body>) -> Answer<u32> {
        unused()
    }

    async fn send(&mut self, _: outbox::Target, body: types::Body) -> Answer<u32> {
        self.said = match body {
            types::Body::Plain(text) | types::Body::Markdown(text) | types::Body::Notice(text) => text,
        };
        Ok(Ok(0))
    }

    async fn edit(&mut self, _: outbox::MessageRef, _: types::Body) -> Answer<u32> {
        unused()
    }

    async fn react(&mut self, _: outbox::MessageRef, _: String) -> Answer<u32> {
        unused()
    }

    async fn redact(&mut self, _: outbox::MessageRef, _: Option<String>) -> Answer<u32> {
        unused()
    }

    async fn set_home(&mut self, _: outbox::Target) -> Answer<u32> {
        unused()
    }

    async fn reply_to(&mut self, _: u32, _: outbox::MessageRef) -> Answer<()> {
        unused()
    }

    async fn name(&mut self, _: u32, _: String) -> Answer<()> {
        unused()
    }
}

impl kv::Host for State {
    async fn get(&mut self, _: kv::Scope, _: String) -> Answer<Option<Vec<u8>>> {
        unused()
    }

    async fn set(&mut self, _: kv::Scope, _: String, _: Vec<u8>) -> Answer<()> {
        unused()
    }

    async fn delete(&mut self, _: kv::Scope, _: String) -> Answer<()> {
        unused()
    }

    async fn keys(&mut self, _: kv::Scope, _: String, _: Option<String>, _: u32) -> Answer<Vec<String>> {
        unused()
    }

    async fn increment(&mut self, _: kv::Scope, _: String, _: i32) -> Answer<i32> {
        unused()
    }
}

impl progress::Host for State {
    async fn draft(&mut self, _: types::Body) -> Answer<()> {
        unused()
    }
}

impl llm::Host for State {
    async fn ask(&mut self, _: llm::Request) -> Answer<Resource<llm::Answer>> {
        unused()
    }
}

impl llm::HostAnswer for State {
    async fn next(&mut self, _: Resource<llm::Answer>) -> Answer<Option<llm::Piece>> {
        unused()
    }

    async fn outcome(&mut self, _: Resource<llm::Answer>) -> wasmtime::Result<Option<llm::Outcome>> {
        unused()
    }

    async fn drop(&mut self, _: Resource<llm::Answer>) -> wasmtime::Result<()> {
        unused()
    }
}

impl directory::Host for State {
    async fn commands(&mut self) -> Answer<Vec<types::Command>> {
        unused()
    }
}

impl store::Host for State {
    async fn get(&mut self, _: String) -> wasmtime::Result<Result<Option<String>, store::Error>> {
        unused()
    }

    async fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, store::Error>> {
        unused()
    }
}

impl logging::Host for State {
    async fn log(&mut self, _: logging::Level, _: String, _: String) -> wasmtime::Result<()> {
        unused()
    }
}

/// An event in two commits, as whoever stores it before its handler runs makes them, of bytes like the journal's.
pub struct Commits(rusqlite::Connection);

impl Commits {
    /// A database with the journal's durability.
    pub fn open(file: &Path) -> Result<Self> {
        let database = rusqlite::Connection::open(file)?;
        database.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE event (id INTEGER PRIMARY KEY, payload TEXT, position TEXT);
             CREATE TABLE effect (id INTEGER PRIMARY KEY, payload TEXT, done TEXT);",
        )?;
        Ok(Self(database))
    }

    /// The event with its position.
    pub fn event(&mut self, text: &str) -> Result<()> {
        let payload = format!("{text}{}", "x".repeat(EVENT));
        self.0
            .prepare_cached("INSERT INTO event (payload, position) VALUES (?1, ?2)")?
            .execute((payload, text))?;
        Ok(())
    }

    /// The effect, "done", and what it takes to run the event again.
    pub fn effect(&mut self, text: &str) -> Result<()> {
        let payload = format!("{text}{}", "x".repeat(EFFECT + RECORD));
        self.0
            .prepare_cached("INSERT INTO effect (payload, done) VALUES (?1, 'done')")?
            .execute((payload,))?;
        Ok(())
    }
}

/// What the journal stores of an event, of an effect and of a delivery that has ended, beside the text.
const EVENT: usize = 400;
const EFFECT: usize = 200;
const RECORD: usize = 800;
