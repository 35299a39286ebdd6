export { namesOf } from "./names.ts";
export { renderPool } from "./render.ts";
export { defaultImages } from "./settings.ts";
