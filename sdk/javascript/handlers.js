// Stands between the host and the plugin's handlers; `parlour build` wraps each exported interface in it.

import { thaw } from "./random.js";

/** The same functions, ready to run in a fresh instance. */
export function handlers(theirs) {
  const ours = {};
  for (const name of Object.keys(theirs)) {
    ours[name] = (...given) => {
      thaw();
      const result = theirs[name](...given);
      if (result instanceof Promise) throw new TypeError(`${name} is async; handlers are synchronous`);
      return result;
    };
  }
  return ours;
}
