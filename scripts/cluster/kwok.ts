import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Certificates } from "./certificates.ts";
import type { Home } from "./home.ts";
import { type Started, start } from "./processes.ts";

/** Nodes with this annotation are played by KWOK, and so are the pods on them. */
export const FAKE_NODE = { "kwok.x-k8s.io/node": "fake" } as const;

export async function startKwok(
  home: Home,
  certificates: Certificates,
  program: string,
  server: string,
): Promise<Started> {
  const { run } = home;
  await certificates.issue("kwok", { cn: "kwok", group: "system:masters" });
  await certificates.kubeconfig(join(run, "kwok.kubeconfig"), server, "kwok");
  await writeFile(join(run, "kwok.json"), STAGES.map((stage) => JSON.stringify(stage)).join("\n---\n"));
  return start(run, "kwok", program, [
    `--kubeconfig=${join(run, "kwok.kubeconfig")}`,
    `--config=${join(run, "kwok.json")}`,
    "--manage-all-nodes=false",
    `--manage-nodes-with-annotation-selector=${Object.entries(FAKE_NODE).join().replace(",", "=")}`,
    "--node-lease-duration-seconds=40",
    "--server-address=",
  ]);
}

const exists = (key: string, operator: "Exists" | "DoesNotExist") => ({ key, operator });
const one = (key: string, operator: "In" | "NotIn", value: string) => ({ key, operator, values: [value] });
const living = exists(".metadata.deletionTimestamp", "DoesNotExist");
const ready = '.status.conditions.[] | select( .type == "Ready" ) | .status';

function stage(name: string, kind: "Node" | "Pod", matchExpressions: unknown[], next: unknown): unknown {
  const spec = { resourceRef: { apiGroup: "v1", kind }, selector: { matchExpressions }, next };
  return { apiVersion: "kwok.x-k8s.io/v1alpha1", kind: "Stage", metadata: { name }, spec };
}

/** What KWOK does to nodes and pods: all become ready at once, the pods of Jobs then succeed (but of loaders), and what is deleted goes. */
const STAGES = [
  stage("node-initialize", "Node", [one(ready, "NotIn", "True")], {
    statusTemplate: `{{ $now := Now }}
conditions:
{{ range NodeConditions }}
- lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ $now | Quote }}
  message: {{ .message | Quote }}
  reason: {{ .reason | Quote }}
  status: {{ .status | Quote }}
  type: {{ .type | Quote }}
{{ end }}
addresses:
- { type: Hostname, address: {{ .metadata.name | Quote }} }
phase: Running`,
  }),
  stage("pod-ready", "Pod", [living, one(".status.phase", "In", "Pending"), one(ready, "NotIn", "True")], {
    statusTemplate: `{{ $now := Now }}
conditions:
{{ range $type := list "Initialized" "Ready" "ContainersReady" }}
- { type: {{ $type }}, status: "True", lastTransitionTime: {{ $now | Quote }} }
{{ end }}
{{ range .spec.readinessGates }}
- { type: {{ .conditionType | Quote }}, status: "True", lastTransitionTime: {{ $now | Quote }} }
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  started: true
  restartCount: 0
  state: { running: { startedAt: {{ $now | Quote }} } }
{{ end }}
initContainerStatuses:
{{ range .spec.initContainers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  {{ if eq .restartPolicy "Always" }}
  started: true
  state: { running: { startedAt: {{ $now | Quote }} } }
  {{ else }}
  state: { terminated: { exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }} } }
  {{ end }}
{{ end }}
{{ with PodIPsWith .spec.nodeName ( or .spec.hostNetwork false ) ( or .metadata.uid "" ) ( or .metadata.name "" ) ( or .metadata.namespace "" ) }}
podIP: {{ index . 0 | Quote }}
podIPs:
{{ range . }}
- ip: {{ . | Quote }}
{{ end }}
{{ end }}
phase: Running
startTime: {{ $now | Quote }}`,
  }),
  stage(
    "pod-complete",
    "Pod",
    [
      living,
      one(".status.phase", "In", "Running"),
      one(".metadata.ownerReferences.[].kind", "In", "Job"),
      // What a loader says in the end is played by the test.
      one('.metadata.labels["app.kubernetes.io/component"]', "NotIn", "loader"),
    ],
    {
      statusTemplate: `{{ $now := Now }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: false
  started: false
  restartCount: 0
  state: { terminated: { exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }} } }
{{ end }}
phase: Succeeded`,
    },
  ),
  stage("pod-delete", "Pod", [exists(".metadata.deletionTimestamp", "Exists")], { delete: true }),
];
