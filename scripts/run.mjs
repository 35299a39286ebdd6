// Runs one of our TypeScript mains with the Node this project is made for, after installing the packages when they are missing or stale.
// It is the only file that an older Node must be able to read: `npm start`, `npm test` and the others begin here.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const stamp = join(root, "node_modules", ".llmpool-installed");

function installPackages() {
  const wanted = createHash("sha256")
    .update(readFileSync(join(root, "package-lock.json")))
    .digest("hex");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return;
  process.stderr.write("Installing packages (once, about 250 MB) ...\n");
  // `npm install`, not `npm ci`: it keeps what is already there, and the lock file still decides every version and checksum.
  const npm = process.env.npm_execpath;
  const [file, args] = npm ? [process.execPath, [npm]] : ["npm", []];
  const done = spawnSync(file, [...args, "install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error"], {
    cwd: root,
    stdio: ["ignore", 2, 2],
  });
  if (done.status !== 0) {
    process.stderr.write("npm install failed (see above). Cure what it names and run the same command again.\n");
    process.exit(1);
  }
  writeFileSync(stamp, wanted);
}

function findNode() {
  const packaged = join(root, "node_modules", ".bin", "node");
  if (existsSync(packaged)) return packaged;
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major > 22 || (major === 22 && minor >= 19)) return process.execPath;
  process.stderr.write(
    `This machine has Node ${process.versions.node} and no packaged Node for it. Install Node 24 and try again.\n`,
  );
  process.exit(1);
}

installPackages();
const child = spawn(
  findNode(),
  process.argv.slice(2).map((arg, i) => (i === 0 ? join(root, arg) : arg)),
  {
    stdio: "inherit",
    // What the caller typed is relative to where the caller stood, not to the checkout.
    cwd: process.env.INIT_CWD ?? process.cwd(),
  },
);
// A terminal sends Ctrl-C to the child by itself; a second one from here would count as "do not wait for the drain".
for (const signal of ["SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
process.on("SIGINT", () => {
  if (!process.stdin.isTTY) child.kill("SIGINT");
});
child.on("exit", (code, signal) => process.exit(signal ? 128 + constants.signals[signal] : code));
