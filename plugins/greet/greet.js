// Welcomes listed people who join a room, and returns a greeting in the agent's home.

import { outbox } from "parlour-plugin";

// The whole message: "hello", "Good morning, agent!", but not "hi, can you roll a die?".
const GREETING = /^(hi|hello|hey|good (morning|day|afternoon|evening))([ ,]+[\w-]+)?[ !.]*$/i;

const ANSWERS = [
  (name) => `Hello, ${name}!`,
  (name) => `Hi ${name}, good to see you.`,
  (name) => `Welcome back, ${name}.`,
  (name) => `A good day to you, ${name}!`,
];

export const members = {
  onMember({ member, membership }) {
    if (membership === "joined") outbox.say(`Welcome, ${nameOf(member)}!`);
  },
};

export const messages = {
  onMessage({ text, addressed, conversation, sender }) {
    if (!addressed || !conversation.home || !GREETING.test(text.trim())) return "pass";
    const answer = ANSWERS[Math.floor(Math.random() * ANSWERS.length)];
    outbox.say(answer(nameOf(sender)));
    return "handled";
  },
};

function nameOf(person) {
  return person.displayName ?? person.id;
}
