import { DEFAULT_ROLES } from "../../src/api/names.ts";

/** One call, as any of the routers under test takes it. */
export interface LoadRequest {
  headers: Record<string, string>;
  body: string;
}

const EPISODES = 16;
const SESSIONS_PER_ROLE = 4;
const BODY_BYTES = 2048;
const WORDS = "plan the next step read the file run the tests and say what failed then write a patch ".repeat(40);

/**
 * The turns of 16 episodes in which five roles hold four sessions each: 320 sessions, one after the other. Every router gets the same
 * bytes, with the session in each of the headers that one of them reads.
 */
export function agentTraffic({ stream }: { stream: boolean }): LoadRequest[] {
  const requests: LoadRequest[] = [];
  for (let turn = 0; turn < SESSIONS_PER_ROLE; turn++) {
    for (let episode = 0; episode < EPISODES; episode++) {
      for (const role of DEFAULT_ROLES) {
        const session = `ep${episode}-${role}-${turn}`;
        requests.push({
          headers: {
            "content-type": "application/json",
            "x-llmpool-role": role,
            "x-session-id": session,
            "x-smg-routing-key": session,
            "x-episode-id": `ep${episode}`,
          },
          body: bodyOf(role, stream),
        });
      }
    }
  }
  return requests;
}

function bodyOf(role: string, stream: boolean): string {
  const make = (text: string) =>
    JSON.stringify({
      model: "stub",
      max_tokens: 64,
      temperature: 0.2,
      stream,
      messages: [
        { role: "system", content: `You are the ${role}.` },
        { role: "user", content: text },
      ],
    });
  return make(WORDS.slice(0, BODY_BYTES - make("").length));
}
