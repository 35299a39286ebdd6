import { type Ask, askOverHttp } from "../../operator/ask.ts";

/** Fake nodes give their pods addresses of a network that is not there: only this machine and the real node's pods are asked. */
export const onlyOurs: Ask = async (url, signal) =>
  /^http:[/][/]10[.](196|199)[.]/.test(url) ? askOverHttp(url, signal) : undefined;
