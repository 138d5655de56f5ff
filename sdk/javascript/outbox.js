// What a handler wants done. Every call only queues: nothing leaves before the handler has returned.

import { send, sendFile } from "parlour:plugin/outbox@0.1.0";

export * from "parlour:plugin/outbox@0.1.0";

/** Says something where the event happened, as it is. */
export const say = (text) => send({ tag: "here" }, { tag: "plain", val: text });

/** Says something where the event happened, in CommonMark. */
export const markdown = (text) => send({ tag: "here" }, { tag: "markdown", val: text });

/** Says something quietly where the event happened: a notice, which well-behaved bots don't answer. */
export const notice = (text) => send({ tag: "here" }, { tag: "notice", val: text });

/** Sends a file where the event happened: one that `media.make` has made, or one that came with the message. */
export const file = (handle, caption) => sendFile({ tag: "here" }, handle, caption);
