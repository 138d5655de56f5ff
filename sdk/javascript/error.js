// Saying what went wrong. What an import throws has the same shape: look at `caught.payload.kind`.

/**
 * An error to throw, such as `error("invalid", "no such day")`. `more` may hold `code`, `retryAfter`
 * (milliseconds) and `extra`. Whatever else a handler throws counts as its own fault and ends the instance.
 */
export function error(kind, message, more = {}) {
  return Object.assign(new Error(message), { payload: { kind, message, ...more } });
}
