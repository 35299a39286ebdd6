import type { GenerateAnswer, UsageObject } from "../api/http.ts";
import type { Answer } from "./answer.ts";
import type { Translation } from "./relay.ts";

interface Completion {
  choices: { message: { content: string | null }; finish_reason: string }[];
  usage: UsageObject;
}

interface Chunk {
  choices: { delta?: { content?: string | null }; finish_reason?: string | null }[];
}

/** `/v1/generate` is a chat completion in another dress: `{text, …}`, streamed as `{text}` pieces and one last `{text: "", finish_reason, …}`. */
export function generateTranslation({ served }: Answer, sessionId: string | undefined): Translation {
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
      const { choices } = JSON.parse(frame.toString("utf8", "data: ".length)) as Chunk;
      const text = choices[0]?.delta?.content ?? "";
      const finish = choices[0]?.finish_reason;
      if (finish) return Buffer.from(`data: ${JSON.stringify({ text, ...who(), finish_reason: finish })}\n\n`);
      return text === "" ? undefined : Buffer.from(`data: ${JSON.stringify({ text })}\n\n`);
    },
  };
}
