// The plugin's own memory, which outlives the instance. What a handler writes is kept once it has returned.

import { get, set } from "parlour:plugin/kv@0.1.0";

export * from "parlour:plugin/kv@0.1.0";

/** The value under `key`, or null. `scope` is "plugin", "room", "user" or "session". */
export function getJson(scope, key) {
  const bytes = get(scope, key);
  return bytes === null ? null : JSON.parse(fromUtf8(bytes));
}

/** Keeps any value that JSON can express under `key`. */
export function setJson(scope, key, value) {
  // With everything beyond ASCII escaped, a character is a byte.
  const json = JSON.stringify(value).replace(/[^\0-\x7f]/g, (unit) => `\\u${hex(unit.charCodeAt(0), 4)}`);
  set(scope, key, Uint8Array.from(json, (character) => character.charCodeAt(0)));
}

// The engine has no TextDecoder, but it knows how to read UTF-8 in a URI.
const fromUtf8 = (bytes) => decodeURIComponent(Array.from(bytes, (byte) => `%${hex(byte, 2)}`).join(""));

const hex = (number, digits) => number.toString(16).padStart(digits, "0");
