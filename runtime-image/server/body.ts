import { isUtf8 } from "node:buffer";
import type { IncomingMessage } from "node:http";
import type { z } from "zod";
import { problemsOf } from "../../src/api/openai.ts";
import type { Clock } from "../../src/lib/clock.ts";
import { LLMPoolError } from "../../src/lib/errors.ts";
import type { ServerLimits } from "./limits.ts";

/** The whole body, as far as the limits allow: `payload_too_large`, `request_timeout`, or the signal's reason. */
export function readBody(
  request: IncomingMessage,
  limits: Pick<ServerLimits, "bodyBytes" | "bodyMs">,
  clock: Clock,
  signal: AbortSignal,
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const tooLarge = () => new LLMPoolError("payload_too_large", `the body is larger than ${limits.bodyBytes} bytes`);
    if (Number(request.headers["content-length"] ?? 0) > limits.bodyBytes) return reject(tooLarge());
    if (signal.aborted) return reject(signal.reason);
    const chunks: Buffer[] = [];
    let bytes = 0;
    const finish = (settle: () => void) => {
      cancel();
      signal.removeEventListener("abort", onAbort);
      request.off("data", onData).off("end", onEnd);
      settle();
    };
    const onData = (chunk: Buffer) => {
      bytes += chunk.length;
      chunks.push(chunk);
      if (bytes > limits.bodyBytes) finish(() => reject(tooLarge()));
    };
    const onEnd = () => finish(() => resolve(chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks)));
    const onAbort = () => finish(() => reject(signal.reason));
    const cancel = clock.after(limits.bodyMs, () =>
      finish(() =>
        reject(new LLMPoolError("request_timeout", `the body did not arrive within ${limits.bodyMs / 1000} s`)),
      ),
    );
    request.on("data", onData).on("end", onEnd);
    signal.addEventListener("abort", onAbort);
  });
}

/** Bytes to a checked body, or `invalid_request` that names the first field at fault. */
export function parseBody<T extends z.ZodType>(schema: T, bytes: Buffer): z.infer<T> {
  if (!isUtf8(bytes)) throw new LLMPoolError("invalid_request", "the body is not UTF-8");
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString());
  } catch (cause) {
    throw new LLMPoolError("invalid_request", "the body is not JSON", { cause });
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const { param, message } = problemsOf(parsed.error, value, schema);
  throw new LLMPoolError("invalid_request", message, param === "" ? {} : { param });
}

/**
 * For answers that are given before the body was read: what still comes is thrown away, so that the caller gets to read the answer and the
 * connection stays usable; a caller that goes on sending for `withinMs` is cut off.
 */
export function discardBody(request: IncomingMessage, clock: Clock, withinMs: number): void {
  if (request.complete) return;
  request.resume();
  const cancel = clock.after(withinMs, () => request.socket.destroy());
  request.once("close", cancel);
}
