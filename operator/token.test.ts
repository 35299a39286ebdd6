import { expect, onTestFinished, test } from "vitest";
import { Client } from "../src/kube/client.ts";
import { Connection } from "../src/kube/connection.ts";
import type { KubeObject } from "../src/kube/object.ts";
import { RESOURCES } from "../src/kube/resource.ts";
import { FakeClock } from "../test/support/fake-clock.ts";
import { FakeKube } from "../test/support/fake-kube.ts";
import { Tokens } from "./token.ts";

const SECRET = { namespace: "team", name: "apex-token" };

async function setup() {
  const kube = await FakeKube.start();
  const clock = new FakeClock();
  const connection = new Connection({ credentials: kube.credentials, clock, userAgent: "test" });
  onTestFinished(async () => {
    await connection.close();
    await kube.close();
  });
  const client = new Client({ connection, clock });
  let made = 0;
  const tokens = new Tokens({ client, clock, makeToken: () => `token-${++made}` });
  const ensure = (uid = "u1") => {
    const reference = { apiVersion: "llmpool.dev/v1alpha1", kind: "LLMPool", name: "apex", uid, controller: true };
    return tokens.ensure({ key: "team/apex", uid }, reference, "team", new AbortController().signal);
  };
  return { kube, clock, client, tokens, ensure, made: () => made };
}

test("a pool's token is made once, and asked about now and then", async () => {
  const { kube, clock, client, ensure, made } = await setup();
  expect(await ensure()).toEqual({ foreign: false });
  const calls = kube.seen.length;
  expect(await ensure()).toEqual({ foreign: false });
  expect(kube.seen.length).toBe(calls);
  clock.advance(30_000);
  expect(await ensure()).toEqual({ foreign: false });
  expect(kube.seen.length).toBe(calls + 1);
  expect(made()).toBe(1);
  // Somebody deletes it: it is there again, with another token.
  await client.delete(RESOURCES.secrets, SECRET);
  clock.advance(30_000);
  await ensure();
  const secret = await client.get<KubeObject & { stringData?: object; immutable?: boolean }>(RESOURCES.secrets, SECRET);
  expect(secret.stringData).toEqual({ token: "token-2" });
  // A kubelet would give the first one's token to new pods of its node.
  expect(secret.immutable).toBeUndefined();
});

test("the Secret of an earlier pool of this name is waited for until it is gone", async () => {
  const { client, ensure } = await setup();
  await ensure("u1");
  expect(await ensure("u2")).toEqual({ foreign: true });
  await client.delete(RESOURCES.secrets, SECRET);
  expect(await ensure("u2")).toEqual({ foreign: false });
});

test("a Secret that is somebody else's is named", async () => {
  const { client, ensure } = await setup();
  await client.create({ apiVersion: "v1", kind: "Secret", metadata: SECRET });
  expect(await ensure()).toMatchObject({
    foreign: true,
    problem: {
      reason: "ObjectTaken",
      message: expect.stringMatching(/^Secret apex-token is there already/),
    },
  });
});

test("what the API server refuses is a problem that is tried again at once", async () => {
  const { kube, ensure } = await setup();
  kube.fail({ when: ({ method }) => method === "POST", times: 1, what: { status: 403, reason: "Forbidden" } });
  expect(await ensure()).toMatchObject({ foreign: false, problem: { reason: "ApplyFailed" } });
  expect(await ensure()).toEqual({ foreign: false });
});
