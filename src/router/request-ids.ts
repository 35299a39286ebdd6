import { randomBytes } from "node:crypto";
import type { IncomingMessage } from "node:http";

const CLIENT_REQUEST_ID = /^[A-Za-z0-9._:-]{1,128}$/;

/** What the answer calls the request: as its caller does, else `made`. */
export function shownId(req: IncomingMessage, made: string): string {
  const asked = req.headers["x-request-id"];
  return typeof asked === "string" && CLIENT_REQUEST_ID.test(asked) ? asked : made;
}

/** Ids of the requests of one router, unique among all routers and restarts; randomness for each would cost more than it is worth. */
export class RequestIds {
  readonly #suffix = randomBytes(12).toString("hex");
  #count = 0;

  next(): string {
    return `req_${(++this.#count).toString(36).padStart(8, "0")}${this.#suffix}`;
  }
}
