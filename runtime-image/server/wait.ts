import type { ServerResponse } from "node:http";
import { POSITION_HEADER } from "../../src/api/instance.ts";
import type { Slot, Ticket } from "../../src/core/queue.ts";
import type { Clock } from "../../src/lib/clock.ts";

/**
 * Waits for the slot and meanwhile tells the caller its place in the line, by responses of status 102: one at once, one every `everyMs`
 * milliseconds, and one that says 0 when the slot has come. A request that does not wait costs none.
 */
export async function slotOf(ticket: Ticket, response: ServerResponse, clock: Clock, everyMs: number): Promise<Slot> {
  let position = ticket.position();
  if (position === 0) return ticket.slot;
  let cancel = () => {};
  const tell = () => {
    inform(response, position);
    cancel = clock.after(everyMs, () => {
      position = ticket.position();
      tell();
    });
  };
  tell();
  try {
    const slot = await ticket.slot;
    inform(response, 0);
    return slot;
  } finally {
    cancel();
  }
}

function inform(response: ServerResponse, position: number): void {
  if (response.headersSent || response.destroyed) return;
  // Node before 24.18 cannot say it; the caller takes the request for running then.
  response.writeInformation?.(102, { [POSITION_HEADER]: String(position) });
}
