// `Math.random` for plugins. QuickJS seeds its own when the component is built, so every instance would draw
// the same numbers. The host's numbers take its place from an instance's first handler on: before that, while
// the component is being built, there is no host to ask.

import { getRandomBytes } from "wasi:random/random@0.2.0";

/** Seven bytes hold the 53 bits that fit a number; so many numbers are fetched at once. */
const BYTES = 7;
const NUMBERS = 32;

let bytes = [];
let used = 0;

function random() {
  if (used === bytes.length) {
    bytes = getRandomBytes(BYTES * NUMBERS);
    used = 0;
  }
  let number = bytes[used++] & 0x1f;
  for (let i = 1; i < BYTES; i++) number = number * 256 + bytes[used++];
  return number / 2 ** 53;
}

/** Called when a handler is, so that nothing is fetched before. */
export function thaw() {
  Math.random = random;
}
