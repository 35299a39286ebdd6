import { API_VERSION, KIND } from "../api/names.ts";
import type { Resource } from "../kube/resource.ts";

/** The kind LLMPool, as its URL has it. */
export const LLMPOOLS: Resource = { apiVersion: API_VERSION, kind: KIND, plural: "llmpools", namespaced: true };
