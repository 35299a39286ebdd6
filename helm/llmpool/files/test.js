// Asks a pool one question, as soon as it is ready, for two minutes at most.
const url = `${process.argv[1]}/v1/chat/completions`;
const body = JSON.stringify({ model: "planner", messages: [{ role: "user", content: "Are you there?" }] });
const ask = async () => {
  const answer = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${answer.status} ${text}`);
  return JSON.parse(text).choices[0].message.content;
};
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
(async () => {
  let last;
  for (const until = Date.now() + 120_000; Date.now() < until; await wait(1000)) {
    try {
      console.log(`${url} answered: ${await ask()}`);
      return;
    } catch (error) {
      last = error.cause ?? error;
    }
  }
  console.error(`${url} did not answer: ${last}`);
  process.exitCode = 1;
})();
