// What a plugin may import, under the names that the contract gives it. Each module has all functions of its
// interface, and a few shorter ways beside them.

export * as config from "./config.js";
export * as directory from "parlour:plugin/directory@0.1.0";
export * as kv from "./kv.js";
export * as llm from "./llm.js";
export * as log from "./log.js";
export * as media from "./media.js";
export * as outbox from "./outbox.js";
export * as progress from "parlour:plugin/progress@0.1.0";
export * as schedule from "./schedule.js";
export * as toolbox from "./toolbox.js";
export { error } from "./error.js";
