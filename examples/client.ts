/**
 * Two agents of one episode, over the router of a running pool:
 *
 *   npm start                                              # in one terminal
 *   npx node examples/client.ts http://127.0.0.1:8080      # in another
 *
 * Outside this repository the import is `from "llmpool"`.
 */
import { LLMClient, LLMPoolClientError } from "../src/client/index.ts";

const client = new LLMClient({ baseUrl: process.argv[2] ?? "http://127.0.0.1:8080" });
const print = (text: string) => void process.stdout.write(text);

const episode = await client.episodes.start({ timeout_s: 600, budget_tokens: 20_000 });
const episodeId = episode.id;
try {
  const plan = await client.generate("planner", "Name three steps to fix a failing unit test.", {
    episodeId,
    sessionId: `${episodeId}:planner`,
    maxNewTokens: 120,
  });
  print(`planner, on instance ${plan.instanceId}, ${plan.usage.totalTokens} tokens:\n${plan.text}\n\n`);
  await client.progress(episodeId, "test_discovery", "3 steps");

  print("coder: ");
  const prompt = `Write the first step as code.\n\n${plan.text}`;
  for await (const event of client.stream("coder", prompt, {
    episodeId,
    sessionId: `${episodeId}:coder`,
    maxNewTokens: 120,
  })) {
    if (event.type === "text") print(event.text);
    if (event.type === "done") print(`\n(${event.generation.usage.cachedTokens} tokens came from the cache)\n`);
  }
} catch (error) {
  if (!(error instanceof LLMPoolClientError)) throw error;
  // Denials (budget_exhausted, episode_ended) come back without a token being made.
  print(`\n${error.code}: ${error.message}\n`);
  process.exitCode = 1;
} finally {
  const { tokens_used } = await client.episodes.finish(episodeId).catch(() => episode);
  print(`\nepisode ${episodeId}: ${tokens_used} tokens\n`);
}
