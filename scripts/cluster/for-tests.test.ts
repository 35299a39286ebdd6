import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { tempDir } from "../../test/support/temp-dir.ts";
import { clusterForRun } from "./for-tests.ts";

test("the cluster of KUBECONFIG is used with the user's tools, and nothing is started", async () => {
  const dir = await tempDir();
  await mkdir(join(dir, "bin"));
  for (const name of ["kubectl", "helm"]) await writeFile(join(dir, "bin", name), "");
  const env = { KUBECONFIG: join(dir, "config"), PATH: join(dir, "bin"), LLMPOOL_CACHE: join(dir, "models") };
  const { facts, home, lacking } = await clusterForRun(env, process.pid, () => expect.fail("nothing to say"));
  expect(facts).toEqual({
    kubeconfig: env.KUBECONFIG,
    programs: { kubectl: join(dir, "bin", "kubectl"), helm: join(dir, "bin", "helm") },
  });
  expect(lacking).toContain("KUBECONFIG");
  expect(existsSync(home.cache)).toBe(false);
});
