import type { Random } from "./random.ts";
import type { World } from "./world.ts";

/** Faults of one run that come while clients call. */
const FAULTS_A_RUN = 6;
/** A lease of a router, and a bit, in milliseconds of the store's clock. */
export const LEASE_MS = 16_000;

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

const LAGGING = "a copy that lags took redis' place";
/** Where one takes over, it has to be the only one, and what a router has that is killed meanwhile nobody brings back. */
const NOT_BESIDE_LAGGING = ["redis killed", "router killed"];

/** Breaks something, says what, and mends it after a while of its own. */
type Fault = (world: World, random: Random) => Promise<void>;

export const FAULTS: Readonly<Record<string, Fault>> = {
  async "redis killed"(world, random) {
    const { redis } = world;
    await redis.end("SIGKILL");
    await pause(random.between(0, 500));
    await redis.start();
    // Nobody is served until a router that is gone has lost its lease: later, by this clock.
    await pause(random.between(300, 1_500));
    world.stepServer(LEASE_MS);
  },
  async [LAGGING]({ redis, file }, random) {
    const takeOver = await redis.copy();
    await pause(random.between(0, 400));
    await redis.end("SIGKILL");
    await takeOver();
    file.takeOver();
    await redis.start();
  },
  async "redis stopped"({ redis }, random) {
    redis.pause();
    await pause(random.between(100, 2_600));
    redis.resume();
  },
  async "router cut off from redis"({ routers }, random) {
    const { wire } = random.pick(routers.filter(({ isolated }) => !isolated));
    wire.partition();
    await pause(random.between(200, 3_500));
    wire.heal();
  },
  async "router's words to redis come late"({ routers }, random) {
    const { wire } = random.pick(routers);
    wire.hold();
    await pause(random.between(2_100, 3_000));
    await wire.deliver();
  },
  async "redis' answers to a router lost"({ routers }, random) {
    const { wire } = random.pick(routers.filter(({ isolated }) => !isolated));
    wire.loseAnswers();
    await pause(random.between(300, 2_500));
    wire.heal();
  },
  async "router's connection to redis cut"({ routers }, random) {
    random.pick(routers).wire.cut();
  },
  async "router killed"(world, random) {
    const slot = random.pick(world.routers.filter(({ isolated }) => !isolated));
    await world.killRouter(slot);
    await pause(random.between(0, 1_000));
    await world.startRouter(slot);
  },
  async "router stopped"({ routers }, random) {
    const { child } = random.pick(routers);
    child?.pause();
    await pause(random.between(100, 2_500));
    child?.resume();
  },
  async "instance killed"(world, random) {
    const start = await world.killInstance(random.pick(world.instances));
    await pause(random.between(0, 1_500));
    await start();
  },
  async "router cut off from an instance"({ routers }, random) {
    const wire = random.pick(random.pick(routers).wires);
    wire.partition();
    await pause(random.between(200, 2_500));
    wire.heal();
  },
  async "router's connections to an instance cut"({ routers }, random) {
    random.pick(random.pick(routers).wires).cut();
  },
  async "the server's clock stepped"(world, random) {
    world.stepServer(random.between(500, 20_000));
  },
  async "a router's clock stepped"({ routers }, random) {
    random.pick(routers).child?.tell({ wall: random.between(-3_600_000, 3_600_000) });
  },
};

/** The faults of one run, at moments and in an order that the seed decides. A fault that is still being mended holds up none. */
export async function runFaults(world: World, random: Random, overMs: number): Promise<void> {
  let names = random.shuffle(Object.keys(FAULTS)).slice(0, FAULTS_A_RUN);
  const lags =
    process.env.LLMPOOL_LAGGING !== undefined &&
    names.includes(LAGGING) &&
    !world.routers.some(({ isolated }) => isolated);
  names = names.filter((name) => (lags ? !NOT_BESIDE_LAGGING.includes(name) : name !== LAGGING));
  await Promise.all(
    names.map(async (name) => {
      const own = random.fork();
      await pause(own.between(500, overMs));
      world.note(name);
      await FAULTS[name]?.(world, own);
      world.note(`mended: ${name}`);
    }),
  );
}
