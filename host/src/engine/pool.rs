//! How wasmtime is set up: what components may use, and where their instances are.

use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::limits::{LARGEST_MEMORY, Limits};

/// A deep recursion ends here; guests' own stacks are in their memory.
const STACK: usize = 512 * 1024;
/// What one component may have: Python's has some twenty core modules, most of them without a memory.
const CORE_INSTANCES: u32 = 24;
const MEMORIES: u32 = 2;
const TABLES: u32 = 4;

pub fn features() -> Config {
    let mut config = Config::new();
    // QuickJS and others' components need the feature, though the contract is synchronous.
    config.wasm_component_model(true).wasm_component_model_async(true);
    config.epoch_interruption(true).max_wasm_stack(STACK).async_stack_size(STACK * 4);
    // What no guest of ours needs is attack surface; threads are not even compiled in.
    config.wasm_memory64(false).wasm_relaxed_simd(false);
    config
}

/// Instances are made in memory that was set aside.
pub fn pooling(limits: &Limits) -> wasmtime::Result<wasmtime::Engine> {
    let mut pool = PoolingAllocationConfig::default();
    let instances = u32::try_from(limits.instances + limits.tools).unwrap_or(u32::MAX);
    pool.total_component_instances(instances).total_stacks(instances);
    pool.total_core_instances(instances.saturating_mul(CORE_INSTANCES))
        .total_memories(instances.saturating_mul(MEMORIES))
        .total_tables(instances.saturating_mul(TABLES));
    // No component takes what others shall have.
    pool.max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES);
    pool.max_memory_size(limits.memory.max(LARGEST_MEMORY));
    let mut config = features();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    wasmtime::Engine::new(&config)
}

/// Where the address space is too small for a pool.
pub fn on_demand() -> wasmtime::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&features())
}
