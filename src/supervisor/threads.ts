/** What the division of CPUs needs to know about one instance. */
export interface ThreadUser {
  id: string;
  /** It computes now: it has a request, or it loads. */
  working: boolean;
  /** Most it can use, at least 1. */
  most: number;
}

/**
 * Threads per instance, at least 1 each: the CPUs are shared equally by those who work, what one cannot use or what is left over goes to
 * the others in their order. Those who idle keep the share they have when everyone works, so that they can begin at once. The
 * threads of all who work are never more than the CPUs, except that each has one.
 */
export function divideThreads(cpus: number, users: readonly ThreadUser[]): Map<string, number> {
  const threads = share(cpus, users);
  for (const [id, count] of share(
    cpus,
    users.filter((user) => user.working),
  ))
    threads.set(id, count);
  return threads;
}

function share(cpus: number, users: readonly ThreadUser[]): Map<string, number> {
  const threads = new Map(users.map((user) => [user.id, 1]));
  let left = cpus - users.length;
  // One round gives every taker one more: equal shares, and the remainder to the first.
  for (let gave = true; left > 0 && gave; ) {
    gave = false;
    for (const user of users) {
      const has = threads.get(user.id) ?? 1;
      if (left <= 0 || has >= user.most) continue;
      threads.set(user.id, has + 1);
      left -= 1;
      gave = true;
    }
  }
  return threads;
}
