import { resolve } from "node:path";
import type { EndpointSource } from "../core/endpoint.ts";
import type { PoolPlan } from "../core/plan/types.ts";
import type { LocalSecrets } from "../dev/definition.ts";
import { followSecrets } from "../dev/follow-secrets.ts";
import { openStore } from "../dev/open-store.ts";
import { watchFile } from "../dev/watch-file.ts";
import type { Clock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import { readText } from "../lib/read-text.ts";
import { type Router, startRouter } from "../router/server.ts";
import type { CliIo } from "./io.ts";

/** Flags of a router alone, wherever its pool is. */
export interface ServeFlags {
  tokenFile: string;
  host: string;
  port: number;
  state: string;
  secret: ReadonlyMap<string, string>;
}

export interface ServeOptions {
  plan: PoolPlan;
  secrets: LocalSecrets;
  source: EndpointSource;
  flags: ServeFlags;
  /** Where the pool was read, for the log. */
  file?: string;
  io: CliIo;
  clock: Clock;
  log: Logger;
  /** Ends all of it. */
  stack: AsyncDisposableStack;
}

export interface ServedRouter {
  router: Router;
  /** Goes on with what `change` did or returns; with what there was when it throws. Both are said in the log. */
  take(what: string, change: () => { plan?: PoolPlan; secrets?: LocalSecrets } | undefined, file?: string): void;
}

/** The router of a process of its own, with its store. It follows the file with the pool's token and the folders of `--secret`. */
export async function serveRouter(options: ServeOptions): Promise<ServedRouter> {
  const { source, flags, io, clock, log, stack } = options;
  let { plan, secrets } = options;
  const tokenFile = resolve(io.cwd, flags.tokenFile);
  const token = await readText(io.cwd, flags.tokenFile);
  const store = await openStore(plan, secrets, resolve(io.cwd, flags.state), clock, log);
  stack.defer(() => store.close());
  const router = await startRouter({
    plan,
    secrets,
    source,
    store,
    token: token.trim(),
    host: flags.host,
    port: flags.port,
    clock,
    log,
    writeLine: (line) => io.stdout(`${line}\n`),
  });
  stack.defer(() => router.close(plan.router.drainSeconds * 1000));
  io.stderr(`router of pool ${plan.pool} at ${router.url}\n`);

  const take: ServedRouter["take"] = (what, change, file = options.file) => {
    const where = file === undefined ? {} : { file };
    try {
      const changed = change();
      if (changed) {
        const next = { plan, secrets, ...changed };
        router.update(next.plan, next.secrets);
        ({ plan, secrets } = next);
      }
      log.info(`took the new ${what}`, where);
    } catch (error) {
      log.error(`kept the old ${what}`, { ...where, err: messageOf(error) });
    }
  };
  stack.defer(
    watchFile(tokenFile, token, clock, (next) =>
      take("token", () => {
        router.setToken(next.trim());
        return undefined;
      }),
    ),
  );
  stack.defer(
    followSecrets({
      ...{ dirs: flags.secret, known: secrets, clock },
      onChange: (next) => take("secrets", () => ({ secrets: { ...secrets, ...next } })),
      onProblem: (problem) => log.warn("secrets cannot be read, the old ones count", { err: problem }),
    }),
  );
  return { router, take };
}
