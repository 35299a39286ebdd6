import { createReadStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { onTestFinished } from "vitest";
import { Certificates } from "../../scripts/cluster/certificates.ts";
import { tempDir } from "./temp-dir.ts";

/** Serves files over HTTPS at an address of this machine, with an authority of its own, until the test ends. */
export async function httpsFiles(
  host: string,
  files: Readonly<Record<string, string>>,
): Promise<{ url: string; authority: string; asked: () => string[] }> {
  const certificates = await Certificates.create(await tempDir());
  await certificates.issue("server", { cn: host, names: [`IP:${host}`] });
  const read = (name: string) => readFile(certificates.file(name), "utf8");
  const asked: string[] = [];
  const server = createServer(
    { cert: await read("server.crt"), key: await read("server.key") },
    (request, response) => {
      const path = request.url ?? "";
      asked.push(`${request.method} ${path}`);
      const file = files[path];
      if (file === undefined) {
        response.writeHead(404).end();
        return;
      }
      void stat(file).then(({ size }) => {
        response.writeHead(200, { "content-length": size, etag: '"one"' });
        createReadStream(file).pipe(response);
      });
    },
  );
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  onTestFinished(async () => {
    server.closeAllConnections();
    await new Promise((closed) => server.close(closed));
  });
  return {
    url: `https://${host}:${(server.address() as AddressInfo).port}`,
    authority: await read("ca.crt"),
    asked: () => asked,
  };
}
