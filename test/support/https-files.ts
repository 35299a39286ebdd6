import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { httpsServer } from "./https-server.ts";

/** Serves files over HTTPS at an address of this machine, with an authority of its own, until the test ends. */
export async function httpsFiles(
  host: string,
  files: Readonly<Record<string, string>>,
): Promise<{ url: string; authority: string; asked: () => string[] }> {
  const asked: string[] = [];
  const { port, authority } = await httpsServer(host, [`IP:${host}`], (request, response) => {
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
  });
  return { url: `https://${host}:${port}`, authority, asked: () => asked };
}
