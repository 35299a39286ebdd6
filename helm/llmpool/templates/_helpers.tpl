{{/* Name of the release's objects. */}}
{{- define "llmpool.fullname" -}}
{{- if contains "llmpool" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-llmpool" (.Release.Name | trunc 42 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* Labels by which the operator's pods are found. The NetworkPolicies of every pool let in pods with the first two. */}}
{{- define "llmpool.selector" -}}
app.kubernetes.io/name: llmpool
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "llmpool.labels" -}}
{{ include "llmpool.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "llmpool.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "llmpool.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* An image of the release: `list $ "llmpool/llama-cpp"`. */}}
{{- define "llmpool.image" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion -}}
{{- end -}}

{{/* The operator's own Lease: operators of different namespaces do not wait for each other. */}}
{{- define "llmpool.lease" -}}
{{- with .Values.watchNamespace }}{{ printf "llmpool-operator.%s" . }}{{ else }}llmpool-operator{{ end -}}
{{- end -}}

{{/* Where the operator may work: everywhere, or in one namespace. */}}
{{- define "llmpool.rolePrefix" -}}
{{- if not .Values.watchNamespace }}Cluster{{ end -}}
{{- end -}}

{{/* The restricted Pod Security Standard: the pod's half, and the container's. */}}
{{- define "llmpool.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "llmpool.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: { drop: [ALL] }
readOnlyRootFilesystem: true
{{- end -}}
