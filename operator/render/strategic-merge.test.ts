import { expect, test } from "vitest";
import { strategicMerge } from "./strategic-merge.ts";

const BASE = {
  metadata: { labels: { a: "1" } },
  spec: {
    containers: [
      {
        name: "instance",
        image: "i",
        args: ["runtime"],
        env: [{ name: "A", value: "1" }],
        resources: { limits: { cpu: "1" } },
      },
      { name: "other", image: "o" },
    ],
    volumes: [{ name: "cache", emptyDir: {} }],
    tolerations: [{ key: "x" }],
  },
};

test.each([
  {
    name: "merges a container by its name, and leaves the others",
    patch: { spec: { containers: [{ name: "instance", image: "mine" }] } },
    want: { image: "mine", args: ["runtime"] },
    at: (t: typeof BASE) => t.spec.containers[0],
  },
  {
    name: "adds a container after ours",
    patch: { spec: { containers: [{ name: "sidecar", image: "s" }] } },
    want: ["instance", "other", "sidecar"],
    at: (t: typeof BASE) => t.spec.containers.map((c) => c.name),
  },
  {
    name: "merges environment variables by name",
    patch: {
      spec: {
        containers: [
          {
            name: "instance",
            env: [
              { name: "A", value: "2" },
              { name: "B", value: "3" },
            ],
          },
        ],
      },
    },
    want: [
      { name: "A", value: "2" },
      { name: "B", value: "3" },
    ],
    at: (t: typeof BASE) => t.spec.containers[0]?.env,
  },
  {
    name: "removes with null",
    patch: { spec: { containers: [{ name: "instance", resources: { limits: { cpu: null } } }] } },
    want: { limits: {} },
    at: (t: typeof BASE) => t.spec.containers[0]?.resources,
  },
  {
    name: "removes an item with $patch",
    patch: { spec: { containers: [{ name: "other", $patch: "delete" }] } },
    want: ["instance"],
    at: (t: typeof BASE) => t.spec.containers.map((c) => c.name),
  },
  {
    name: "replaces a list with $patch",
    patch: { spec: { volumes: [{ $patch: "replace" }, { name: "v", emptyDir: {} }] } },
    want: [{ name: "v", emptyDir: {} }],
    at: (t: typeof BASE) => t.spec.volumes,
  },
  {
    name: "gives a volume another source in place of ours",
    patch: { spec: { volumes: [{ name: "cache", hostPath: { path: "/x" } }] } },
    want: [{ name: "cache", hostPath: { path: "/x" } }],
    at: (t: typeof BASE) => t.spec.volumes,
  },
  {
    name: "replaces a list without a merge key, such as tolerations and arguments",
    patch: { spec: { tolerations: [{ key: "y" }], containers: [{ name: "instance", args: ["a", "b"] }] } },
    want: [[{ key: "y" }], ["a", "b"]],
    at: (t: typeof BASE) => [t.spec.tolerations, t.spec.containers[0]?.args],
  },
])("$name", ({ patch, want, at }) => {
  const before = structuredClone(BASE);
  const found = at(strategicMerge(BASE, patch));
  if (Array.isArray(want)) expect(found).toEqual(want);
  else expect(found).toMatchObject(want);
  expect(BASE).toEqual(before);
});

test("leaves no word of the patch language behind", () => {
  const merged = strategicMerge(BASE, {
    spec: { containers: [{ name: "new", $patch: "replace", image: "n" }], nodeSelector: { $patch: "replace", a: "b" } },
  });
  expect(JSON.stringify(merged)).not.toContain("$patch");
});
