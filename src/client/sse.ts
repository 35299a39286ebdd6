/** One server-sent event, or one comment line (`: queued 3`). */
export type SseItem =
  | { kind: "event"; event: string; data: string; id: string | undefined }
  | { kind: "comment"; text: string };

const MAX_EVENT_CHARS = 16 * 2 ** 20;

/** Reads a stream of server-sent events (WHATWG HTML, 9.2). An event cut off by the end of the stream is none. */
export async function* readSse(stream: AsyncIterable<Uint8Array>): AsyncGenerator<SseItem> {
  const decoder = new TextDecoder();
  let rest = "";
  let event = "";
  let data: string[] = [];
  let id: string | undefined;
  for await (const chunk of stream) {
    rest += decoder.decode(chunk, { stream: true });
    // A lone CR at the end may be the first half of CRLF: it waits for the next chunk.
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() ?? "";
    if (rest.length > MAX_EVENT_CHARS) throw new Error("a server-sent event above 16 MiB");
    for (const line of lines) {
      if (line === "") {
        if (data.length > 0) yield { kind: "event", event: event || "message", data: data.join("\n"), id };
        event = "";
        data = [];
        continue;
      }
      const colon = line.indexOf(":");
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (colon === 0) yield { kind: "comment", text: value };
      else if (field === "data") data.push(value);
      else if (field === "event") event = value;
      else if (field === "id") id = value;
    }
  }
}
