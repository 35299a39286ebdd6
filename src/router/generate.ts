import type { GenerateAnswer, UsageObject } from "../api/http.ts";
import type { Answer } from "./answer.ts";
import type { Translation } from "./relay.ts";

interface Completion {
  choices: { message: { content: string | null }; finish_reason: string }[];
  usage: UsageObject;
}

interface Chunk {
  choices: { delta?: { content?: string | null }; finish_reason?: string | null }[];
  usage?: UsageObject | null;
}

/**
 * `/v1/generate` is a chat completion in another dress: `{text, …}`, streamed as `{text}` pieces and one last piece that has no text but
 * all the rest.
 */
export function generateTranslation({ served }: Answer, sessionId: string | undefined): Translation {
  let finish = "stop";
  const piece = (value: object) => Buffer.from(`data: ${JSON.stringify(value)}\n\n`);
  const who = () => ({ instance_id: served.instance ?? "", session_id: sessionId ?? null });
  return {
    json(body) {
      const { choices, usage } = JSON.parse(body.toString()) as Completion;
      const answer: GenerateAnswer = {
        text: choices[0]?.message.content ?? "",
        ...who(),
        finish_reason: choices[0]?.finish_reason ?? "stop",
        usage,
      };
      return Buffer.from(JSON.stringify(answer));
    },
    frame(frame) {
      const { choices, usage } = JSON.parse(frame.toString("utf8", "data: ".length)) as Chunk;
      finish = choices[0]?.finish_reason ?? finish;
      // The usage chunk comes after the one that tells the finish.
      if (usage) return piece({ text: "", ...who(), finish_reason: finish, usage });
      const text = choices[0]?.delta?.content ?? "";
      return text === "" ? undefined : piece({ text });
    },
  };
}
