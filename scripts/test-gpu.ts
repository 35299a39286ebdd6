/**
 * `npm run test:gpu`: the conformance suite of the hf-cuda runtime on CUDA, and a table of its speeds with weights of an 8B model's shape.
 * Exit codes: 0 passed, 1 a test failed, 2 there is no CUDA device here.
 */
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { command } from "./cluster/command.ts";
import { PACKAGE, setUpHfCuda } from "./hf-cuda/setup.ts";

const root = dirname(dirname(fileURLToPath(import.meta.url)));

// Nothing is left out: Triton is for cards.
const home = await setUpHfCuda(console.log, []);
const card = (
  await command(home.python, [
    "-c",
    "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')",
  ])
).trim();
if (card === "") {
  console.error("there is no CUDA device here, or its driver is older than the wheels of requirements.lock want");
  process.exit(2);
}
const env = { ...process.env, LLMPOOL_TEST_HF_CUDA: home.dir, LLMPOOL_TEST_GPU: "1" };
const files = ["conformance", "supervise", "shared-weights"].map((name) => join(root, `test/hf-cuda/${name}.test.ts`));
const vitest = [join(root, "node_modules/vitest/vitest.mjs"), "run", "--no-file-parallelism", ...files];
const conformance = await run(process.execPath, vitest);
// CUDA graphs against steps that are not captured.
const decode = await run(home.python, ["-m", "pytest", "-p", "no:cacheprovider", "tests/test_decode.py"], PACKAGE);

const models = await mkdtemp(join(tmpdir(), "llmpool-gpu-"));
try {
  await command(home.python, [join(PACKAGE, "tests/make_models.py"), models, "--8b"]);
  for (const quantization of ["nf4", "none"]) {
    console.log(`\n| ${card}, ${quantization} | |\n| --- | --- |`);
    const measure = [join(PACKAGE, "tests/measure.py"), join(models, "llama-8b-shape"), quantization];
    if ((await run(home.python, measure)) !== 0) process.exitCode = 1;
    const processes = [join(PACKAGE, "tests/measure_processes.py"), join(models, "llama-8b-shape"), quantization];
    // Five sets of 16 bit weights may be more than a card has.
    if (quantization === "nf4" && (await run(home.python, processes)) !== 0) process.exitCode = 1;
  }
} finally {
  await rm(models, { recursive: true, force: true });
}
if (conformance !== 0 || decode !== 0) process.exitCode = 1;

function run(file: string, args: string[], cwd = root): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      cwd,
      env: { ...env, PYTHONPATH: join(PACKAGE, "src"), HF_HUB_OFFLINE: "1" },
      stdio: "inherit",
    });
    child.on("error", reject);
    child.on("close", (code) => resolve(code ?? 1));
  });
}
