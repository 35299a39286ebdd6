import { DEFAULT_VARIANT, LABELS } from "../src/api/names.ts";
import type { Judgement } from "./conditions.ts";
import type { VariantFit } from "./gpu/fits.ts";
import type { Pod } from "./kinds.ts";
import { condition, podState, podStateIn } from "./pod-state.ts";
import type { Row } from "./rows.ts";
import type { Words } from "./words.ts";

/** Where pods are, as the scheduler has it, and whether what they load has room on the cards that there are. */
export function judgeSchedulable(
  rows: readonly Row[],
  others: readonly Pod[],
  fits: readonly VariantFit[],
  words: Words,
): Judgement {
  const type = "Schedulable";
  const pods = [...new Set([...rows.flatMap(({ pod }) => pod ?? []), ...others])];
  const refused = pods.find((pod) => podState(pod).reason === "Unschedulable");
  const unbound = pods.map((pod) => podStateIn(pod, words)).find(({ reason }) => reason === "VolumeUnbound");
  if (refused) {
    const why = condition(refused, "PodScheduled")?.message ?? "";
    const fit = fits.find(({ variant }) => variant === refused.metadata.labels?.[LABELS.variant]);
    const message = `${refused.metadata.name}: ${why}${fit ? ` (${fit.demand})` : ""}`;
    return { type, status: "False", reason: "Unschedulable", message };
  }
  if (unbound) return { type, status: "False", reason: "VolumeUnbound", message: unbound.message ?? "" };
  const tight = fits.find(({ fits }) => fits === false);
  if (tight) return { type, status: "False", reason: "InsufficientGpuMemory", message: named(tight) };
  const placed = pods.filter((pod) => pod.spec?.nodeName !== undefined).length;
  const waits = placed < pods.length || rows.some(({ pod }) => pod === undefined);
  const places = waits ? "not every pod has been placed yet" : "every pod has a node";
  const open = fits.find(({ fits }) => fits === undefined);
  if (open) return { type, status: "Unknown", reason: "SizeUnknown", message: `${places}; ${named(open)}` };
  if (waits) return { type, status: "Unknown", reason: "Pending", message: places };
  return { type, status: "True", reason: "Ready", message: [places, ...fits.map(named)].join("; ") };
}

const named = ({ variant, message }: VariantFit): string =>
  variant === DEFAULT_VARIANT ? message : `variant ${variant}: ${message}`;
