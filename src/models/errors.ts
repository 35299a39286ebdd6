import type { FailureReason } from "../api/instance.ts";

/** Why a model cannot be used: the reason that status and metrics show, and one sentence that ends with the cure. */
export type ModelFailure = Extract<
  FailureReason,
  "ModelNotFound" | "ModelInvalid" | "ModelDownloadFailed" | "ConfigInvalid"
>;

/** The one error of this folder. An abort is not among them: it rejects with the signal's own reason. */
export class ModelError extends Error {
  override readonly name = "ModelError";
  readonly reason: ModelFailure;

  constructor(reason: ModelFailure, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.reason = reason;
  }
}
