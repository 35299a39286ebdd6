import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

/** The table of docs/architecture.md: what each room may import, of ours and of others. Tests may import anything. */
const ROOMS: Record<string, { ours: string[]; packages: string[] }> = {
  "src/api": { ours: [], packages: ["zod", "js-yaml", "@marcbachmann/cel-js"] },
  "src/lib": { ours: ["src/api"], packages: ["pino", "prom-client"] },
  "src/core": { ours: ["src/api", "src/lib"], packages: [] },
  "src/store": { ours: ["src/core", "src/api", "src/lib"], packages: ["redis"] },
  "src/models": { ours: ["src/api", "src/lib"], packages: ["undici"] },
  "src/supervisor": { ours: ["src/core", "src/models", "src/api", "src/lib"], packages: ["undici"] },
  "src/router": { ours: ["src/core", "src/api", "src/lib"], packages: ["express", "undici", "zod"] },
  "src/client": { ours: ["src/api"], packages: [] },
  "src/kube": { ours: ["src/lib"], packages: ["undici", "@kubernetes/client-node"] },
  "src/cluster": { ours: ["src/kube", "src/core", "src/api", "src/lib"], packages: [] },
  operator: {
    ours: ["src/core", "src/kube", "src/api", "src/lib"],
    packages: ["@kubernetes/client-node"],
  },
  "runtime-image": {
    ours: ["src/core", "src/models", "src/api", "src/lib"],
    packages: ["node-llama-cpp", "@huggingface/jinja", "zod"],
  },
};

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const IMPORT = /^\s*(?:import|export)\b[^"']*?from\s+["']([^"']+)["']|\bimport\(\s*["']([^"']+)["']\s*\)/gm;

test.each(Object.entries(ROOMS))("%s imports only what the architecture allows", (room, { ours, packages }) => {
  const wrong: string[] = [];
  for (const file of sources(join(root, room))) {
    for (const [, from, dynamic] of readFileSync(file, "utf8").matchAll(IMPORT)) {
      const target = from ?? dynamic ?? "";
      if (target.startsWith("node:")) continue;
      if (target.startsWith(".")) {
        const place = relative(root, join(dirname(file), target));
        if (![room, ...ours].some((allowed) => place.startsWith(`${allowed}/`)))
          wrong.push(`${relative(root, file)} -> ${place}`);
      } else if (!packages.some((name) => target === name || target.startsWith(`${name}/`))) {
        wrong.push(`${relative(root, file)} -> ${target}`);
      }
    }
  }
  expect(wrong).toEqual([]);
});

test("the Kubernetes client library is loaded for a kubeconfig and for nothing else", () => {
  const value = /^\s*import\s+(?!type\b)[^"']*?from\s+["']([^"']+)["']/gm;
  const imports = ["src", "operator", "runtime-image"].flatMap((room) =>
    sources(join(root, room)).flatMap((file) =>
      [...readFileSync(file, "utf8").matchAll(value)].map(([, target]) => `${relative(root, file)} -> ${target}`),
    ),
  );
  expect(imports.filter((line) => /-> (@kubernetes|.*\/kubeconfig\.ts$)/.test(line))).toEqual([
    "src/kube/kubeconfig.ts -> @kubernetes/client-node",
  ]);
});

function sources(dir: string): string[] {
  return files(dir).filter((file) => file.endsWith(".ts") && !file.endsWith(".test.ts"));
}

function files(dir: string): string[] {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((e) => e.isFile() && !e.parentPath.includes("node_modules"))
    .map((e) => join(e.parentPath, e.name));
}
