import { outbox } from "parlour-plugin";

const parameters = [{ name: "text", description: "What to say", schema: '{"type":"string"}', required: true }];

export const commands = {
  listCommands: () => [{ name: "echo", description: "Says what you say", parameters, role: "user" }],
  run: ({ rest }) => outbox.say(rest),
};
