{{/* The chart name, for labels. */}}
{{- define "nicplug.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The full name of the objects. Truncated to 50 characters, so that the suffix "-certificates" fits into 63. */}}
{{- define "nicplug.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* The name of the objects of the audit. Truncated, since the name of a CronJob has at most 52 characters. */}}
{{- define "nicplug.auditName" -}}
{{- printf "%s-audit" (include "nicplug.fullname" . | trunc 46 | trimSuffix "-") }}
{{- end }}

{{/* The labels that select the pods. They must never change, since the selector of a Deployment is immutable. */}}
{{- define "nicplug.selectorLabels" -}}
app.kubernetes.io/component: webhook
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: {{ include "nicplug.name" . }}
{{- end }}

{{/* The labels of every object. */}}
{{- define "nicplug.labels" -}}
{{ include "nicplug.selectorLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The annotations of an object; called with (list ROOT ANNOTATIONS), of which the second takes precedence. */}}
{{- define "nicplug.annotations" -}}
{{- $root := index . 0 }}
{{- with merge (deepCopy (index . 1 | default dict)) $root.Values.commonAnnotations }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{- define "nicplug.serviceAccountName" -}}
{{- default (ternary (include "nicplug.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "nicplug.image" -}}
{{- $name := list .Values.image.registry .Values.image.repository | compact | join "/" }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $name .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* The DNS name that the API server calls. The certificate must be valid for it. */}}
{{- define "nicplug.dnsName" -}}
{{- printf "%s.%s.svc" (include "nicplug.fullname" .) .Release.Namespace }}
{{- end }}

{{/* The name of the Secret with the certificate. */}}
{{- define "nicplug.certificateSecret" -}}
{{- if eq .Values.certificates.source "secret" }}
{{- $missing := "certificates.secret.name is required: name a Secret with tls.crt and tls.key" }}
{{- required $missing .Values.certificates.secret.name }}
{{- else }}
{{- printf "%s-certificates" (include "nicplug.fullname" .) }}
{{- end }}
{{- end }}

{{/* A group of KubeVirt, and those of its forks if there are settings; called with (dict "group" … "settings" …). */}}
{{- define "nicplug.apiGroups" -}}
- {{ .group }}
{{- if .settings }}
{{- with get .settings.api.groups .group }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{/* The rule of a network policy that allows connections to the API server. */}}
{{- define "nicplug.apiServerEgress" -}}
- ports:
    {{- range .Values.networkPolicy.apiServer.ports }}
    - port: {{ int . }}
      protocol: TCP
    {{- end }}
  {{- with .Values.networkPolicy.apiServer.cidrs }}
  to:
    {{- range . }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
  {{- end }}
{{- end }}

{{/* An address to listen on, with its port; called with (list ADDRESS PORT). */}}
{{- define "nicplug.listen" -}}
{{- $address := index . 0 }}
{{- printf (ternary "[%s]:%d" "%s:%d" (contains ":" $address)) $address (int (index . 1)) }}
{{- end }}

{{/* The settings, with the strings that YAML reads as Booleans (off, yes, no) restored. */}}
{{- define "nicplug.settings" -}}
{{- $rules := dict }}
{{- range $id, $enforcement := .Values.settings.rules }}
{{- $_ := set $rules $id (ternary "off" $enforcement (kindIs "bool" $enforcement)) }}
{{- end }}
{{- $networks := .Values.settings.attachment.dynamicNetworks }}
{{- if kindIs "bool" $networks }}
{{- $networks = ternary "yes" "no" $networks }}
{{- end }}
{{- $attachment := dict "dynamicNetworks" $networks }}
{{- range $key := list "neverInPlace" "neverByMigration" "multusNamespace" }}
{{- with get $.Values.settings.attachment $key }}
{{- $_ := set $attachment $key . }}
{{- end }}
{{- end }}
{{- $settings := dict "rules" $rules "attachment" $attachment }}
{{- $events := .Values.settings.events }}
{{- $_ := set $settings "events" (dict "changes" $events.changes "pendingAfterSeconds" (int64 $events.pendingAfterSeconds)) }}
{{- $_ := set $settings "liveChanges" .Values.settings.liveChanges }}
{{- with .Values.settings.api.groups }}
{{- $_ := set $settings "api" (dict "groups" .) }}
{{- end }}
{{- with .Values.settings.hotplug.bindings }}
{{- $_ := set $settings "hotplug" (dict "bindings" .) }}
{{- end }}
{{- $_ := set $settings "internalErrors" .Values.settings.internalErrors }}
{{- $_ := set $settings "namespaceOverride" .Values.settings.namespaceOverride }}
{{- with .Values.settings.namespaces }}
{{- $_ := set $settings "namespaces" . }}
{{- end }}
{{- $_ := set $settings "queueMemory" (dict "maxQueues" (int64 .Values.settings.queueMemory.maxQueues)) }}
{{- with .Values.settings.reservePorts }}
{{- $_ := set $settings "reservePorts" (int64 .) }}
{{- end }}
{{- if ne .Values.settings.unplug "absent" }}
{{- $_ := set $settings "unplug" .Values.settings.unplug }}
{{- end }}
{{- toYaml $settings }}
{{- end }}

{{/* "true" if the webhooks have match conditions, else empty. */}}
{{- define "nicplug.hasMatchConditions" -}}
{{- $choice := .Values.webhooks.matchConditions }}
{{- if or (eq $choice "always") (and (eq $choice "auto") (semverCompare ">=1.28-0" .Capabilities.KubeVersion.Version)) -}}
true
{{- end }}
{{- end }}

{{/* "true" if the webhooks are activated only when nicplug is ready, else empty. */}}
{{- define "nicplug.activatesWhenReady" -}}
{{- if and .Values.webhooks.activateWhenReady .Values.rbac.create (include "nicplug.hasMatchConditions" .) -}}
true
{{- end }}
{{- end }}

{{/* The name of the RoleBinding that activates the webhooks, of its Role and of its subject, which does not exist. */}}
{{- define "nicplug.activationName" -}}
{{- printf "%s-call" (include "nicplug.fullname" .) }}
{{- end }}

{{/* A memory quantity in bytes; empty if it is not an integer with a common unit. */}}
{{- define "nicplug.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 }}
{{- $number := regexFind "^[0-9]+" . }}
{{- $unit := trimPrefix $number . }}
{{- if and $number (hasKey $units $unit) }}
{{- mul (int64 $number) (get $units $unit) }}
{{- end }}
{{- end }}

{{/*
How Prometheus scrapes the metrics; called with the values of a monitor. The first relabeling is required: the target
has a label `endpoint`, for which Prometheus would rename that label of the metrics.
*/}}
{{- define "nicplug.scrape" -}}
interval: {{ .interval }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
path: /metrics
relabelings:
  - action: labeldrop
    regex: endpoint
  {{- with .relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
scheme: http
scrapeTimeout: {{ .scrapeTimeout }}
{{- end }}
