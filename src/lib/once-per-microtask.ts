/** A function that has `act` called once, as the next microtask, however often it is called before. */
export function oncePerMicrotask(act: () => void): () => void {
  let isWaiting = false;
  return () => {
    if (isWaiting) return;
    isWaiting = true;
    queueMicrotask(() => {
      isWaiting = false;
      act();
    });
  };
}
