import type { Judgement } from "./conditions.ts";
import type { Observed, ObservedVariant } from "./gather.ts";
import { waitingState } from "./model-state.ts";
import { DENIED } from "./pod-state.ts";
import { isReady, type Row } from "./rows.ts";
import type { Words } from "./words.ts";

/**
 * A model is available when it lies on its volume, or when an instance has loaded it; a loader's or a runtime's own word says that it is not.
 */
export function judgeModel(
  { variants, loads }: Pick<Observed, "variants" | "loads">,
  rows: readonly Row[],
  words: Words,
): Judgement {
  const type = "ModelAvailable";
  const needed = variants.filter(({ rendered }) => rendered.model.backend !== "stub");
  if (needed.length === 0) return { type, status: "True", reason: "NotNeeded", message: "the stub has no model" };
  const states = loads.filter(({ facts }) => !facts).map((load) => waitingState(load, words));
  const failed = states.find(({ state }) => state === "Failed");
  if (failed) return { type, status: "False", reason: failed.reason ?? "Failed", message: failed.message ?? "" };
  const bad = rows.find(({ seen }) => seen.reason?.startsWith("Model"));
  if (bad) return { type, status: "False", reason: bad.seen.reason ?? "ModelInvalid", message: bad.seen.message ?? "" };
  const [waiting] = states;
  const denied = states.find(({ reason }) => reason !== undefined && DENIED.has(reason));
  if (denied) return { type, status: "Unknown", reason: denied.reason ?? "Pending", message: denied.message ?? "" };
  if (waiting) return { type, status: "Unknown", reason: "Loading", message: waiting.message ?? "" };
  const open = needed.filter((variant) => !variant.load?.facts && !isProven(variant, rows));
  if (open.length === 0) return { type, status: "True", reason: "Ready", message: inWords(needed, rows) };
  const names = open.map(({ rendered: { plan } }) => plan.name).join(", ");
  return { type, status: "Unknown", reason: "Loading", message: `no instance has loaded it yet: ${names}` };
}

const isProven = ({ rendered: { plan } }: ObservedVariant, rows: readonly Row[]): boolean =>
  rows.some((row) => row.instance.variant === plan.name && isReady(row) && !row.outdated);

function inWords(needed: readonly ObservedVariant[], rows: readonly Row[]): string {
  if (needed.every((variant) => isProven(variant, rows))) return "every variant has loaded its model";
  const volumes = new Set(needed.flatMap(({ load }) => (load?.facts ? [load.load.claimName] : [])));
  return `every model is loaded by an instance, or lies on its volume (${[...volumes].join(", ")})`;
}
