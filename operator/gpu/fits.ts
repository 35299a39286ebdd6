import type { V1ResourceClaimTemplate } from "@kubernetes/client-node";
import { memoryNeed } from "../../src/core/memory.ts";
import type { GpuPlan } from "../../src/core/plan/types.ts";
import type { ObjectOf } from "../../src/kube/object.ts";
import type { ObservedVariant } from "../gather.ts";
import { specIn } from "../render/pod.ts";
import type { RenderedVariant } from "../render/variant.ts";
import type { Cards } from "./cards.ts";
import { type Fit, judgeFit } from "./fit.ts";
import { type CardOffer, deviceOffers, mayRunOn, nodeOffers } from "./offers.ts";

/** How the wish of one variant compares with what the cluster's cards are. */
export interface VariantFit extends Fit {
  variant: string;
  /** How many cards are asked for and offered, in words; for a person whom the scheduler has refused. */
  demand: string;
}

export type ClaimTemplate = ObjectOf<V1ResourceClaimTemplate>;

/** Of every variant with cards and a model. @param templates of claims, by name */
export function fitsOf(
  variants: readonly Pick<ObservedVariant, "rendered" | "load">[],
  cards: Pick<Cards, "nodes" | "slices">,
  templates: ReadonlyMap<string, ClaimTemplate>,
): VariantFit[] {
  return variants.flatMap(({ rendered, load }) => {
    const { plan, model, pods } = rendered;
    if (!plan.gpu || pods === 0) return [];
    const template = templates.get(plan.gpu.resourceClaimTemplateName ?? "");
    const devices = template && devicesOf(template);
    const gpu = plan.gpu.resource === undefined ? { ...plan.gpu, count: devices ?? 1 } : plan.gpu;
    const offers = offersTo(rendered, cards);
    const demand = demandOf(pods, gpu, offers, plan.gpu.resource === undefined ? devices : gpu.count);
    if (plan.backend === "stub") return [];
    const need = memoryNeed({
      backend: plan.backend,
      quantization: model.model?.quantization ?? "",
      facts: load?.facts,
      statedBytes: rendered.statedBytes,
      contextTokens: model.contextTokens,
      sessions: model.sessions,
    });
    const sessions = `${model.sessions} sessions of ${model.contextTokens} tokens`;
    const spansCards = plan.backend === "llama-cpp";
    const fit = judgeFit({ need, sessions, gpu, spansCards, offers });
    // How many cards the claim has is not known: less than enough is no proof.
    const unsure = plan.gpu.resource === undefined && devices === undefined && fit.fits === false;
    return [{ variant: plan.name, ...fit, ...(unsure && { fits: undefined }), demand }];
  });
}

/** Undefined: the operator may not look. */
function offersTo({ plan: { gpu }, podTemplate }: RenderedVariant, cards: Pick<Cards, "nodes" | "slices">) {
  if (gpu?.resource === undefined) {
    const slices = cards.slices();
    return slices && deviceOffers(slices);
  }
  const spec = specIn(podTemplate);
  const nodes = cards.nodes()?.filter(({ metadata }) => mayRunOn(metadata.labels ?? {}, spec));
  return nodes && nodeOffers(nodes, gpu.resource);
}

/** Undefined: as many as match, or one of several choices. */
function devicesOf({ spec }: ClaimTemplate): number | undefined {
  let count = 0;
  for (const { exactly } of spec.spec.devices?.requests ?? []) {
    if (!exactly || exactly.allocationMode === "All") return undefined;
    count += exactly.count ?? 1;
  }
  return count === 0 ? undefined : count;
}

function demandOf(pods: number, gpu: GpuPlan, offers: readonly CardOffer[] | undefined, each: number | undefined) {
  const what = gpu.resource ?? "a claim";
  const asked = `${pods} ${pods === 1 ? "pod asks" : "pods ask"} for ${each === undefined ? "" : `${each} `}${gpu.resource === undefined ? "devices by a claim" : what} each`;
  if (!offers) return asked;
  const offered = offers.reduce((sum, { count }) => sum + count, 0);
  return `${asked}, and nodes that they may run on offer ${offered}`;
}
