import { readFile } from "node:fs/promises";
import type { RequestListener } from "node:http";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { onTestFinished } from "vitest";
import { Certificates } from "../../scripts/cluster/certificates.ts";
import { tempDir } from "./temp-dir.ts";

/**
 * Serves HTTPS at an address of this machine, until the test ends. Resolves with its port and the certificate of its own authority, in PEM.
 * @param names `IP:...` and `DNS:...` that it is called by
 */
export async function httpsServer(
  host: string,
  names: string[],
  listener: RequestListener,
): Promise<{ port: number; authority: string }> {
  const certificates = await Certificates.create(await tempDir());
  await certificates.issue("server", { cn: host, names });
  const read = (name: string) => readFile(certificates.file(name), "utf8");
  const server = createServer({ cert: await read("server.crt"), key: await read("server.key") }, listener);
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  onTestFinished(async () => {
    server.closeAllConnections();
    await new Promise((closed) => server.close(closed));
  });
  return { port: (server.address() as AddressInfo).port, authority: await read("ca.crt") };
}
