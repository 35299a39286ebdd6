import type { SupervisedInstance } from "../src/api/instance.ts";
import { readTold, type Target, type Told } from "./ask.ts";

/** What is known of an instance; a supervisor also says of what revision its process is. */
export interface Known extends Told {
  revision?: string;
}

/** One address, and for a supervisor the instances that are wanted there, with their revisions. */
export interface Followed extends Target {
  revisions?: ReadonlyMap<string, string>;
}

/** By instance id. */
export function readKnown(answer: unknown, target: Target): Map<string, Known> {
  const told = readTold(answer, target);
  if (target.id !== undefined || told.size === 0) return told;
  const rows = (answer as { instances: Partial<SupervisedInstance>[] }).instances;
  const revisions = new Map(rows.map((row) => [row?.id, row?.revision]));
  return new Map(
    [...told].map(([id, one]) => {
      const revision = revisions.get(id);
      return [id, typeof revision === "string" ? { ...one, revision } : one];
    }),
  );
}

/**
 * Whether its process is of the wanted revision. A supervisor of an earlier release tells none and is believed: a new operator replaces no pod, so
 * such pods would never be what is wanted.
 */
export const isOfRevision = ({ revision }: Known, wanted: string): boolean =>
  revision === undefined || revision === wanted;
