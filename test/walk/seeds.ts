/** What the walk begins at: together they have every part of the schema that changes what is made of a pool. */
export const SEEDS: Readonly<Record<string, object>> = {
  stub: {
    backend: "stub",
    instances: 2,
    drainSeconds: 0,
    resources: { limits: { memory: "64Mi" } },
    roles: [
      { name: "planner", instance: 0, systemPrompt: "You plan." },
      { name: "coder", variant: "code" },
    ],
    variants: [{ name: "code", instances: 1, resources: { limits: { cpu: "1" } } }],
    budgets: { roleTokens: { coder: 100 } },
    podTemplate: { metadata: { annotations: { note: "a" } } },
    store: { ephemeral: true },
  },
  "llama-cpp": {
    backend: "llama-cpp",
    model: {
      uri: "hf://org/repo/m.gguf",
      secretRef: { name: "hf-token", key: "token" },
      cache: { storage: "1Gi" },
    },
    instances: 2,
    drainSeconds: 0,
    gpu: { count: 1 },
    store: { storage: "1Gi" },
  },
  "hf-cuda": {
    backend: "hf-cuda",
    model: { uri: "hf://org/repo", quantization: "nf4" },
    instances: 3,
    drainSeconds: 0,
    gpu: { mode: "Packed", instancesPerPod: 2 },
    variants: [{ name: "code", backend: "stub", instances: 1, model: { uri: "file:///m" } }],
    router: { replicas: 2, auth: { mode: "ApiKey", secretName: "keys" } },
    store: { redisSecretRef: { name: "redis", key: "url" } },
  },
};
