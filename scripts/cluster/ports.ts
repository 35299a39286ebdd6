import { createServer } from "node:net";

/** Ports that are free on this address now. All are held until all are found, so no two are the same. */
export async function freePorts(count: number, address: string): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer();
      await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, address, resolve));
      return server;
    }),
  );
  return Promise.all(
    servers.map((server) => {
      const bound = server.address();
      return new Promise<number>((resolve) => {
        server.close(() => resolve(typeof bound === "object" && bound ? bound.port : 0));
      });
    }),
  );
}
