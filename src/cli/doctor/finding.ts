/** What a check found. Only `fail` makes `doctor` fail: a pool cannot run. `warn`: it runs worse than it could. */
export interface Finding {
  level: "ok" | "info" | "warn" | "fail";
  /** One word or two: what was looked at. */
  subject: string;
  detail: string;
  /** What to do; with warn and fail. */
  cure?: string;
}

export const ok = (subject: string, detail: string): Finding => ({ level: "ok", subject, detail });
export const info = (subject: string, detail: string): Finding => ({ level: "info", subject, detail });
export const warn = (subject: string, detail: string, cure: string): Finding => ({
  level: "warn",
  subject,
  detail,
  cure,
});
export const fail = (subject: string, detail: string, cure: string): Finding => ({
  level: "fail",
  subject,
  detail,
  cure,
});
