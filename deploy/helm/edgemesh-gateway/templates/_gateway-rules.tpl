{{- /* What a gateway may do. The agents' chart has a link to this file, for gateways within agents. */ -}}
{{- define "edgemesh.gatewayRules" -}}
rules:
- apiGroups: [""]
  resources: [services, endpoints, nodes, namespaces]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [networking.istio.io]
  resources: [destinationrules, gateways, virtualservices]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources:
  - gatewayclasses
  - gateways
  - httproutes
  - grpcroutes
  - tlsroutes
  - tcproutes
  - udproutes
  - backendtlspolicies
  verbs: [get, list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [referencegrants]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources:
  - gatewayclasses/status
  - gateways/status
  - httproutes/status
  - grpcroutes/status
  - tlsroutes/status
  - tcproutes/status
  - udproutes/status
  - backendtlspolicies/status
  verbs: [patch]
# Only those that Gateways name are asked for, each by its name. To allow no others, put a Role with their `resourceNames` into
# each namespace in place of this rule.
- apiGroups: [""]
  resources: [secrets, configmaps]
  verbs: [list, watch]
# Names and labels of pods, only in namespaces in which a route leads to a subset of a DestinationRule. Without this rule such a route
# leads to all endpoints.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
{{- end -}}
