import { createHash } from "node:crypto";
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { createServer, type RequestListener } from "node:http";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { tempDir } from "../../test/support/temp-dir.ts";
import { command } from "./command.ts";
import { moduleOf, PROGRAMS, type ProgramName } from "./modules.ts";
import { download, releaseOf } from "./official.ts";

const sha256 = (data: Buffer | string) => createHash("sha256").update(data).digest("hex");

/** Serves these files, and nothing else; returns its address. */
async function serve(files: Record<string, Buffer | string>): Promise<string> {
  const answer: RequestListener = ({ url = "" }, response) => {
    const file = files[url.slice(1)];
    response.writeHead(file === undefined ? 404 : 200).end(file);
  };
  const server = createServer(answer).listen(0, "127.0.0.1");
  onTestFinished(() => void server.close());
  await new Promise((resolve) => server.once("listening", resolve));
  const address = server.address();
  return `http://127.0.0.1:${typeof address === "object" && address ? address.port : 0}`;
}

test("a program whose checksum is right is there to be run", async () => {
  const url = await serve({ tool: "#!/bin/sh\necho it runs\n", "tool.sha256": sha256("#!/bin/sh\necho it runs\n") });
  const file = join(await tempDir(), "tool");
  expect(await download({ url: `${url}/tool`, checksum: `${url}/tool.sha256` }, file)).toBe(true);
  expect(await command(file, [])).toBe("it runs\n");
});

test("a program is taken out of its archive, its checksum out of a list", async () => {
  const dir = await tempDir();
  await mkdir(join(dir, "tool-1"));
  await writeFile(join(dir, "tool-1", "tool"), "the tool");
  await command("tar", ["-czf", "tool-1.tar.gz", "tool-1"], { cwd: dir });
  const archive = await readFile(join(dir, "tool-1.tar.gz"));
  const sums = `${sha256("other")}  other.tar.gz\n${sha256(archive)} *./tool-1.tar.gz\n`;
  const url = await serve({ "tool-1.tar.gz": archive, SHA256SUMS: sums });
  const file = join(dir, "tool");
  const release = { url: `${url}/tool-1.tar.gz`, checksum: `${url}/SHA256SUMS`, member: "tool-1/tool" };
  expect(await download(release, file)).toBe(true);
  expect(await readFile(file, "utf8")).toBe("the tool");
  expect((await stat(file)).mode & 0o777).toBe(0o755);
});

test("a program that is not what was published is refused", async () => {
  const url = await serve({ tool: "changed", "tool.sha256": `${sha256("as published")}  tool\n` });
  const file = join(await tempDir(), "tool");
  await expect(download({ url: `${url}/tool`, checksum: `${url}/tool.sha256` }, file)).rejects.toThrow(/published is/);
  await expect(stat(file)).rejects.toThrow(/ENOENT/);
});

test.each([
  { name: "has no such file", given: "" },
  { name: "cannot be reached", given: "http://127.0.0.1:1" },
])("a host that $name leaves it to the next source", async ({ given }) => {
  const url = given || (await serve({}));
  const file = join(await tempDir(), "tool");
  expect(await download({ url: `${url}/tool`, checksum: `${url}/tool.sha256` }, file)).toBe(false);
});

test.each(Object.keys(PROGRAMS) as ProgramName[])(
  "the release of %s is of the version that its Go module pins",
  (name) => {
    const { version } = moduleOf(name);
    expect(version).toMatch(/^\d+\.\d+\.\d+$/);
    const release = releaseOf(name, version, "linux", "amd64");
    // KWOK publishes no checksums.
    if (name !== "kwok") expect(release?.url).toContain(version);
  },
);
