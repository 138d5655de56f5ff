// Attacks as they are written in JavaScript: by what the engine has, and by what the language lets one catch and change.

import { llm, log, outbox, toolbox } from "parlour-plugin";

let events = 0;

const attacks = {
  spin() {
    for (;;);
  },

  // Catches whatever would end it.
  survive() {
    for (;;) {
      try {
        for (;;) {
          try {
            throw new Error("on");
          } finally {
            continue;
          }
        }
      } catch {}
    }
  },

  // Never leaves a loop that is the engine's.
  generate() {
    function* forever() {
      for (;;) yield 1;
    }
    for (const _ of forever());
  },

  sort: () => Array.from({ length: 1e7 }, Math.random).sort((a, b) => { for (;;); }),

  // The queue of what is to be done next is never empty.
  promise() {
    const again = () => Promise.resolve().then(again);
    again();
    return "promised";
  },

  // What never comes.
  wait() {
    return new Promise(() => {});
  },

  // The host's call asks a value what it is, and does not hear.
  convert: () => outbox.say({ toString() { for (;;); } }),

  proxy() {
    const proxy = new Proxy({}, { get: () => { for (;;); } });
    outbox.send(proxy, proxy);
  },

  backtrack(length) {
    /^(a+)+$/.test("a".repeat(Number(length)) + "b");
    return "no match";
  },

  // Takes what there is, and does not take no for an answer.
  hoard(mebibytes) {
    const memory = [];
    while (memory.length < Number(mebibytes)) {
      try {
        memory.push(new Uint8Array(1024 * 1024).fill(1));
      } catch {}
    }
    return `${memory.length} MiB`;
  },

  recurse(levels) {
    const deeper = (left) => (left === 0 ? 0 : 1 + deeper(left - 1));
    return `${deeper(Number(levels))} deep`;
  },

  // In the engine's own stack.
  nest: (levels) => `${JSON.stringify(JSON.parse("[".repeat(levels) + "]".repeat(levels))).length} long`,

  parse: (levels) => `${new Function("return " + "(".repeat(levels) + "1" + ")".repeat(levels))()} of ${levels}`,

  giant: (mebibytes) => "x".repeat(Number(mebibytes) * 1024 * 1024),

  shout() {
    for (let line = 0; line < 1000; line += 1) {
      log.warn("ok\nWARN agent a: forged \u001b[2J");
      globalThis.console?.error("ok\rWARN agent a: forged \u001b[2J");
    }
    return "shouted";
  },

  // Leaves something everywhere, and says in how many places it has found it.
  remember(how) {
    if (how === "twice") attacks.remember();
    const found = [events > 0, Object.hasOwn(globalThis, "left"), "left" in Object.prototype, Math.random() === 4];
    events += 1;
    globalThis.left = true;
    Object.prototype.left = true;
    Math.random = () => 4;
    return String(found.filter((it) => it).length);
  },

  // What of the machine can be seen or done; says what worked.
  look(address) {
    const names = [
      "process", "require", "module", "Deno", "Bun", "std", "os", "bjson", "scriptArgs", "__filename", "fetch",
      "XMLHttpRequest", "WebSocket", "EventSource", "Worker", "Atomics", "WebAssembly", "importScripts", "navigator", "location",
      "localStorage", "open", "load", "read", "readFile", "gc",
    ];
    const everything = new Function("return this")();
    const there = names.filter((name) => typeof everything[name] !== "undefined");
    const ways = {
      fetch: () => fetch(`http://${address}/`),
      environment: () => process.env.HOME.length,
      exit: () => process.exit(0),
      file: () => require("fs").readFileSync("/etc/passwd"),
      open: () => std.open("/etc/passwd", "r").readAsString(),
      run: () => os.exec(["true"]),
      memory: () => new WebAssembly.Memory({ initial: 1 }),
    };
    for (const [name, way] of Object.entries(ways)) {
      try {
        way();
        there.push(name);
      } catch {}
    }
    return `worked: [${there}]`;
  },

  // Calls what it may not have been granted.
  reach(what) {
    const calls = {
      llm: () => llm.ask({ turns: [] }),
      people: () => outbox.send({ tag: "direct", val: "@bob:memory" }, { tag: "plain", val: "hello" }),
      tools: () => toolbox.call("handy.answer", { text: "hello" }).untrusted,
    };
    try {
      return `${what}: ${calls[what]()}`;
    } catch (refused) {
      return `${what}: ${refused.payload?.kind ?? refused}`;
    }
  },
};

const parameters = [{ name: "text", description: "What it is done with", schema: '{"type":"string"}', required: false }];

export const commands = {
  listCommands: () =>
    Object.keys(attacks).map((name) => ({ name, description: "Attacks", parameters, role: "user" })),
  run({ name, rest }) {
    outbox.say(attacks[name](rest));
  },
};
