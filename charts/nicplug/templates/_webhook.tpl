{{/*
What both webhooks have in common. Every field is written, also where it is what the API server would put there, so that
whoever compares the chart with the cluster sees no difference. There is no caBundle: whoever makes the certificates
writes it, and owns that field alone.
*/}}

{{- define "nicplug.webhookAnnotations" -}}
{{- $annotations := deepCopy .Values.webhooks.annotations }}
{{- if eq .Values.certificates.source "certManager" }}
{{- $from := printf "%s/%s" .Release.Namespace (include "nicplug.certificateSecret" .) }}
{{- $annotations = merge $annotations (dict "cert-manager.io/inject-ca-from" $from) }}
{{- end }}
{{- with $annotations }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* (list ROOT PATH) */}}
{{- define "nicplug.clientConfig" -}}
{{- $root := index . 0 }}
{{- with $root.Values.certificates }}
{{- if and (eq .source "secret") .secret.caBundle }}
caBundle: {{ .secret.caBundle | b64enc }}
{{- end }}
{{- end }}
service:
  name: {{ include "nicplug.fullname" $root }}
  namespace: {{ $root.Release.Namespace }}
  path: {{ index . 1 }}
  port: 443
{{- end }}

{{- define "nicplug.namespaceSelector" -}}
{{- $selector := deepCopy .Values.webhooks.namespaceSelector }}
{{- $excluded := append .Values.webhooks.excludedNamespaces .Release.Namespace | uniq | sortAlpha }}
{{- $exclusion := dict "key" "kubernetes.io/metadata.name" "operator" "NotIn" "values" $excluded }}
{{- $expressions := append (default list $selector.matchExpressions) $exclusion }}
{{- toYaml (set $selector "matchExpressions" $expressions) }}
{{- end }}

{{/* A rule for what is in namespaces: (dict "group" … "versions" … "operations" … "resources" …). */}}
{{- define "nicplug.rule" -}}
- apiGroups:
    - {{ .group }}
  apiVersions:
    {{- toYaml .versions | nindent 4 }}
  operations:
    {{- toYaml .operations | nindent 4 }}
  resources:
    {{- toYaml .resources | nindent 4 }}
  scope: Namespaced
{{- end }}

{{/*
An update that leaves alone all that nicplug judges by is not sent: a guest's VMI is updated with every beat of its
agent. What is compared here may be more than what is judged, never less. The expression keeps to what Kubernetes 1.28
reads, so it has no optional fields; and since one that fails would refuse the request, it asks before it reads.

Nor is anything sent before the first replica is ready, which writes the account that is asked for here into the
RoleBinding of that name. The API server evaluates all conditions, whatever the first one said. So there is one, and the
authorizer, which goes through every binding of the cluster, is not asked with each heartbeat.
*/}}
{{- define "nicplug.matchConditions" -}}
- name: something-to-judge
  expression: |-
    (
      request.operation != 'UPDATE' ||
      (has(request.subResource) && request.subResource == 'status' ? (
        (has(object.status) && has(object.status.interfaceRequests) ? object.status.interfaceRequests : []) !=
        (has(oldObject.status) && has(oldObject.status.interfaceRequests) ? oldObject.status.interfaceRequests : [])
      ) : (
        has(object.spec) != has(oldObject.spec) ||
        (has(object.spec) && object.spec != oldObject.spec) ||
        ['nicplug.io/add-interfaces', 'nicplug.io/remove-interfaces'].exists(key,
          has(object.metadata.annotations) && key in object.metadata.annotations) ||
        [
          'kubevirt.io/pci-interface-slot-count',
          'kubevirt.io/placePCIDevicesOnRootComplex',
          'nicplug.io/add-interfaces',
          'nicplug.io/apply',
          'nicplug.io/boot-slots',
          'nicplug.io/persist',
          'nicplug.io/remove-interfaces',
          'nicplug.io/reserve-ports'
        ].exists(key,
          (has(object.metadata.annotations) && key in object.metadata.annotations
            ? [object.metadata.annotations[key]] : []) !=
          (has(oldObject.metadata.annotations) && key in oldObject.metadata.annotations
            ? [oldObject.metadata.annotations[key]] : []))
      ))
    )
    {{- if include "nicplug.callsWhenReady" . }} && authorizer
      .serviceAccount({{ squote .Release.Namespace }}, {{ squote (include "nicplug.call" .) }})
      .group('nicplug.io').resource('webhooks').namespace({{ squote .Release.Namespace }}).check('call').allowed()
    {{- end }}
{{- end }}
