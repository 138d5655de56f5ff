// A language model, as the operator set it up. Needs the grant `llm`.

import { ask } from "parlour:plugin/llm@0.1.0";

export * from "parlour:plugin/llm@0.1.0";

/** The pieces of an answer as they come. Leaving the loop ends the request. */
export function* pieces(request) {
  const answer = ask(request);
  try {
    for (let piece = answer.next(); piece !== null; piece = answer.next()) yield piece;
  } finally {
    answer[Symbol.dispose]();
  }
}
