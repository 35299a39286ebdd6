import { getLlama } from "node-llama-cpp";
import { messageOf } from "../../lib/errors.ts";

/** Asks llama.cpp, in a process of its own, what it would compute on: a driver that crashes takes nothing else with it. One JSON line. */
try {
  const llama = await getLlama({
    gpu: "auto",
    build: "never",
    skipDownload: true,
    progressLogs: false,
    logger: () => {},
  });
  const names = llama.gpu === false ? [] : await llama.getGpuDeviceNames();
  process.stdout.write(`${JSON.stringify({ gpu: llama.gpu, names })}\n`);
  await llama.dispose();
} catch (error) {
  process.stdout.write(`${JSON.stringify({ error: messageOf(error).split("\n")[0] })}\n`);
}
