// Files of the message that is being handled. Needs the grant `media`.

import { fetch, read } from "parlour:plugin/media@0.1.0";

export * from "parlour:plugin/media@0.1.0";

const PIECE = 1024 * 1024;

/** All of a file, as a Uint8Array. */
export function whole(handle) {
  const bytes = new Uint8Array(fetch(handle).size);
  for (let offset = 0; offset < bytes.length; offset += PIECE) bytes.set(read(handle, offset, PIECE), offset);
  return bytes;
}
