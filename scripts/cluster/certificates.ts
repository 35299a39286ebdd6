import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { command } from "./command.ts";

/** A certificate to issue: whom it names (`O` is a group in Kubernetes), and for a server, under which addresses. */
interface Identity {
  cn: string;
  group?: string;
  /** For servers: `IP:...` and `DNS:...`. */
  names?: string[];
}

/** The certificates and keys of one cluster, all in one folder: `<name>.crt`, `<name>.key`, and `ca.crt`. */
export class Certificates {
  readonly dir: string;

  private constructor(dir: string) {
    this.dir = dir;
  }

  /** Those that were made before in this folder. */
  static at(dir: string): Certificates {
    return new Certificates(dir);
  }

  /** Makes the folder, the authority and the key pair of service account tokens (`sa.key`, `sa.pub`). */
  static async create(dir: string): Promise<Certificates> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const made = new Certificates(dir);
    // Only what is asked for on the command line goes into a certificate, not what this machine's configuration adds.
    await writeFile(join(dir, "openssl.cnf"), "[req]\ndistinguished_name = dn\n[dn]\n");
    const authority = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"];
    await made.#request("ca", { cn: "llmpool-test-cluster" }, authority);
    await made.#openssl(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "sa.key"]);
    await made.#openssl(["pkey", "-in", "sa.key", "-pubout", "-out", "sa.pub"]);
    return made;
  }

  /** Issues a certificate that is good as a client and, with `names`, as a server. */
  async issue(name: string, identity: Identity): Promise<void> {
    const usage = [
      "-addext",
      "basicConstraints=critical,CA:FALSE",
      "-addext",
      "extendedKeyUsage=clientAuth,serverAuth",
    ];
    const names = identity.names ? ["-addext", `subjectAltName=${identity.names.join(",")}`] : [];
    await this.#request(name, identity, ["-CA", "ca.crt", "-CAkey", "ca.key", ...usage, ...names]);
  }

  file(name: string): string {
    return join(this.dir, name);
  }

  /** Writes a kubeconfig that needs no other file. */
  async kubeconfig(path: string, server: string, name: string): Promise<void> {
    const data = async (file: string) => (await readFile(this.file(file))).toString("base64");
    const cluster = { server, "certificate-authority-data": await data("ca.crt") };
    const user = { "client-certificate-data": await data(`${name}.crt`), "client-key-data": await data(`${name}.key`) };
    const config = {
      apiVersion: "v1",
      kind: "Config",
      clusters: [{ name: "llmpool-test", cluster }],
      users: [{ name, user }],
      contexts: [{ name: "llmpool-test", context: { cluster: "llmpool-test", user: name } }],
      "current-context": "llmpool-test",
    };
    await writeFile(path, `${JSON.stringify(config, null, 2)}\n`, { mode: 0o600 });
  }

  async #request(name: string, { cn, group }: Identity, args: string[]): Promise<void> {
    const subject = `${group === undefined ? "" : `/O=${group}`}/CN=${cn}`;
    const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", `${name}.key`];
    await this.#openssl([
      "req",
      "-x509",
      "-config",
      "openssl.cnf",
      ...key,
      "-subj",
      subject,
      "-days",
      "30",
      "-out",
      `${name}.crt`,
      ...args,
    ]);
  }

  async #openssl(args: string[]): Promise<void> {
    await command("openssl", args, { cwd: this.dir });
  }
}
