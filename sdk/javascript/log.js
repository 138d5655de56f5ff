// Lines for the operator's log. The host adds whose they are.

import { log } from "wasi:logging/logging@0.1.0-draft";

export const debug = (message) => log("debug", "", String(message));
export const info = (message) => log("info", "", String(message));
export const warn = (message) => log("warn", "", String(message));
export const error = (message) => log("error", "", String(message));
