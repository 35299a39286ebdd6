import { type Clock, systemClock } from "../../src/lib/clock.ts";

/**
 * The system's clock, so many times faster: for whole programs over real sockets whose waits are minutes. Nothing may depend on what fits into
 * a given time: on a busy machine less does.
 */
export function swiftClock(times: number): Clock {
  return {
    now: () => systemClock.now() * times,
    wall: () => systemClock.wall(),
    after: (ms, run) => systemClock.after(ms / times, run),
  };
}
