{{/*
The parts that both webhooks share. Fields are set even to the API server's defaults, so that GitOps tools find no
difference between the chart and the cluster. caBundle is only set if the user gives one: the component that issues the
certificates writes that field and owns it.
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

{{/* Called with (list ROOT PATH). */}}
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
{{- if .Values.webhooks.optIn }}
{{- $label := dict "nicplug.io/review" "enabled" }}
{{- $_ := set $selector "matchLabels" (merge $label (default dict $selector.matchLabels)) }}
{{- end }}
{{- toYaml (set $selector "matchExpressions" $expressions) }}
{{- end }}

{{/*
A rule for namespaced resources; called with (dict "group" … "versions" … "operations" … "resources" …), and with the
settings for the groups of forks.
*/}}
{{- define "nicplug.rule" -}}
- apiGroups:
    {{- include "nicplug.apiGroups" . | nindent 4 }}
  apiVersions:
    {{- toYaml .versions | nindent 4 }}
  operations:
    {{- toYaml .operations | nindent 4 }}
  resources:
    {{- toYaml .resources | nindent 4 }}
  scope: Namespaced
{{- end }}

{{/*
The API server skips an update that changes no field that nicplug reviews: KubeVirt updates a VMI with every heartbeat
of its guest agent. The expression may compare more fields than nicplug reviews, never fewer. Kubernetes 1.28 must be
able to evaluate it, so it uses no optional fields. An expression that fails would reject the request, so the expression
tests each field with has() before it reads it.
*/}}
{{- define "nicplug.reviewConditions" -}}
- name: review-required
  expression: |-
    (
      request.operation != 'UPDATE' ||
      (has(request.subResource) && request.subResource == 'status' ? (
        (has(object.status) && has(object.status.interfaceRequests) ? object.status.interfaceRequests : []) !=
        (has(oldObject.status) && has(oldObject.status.interfaceRequests) ? oldObject.status.interfaceRequests : [])
      ) : (
        has(object.spec) != has(oldObject.spec) ||
        (has(object.spec) && object.spec != oldObject.spec) ||
        {{- include "nicplug.requestsInterfaces" . | nindent 8 }} ||
        {{- /* Most updates change no annotation: one comparison spares them those of each key. */}}
        ((has(object.metadata.annotations) ? object.metadata.annotations : {}) !=
          (has(oldObject.metadata.annotations) ? oldObject.metadata.annotations : {}) && (
          (has(object.metadata.annotations) && object.metadata.annotations.exists(key,
            key.startsWith('nicplug.io/') &&
            !(has(oldObject.metadata.annotations) && key in oldObject.metadata.annotations))) ||
          [
            'hooks.kubevirt.io/hookSidecars',
            'kubevirt.io/pci-interface-slot-count',
            'kubevirt.io/pci-topology-version',
            'kubevirt.io/placePCIDevicesOnRootComplex',
            'nicplug.io/add-interfaces',
            'nicplug.io/apply',
            'nicplug.io/boot-slots',
            'nicplug.io/persist',
            'nicplug.io/remove-interfaces',
            'nicplug.io/reserve-ports',
            'nicplug.io/unplug'
          ].exists(key,
            (has(object.metadata.annotations) && key in object.metadata.annotations
              ? [object.metadata.annotations[key]] : []) !=
            (has(oldObject.metadata.annotations) && key in oldObject.metadata.annotations
              ? [oldObject.metadata.annotations[key]] : []))
        ))
      ))
    )
    {{- include "nicplug.activeCondition" . }}
{{- end }}

{{/*
The API server calls the mutating webhook before all others, so each call of it makes the user wait. It is called only
for a request that it may change: a new VMI, a request by annotation, changed interfaces of which one has no binding or
one was dropped, and a changed annotation of nicplug itself. As above, the expression may select more, never fewer.
*/}}
{{- define "nicplug.mutationConditions" -}}
- name: mutation-possible
  expression: |-
    (
      (request.operation == 'CREATE' && request.kind.kind == 'VirtualMachineInstance') ||
      {{- include "nicplug.requestsInterfaces" . | nindent 6 }} ||
      (request.operation == 'UPDATE' && (
        (has(object.metadata.annotations) && 'nicplug.io/boot-slots' in object.metadata.annotations
          ? [object.metadata.annotations['nicplug.io/boot-slots']] : []) !=
        (has(oldObject.metadata.annotations) && 'nicplug.io/boot-slots' in oldObject.metadata.annotations
          ? [oldObject.metadata.annotations['nicplug.io/boot-slots']] : []) ||
        (has(object.spec) && has(oldObject.spec) && [[
          {{- include "nicplug.interfaces" "oldObject" | nindent 10 }},
          {{- include "nicplug.interfaces" "object" | nindent 10 }}
        ]].exists(lists, lists[0] != lists[1] && (
          lists[1].exists(interface,
            !has(interface.bridge) && !has(interface.masquerade) && !has(interface.sriov) &&
            !has(interface.binding) && !has(interface.passtBinding) && !has(interface.slirp) &&
            !has(interface.macvtap) && !has(interface.passt)) ||
          [lists[1].filter(interface, has(interface.name)).map(interface, interface.name)].exists(names,
            lists[0].exists(interface, has(interface.name) && !(interface.name in names)))
        )))
      ))
    )
    {{- include "nicplug.activeCondition" . }}
{{- end }}

{{/* The API server skips an update of a NetworkAttachmentDefinition that leaves its configuration as it is. */}}
{{- define "nicplug.networkConditions" -}}
- name: review-required
  expression: |-
    (
      request.operation != 'UPDATE' ||
      (has(object.spec) && has(object.spec.config) ? object.spec.config : '') !=
      (has(oldObject.spec) && has(oldObject.spec.config) ? oldObject.spec.config : '')
    )
    {{- include "nicplug.activeCondition" . }}
{{- end }}

{{/* Whether the new object requests interfaces by an annotation. */}}
{{- define "nicplug.requestsInterfaces" -}}
(has(object.metadata.annotations) && (
  'nicplug.io/add-interfaces' in object.metadata.annotations ||
  'nicplug.io/remove-interfaces' in object.metadata.annotations))
{{- end }}

{{/* The interfaces of a VM or a VMI, empty if there are none. Called with the object's variable. */}}
{{- define "nicplug.interfaces" -}}
(has({{ . }}.spec.template) && has({{ . }}.spec.template.spec)
  ? {{ include "nicplug.interfacesOfGuest" (printf "%s.spec.template.spec" .) | indent 4 | trim }}
  : {{ include "nicplug.interfacesOfGuest" (printf "%s.spec" .) | indent 4 | trim }})
{{- end }}

{{- define "nicplug.interfacesOfGuest" -}}
(has({{ . }}.domain) && has({{ . }}.domain.devices) &&
  has({{ . }}.domain.devices.interfaces) &&
  {{ . }}.domain.devices.interfaces != null
  ? {{ . }}.domain.devices.interfaces : [])
{{- end }}

{{/*
The API server calls no webhook before the first replica is ready: that replica writes the account that is checked here
into the RoleBinding of the same name. The API server evaluates every condition, even if an earlier one is false. A
single condition with && therefore spares the authorizer, which searches all bindings of the cluster, on each heartbeat.
*/}}
{{- define "nicplug.activeCondition" -}}
{{- if include "nicplug.activatesWhenReady" . }} && authorizer
      .serviceAccount({{ squote .Release.Namespace }}, {{ squote (include "nicplug.activationName" .) }})
      .group('nicplug.io').resource('webhooks').namespace({{ squote .Release.Namespace }}).check('call').allowed()
{{- end }}
{{- end }}
