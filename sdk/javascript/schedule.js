// Timers of this plugin, which its `timers` handle when they are due. Needs the grant `timers`. Setting and cancelling is
// queued like any effect: it is done once the handler has returned.

import { at, every } from "parlour:plugin/schedule@0.1.0";

export { cancel, list } from "parlour:plugin/schedule@0.1.0";

/** Sets a timer for a Date, or for milliseconds since 1970. `more` may hold `key` and `catchUp` ("skip", "once" or "all"). */
const once = (when, payload, { key = null, catchUp = "once" } = {}) => at(key, Number(when), payload, catchUp);

/** Sets one that comes again: five fields of cron, read in a time zone. `more` as above. */
const again = (cron, zone, payload, { key = null, catchUp = "once" } = {}) => every(key, cron, zone, payload, catchUp);

export { once as at, again as every };
