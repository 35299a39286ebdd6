import { createServer } from "node:net";

/** Why a router could not listen there; undefined when it could. 0, which the operating system chooses, is always free. */
export function tryPort(port: number): Promise<NodeJS.ErrnoException | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", resolve);
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(undefined)));
  });
}
