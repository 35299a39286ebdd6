import { expect, test } from "vitest";
import { type LockedPackage, packagesOf } from "./packages.ts";

const row = (entry: LockedPackage = {}) => entry;

test("takes what a package needs, from where Node finds it, and what the platform runs", () => {
  const locked = {
    "": row({ dependencies: { a: "1", tool: "1" } }),
    "node_modules/a": row({ dependencies: { b: "1", shared: "1" }, optionalDependencies: { gone: "1" } }),
    "node_modules/a/node_modules/b": row({ dependencies: { c: "1", shared: "1" } }),
    "node_modules/b": row({ dependencies: { unwanted: "1" } }),
    "node_modules/c": row({
      peerDependencies: { peer: "1", maybe: "1" },
      peerDependenciesMeta: { maybe: { optional: true } },
    }),
    "node_modules/shared": row({
      dependencies: { a: "1" },
      optionalDependencies: {
        "native-x64": "1",
        "native-arm64": "1",
        mac: "1",
        musl: "1",
        bare: "1",
        "@node-llama-cpp/linux-x64": "1",
        "@node-llama-cpp/linux-arm64": "1",
        "@node-llama-cpp/linux-x64-vulkan": "1",
      },
    }),
    "node_modules/native-x64": row({ os: ["linux"], cpu: ["x64"], libc: ["glibc"] }),
    "node_modules/native-arm64": row({ os: ["linux"], cpu: ["arm64"], libc: ["glibc"] }),
    "node_modules/mac": row({ os: ["darwin"], cpu: ["x64"] }),
    "node_modules/musl": row({ os: ["linux"], cpu: ["x64"], libc: ["musl"] }),
    "node_modules/bare": row({ engines: { bare: ">=1" } }),
    "node_modules/@node-llama-cpp/linux-x64": row({ os: ["linux"], cpu: ["x64"] }),
    "node_modules/@node-llama-cpp/linux-arm64": row({ os: ["linux"], cpu: ["arm64", "x64"] }),
    "node_modules/@node-llama-cpp/linux-x64-vulkan": row({ os: ["linux"], cpu: ["x64"] }),
    "node_modules/maybe": row(),
    "node_modules/peer": row({ dependencies: { "@types/node": "1" }, engines: { node: ">=20", npm: ">=9" } }),
    "node_modules/@types/node": row(),
    "node_modules/tool": row(),
    "node_modules/unwanted": row(),
  };
  expect(packagesOf(locked, ["a"], { cpu: "x64" })).toEqual([
    "node_modules/@node-llama-cpp/linux-x64",
    "node_modules/a",
    "node_modules/a/node_modules/b",
    "node_modules/c",
    "node_modules/native-x64",
    "node_modules/peer",
    "node_modules/shared",
  ]);
});
