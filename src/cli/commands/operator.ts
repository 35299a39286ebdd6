import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { type Command, Option } from "commander";
import { IMAGES } from "../../../operator/render/settings.ts";
import { knownNames, portNumber } from "../flags.ts";
import type { CliIo } from "../io.ts";
import { packageVersion } from "../version.ts";

interface OperatorFlags {
  kubeconfig?: string;
  context?: string;
  namespace?: string;
  ownNamespace?: string;
  imageRegistry: string;
  image: Partial<Record<(typeof IMAGES)[number], string>>;
  host: string;
  port: number;
}

/** `llmpool operator`: the control plane of a cluster's pools. The chart starts it; by hand it runs against the kubeconfig. */
export function registerOperator(program: Command, io: CliIo): void {
  program
    .command("operator")
    .description("look after the LLMPools of a Kubernetes cluster")
    .option("--kubeconfig <file>", "which cluster; default KUBECONFIG, the pod's own, ~/.kube/config")
    .option("--context <name>", "context of the kubeconfig")
    .option("-n, --namespace <name>", "look after this namespace alone; default all")
    .option("--own-namespace <name>", "where the operator itself runs: its Lease is there")
    .option("--image-registry <prefix>", "put in front of the names of the default images", "")
    .addOption(
      new Option("--image <name=reference>", "an image in place of the default: router, or a backend's")
        .argParser(knownNames(IMAGES))
        .default({}, "none"),
    )
    .option("--host <address>", "address of /healthz, /readyz and /metrics", "127.0.0.1")
    .option("--port <port>", "port of /healthz, /readyz and /metrics", portNumber, 8081)
    .action(async (flags: OperatorFlags) => {
      const { operatorMain } = await import("../../../operator/main.ts");
      const { image: images, ...rest } = flags;
      await operatorMain({
        ...rest,
        images,
        version: packageVersion(),
        identity: `${hostname()}_${randomBytes(6).toString("hex")}`,
        env: { ...io.env },
        write: (line) => io.stderr(line),
        signal: io.signal,
      });
    });
}
