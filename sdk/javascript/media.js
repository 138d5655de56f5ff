// Files of the message that is being handled, and files to be sent with `outbox.sendFile`. Needs the grant `media`.

import { append, create, fetch, read } from "parlour:plugin/media@0.1.0";

export * from "parlour:plugin/media@0.1.0";

const PIECE = 1024 * 1024;

/** All of a file, as a Uint8Array. */
export function whole(handle) {
  const bytes = new Uint8Array(fetch(handle).size);
  for (let offset = 0; offset < bytes.length; offset += PIECE) bytes.set(read(handle, offset, PIECE), offset);
  return bytes;
}

/** Makes a file of a Uint8Array or a text, and gives its handle. `mime` says what it is, where its first bytes don't. */
export function make(name, content, mime) {
  const bytes = typeof content === "string" ? utf8(content) : content;
  const handle = create(name, mime);
  for (let offset = 0; offset < bytes.length; offset += PIECE) append(handle, bytes.subarray(offset, offset + PIECE));
  return handle;
}

// The engine has no TextEncoder, but it knows how to write UTF-8 into a URI.
function utf8(text) {
  const escaped = encodeURIComponent(text.toWellFormed());
  const bytes = escaped.replace(/%(..)/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
  return Uint8Array.from(bytes, (character) => character.charCodeAt(0));
}
