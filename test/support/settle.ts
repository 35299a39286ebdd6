/** Lets everything that is ready to run do so: promises, and timers of a clock that was advanced. Only for code without real input or output. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
}
