import { randomBytes } from "node:crypto";

/** Ids of the requests of one router, unique among all routers and restarts; randomness for each would cost more than it is worth. */
export class RequestIds {
  readonly #suffix = randomBytes(12).toString("hex");
  #count = 0;

  next(): string {
    return `req_${(++this.#count).toString(36).padStart(8, "0")}${this.#suffix}`;
  }
}
