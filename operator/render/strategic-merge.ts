type Json = unknown;
type Obj = Record<string, Json>;

/**
 * What tells the items of a pod template's lists apart, as in the API's strategic merge patch. A list that is not here is replaced as a whole.
 */
const KEYS: Readonly<Record<string, string>> = {
  containers: "name",
  initContainers: "name",
  ephemeralContainers: "name",
  env: "name",
  ports: "containerPort",
  volumeMounts: "mountPath",
  volumeDevices: "devicePath",
  volumes: "name",
  resourceClaims: "name",
  imagePullSecrets: "name",
  topologySpreadConstraints: "topologyKey",
  hostAliases: "ip",
};

/**
 * Merges a patch into a pod template: maps by key, the lists above by item, null removes, `$patch: delete` removes an item or a map, `$patch:
 * replace` puts the patch in place of what was there. New items come after the old ones. Neither argument is changed.
 */
export function strategicMerge<T extends object>(base: T, patch: object): T {
  return mergeMap(base as Obj, patch as Obj) as T;
}

function mergeMap(base: Obj, patch: Obj): Obj {
  const { $patch, ...fields } = patch;
  const merged: Obj = $patch === "replace" ? {} : { ...base };
  for (const [name, value] of Object.entries(fields)) {
    const before = merged[name];
    if (value === null || (isMap(value) && value.$patch === "delete")) delete merged[name];
    else if (Array.isArray(value)) merged[name] = mergeList(name, Array.isArray(before) ? before : [], value);
    else if (isMap(value)) merged[name] = mergeMap(isMap(before) ? before : {}, value);
    else merged[name] = value;
  }
  return merged;
}

function mergeList(name: string, base: readonly Json[], patch: readonly Json[]): Json[] {
  const key = KEYS[name];
  const items = patch.filter((item) => !(isMap(item) && item.$patch === "replace" && Object.keys(item).length === 1));
  const replace = items.length < patch.length;
  if (key === undefined || !items.every(isMap)) return [...items];
  const merged: Json[] = replace ? [] : [...base];
  for (const item of items as Obj[]) {
    const at = merged.findIndex((other) => isMap(other) && other[key] === item[key]);
    const before = merged[at];
    if (item.$patch === "delete") {
      if (at >= 0) merged.splice(at, 1);
    } else if (isMap(before)) merged[at] = name === "volumes" ? volume(before, item) : mergeMap(before, item);
    else merged.push(mergeMap({}, item));
  }
  return merged;
}

/** A volume has one source: another one takes the place of the first. */
function volume(before: Obj, item: Obj): Obj {
  const source = Object.keys(item).find((name) => name !== "name" && name !== "$patch");
  return source !== undefined && !(source in before) ? mergeMap({}, item) : mergeMap(before, item);
}

export function isMap(value: Json): value is Obj {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
